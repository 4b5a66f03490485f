"""Puts the repository's root on the path: the benchmarks belong to the repository, not to the package."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
