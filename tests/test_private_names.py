"""The table of private names in docs/private-names.md speaks of files and tests that there are, and of all of them."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "private-names.md").read_text()
PRIVATE = re.compile(r"\btorch\._[a-z]\w*|from torch\._\w+|\btorch\.(?:utils|fx|autograd)(?:\.\w+)*\._[a-z]\w*")


def test_every_file_and_test_of_the_table_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "src" / "hesse" / name).exists()]
    assert not missing
    assert len(named) > 20


def test_every_file_with_a_private_name_stands_in_the_table() -> None:
    source = ROOT / "src" / "hesse"
    silent = [
        name
        for path in source.rglob("*.py")
        if PRIVATE.search(_code(path.read_text())) and (name := str(path.relative_to(source))) not in PAGE
    ]
    assert not silent


def test_every_test_file_of_the_table_has_tests_for_the_matrix() -> None:
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE[PAGE.index("| name |") :]))
    assert len(files) > 20
    assert not [name for name in files if "@pytest.mark.private\n" not in (ROOT / name).read_text()]


def _code(text: str) -> str:
    """Without documentation and comments."""
    return re.sub(r'r?"""(?:.|\n)*?"""|#[^\n]*', "", text)
