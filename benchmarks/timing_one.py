"""Times the contestants on one workload, in a process of its own.

    python -m benchmarks.timing_one WORKLOAD CONTESTANT...

A process of its own because a failed compilation can break forward-mode differentiation for all that
follows in a process, and because a contestant that crashes takes only one workload with it.
"""

import argparse
import json

import torch

from benchmarks import machine, workloads
from benchmarks.answers import reference
from benchmarks.contestants import BASELINE, CONTESTANTS
from benchmarks.harness import QUICK, Budget, measure
from benchmarks.processes import limit_memory


def main() -> None:
    parser = argparse.ArgumentParser(description="Time contestants on one workload.")
    parser.add_argument("workload", choices=workloads.BUILDERS)
    parser.add_argument("contestants", nargs="+", choices=CONTESTANTS)
    parser.add_argument("--seconds", type=float, default=Budget().seconds)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    arguments = parser.parse_args()
    limit_memory()
    expected = reference(workloads.build(arguments.workload, torch.float64, arguments.quick), dtype=torch.float32)
    result = measure(
        workloads.build(arguments.workload, quick=arguments.quick),
        expected,
        [CONTESTANTS[name] for name in arguments.contestants],
        BASELINE,
        QUICK if arguments.quick else Budget(seconds=arguments.seconds),
    )
    result["machine"] = machine.measure(workloads.build(arguments.workload, quick=arguments.quick), arguments.quick)
    print(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
