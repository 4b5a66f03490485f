"""The command ``hesse``, which needs the packages of ``hesse[cli]``."""

from __future__ import annotations

import importlib.util
import sys

PACKAGES = ("typer", "rich", "matplotlib", "jinja2")


def main() -> None:
    """Entry point of the script ``hesse``: one sentence, and exit code 2, where a package is missing."""
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        print(
            f"hesse: The command needs packages that are not installed ({', '.join(missing)}). Install them by"
            " pip install 'hesse[cli]'.",
            file=sys.stderr,
        )
        sys.exit(2)
    from hesse._cli import app

    app.main()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
