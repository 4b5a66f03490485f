"""Compares the catalogs of translations with what the pages say now.

    python docs/translations.py .site/.gettext            names messages without a translation; exits with 1 for one
    python docs/translations.py .site/.gettext --update   writes new messages into the catalogs, to be translated there

`sphinx --builder gettext` makes the templates. A page is translated where `docs/locale/LANGUAGE/LC_MESSAGES` has a
catalog of its name; to begin with another, make an empty file there and update.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

LOCALE = Path(__file__).parent / "locale"


def catalogs() -> dict[str, Path]:
    """Of each translated page: the catalog, by the name of the page with its language."""
    # The other one is the theme's.
    found = [path for path in sorted(LOCALE.glob("*/LC_MESSAGES/**/*.po")) if path.name != "sphinx.po"]
    return {path.relative_to(LOCALE).with_suffix("").as_posix().replace("LC_MESSAGES/", ""): path for path in found}


def untranslated(catalog: Catalog, template: Catalog) -> list[str]:
    """The messages of a page that its catalog has no translation of, or only one of an older text."""
    found = {message.id: message for message in catalog if message.string and not message.fuzzy}
    return [str(message.id) for message in template if message.id and message.id not in found]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the catalogs of translations with the pages.")
    parser.add_argument("templates", type=Path, help="what sphinx --builder gettext wrote")
    parser.add_argument("--update", action="store_true", help="write new messages into the catalogs")
    arguments = parser.parse_args()
    missing = 0
    for name, path in catalogs().items():
        language, _, page = name.partition("/")
        template = read_po((arguments.templates / f"{page}.pot").open("rb"))
        catalog = read_po(path.open("rb"), locale=language)
        if arguments.update:
            catalog.update(template, update_header_comment=False)
            for message in catalog:
                message.locations = []
            with path.open("wb") as file:
                write_po(file, catalog, width=120, ignore_obsolete=True)
        for message in untranslated(catalog, template):
            print(f"{path.name} of {language} has no translation of: {message}")
            missing += 1
    print(f"{missing} messages without a translation.")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
