"""Programs: the tape's evaluation and products as compiled graphs."""
