"""Every benchmark runs, at its smallest size, and says what it is there to say."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked import HANGS

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
SMALLEST = __import__("all").SMALLEST


def test_each_has_its_smallest_size():
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"all", "ratios", "reliability"}
    assert scripts == set(SMALLEST)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_and_ends_with_its_ratios(name):
    command = [sys.executable, "-W", "ignore", str(FOLDER / "all.py"), "--smallest", name]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = ran.stdout.rpartition("smallest sizes\n")[2].splitlines()
    assert table and all(line.startswith(f"{name} ") and float(line.split()[-1]) > 0 for line in table)
