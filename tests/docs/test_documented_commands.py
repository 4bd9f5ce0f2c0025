"""Every command that a document or a help text shows is run as it stands, or says why it is not."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import documented
import pytest
import world as worlds
from documented import ROOT

from visprobe.demo.base import BASE

sys.path.insert(0, str(ROOT / "tests" / "io"))

# Blocks that nobody runs: page and the reason that stands above them there.
NOT_RUN = [
    ("docs/guides/adding-a-stage.md", "needs the package above"),
    ("docs/guides/adding-an-analysis.md", "needs the package above"),
    ("docs/guides/gpus-and-clusters.md", "needs a GPU"),
    ("docs/guides/gpus-and-clusters.md", "needs two GPUs"),
]
# Commands that another test runs, because of their length.
ELSEWHERE = {
    "demo": "tests/cli/test_demo.py::test_the_fast_demo_compares_three_checkpoints_and_resumes",
}
# What makes a command short: at most so many images, and so many steps where it does not say itself how many.
LIMITS = {"gradcam": 2, "robust": 6}
LIMIT = 60
FEW_STEPS = ("--rows", "8", "--steps", "2", "--batch-size", "4")
SPREAD = ("--set", "temperature=3")  # answers of which some earn more than others
FEW_HEADS = ("--seeds", "1", "--steps", "20")
FIRST_ENTRY = "3fa9c1d2e4b5"  # what an id looks like; the test puts one that is there in its place
MEASURED = ("compare", "imagenet", "probe", "align", "segment", "robust", "swap", "gradcam", "report", "demo")
MORE = ("--targets labels", "scan checkpoints --base")  # that run what no shorter command does
LONG = ("train study", "segment")  # minutes with all others; tests of their own run them
SLOW = ("robust", "swap", "study", "pivot", "similarity_more")

ALL = documented.distinct()
COMMANDS = documented.commands()


def of_program(name):
    return [one for one in ALL if one.words[0] == name]


def shortest():
    """Of each command the documented line with the fewest words."""
    found = {}
    for one in sorted(of_program("visprobe"), key=lambda one: len(one.words)):
        name = next((one.words[1 : 1 + n] for n in (2, 1) if one.words[1 : 1 + n] in COMMANDS), one.words[1:2])
        found.setdefault(tuple(name), one)
    return list(found.values())


def case(one):
    marks = [pytest.mark.slow] if any(word in part for part in one.words for word in SLOW) else []
    said = shlex.join(one.words[1:])
    if said.startswith(LONG) or (one not in SHORTEST and not any(words in said for words in MORE)):
        marks = [pytest.mark.thorough]
    return pytest.param(one, id=shlex.join(one.words[1:])[:150], marks=marks)


SHORTEST = shortest()


def command_of(words):
    """Name of the command, and what is left of the words."""
    for count in (2, 1):
        if words[1 : 1 + count] in COMMANDS:
            return words[1 : 1 + count], words[1 + count :]
    pytest.fail(f"{shlex.join(words)}: there is no such command")


def is_elsewhere(one):
    return one.words[1] in ELSEWHERE


@pytest.fixture
def here(world, tmp_path):
    worlds.copy(world, tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("one", [case(one) for one in of_program("visprobe") if not is_elsewhere(one)])
def test_the_command_runs_and_writes_what_it_promises(one, here, world, cache):
    name, arguments = command_of(one.words)
    given = documented.given(name, arguments)
    target = here / (given.get("output_dir") or given.get("output") or ".nothing")
    if target.is_dir():  # a run of its own, not one that is there already
        shutil.rmtree(target)
    words, limit = list(one.words), LIMITS.get(name[0], LIMIT)
    if given.get("limit") and "--limit" in words:
        words[words.index("--limit") + 1] = str(min(limit, given["limit"]))
    variables = {"VISPROBE_LIMIT": str(limit), "VISPROBE_CACHE": str(cache), **dict(one.variables)}
    if name[0] == "cache":
        variables["VISPROBE_CACHE"] = str(here / ".cache")
        shutil.copytree(world / ".cache", here / ".cache")
        words = [_an_entry(here) if word == FIRST_ENTRY else word for word in words]
    if name == ("cache", "rm") and "--yes" not in words:  # what a person answers to the question
        words.append("--yes")
    if name[0] == "train" and "config" in given and not {"--steps", "--config"} & set(words):
        words += FEW_STEPS
    if any(word.startswith("training/2-") for word in words):
        words += ("--set", "drop_last=false")  # here there are too few rows for a step
    if name == ("train", "grpo"):  # an untrained model earns nothing, which is refused
        shutil.rmtree(here / "checkpoints" / "base")
        shutil.copytree(BASE, here / "checkpoints" / "base")
        words += SPREAD
    if name == ("segment",):
        words += FEW_HEADS
    ran = worlds.run(here, words, **variables)
    # A condition may be met; and beside the checkpoints lies a language model, which a scan says it cannot read.
    assert ran.code == 0 or (ran.code == 3 and ("--fail-on" in words or name == ("scan",))), ran.err
    assert ran.out.strip()
    if "--json" in words:
        json.loads(ran.out)
    if "--dry-run" in words:
        assert not target.exists()
    elif target.name != ".nothing":
        _check_output(target, name)


def _an_entry(folder):
    return json.loads(worlds.run(folder, ("visprobe", "cache", "ls", "--json")).out)["entries"][0]["id"]


def _check_output(target, name):
    target = target / "report" if name == ("train", "study") else target
    assert target.is_file() or any(target.iterdir())
    if name[-1] in (*MEASURED, "study"):
        assert json.loads((target / "report.json").read_text())
        assert (target / "report.html").stat().st_size > 10_000
    if name[0] == "train" and name[1] not in ("study", "pivot"):
        assert (target / "model.safetensors").is_file()


def test_long_commands_are_run_by_the_test_that_is_named():
    for place in ELSEWHERE.values():
        path, function = place.split("::")
        assert f"def {function}(" in (ROOT / path).read_text()


def test_every_shown_line_is_a_program_that_is_known():
    unknown = [f"{one.where}: {one.line}" for one in ALL if one.words[0] not in documented.PROGRAMS]
    assert unknown == []  # a block that is no shell says so: ```text


def test_no_block_is_left_out_that_is_not_named_here():
    assert documented.not_run() == NOT_RUN


def test_every_mention_names_a_command_and_options_that_exist():
    for place, text in documented.spans():
        words = tuple(text.split())
        if words[0] == "visprobe" and not words[1].isupper() and documented.is_mention(text):
            named = [path for path in COMMANDS if words[1 : 1 + len(path)] == path]
            meant = named or [path for path in COMMANDS if path[0] == words[1]]
            options = {option for path in meant for part in COMMANDS[path].params for option in part.opts}
            assert meant and {word for word in words if word.startswith("-")} <= options, f"{place}: {text}"


@pytest.mark.parametrize("one", [case(one) for one in of_program("make")])
def test_make_knows_the_target(one):
    subprocess.run([*one.words, "-n", "VENV=/nowhere"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("one", [case(one) for one in of_program("pip")])
def test_pip_installs_extras_that_exist(one):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in one.words:
        named = re.fullmatch(r"(?:\.|visprobe)\[(.+)\]", word)
        assert not named or set(named[1].split(",")) <= extras.keys()
        assert not word.endswith(".txt") or (ROOT / word).is_file()


@pytest.mark.parametrize("one", [case(one) for one in of_program("python")])
def test_python_programs_exist(one):
    assert (ROOT / one.words[1]).is_file()


@pytest.mark.thorough
@pytest.mark.parametrize("one", [case(one) for one in of_program("hf")])
def test_downloads_work_from_a_hub_that_holds_the_model(one, here):
    from hub_server import HubServer

    repo, target = one.words[2], here / one.words[one.words.index("--local-dir") + 1]
    files = {path.name: path.read_bytes() for path in target.iterdir()}
    shutil.rmtree(target)
    hub = HubServer()
    hub.add(repo, files)
    places = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(here / ".hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    program = Path(sys.executable).with_name("hf")
    ran = subprocess.run(
        [program, *one.words[1:]], cwd=here, env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    hub.close()
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in target.iterdir() if path.is_file()} == files.keys()


@pytest.mark.parametrize("one", [case(one) for one in of_program("docker")])
def test_docker_builds_stages_and_runs_commands_that_exist(one):
    stages = re.findall(r"^FROM .+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.IGNORECASE)
    if one.words[1] == "build":
        assert one.words[one.words.index("--target") + 1] in stages
    if one.words[1] == "run":
        image = next(i for i, word in enumerate(one.words) if word.startswith("visprobe:"))
        assert one.words[image].split(":")[1] in stages
        name, rest = command_of(("visprobe", *one.words[image + 1 :]))
        assert not documented.lacks_something(name, rest)


@pytest.mark.parametrize("one", [case(one) for one in of_program("printf")])
def test_shell_lines_run(one, here):
    subprocess.run(["bash", "-c", one.line], cwd=here, check=True)


def test_every_help_begins_with_one_short_sentence():
    first = {words: " ".join(command.help.split("\n\n")[0].split()) for words, command in COMMANDS.items()}
    assert [words for words, text in first.items() if not text.endswith(".") or ". " in text or len(text) > 100] == []


def test_every_help_shows_two_examples_of_its_command():
    shown = {words: set() for words in COMMANDS}
    for words, line in documented.help_examples():
        assert line.split()[: len(words) + 1] == ["visprobe", *words]
        shown[words].add(line)
    assert [words for words, lines in shown.items() if len(lines) < 2] == []


def test_the_readme_names_every_command_and_analysis():
    from visprobe.analyses.core.registry import available

    text = (ROOT / "README.md").read_text()
    assert [words for words in {words[0] for words in COMMANDS} if f"visprobe {words}" not in text] == []
    assert [name for name in available() if f"`{name}`" not in text] == []
