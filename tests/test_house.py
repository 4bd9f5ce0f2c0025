"""The shape of the house: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "visprobe"
FLOORS = {
    "cli": 9, "report": 8, "figures": 7, "analyses": 6, "training": 6, "attribution": 6, "features": 5, "metrics": 5,
    "encoders": 4, "data": 4, "io": 3, "errors": 2,
}  # fmt: skip
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("visprobe."):
            yield node.lineno, node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name.split(".")[1]) for a in node.names if a.name.startswith("visprobe."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room in FLOORS:
        climbing = [f"line {n}: {room} imports {other}" for n, other in imports(path) if FLOORS[other] > FLOORS[room]]
        assert not climbing


def test_metrics_know_no_files_encoders_or_torch_modules():
    for path in (ROOT / "metrics").glob("*.py"):
        assert {other for _, other in imports(path)} <= {"metrics"}
        assert "torch.nn" not in path.read_text()


def test_no_file_outgrows_its_idea():
    sizes = {path: sum(1 for line in path.read_text().splitlines() if line.strip()) for path in MODULES}
    assert {str(path): n for path, n in sizes.items() if n > 400} == {}


def test_top_level_folders_of_the_house_hold_no_code():
    for name in ("training", "analyses", "figures"):
        assert list((ROOT.parent / name).rglob("*.py")) == []


def test_the_command_line_starts_without_torch():
    heavy = "torch", "transformers", "matplotlib", "sklearn", "datasets", "scipy", "pandas"
    code = f"import sys, visprobe, visprobe.cli.app; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_pickles_are_never_loaded_unsafely():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "pickle.load", "pickle.loads"}:
                assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"
