"""How a refusal looks."""

from __future__ import annotations

from typing import Any


def check_refused(result: Any, *parts: str) -> None:
    """Exit code 2, and nothing but one sentence on standard error that holds all parts."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("hesse: ")
    assert lines[0].endswith(".")
    for part in parts:
        assert part in lines[0]
