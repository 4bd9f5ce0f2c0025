"""The notebooks run, with fewer steps and images; what is stored in them is whole, small and tells of no machine."""

import json
import re
import sys
import types
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 600_000
FEW = {"steps": 2, "limit": 24}  # what a cell calls and shows is the same; `make notebooks` runs all
MACHINE = re.compile(r"(?<![\w.])/(?:tmp|root|work|home|Users|usr|opt)/")


def cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def texts(output):
    for kind, value in output.get("data", {"text": output.get("text", "")}).items():
        if not kind.startswith("image/"):
            yield "".join(value)


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_tell_nothing_of_a_machine(path):
    assert path.stat().st_size < MOST_BYTES
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))  # run once, from top to bottom
    for cell in cells(path):
        last = "".join(cell["source"]).rstrip().splitlines()[-1]
        shows = re.match(r"[\w.]+$|[\w.]+\[|[\w.]+\.(figure|pivot|to_pandas)\(|print\(", last)
        assert bool(cell["outputs"]) or not shows, last
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            assert not [text for text in texts(output) if MACHINE.search(re.sub(r"base64,[\w+/=]+", "", text))]
    written = "".join("".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"])
    assert not MACHINE.search(written)


def with_few(source):
    """The source of a cell with fewer steps and images."""
    return re.sub(r"\b(steps|limit)=(\d+)", lambda found: f"{found[1]}={min(FEW[found[1]], int(found[2]))}", source)


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    module = types.ModuleType("notebook", "As a notebook's own module, it has a docstring.")
    monkeypatch.setitem(sys.modules, "notebook", module)
    for number, cell in enumerate(cells(path), start=1):
        exec(compile(with_few("".join(cell["source"])), f"{path.name}, cell {number}", "exec"), module.__dict__)
