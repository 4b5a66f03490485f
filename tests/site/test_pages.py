"""The site's pages: the reference has every public name, the translation has the same code and arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import hesse

DOCS = Path(__file__).parents[2] / "docs"
TRANSLATION = DOCS / "zh_TW"
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|exception):: hesse\.([\w.]+)$", re.MULTILINE)
FAMILY = ["vhp", "hvp", "functional.vjp", "functional.jvp", "functional.jacobian", "functional.hessian", "func.hvp"]


def find(name: str) -> Callable[..., object]:
    found = hesse
    for part in name.split("."):
        found = getattr(found, part)
    return found


def blocks(text: str) -> list[str]:
    return re.findall(r"^```(?:python)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_reference_has_every_public_name_once():
    text = "".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    names = DIRECTIVE.findall(text)
    modules = {"func", "functional"}
    public = {name for name in hesse.__all__ if name not in modules}
    public |= {f"functional.{name}" for name in hesse.functional.__all__ if name not in public} | {"func.hvp"}
    assert sorted(names) == sorted(public)


def test_every_page_is_in_the_navigation():
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    # The second is reached by the language switch.
    listed = {"index", "zh_TW/index"}
    for page in DOCS.rglob("*.md"):
        for tree in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / line).relative_to(DOCS).as_posix() for line in lines}
    assert pages == listed


def test_get_started_has_the_same_code_in_both_languages():
    assert blocks((TRANSLATION / "get-started.md").read_text()) == blocks((DOCS / "get-started.md").read_text())


def sections() -> dict[str, str]:
    text = (TRANSLATION / "reference/functional.md").read_text()
    parts = re.split(r"^## hesse\.([\w.]+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_translation_has_the_whole_family():
    assert list(sections()) == FAMILY
    english = (DOCS / "reference/functional.md").read_text()
    assert DIRECTIVE.findall(english) == FAMILY


@pytest.mark.parametrize("name", FAMILY)
def test_both_languages_name_the_same_arguments(name):
    function, section = find(name), sections()[name]
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    assert blocks(section)[0] == f"hesse.{name}{inspect.Signature(plain)}\n"
    # The English page is made of the docstring.
    arguments = re.search(r"    Args:\n(.*?)\n\n", function.__doc__, re.DOTALL).group(1)
    english = re.findall(r"^        (\w+): ", arguments, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == english


@pytest.mark.parametrize("name", FAMILY)
def test_both_languages_have_the_same_example(name):
    example = inspect.cleandoc(find(name).__doc__).partition("Example:\n")[2]
    assert blocks(sections()[name])[1].split() == example.split()
