"""The version of hesse, for every file that writes it down."""

__version__ = "0.1.0"
