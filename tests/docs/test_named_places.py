"""Files and modules that documents and docstrings name are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import visprobe

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_site" not in page.parts),
    *sorted((ROOT / "analyses").glob("*/card.md")),
]
ROOMS = {"visprobe", "tests", "benchmarks", "analyses", "docs"}
GROUPS = {f"visprobe.{group}" for group in ("analyses", "data", "families", "rewards", "stages")}  # of entry points
FILE = re.compile(r"`([\w./-]+\.(?:py|md|yml))`")
MODULE = re.compile(r"`~?(visprobe(?:\.\w+)+)[`(]")


def files_missing(text):
    """Of the files in backticks those that are not there; `b.py` after `visprobe/a.py` is a file beside it."""
    folder = None
    for name in FILE.findall(text):
        if name.split("/")[0] in ROOMS:
            folder = (ROOT / name).parent
            if not (ROOT / name).is_file():
                yield name
        elif "/" not in name and name.endswith(".py") and folder and not (folder / name).is_file():
            yield f"{folder.relative_to(ROOT)}/{name}"


def is_there(name):
    """Whether a dotted name is a module, something that a module defines, or a group of entry points."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            return end == len(parts) or parts[end] in defined(file) or name in GROUPS
    return False


@cache
def defined(file):
    """Names that a module gives to functions, classes and constants; of visprobe itself, what it offers."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    return {*visprobe.__all__, *(getattr(node, "name", None) or getattr(node, "id", None) for node in nodes)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_files_that_are_there(page):
    text = page.read_text()
    assert [*files_missing(text), *(name for name in MODULE.findall(text) if not is_there(name))] == []


@pytest.mark.thorough
def test_docstrings_name_modules_that_are_there():
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "visprobe").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for name in MODULE.findall(ast.get_docstring(node) or "")
        if not is_there(name)
    ]
    assert wrong == []


def test_a_file_that_is_gone_is_seen():
    assert [*files_missing("`visprobe/report/write.py`, `tables.py` and `titles.py`")] == ["visprobe/report/titles.py"]
    assert is_there("visprobe.report.write.write_report") and not is_there("visprobe.report.gallery")
