"""Benchmarks of hesse beside its peers; `python -m benchmarks --help` says how to run them."""
