"""A model from its config.json: dialects as data, and what builds layers, towers and stored formats from them."""
