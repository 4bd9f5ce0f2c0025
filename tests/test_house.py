"""The shape of the house: who may import whom, how large a room may be, and what importing costs."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "visprobe"
# From the top down. A room imports those below it; of two on one floor neither may import the other.
FLOORS = (
    {"cli"},
    {"demo"},
    {"pipelines"},
    {"report"},
    {"training"},
    {"attribution"},
    {"analyses"},
    {"figures"},
    {"results"},
    {"features", "mllm"},
    {"encoders"},
    {"data"},
    {"metrics", "io"},
    {"errors"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(ROOT.rglob("*.py"))
MOST_ENTRIES = 16  # of a folder, its __init__.py among them


def imports(source):
    """The rooms that a module imports, with the lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("visprobe."):
            yield node.lineno, node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "visprobe":
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in FLOOR)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name.split(".")[1]) for a in node.names if a.name.startswith("visprobe."))


def climbing(place, source):
    """What a module at `place` below `visprobe/` imports from its own floor or one above it."""
    room = Path(place).parts[0].removesuffix(".py")
    if room not in FLOOR:
        return []
    return [
        f"line {line}: {room} imports {other}"
        for line, other in imports(source)
        if other != room and FLOOR[other] <= FLOOR[room]
    ]


def passed_through(source):
    """Public functions that do nothing but hand all of their own arguments to another one of visprobe's."""
    tree = ast.parse(source)
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("visprobe")
        for alias in node.names
    } | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            continue
        body = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
        call = getattr(body[0], "value", None) if len(body) == 1 and isinstance(body[0], ast.Return) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in ours:
            continue
        own = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        given = [ast.unparse(one) for one in (*call.args, *(keyword.value for keyword in call.keywords))]
        if given == own:
            yield node.name


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__", "__init__", "__main__"} == set(FLOOR)


def test_imports_go_downward():
    found = {path: climbing(path.relative_to(ROOT), path.read_text()) for path in MODULES}
    assert {str(path): lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("analyses/drift/drift.py", "from visprobe.training.run import run"),
        ("analyses/drift/drift.py", "from visprobe.report.write import write_report"),
        ("attribution/storage.py", "from visprobe.training import recipe"),
        ("features/store.py", "from visprobe.mllm.load import load_for_training"),
        ("mllm/load.py", "import visprobe.features.store"),
        ("metrics/matrices.py", "from visprobe.io import atomic"),
        ("report/write.py", "def f():\n    from visprobe.pipelines.session import Session"),
        ("data/open.py", "from visprobe import demo"),
    ],
)
def test_a_climbing_import_is_seen(place, line):
    assert len(climbing(place, f"{(ROOT / place).read_text()}\n{line}\n")) == 1


def test_a_function_that_only_passes_on_is_seen():
    assert list(passed_through("from visprobe.x import g\ndef f(a, b):\n    return g(a, b=b)\n")) == ["f"]
    assert list(passed_through("from visprobe.x import g\ndef f(a, b):\n    return g(b, a)\n")) == []


def test_no_function_is_only_passed_through():
    found = {path: list(passed_through(path.read_text())) for path in MODULES}
    assert {str(path): names for path, names in found.items() if names} == {}


def test_metrics_know_no_files_encoders_or_torch_modules():
    for path in (ROOT / "metrics").rglob("*.py"):
        source = path.read_text()
        assert {other for _, other in imports(source)} <= {"metrics"}
        assert "torch.nn" not in source


def test_no_folder_and_no_file_outgrows_its_idea():
    folders = [path for path in (ROOT, *ROOT.rglob("*")) if path.is_dir() and (path / "__init__.py").is_file()]
    entries = {path: [one for one in path.iterdir() if one.name != "__pycache__"] for path in folders}
    crowded = {str(path): len(some) for path, some in entries.items() if len(some) > MOST_ENTRIES and path != ROOT}
    assert crowded == {}
    sizes = {path: sum(1 for line in path.read_text().splitlines() if line.strip()) for path in MODULES}
    assert {str(path): n for path, n in sizes.items() if n > 400} == {}


def test_every_folder_says_what_lives_there():
    for path in MODULES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_top_level_folders_of_the_house_hold_no_code():
    for name in ("training", "analyses", "figures"):
        assert list((ROOT.parent / name).rglob("*.py")) == []


def test_the_command_line_starts_without_torch():
    heavy = "torch", "transformers", "matplotlib", "sklearn", "datasets", "scipy", "pandas", "numpy", "PIL", "pydantic"
    code = f"import sys, visprobe, visprobe.cli.app; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


NAMES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "faiss-cpu": "faiss", "fonttools": "fontTools"}


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(one for some in project["optional-dependencies"].values() for one in some)]
    packages = [re.split(r"[><=\[; ]", line)[0] for line in lines]
    declared = (
        {NAMES.get(name, name) for name in packages} | set(sys.stdlib_module_names) | {"visprobe", "pydantic_core"}
    )  # a part of pydantic
    used = {
        (place, name.split(".")[0])
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        for place, name in (
            [(path.name, alias.name) for alias in node.names]
            if isinstance(node, ast.Import)
            else [(path.name, node.module or "")]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {(place, name) for place, name in used if name not in declared} == set()


def test_pickles_are_never_loaded_unsafely():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "pickle.load", "pickle.loads"}:
                assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"


def test_titles_and_sentences_are_known_without_model_classes_and_matplotlib():
    code = (
        "import sys, visprobe.report.presentations as p; p.presentations(); "
        "print([m for m in {heavy} if m in sys.modules])"
    )
    heavy = "transformers", "datasets", "matplotlib", "trl"
    out = subprocess.run([sys.executable, "-c", code.format(heavy=heavy)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
