"""Checks every link within a built site: `python docs/links.py .site` names those that lead nowhere."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links that a page holds, and the places in it that a link can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken(folder: Path) -> list[str]:
    """A sentence for each link to a file or an anchor that is not there."""
    folder = folder.resolve()
    # What a theme brings are templates.
    files = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    found = []
    for path, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            name = f"{path.relative_to(folder)} links to {link}"
            if not file.is_file():
                found.append(f"{name}, and there is no such file.")
            elif target.fragment and file in pages and unquote(target.fragment) not in pages[file].anchors:
                found.append(f"{name}, and there is no such place on that page.")
    return found


if __name__ == "__main__":
    sentences = broken(Path(sys.argv[1]))
    print("\n".join(sentences) or "Every internal link leads somewhere.")
    sys.exit(bool(sentences))
