"""Specs to integers; pure."""
