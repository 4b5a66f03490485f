"""Results files, written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def write(path: Path, results: dict[str, Any]) -> None:
    """Write next to the file and rename, so that a reader or a crash never meets half a file."""
    # Encoded first: what cannot be encoded leaves nothing behind. NaN is no JSON.
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # A temporary file is private to its owner; results are for everybody.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results
