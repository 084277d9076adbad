"""The only readers: registries now; files, hubs and live machines as they come."""
