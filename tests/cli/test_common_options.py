"""What all commands that measure share: configuration files, origins, conditions, no network, no resuming."""

import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from forked import HANGS
from typer.main import get_command

from visprobe.cli.app import app

COMMANDS = get_command(app).commands
MEASURING = ("compare", "imagenet", "probe", "align", "segment", "robust", "swap", "gradcam")
MOST_OPTIONS = 26


def every_command():
    for name, command in COMMANDS.items():
        yield from ((f"{name} {sub}", c) for sub, c in getattr(command, "commands", {"": command}).items())


@pytest.mark.parametrize(("name", "command"), [*every_command()])
def test_no_command_has_more_options_than_people_can_read(name, command):
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    assert len(options) <= MOST_OPTIONS
    assert all(one.help for one in options)


@pytest.mark.parametrize("name", MEASURING)
def test_common_options_are_common(name):
    names = {option for one in COMMANDS[name].params for option in (*one.opts, *one.secondary_opts)}
    common = {"--limit", "--batch-size", "--device", "--dtype", "--seed", "--output-dir", "--config", "--resume",
              "--no-resume", "--json", "--quiet", "--verbose", "--max-bad", "--offline"}  # fmt: skip
    assert common <= names


@pytest.fixture
def config(tmp_path):
    def write(**options):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
        return tmp_path / "run.yaml"

    return write


def options_of(folder):
    held = json.loads((folder / "report.json").read_text())["options"]
    return {name: (one["value"], one["origin"]) for name, one in held.items()}


@pytest.mark.thorough
def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    run, checkpoints, config, tmp_path, monkeypatch
):
    monkeypatch.setenv("VISPROBE_LIMIT", "24")
    monkeypatch.setenv("VISPROBE_BATCH_SIZE", "5")
    given = {"limit": 99, "batch_size": 7, "seed": 3, "analyses": ["drift", "weights"], "data": "digits"}
    both = [str(checkpoints / "base"), str(checkpoints / "moved")]
    file = config(**given, **{"output-dir": str(tmp_path / "o"), "checkpoints": both})
    ran = run("compare", "-C", file, "-b", 4, "-q")
    assert ran.code == 0, ran.err
    options = options_of(tmp_path / "o")
    origin = f"file {file}"
    assert options["batch_size"] == ("4", "command line")
    assert options["limit"] == (24, "environment")
    assert options["seed"] == (3, origin) and options["analyses"] == ("drift,weights", origin)
    assert options["checkpoints"][1] == options["data"][1] == origin
    assert options["device"] == ("auto", "default")
    document = json.loads((tmp_path / "o" / "report.json").read_text())
    assert document["data"][0]["n"] == 24 and document["seed"] == 3
    assert [result["analysis"] for result in document["results"]] == ["drift", "weights"]


def test_all_faults_of_a_file_are_named_at_once(run, checkpoints, config):
    file = config(devise="cpu", seed="many", limit=None, max_bad="some", pixels=0, json=True, quiet=[True, False])
    ran = run("compare", checkpoints / "base", "--data", "digits", "--config", file, "--json")
    assert ran.code == 2
    said = json.loads(ran.out)["error"]["message"]
    faults = ("devise is unknown (did you mean device?)", "seed: ", "limit has no value", "max_bad: ", "pixels: ",
              "json is for the command line alone", "quiet: ")  # fmt: skip
    assert "7 faults" in said
    for fault in faults:
        assert fault in said, said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "holds no options"),
        ("a: [", "cannot be read: line 1"),
        (None, "cannot be read"),
        ("split: " + 5000 * "[", "cannot be read"),
        ("#" + 2**20 * "x", "at most 1,048,576 are read"),
        ("limit: 1\nlimit: 2\n", "limit is given twice"),
        ("resume: on\nno-resume: on\n", "are one option"),
        ("split: {a: b}\n", "neither a value nor a list"),
        ("methods: [a, ~]\nlimit: !x 3\n", "2 faults"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(run, tmp_path, text, message):
    if text:
        (tmp_path / "x.yaml").write_text(text)
    ran = run("imagenet", "--config", tmp_path / "x.yaml", "--ckpt", "a", "--data", "digits")
    assert ran.code == 2 and message in " ".join(ran.err.split()) and "Traceback" not in ran.err


def test_values_of_a_file_are_taken_as_they_are_written(run, checkpoints, tmp_path):
    """And not as YAML 1.1 understands them: no is not false, 010 not 8; nor does "quiet: false" ask for more."""
    file = tmp_path / "x.yaml"
    file.write_text(
        f"ckpt: {checkpoints / 'base'}\ndata: digits\nlimit: 010\nsplit: no\nno-resume: yes\nquiet: false\n"
        "labels: ~/2024-01-01\n"
    )
    asked = ("imagenet", "-C", file, "--analyses", "imagenet", "-o", tmp_path / "o")
    assert "digits has no split 'no'" in run(*asked).err
    ran = run(*asked, "--split", "val", "--labels", tmp_path / "none.txt")
    assert ran.code != 0 and "none.txt" in ran.err
    file.write_text(file.read_text().replace("labels: ~/2024-01-01\n", ""))
    assert run(*asked, "--split", "val").code == 0
    options, origin = options_of(tmp_path / "o"), f"file {file}"
    assert options["limit"] == (10, origin) and options["resume"] == (False, origin)
    assert options["verbose"] == (None, "default") and options["ckpt"] == ([str(checkpoints / "base")], origin)


@pytest.mark.parametrize(("name", "value"), [("DTYPE", "int8"), ("MAX_BAD", "x"), ("LIMIT", "x"), ("VERBOSE", "maybe")])
def test_a_variable_that_cannot_be_meant_is_named(run, checkpoints, monkeypatch, name, value):
    monkeypatch.setenv(f"VISPROBE_{name}", value)
    ran = run("compare", checkpoints / "base", checkpoints / "moved", "--data", "digits")
    assert ran.code == 2 and f"VISPROBE_{name}" in ran.err


@pytest.mark.parametrize(
    "arguments", [("compare", "--nonsense"), ("imagenet", "--data", "digits"), ("nonsense",), ("list", "x")]
)
def test_json_is_on_stdout_when_a_flag_is_refused(run, arguments):
    ran = run(*arguments, "--json")
    assert ran.code == 2 and set(json.loads(ran.out)["error"]) == {"type", "message", "hint"}
    plain = run(*arguments)
    assert plain.code == 2 and plain.out == "" and plain.err.startswith("error: ") and "try: " in plain.err


@pytest.mark.thorough
def test_conditions_are_exit_code_3_with_everything_written(run, checkpoints, tmp_path):
    asked = ("compare", checkpoints / "base", checkpoints / "moved", "--data", "digits", "--limit", 40, "-q",
             "--analyses", "drift")  # fmt: skip
    ran = run(*asked, "--fail-on", "drift@projected>1e-9", "--fail-on", "drift>1", "--json", "-o", tmp_path / "out")
    assert ran.code == 3
    document = json.loads(ran.out)  # one document, and it is the report
    assert [gate["tripped"] for gate in document["gates"]] == [True, False]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["gates"] == document["gates"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert "--fail-on: drift@projected>1e-9: moved at projected has" in ran.err
    held = run("compare", checkpoints / "base", checkpoints / "frozen", *asked[3:], "--fail-on", "drift@any>1e-9")
    assert held.code == 0, held.err


def test_a_condition_on_what_was_not_measured_loses_nothing(run, checkpoints, tmp_path):
    asked = ("compare", checkpoints / "base", checkpoints / "moved", "--data", "digits", "--limit", 30, "-q", "--json",
             "--analyses", "drift", "--fail-on", "mIoU<0.1", "-o", tmp_path / "out", "--fail-on")  # fmt: skip
    ran = run(*asked, "drift>1")
    assert ran.code == 2 and "has no such number" in ran.err
    document = json.loads(ran.out)
    assert document["results"] and len(document["gates"]) == 1 and (tmp_path / "out" / "report.html").is_file()
    both = run(*asked, "drift>-1")
    assert both.code == 3 and "error: --fail-on: drift>-1" in both.err and "mIoU<0.1" in both.err
    assert run("compare", "a", "b", "--data", "digits", "--fail-on", "drift", "-o", tmp_path / "x").code == 2
    assert not (tmp_path / "x").exists()  # before any work


@pytest.mark.thorough
def test_no_resume_makes_features_anew_to_the_same_numbers(run, checkpoints, tmp_path):
    asked = ("imagenet", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 30, "--analyses", "imagenet")
    first, again, anew = (run(*asked, "-v", *more) for more in ((), (), ("--no-resume",)))
    assert first.code == again.code == anew.code == 0
    assert "\n0 images decoded" in again.err and "\n0 images decoded" not in anew.err
    assert first.out == again.out == anew.out


def test_verbose_says_what_was_read_and_quiet_nothing(run, checkpoints):
    asked = ("imagenet", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 30, "--analyses", "imagenet")
    told = run(*asked, "--verbose").err
    assert "base: siglip, C, tower " in told and "images forwarded" in told and " in " in told
    assert "read encoders" not in run(*asked, "--quiet").err


@pytest.mark.thorough
def test_offline_asks_no_hub(tmp_path):
    """In a process of its own: libraries read the switch when they are first imported."""
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "VISPROBE_CACHE": str(tmp_path)}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "visprobe", "imagenet", "--ckpt", "org/model", "--data", "digits", "--offline"]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=HANGS)
    assert ran.returncode == 1 and "the hub may not be asked (--offline" in " ".join(ran.stderr.split())


def test_commands_pass_every_option_on():
    """A common option that a command takes and does not use would be a lie; all of them go through `run`."""
    from visprobe.cli import app
    from visprobe.cli import common_options as measuring
    from visprobe.pipelines.measurement import Options

    source = inspect.getsource(measuring._options) + inspect.getsource(measuring.run)
    eager = {"config", "offline", "asked"}  # act while the command line is read
    values = {name: f"{name} given" for name in set(Options.__dataclass_fields__) - {"batch_size", "progress", "note"}}
    given = {name: value for name, value in values.items() if name in measuring.Common.__dataclass_fields__}
    options = measuring._options(measuring.Common(**given, batch_size="7"), SimpleNamespace(note=None))
    assert options.batch_size == 7 and all(getattr(options, name) == value for name, value in given.items())
    commands = "".join(inspect.getsource(module) for name, module in vars(app).items() if name in MEASURING)
    for name in set(measuring.Common.__dataclass_fields__) - eager - set(given):
        assert f"common.{name}" in source + commands
