"""Inverse questions, all answered by searching the one forward walk."""
