"""The counts of docs/guides/reliability.md, at a small share of their sizes: each part meets its bar."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked import HANGS

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "reliability.py"
# The whole is `make reliability`. Kills, memory and locks have tests of their own.
PARTS = ("flips", "mutants", "canaries", "full-disk", "users")


@pytest.mark.thorough
def test_each_part_meets_its_bar():
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *PARTS, "--scale", "0.04"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for said in ("feature store", "maps", "snapshots", "from a hub",
                 "GGUF", "YAML recipe", "canaries of", "full disk", "umask 077", "may only be read"):  # fmt: skip
        assert said in ran.stdout
