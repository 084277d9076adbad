"""Coverage-guided fuzzing of every reader of foreign files."""
