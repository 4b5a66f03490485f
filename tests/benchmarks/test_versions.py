"""The record of tests by release of PyTorch, from files made up for the test."""

import platform

import torch
from benchmarks.table import render
from benchmarks.versions import main

from benchmarks import results_file

FIRST = """<testsuites><testsuite timestamp="2026-01-02T03:04:05+00:00">
<testcase classname="tests.a" name="passes"/>
<testcase classname="tests.a" name="is mended"><failure message="no"/></testcase>
<testcase classname="tests.a" name="fails"><failure message="no"/></testcase>
<testcase classname="tests.b" name="breaks"><error message="no"/></testcase>
</testsuite></testsuites>"""
SECOND = """<testsuites><testsuite timestamp="2026-01-03T03:04:05+00:00">
<testcase classname="tests.c" name="is skipped"><skipped type="pytest.skip" message="no"/></testcase>
<testcase classname="tests.c" name="fails as expected"><skipped type="pytest.xfail" message="no"/></testcase>
<testcase classname="tests.c" name="passes"/>
<testcase classname="tests.a" name="is mended"/>
</testsuite></testsuites>"""
RELEASE = torch.__version__.partition("+")[0]


def test_parts_of_a_run_are_counted_together_beside_other_releases(tmp_path):
    paths = [tmp_path / "first.xml", tmp_path / "second.xml"]
    for path, text in zip(paths, (FIRST, SECOND), strict=True):
        path.write_text(text)
    file = tmp_path / "versions.json"
    old = {
        "python": "3.9.0",
        "date": "2020-01-01",
        "modules": 1,
        "passed": 1234,
        "failed": 0,
        "skipped": 0,
        "expected": 0,
    }
    results_file.write(file, {"releases": {"99.0.0": old, "1.9.0": old}})
    assert main([str(path) for path in paths], file) == 0
    results = results_file.read(file)
    assert list(results["releases"]) == ["1.9.0", RELEASE, "99.0.0"]
    row = results["releases"][RELEASE]
    assert row == {
        "python": platform.python_version(),
        "date": "2026-01-03",
        "modules": 3,
        "passed": 3,
        "failed": 2,
        "skipped": 1,
        "expected": 1,
    }
    lines = render(results, "versions").splitlines()[2:]
    assert lines[0] == "| 1.9.0 | 3.9.0 | 1 | 1,234 | 0 | 0 | 0 | 2020-01-01 |"
    assert lines[1] == f"| {RELEASE} | {platform.python_version()} | 3 | 3 | 2 | 1 | 1 | 2026-01-03 |"
