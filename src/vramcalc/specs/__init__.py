"""Facts as frozen types; no input or output."""
