"""One self-contained HTML page of a spectrum."""

from __future__ import annotations

import base64

import jinja2

from hesse._base.numbers import duration, memory, number
from hesse._report import picture
from hesse._report.spectrum import Spectrum

NARROW = "(max-width: 640px)"
# Paper is light.
DARK = "screen and (prefers-color-scheme: dark)"


def render(spectrum: Spectrum) -> str:
    """The page; pictures are part of it, for wide and narrow, light and dark screens, and for paper."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hesse", "_report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "duration": duration, "memory": memory}
    narrow, wide = [picture.to_bytes(picture.draw(spectrum, narrow=narrow), "svg") for narrow in (True, False)]
    pictures = [
        (f"{DARK} and {NARROW}", _address(picture.recolored(narrow, picture.DARK))),
        (NARROW, _address(narrow)),
        (DARK, _address(picture.recolored(wide, picture.DARK))),
    ]
    return environment.get_template("page.html.j2").render(
        spectrum=spectrum,
        sources=pictures,
        fallback=_address(wide),
        description=picture.describe(spectrum),
    )


def _address(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
