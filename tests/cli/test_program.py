"""The program as a whole: help by workflow, exit codes, environment, completion, lists, doctor."""

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from visprobe.cli.app import EXIT_CODES, app
from visprobe.cli.config_file import COMMON, assignments, read_environment, variable
from visprobe.cli.utilities.list import What
from visprobe.data.image_set import decode
from visprobe.errors import PrerequisiteError, TooManyBadItems, UsageError, VisprobeError


def commands(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


PROGRAM = get_command(app)
COMMANDS = dict(commands(PROGRAM))


def test_help_is_sorted_by_workflow_and_documents_the_exit_codes(run):
    out = " ".join(run("--help").out.split())
    places = [out.index(f"─ {panel} ─") for panel in ("Measure", "Look", "Train", "Checkpoints", "Utilities")]
    assert places == sorted(places)
    assert {0, 1, 2, 3, 4, 130, 143} == set(EXIT_CODES)
    assert all(f"{code} {meaning.split()[0]}" in out for code, meaning in EXIT_CODES.items())
    errors = [VisprobeError, UsageError, TooManyBadItems, PrerequisiteError]
    assert [error.exit_code for error in errors] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_an_example_and_at_most_26_options(name):
    command = COMMANDS[name]
    assert f"Example: visprobe {name}" in command.help
    assert len([parameter for parameter in command.params if parameter.param_type_name == "option"]) <= 26


def test_underscores_are_accepted_in_commands_and_options(run):
    assert run("extract_encoder", "--help").code == 0
    assert run("figure", "drift", "/absent", "--out_put", "x.svg").code == 2  # but a misspelt option is no option
    assert "no amount" in run("cache", "prune", "--older_than", "x").err


def test_common_options_come_from_the_environment_and_into_the_command_line(monkeypatch):
    read_environment(PROGRAM)
    by_name = {p.name: p.envvar for p in COMMANDS["compare"].params}
    assert all(by_name[name] == variable(name) for name in COMMON)
    assert not any(p.envvar for p in COMMANDS["train sft"].params)  # a recipe says what it trains with
    for name in COMMON:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("VISPROBE_DEVICE", "cuda:1")
    assert assignments() == ["VISPROBE_DEVICE=cuda:1"]


def test_a_wrong_value_from_the_environment_is_a_usage_error(run, monkeypatch):
    monkeypatch.setenv("VISPROBE_BATCH_SIZE", "many")
    ran = run("compare", "a", "b", "--data", "digits")
    assert (ran.code, "VISPROBE_BATCH_SIZE" in ran.err) == (2, True)


def test_completion_knows_the_commands():
    environment = {**os.environ, "_VISPROBE_COMPLETE": "complete_bash", "COMP_WORDS": "visprobe ca", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "import sys; sys.argv = ['visprobe']; from visprobe.cli.app import main; main()"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["cache"]


@pytest.mark.parametrize("what", [what.value for what in What])
def test_each_list_is_a_table_and_a_document(run, what):
    shown, document = run("list", what), json.loads(run("list", what, "--json").out)
    assert shown.code == 0
    if what != "families":
        lines = document[what]
        assert len(lines) >= 5 and all(str(next(iter(line.values()))) in shown.out for line in lines)
        assert len({next(iter(line.values())) for line in lines}) == len(lines)


def test_lists_are_what_the_program_knows(run):
    from figure_specs import FIGURES

    from visprobe.analyses.core.registry import available

    assert [line["analysis"] for line in json.loads(run("list", "analyses", "--json").out)["analyses"]] == [
        *available()
    ]
    figures = json.loads(run("list", "figures", "--json").out)["figures"]
    assert {line["figure"]: line["analysis"] for line in figures} == {kind.name: key for key, kind in FIGURES.items()}


@pytest.mark.thorough
def test_report_and_figure_from_the_command_line(run, tmp_path, planted):
    from visprobe.report.document import build_document
    from visprobe.report.write import write_report

    for name in ("a", "b"):
        results = [planted(("base", name))["weights"]]
        checkpoints = [{"name": one, "tower_hash": one} for one in ("base", name)]
        document = build_document(
            command=["visprobe"], seed=0, checkpoints=checkpoints, data=[], results=results, verdict=[]
        )
        write_report(tmp_path / name, document)
    assert str(tmp_path / "a" / "report.html") in run("report", tmp_path / "a").out
    merged = run("report", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both", "--json")
    assert json.loads(merged.out)["runs"] == ["a", "b"]
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        ran = run("figure", "weights", tmp_path / "a", "-o", tmp_path / f"one.{kind}")
        assert ran.code == 0 and (tmp_path / f"one.{kind}").read_bytes().startswith(start)
    assert b"FontFile2" in (tmp_path / "one.pdf").read_bytes()  # fonts are in the file, as outlines
    for arguments, message in (
        (("figure", "weights", tmp_path / "a", "-o", "x.gif"), "none of the endings"),
        (("figure", "weights", tmp_path / "both"), "of several runs"),
        (("figure", "drift", tmp_path / "a"), "no figure"),
    ):
        ran = run(*arguments)
        assert (ran.code, message in " ".join(ran.err.split())) == (2, True)


def test_doctor_finds_a_change_where_it_was_planted_and_says_what_fails(run, monkeypatch):
    from visprobe.cli.utilities import doctor
    from visprobe.demo import self_check

    checks = json.loads(run("doctor", "--json").out)["checks"]
    assert all(check["well"] for check in checks)
    assert any("planted change found" in check["found"] for check in checks)
    monkeypatch.setattr(doctor, "CHECKS", (doctor._whole_path,))
    monkeypatch.setattr(self_check, "_SCALE", 0.0)  # no change is planted, so none can be found
    ran = run("doctor")
    assert (ran.code, "look" in ran.out) == (4, True)
    assert "Traceback" not in ran.out + ran.err


def test_damaged_exif_data_beside_whole_pixels_is_not_warned_of(run):
    assert run("--version").code == 0
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    whole = file.getvalue()
    damaged = whole[:2] + b"\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff" + whole[2:]
    assert decode(damaged).size == (4, 4)  # a warning would be an error here


@pytest.mark.thorough
@pytest.mark.parametrize("command", ["list analyses | head -1", "list recipes --json | true", "bad --json | true"])
def test_a_reader_that_has_seen_enough_is_no_error(command):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m visprobe {command}"], env=env, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr and "Exception ignored" not in ran.stderr


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_full_disk_under_stdout_is_one_message():
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "visprobe", "list", "analyses", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 4 and ran.stderr.startswith("error: ") and "Traceback" not in ran.stderr
