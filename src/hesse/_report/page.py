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
    pictures = [
        (f"{DARK} and {NARROW}", _picture(spectrum, picture.DARK, narrow=True)),
        (NARROW, _picture(spectrum, picture.LIGHT, narrow=True)),
        (DARK, _picture(spectrum, picture.DARK, narrow=False)),
    ]
    return environment.get_template("page.html.j2").render(
        spectrum=spectrum,
        sources=pictures,
        fallback=_picture(spectrum, picture.LIGHT, narrow=False),
        description=picture.describe(spectrum),
    )


def _picture(spectrum: Spectrum, colors: picture.Colors, *, narrow: bool) -> str:
    drawn = picture.to_bytes(picture.draw(spectrum, colors, narrow=narrow), "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(drawn).decode()
