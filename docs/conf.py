"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VERSION = (HERE.parent / "src/hesse/_base/version.py").read_text()

project = "hesse"
author = "The hesse developers"
project_copyright = author
release = re.search(r'__version__ = "(.*)"', VERSION)[1]  # type: ignore[index]  # it matches

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
# Built a second time with `language` for each folder there: a page without a catalog stays English.
locale_dirs = ["locale"]
gettext_compact = False
gettext_location = False

myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_custom_sections = ["Source", ("Attributes", "params_style")]
html_math_renderer = "mathml"
# Links to hesse's own names must lead somewhere; those to other projects need internet.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!hesse(\.[a-zA-Z]|$)).*")]
copybutton_prompt_text = ">>> |\\.\\.\\. |\\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"hesse {release}"
html_static_path = ["_static"]
html_css_files = ["hesse.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "hesse"},
    "navbar_end": ["language-switch", "theme-switcher"],
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# The home pages and those without neighbors need no list of neighbors.
html_sidebars = {name: [] for name in ("index", "get-started", "recipes", "coming-from", "limits", "releases")}

REFERENCES = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
}
TRANSLATION = "zh_TW"


def inventory(name: str, url: str) -> str | None:
    """The inventory of another project's reference, fetched once; None without internet, for links are not the text."""
    file = HERE.parent / ".site" / ".inventories" / f"{name}.inv"
    if not file.exists():
        try:
            with urllib.request.urlopen(f"{url}objects.inv", timeout=5) as answer:
                content = answer.read()
        except OSError:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return str(file)


def _add_language(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The same page in the other language: the translated site is a folder of the English one."""
    context["is_translation"] = app.config.language == TRANSLATION
    context["other_language"] = f"../{page}" if context["is_translation"] else f"{TRANSLATION}/{page}"


def _without_last_line(app: Any, page: str, source: list[str]) -> None:
    """Without the empty line that a doctest needs before the end of its block."""
    source[0] = re.sub(r"(?ms)^(```python\n.*?\n)\n```$", r"\1```", source[0])


def _math(writer: Any, node: Any) -> None:
    """Formulas as MathML, which browsers know by themselves: no script from elsewhere."""
    from docutils.nodes import SkipNode, math_block
    from docutils.utils.math.latex2mathml import tex2mathml

    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, math_block)))
    raise SkipNode


def _add_references(app: Any, config: Any) -> None:
    found = {name: (url, inventory(name, url)) for name, url in REFERENCES.items()}
    config.intersphinx_mapping = {name: place for name, place in found.items() if place[1] is not None}


def setup(app: Any) -> None:
    # Not while this file is imported, so that tests can import it without internet.
    app.connect("config-inited", _add_references)
    app.connect("source-read", _without_last_line)
    app.add_html_math_renderer("mathml", inline_renderers=(_math, None), block_renderers=(_math, None))
    app.connect("html-page-context", _add_language)
