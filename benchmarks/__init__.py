"""Benchmarks of hesse beside its peers; `python -m benchmarks --help` says how to run them."""

import os

# What another process saved would make the first product of a process faster: `benchmarks.first` measures that.
os.environ.setdefault("HESSE_CACHE_DIR", "")
