"""Attention over long sequences: hesse beside PyTorch's attention in plain operations (its MATH backend).

    python -m benchmarks.attention                    # writes benchmarks/results/attention.json
    python -m benchmarks.attention --length 256 --rounds 3

float32, 4 heads of 64, causal, the sum of squares of the output by queries, keys and values. PyTorch's fused attention
has no second derivative, so its plain one is the baseline. Each length is timed in a process of its own, contestants
in turns, and each peak of memory is taken in one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import attention_one, environment, results_file, table
from benchmarks.processes import run_fresh

LENGTHS = (256, 1024, 2048, 4096, 16384)
ROUNDS = 7
# Seconds for a process: far more than any takes.
TIMEOUT = 3600

DEFAULT_OUT = results_file.FOLDER / "attention.json"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="attention", description="Time attention over long sequences.")
    parser.add_argument("--length", action="append", type=int, help=f"repeatable; {LENGTHS}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="for each length")
    parser.add_argument("--out", type=Path, help="results file; for a full run benchmarks/results/attention.json")
    return parser.parse_args(arguments)


def run(lengths: Sequence[int], rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {"environment": environment.describe(), "rounds": rounds, "lengths": []}
    for length in lengths:
        print(f"attention over {length}", file=sys.stderr, flush=True)
        measured = run_fresh("attention_one", str(length), "--rounds", str(rounds), timeout=TIMEOUT)
        measured["length"] = length
        measured["extra_mib"] = {
            name: run_fresh("attention_one", str(length), "--memory", name, timeout=TIMEOUT)
            for name in attention_one.able(length)
        }
        results["lengths"].append(measured)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    out = options.out or (None if options.length else DEFAULT_OUT)
    results = run(options.length or LENGTHS, options.rounds)
    if out:
        results_file.write(out, results)
    print(table.render(results, "attention"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
