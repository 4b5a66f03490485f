"""`python -m benchmarks`, at the root of the source tree: runs the benchmarks and writes one results file."""

import sys

from benchmarks.run import main

sys.exit(main())
