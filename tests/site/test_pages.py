"""The site's pages: the reference has every public name, translations name the same code, arguments and formulas."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

import hesse

DOCS = Path(__file__).parents[2] / "docs"
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|exception):: hesse\.([\w.]+)$", re.MULTILINE)
FAMILY = [
    *("vhp", "hvp", "functional.vjp", "functional.jvp", "functional.jacobian", "functional.hessian"),
    *("func.hvp", "func.vhp", "func.grad", "func.value_and_grad"),
]


SPECIFICATION = importlib.util.spec_from_file_location("translations", DOCS / "translations.py")
translations = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(translations)


def find(name: str) -> Callable[..., object]:
    found = hesse
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_the_reference_has_every_public_name_once():
    text = "".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    names = DIRECTIVE.findall(text)
    modules = {"func", "functional"}
    public = {name for name in hesse.__all__ if name not in modules}
    public |= {f"functional.{name}" for name in hesse.functional.__all__ if name not in public}
    public |= {name for name in FAMILY if name.startswith("func.")}
    assert sorted(names) == sorted(public)


def test_every_page_is_in_the_navigation():
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    listed = {"index"}
    for page in DOCS.rglob("*.md"):
        for tree in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / line).relative_to(DOCS).as_posix() for line in lines}
    assert pages == listed


def messages() -> list[tuple[str, str, str]]:
    """Each translated message: the name of its catalog, the text and the translation."""
    found = []
    for name, path in translations.catalogs().items():
        with path.open("rb") as file:
            found += [(name, str(entry.id), str(entry.string)) for entry in read_po(file) if entry.id]
    return found


def marked(text: str) -> Counter[str]:
    """What a translation has to keep: code, names to look up, formulas and links, as Markdown writes them."""
    return Counter(re.findall(r"(?:\{[\w:]+\})?`+[^`]+`+|\]\([^)]+\)|https?://\S+", _in_markdown(text)))


def _in_markdown(text: str) -> str:
    return text.replace(":math:`", "{math}`").replace(":func:`", "{py:func}`")


def test_a_translation_keeps_the_code_links_and_formulas_of_its_text():
    assert {"zh_TW/get-started", "zh_TW/reference/functional"} <= translations.catalogs().keys()
    for name, text, translation in messages():
        assert not marked(text) - marked(translation), (name, text)


def test_an_argument_that_a_translated_page_documents_is_one_of_the_function():
    """The page is made of docstrings in both languages, so both have the arguments that the English one has."""
    for name in FAMILY:
        if name in ("func.vhp", "func.value_and_grad"):  # they refer to func.hvp and func.grad
            continue
        function = find(name)
        arguments = re.search(r"    Args:\n(.*?)\n\n", function.__doc__, re.DOTALL).group(1)
        assert re.findall(r"^        (\w+): ", arguments, re.MULTILINE) == list(inspect.signature(function).parameters)


def test_the_reference_page_has_the_whole_family():
    assert DIRECTIVE.findall((DOCS / "reference/functional.md").read_text()) == FAMILY


def test_a_message_without_a_translation_is_found_and_so_is_one_of_an_older_text():
    template, catalog = Catalog(), Catalog(locale="zh_TW")
    for text in ("kept", "new", "empty", "older"):
        template.add(text)
    catalog.add("kept", "保留")
    catalog.add("empty", "")
    catalog.add("older", "舊", flags=["fuzzy"])
    assert translations.untranslated(catalog, template) == ["new", "empty", "older"]
