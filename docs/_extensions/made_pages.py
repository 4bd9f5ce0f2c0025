"""What the site makes from the program when it is built: contents, commands, public functions, cards, notebooks."""

from __future__ import annotations

from pathlib import Path

import commands
from notebooks import NotebookParser
from sphinx.application import Sphinx

import visprobe

DOCS = Path(__file__).parents[1]
# The README links to folders, which are no pages.
_FOLDERS = {"](analyses/)": "](docs/reference/cards.md)", "](training/)": "](training/README.md)"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_source_parser(NotebookParser)
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        source[0] += "\n" + (DOCS / "contents.md").read_text(encoding="utf-8")
        for folder, target in _FOLDERS.items():
            source[0] = source[0].replace(folder, target)
    made = {"commands": commands.markdown, "functions": _functions, "cards": _cards, "notebooks": _notebooks}
    for name, make in made.items():
        if (marker := f"<!-- {name} -->") in source[0]:
            source[0] = source[0].replace(marker, make())


def _functions() -> str:
    entries = (f".. auto{'class' if n[0].isupper() else 'function'}:: visprobe.{n}" for n in sorted(visprobe.__all__))
    return "```{eval-rst}\n" + "\n\n".join(entries) + "\n```"


def _cards() -> str:
    return _tree(sorted(DOCS.parent.glob("analyses/*/card.md")), ":maxdepth: 1")


def _notebooks() -> str:
    found = sorted(DOCS.glob("notebooks/*.ipynb"))
    return _tree(found, ":caption: Notebooks\n:hidden:") if found else ""


def _tree(pages: list[Path], options: str) -> str:
    names = "\n".join(f"/{page.relative_to(DOCS.parent).with_suffix('')}" for page in pages)
    return f"```{{toctree}}\n{options}\n\n{names}\n```"
