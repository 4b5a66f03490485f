"""What a project tells in several places is the same in all: versions, tested releases of PyTorch, make's targets."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import hesse

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PINNED = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def matrix() -> list[dict[str, str]]:
    found = read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    product = [{"python": python, "torch": torch} for python in found["python"] for torch in found["torch"]]
    return product + found["include"]


def test_the_version_is_one():
    citation = read(ROOT / "CITATION.cff")
    assert PROJECT["version"] == hesse.__version__ == citation["version"]
    assert citation["license"] == PROJECT["license"]
    headings = re.findall(r"^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0][0] == hesse.__version__
    assert all(re.fullmatch(r"not released yet|\d{4}-\d\d-\d\d", date) for _, date in headings)


def test_the_oldest_versions_and_the_pinned_one_are_tested():
    oldest_torch = next(line for line in PROJECT["dependencies"] if line.startswith("torch")).partition(">=")[2]
    assert f"{oldest_torch}.0" in {row["torch"] for row in matrix()}
    assert PROJECT["requires-python"].removeprefix(">=") in {row["python"] for row in matrix()}
    assert PINNED in {row["torch"] for row in matrix()}
    assert f"with PyTorch {PINNED}" in (ROOT / "docs/releases.md").read_text()
    for page in ("README.md", "docs/get-started.md"):
        text = (ROOT / page).read_text()
        assert f"PyTorch {oldest_torch} or newer" in text
        assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in text


def test_the_release_tested_last_is_one():
    tested = read(ROOT / "benchmarks/results/versions.json")["releases"]
    oldest, last = matrix()[0]["torch"], list(tested)[-1]
    assert all(row["failed"] == 0 for row in tested.values())
    assert set(tested) <= {row["torch"] for row in matrix()}
    assert f".ci/installed {oldest} {PINNED} {last}" in (ROOT / ".github/workflows/release.yml").read_text()
    assert f"# Tested last with {last}." in (ROOT / "pyproject.toml").read_text()
    assert f"PyTorch {last} is the newest that was tested" in (ROOT / "docs/releases.md").read_text()
    for page in ("README.md", "docs/get-started.md"):
        assert f"or newer ({last} was tested last)" in (ROOT / page).read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_there_are(path):
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    targets = re.findall(r"^([\w./-]+):", makefile, re.MULTILINE)
    steps = [step for job in read(path)["jobs"].values() for step in job["steps"]]
    called = re.findall(r"\bmake ([\w./-]+)", "\n".join(step.get("run", "") for step in steps))
    assert set(called) <= set(targets)
    assert called or path.stem == "release"


def test_only_the_job_that_publishes_may_ask_for_an_identity():
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert ("id-token" in job.get("permissions", {})) == (name in ("publish", "site"))


def test_the_form_for_faults_asks_for_what_is_needed():
    (fault,) = [read(path) for path in FORMS if path.stem == "fault"]
    labels = [entry["attributes"]["label"] for entry in fault["body"]]
    assert any("`hesse check problem.py`" in label for label in labels)
    assert any("`hesse env`" in label for label in labels)


def test_a_hook_before_a_commit_calls_tools_of_the_environment():
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    tools = [hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in repository["hooks"]]
    assert set(tools) <= set(PROJECT["optional-dependencies"]["dev"])
