"""The command ``hesse``."""
