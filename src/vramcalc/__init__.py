"""VRAM budget calculator for large language models."""
