"""Notebooks as pages: what they say, their code, and the output that is stored in them. Nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser


class NotebookParser(MystParser):
    """Reads .ipynb files."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        """Parse the notebook in `inputstring` into `document`."""
        super().parse(markdown(json.loads(inputstring)), document)


def markdown(notebook: dict[str, Any]) -> str:
    """The cells of `notebook` and their stored output as Markdown."""
    blocks = (block for cell in notebook["cells"] for block in _blocks(cell))
    return "\n\n".join(blocks) + "\n"


def _blocks(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
    elif cell["cell_type"] == "code" and source.strip():
        yield f"````python\n{source}\n````"
        yield from filter(None, map(_shown, cell["outputs"]))


def _shown(output: dict[str, Any]) -> str:
    """One output in its richest form that needs no script."""
    data = output.get("data", {})
    if "text/html" in data:
        return f'````{{raw}} html\n<div class="output">{"".join(data["text/html"])}</div>\n````'
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'````{{raw}} html\n<img class="output" alt="Figure" src="data:image/png;base64,{picture}">\n````'
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"````text\n{text.rstrip()}\n````" if text.strip() else ""
