"""What the tests said with one PyTorch, as a row of benchmarks/results/versions.json.

    python -m benchmarks.versions tests.xml ...     reads what pytest wrote by --junitxml

The interpreter is that of the environment the tests ran in: it names the releases of Python and PyTorch. Several files
are parts of one run; of a test that is in two of them, the later file counts.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks import results_file


def count(files: Sequence[Path]) -> dict[str, Any]:
    """How many tests passed, failed, were skipped, or failed as expected; in how many modules; and the last day."""
    outcome: dict[tuple[str, str], str] = {}
    days = []
    for file in files:
        root = ElementTree.parse(file).getroot()
        days += [suite.attrib["timestamp"][:10] for suite in root.iter("testsuite")]
        for case in root.iter("testcase"):
            outcome[case.attrib["classname"], case.attrib["name"]] = _outcome(case)
    found = Counter(outcome.values())
    outcomes = {name: found[name] for name in ("passed", "failed", "skipped", "expected")}
    return {"date": max(days), "modules": len({module for module, _ in outcome}), **outcomes}


def _outcome(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    if skipped is not None:
        return "expected" if skipped.attrib.get("type") == "pytest.xfail" else "skipped"
    return "passed" if case.find("failure") is None and case.find("error") is None else "failed"


def main(arguments: Sequence[str] | None = None, file: Path = results_file.FOLDER / "versions.json") -> int:
    parser = argparse.ArgumentParser(prog="versions", description="Record what the tests said with this PyTorch.")
    parser.add_argument("files", nargs="+", type=Path, help="what pytest wrote by --junitxml")
    row = count(parser.parse_args(arguments).files)
    release = torch.__version__.partition("+")[0]
    rows = results_file.read(file)["releases"] if file.exists() else {}
    rows[release] = {"python": platform.python_version(), **row}
    by_number = sorted(rows.items(), key=lambda entry: [int(part) for part in entry[0].split(".")])
    results_file.write(file, {"releases": dict(by_number)})
    print(f"PyTorch {release}: {row['passed']} passed, {row['failed']} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
