"""Benchmarks of hesse beside its peers; `python -m benchmarks.run --help` says how to run them."""
