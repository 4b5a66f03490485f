"""Several ranks: what cannot be done there yet, refused."""
