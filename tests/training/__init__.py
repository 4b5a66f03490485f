"""Models and their training are the same to the bit, whether hesse is used meanwhile or not."""
