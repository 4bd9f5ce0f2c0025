"""The command line as a user meets it: answers, errors, exit codes, streams."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
from forked import HANGS
from PIL import Image
from safetensors.torch import load_file, save_file

import visprobe
from visprobe.data.allowed_bad import allowed_bad
from visprobe.errors import UsageError


def error_of(ran):
    """The error as one line, without the line breaks of the terminal."""
    return " ".join(ran.err.split())


def test_version_and_help(run):
    assert run("--version").out.strip() == f"visprobe {version('visprobe')}"
    out = run("--help").out
    assert all(command in out for command in ("compare", "imagenet", "train", "demo", "doctor"))


def test_names_between_colons_are_no_pictures(run, tmp_path):
    assert ":x:" in run("scan", tmp_path / "none:x:").err


@pytest.mark.thorough
def test_python_dash_m_is_the_same_program():
    ran = subprocess.run([sys.executable, "-m", "visprobe", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("visprobe ")


def test_help_shows_checkpoint_expressions_whole(run):
    out = run("compare", "--help").out
    assert "'A[blocks 0-11 <- B]'" in out and "'checkpoints/sft[blocks 0-2 <- checkpoints/dpo]'" in out


@pytest.mark.parametrize("command", ["compare", "imagenet", "demo", "doctor", "train sft", "train dpo"])
def test_every_command_shows_an_example(run, command):
    ran = run(*command.split(), "--help")
    assert ran.code == 0
    assert f"visprobe {command}" in ran.out


@pytest.mark.thorough
def test_compare_writes_a_report_and_says_what_moved(run, checkpoints, tmp_path):
    paths = [checkpoints / name for name in ("base", "moved", "frozen")]
    ran = run("compare", *paths, "--data", "digits", "--limit", 40, "--output-dir", tmp_path / "out")
    assert ran.code == 0, ran.err
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [checkpoint["name"] for checkpoint in document["checkpoints"]] == ["base", "moved", "frozen"]
    assert {result["analysis"] for result in document["results"]} == {"imagenet", "drift", "weights"}
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    text = " ".join(statement["text"] for statement in document["verdict"])
    assert re.search(r"frozen.*not trained or not saved", text)
    assert "not trained or not saved" in ran.out
    assert "report.html" in ran.out

    drift = next(result for result in document["results"] if result["analysis"] == "drift")
    cka = {
        row["site"]: row["estimate"]["value"]
        for row in drift["rows"]
        if (row["checkpoint"], row["role"], row["measure"]) == ("moved", "value", "cka")
    }
    assert cka["block_02"] == pytest.approx(1, abs=1e-9)  # before the planted change
    assert cka["block_03"] < 0.999  # the third block was changed
    weights = next(result for result in document["results"] if result["analysis"] == "weights")
    share = {
        row["site"]: row["estimate"]["value"]
        for row in weights["rows"]
        if (row["checkpoint"], row["measure"]) == ("moved", "share_equal")
    }
    assert share["block_02"] == share["block_04"] == share["projector"] == 1
    assert share["block_03"] < 0.01


@pytest.mark.thorough
def test_a_second_run_computes_nothing_and_finds_the_same(run, checkpoints, tmp_path):
    command = ["imagenet", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 30, "--json"]
    first, second = run(*command), run(*command)
    assert first.code == second.code == 0
    assert json.loads(first.out)["results"] == json.loads(second.out)["results"]


@pytest.mark.thorough
def test_json_is_one_strict_document_on_stdout(run, checkpoints):
    ran = run("imagenet", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 30, "--json")
    document = json.loads(ran.out)
    rows = document["results"][0]["rows"]
    assert {row["role"] for row in rows} == {"value", "baseline"}
    assert {row["site"] for row in rows} == {*(f"block_{i:02d}" for i in range(5)), "final_norm", "projected"}
    assert all(row["estimate"]["low"] <= row["estimate"]["value"] <= row["estimate"]["high"] for row in rows)
    assert document["data"][0]["n"] == 30


@pytest.mark.thorough
def test_underscores_are_accepted(run, checkpoints, tmp_path):
    ran = run("compare", checkpoints / "base", checkpoints / "moved", "--data", "digits", "--limit", 20,
              "--batch_size", 8, "--output_dir", tmp_path / "out", "--quiet")  # fmt: skip
    assert ran.code == 0, ran.err
    assert (tmp_path / "out" / "report.json").is_file()
    assert "read encoders" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "BASE", "--data", "digits"], 2, "needs two checkpoints"),
        (["compare", "BASE", "BASE", "--data", "digits"], 2, "named twice"),
        (["compare", "BASE", "absent", "--data", "digits"], 1, "absent"),
        (["compare", "BASE", "MOVED", "--data", "/absent"], 1, "/absent does not exist"),
        (["compare", "BASE", "MOVED", "--data", "digits", "--analyses", ""], 2, "there is no analysis ''"),
        (["compare", "BASE", "MOVED", "--data", "digits", "--analyses", "cka,drift"], 2, "no analysis 'cka'"),
        (["swap", "BASE", "MOVED", "--data", "digits", "--steps", "2"], 2, "Add --by groups"),
        (["imagenet", "--ckpt", "BASE", "--data", "EMPTY"], 1, "holds no image"),
        (["imagenet", "--ckpt", "BASE", "--data", "digits", "--split", "extra"], 2, "no split 'extra'"),
        (["imagenet", "--ckpt", "BASE", "--data", "digits", "--device", "tpu!"], 2, "--device tpu! is unknown"),
        (["imagenet", "--ckpt", "BASE", "--data", "digits", "--device", "cuda:99"], 4, "CUDA devices"),
        (["imagenet", "--ckpt", "BASE", "--data", "digits", "--dtype", "int8"], 2, "--dtype int8 is unknown"),
        (["compare", "BASE", "MOVED", "--data", "digits", "-o", "FILE"], 2, "file.txt is a file"),
        (["compare", "BASE", "MOVED", "--data", "digits", "-o", "FILE/in"], 2, "file.txt is a file"),
        (["imagenet", "--ckpt", "BASE", "--data", "digits", "--max-bad", "few"], 2, "neither a number nor"),
        (["train", "sft", "--base", "absent", "--output-dir", "OUT"], 1, "cannot load absent"),
        (["train", "sft", "--base", "BASE", "--output-dir", "OUT", "--data", "/absent.json"], 1, "/absent.json"),
        (["train", "sft", "--output-dir", "OUT"], 2, "no model to start from"),
        (
            ["train", "sft", "--base", "BASE", "--output-dir", "OUT", "--set", "betta=1"],
            2,
            "unknown key betta (did you mean beta?)",
        ),
        (["train", "dpo", "--base", "BASE", "--output-dir", "OUT", "--train", "eyes"], 2, "no such part: eyes"),
        (["imagenet", "--data", "digits"], 2, "--ckpt"),
        (["see"], 2, "No such command"),
    ],
)
def test_each_mistake_is_one_clear_message_with_its_exit_code(run, checkpoints, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    places = {
        "BASE": checkpoints / "base",
        "MOVED": checkpoints / "moved",
        "EMPTY": tmp_path / "empty",
        "OUT": tmp_path / "out",
        "FILE": tmp_path / "file.txt",
        "FILE/in": tmp_path / "file.txt" / "in",
    }
    places["FILE"].touch()
    ran = run(*(places.get(argument, argument) for argument in arguments))
    assert ran.code == code
    assert message in error_of(ran)
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert not (tmp_path / "out").exists()


def test_an_error_is_json_too_where_json_was_asked_for(run, checkpoints):
    ran = run("imagenet", "--ckpt", checkpoints / "base", "--data", "/absent", "--json")
    assert ran.code == 1
    error = json.loads(ran.out)["error"]
    assert error["type"] == "DataError"
    assert error["hint"]


@pytest.fixture
def photos(tmp_path):
    """Two classes of 12 images; one file is damaged."""
    for kind in ("cat", "dog"):
        for number in range(12):
            path = tmp_path / "photos" / kind / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((64, 64), 50 + 5 * number).save(path)
    damaged = tmp_path / "photos" / "dog" / "05.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    return tmp_path / "photos"


@pytest.mark.thorough
def test_bad_images_are_listed_and_decide_the_exit_code(run, checkpoints, photos):
    command = ["imagenet", "--ckpt", checkpoints / "base", "--data", photos, "--json"]
    ran = run(*command)  # 1 of 24 is more than 1 %
    assert ran.code == 3
    assert "1 of 24 images could not be used" in error_of(ran)
    assert "dog/05.png" in ran.err
    document = json.loads(ran.out)  # everything is there all the same
    assert document["data"][0]["n"] == 23
    assert document["data"][0]["bad_items"][0]["id"] == "dog/05.png"
    assert run(*command, "--max-bad", "5%").code == 0
    assert run(*command, "--max-bad", "1").code == 0


@pytest.mark.thorough
def test_images_without_classes_give_drift_and_say_that_accuracy_is_missing(run, checkpoints, photos, tmp_path):
    ran = run("compare", checkpoints / "base", checkpoints / "moved", "--data", photos / "cat", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {result["analysis"] for result in document["results"]} == {"drift", "weights"}
    assert "imagenet was left out: " in " ".join(document["warnings"])
    assert "has no classes" in error_of(run("imagenet", "--ckpt", checkpoints / "base", "--data", photos / "cat"))


def test_classes_that_cannot_be_told_apart_are_refused(run, checkpoints, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "split" / "val")
    for kind in ("cat", "emu"):
        shutil.copytree(photos / "cat", tmp_path / "split" / "train" / kind)
    lacking = run("imagenet", "--ckpt", checkpoints / "base", "--data", tmp_path / "split", "--max-bad", 5)
    assert (lacking.code, "dog" in error_of(lacking)) == (1, True)
    shutil.copytree(photos / "cat", tmp_path / "single" / "cat")
    single = run("imagenet", "--ckpt", checkpoints / "base", "--data", tmp_path / "single")
    assert (single.code, "class" in error_of(single)) == (1, True)


def test_weights_that_are_no_numbers_are_named(run, checkpoints, tmp_path):
    shutil.copytree(checkpoints / "base", tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["vision_tower.encoder.layers.1.mlp.fc1.weight"][3, 4] = float("nan")
    save_file(weights, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    ran = run("compare", checkpoints / "base", tmp_path / "nan", "--data", "digits", "-o", tmp_path / "out")
    assert ran.code == 1
    assert "encoder.layers.1.mlp.fc1.weight" in error_of(ran)
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_program_with_their_code(tmp_path, number, code):
    """A run that is stopped leaves nothing half-written."""
    command = [sys.executable, "-m", "visprobe", "demo", "--output-dir", str(tmp_path / "demo")]
    environment = {**os.environ, "VISPROBE_CACHE": str(tmp_path / "cache")}
    program = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background ignore SIGINT
    )
    while not (tmp_path / "demo" / "sft" / "metrics.jsonl").exists():
        assert program.poll() is None
        time.sleep(0.1)
    program.send_signal(number)
    out, err = program.communicate(timeout=HANGS)
    assert program.returncode == code, err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "demo" / "sft" / "manifest.json").exists()


def test_three_lines_of_python(checkpoints):
    encoder = visprobe.load_encoder(checkpoints / "base")
    features = encoder([Image.new("RGB", (80, 60))])
    assert features["consumed"].shape == (1, 64, 96)
    assert features["projected"].shape == (1, 64, 128)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        visprobe.load  # noqa: B018


@pytest.mark.thorough
def test_hostile_names_reach_the_terminal_as_plain_text(run, checkpoints, tmp_path):
    for kind in ("[red]\x1b[31mcat", "dog"):
        for number in range(3):
            path = tmp_path / "photos" / kind / f"{number}\x1b[2J.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"junk")
    Image.effect_noise((64, 64), 9).save(tmp_path / "photos" / "dog" / "fine.png")
    ran = run(
        "compare", checkpoints / "base", checkpoints / "moved", "--data", tmp_path / "photos", "-o", tmp_path / "o"
    )
    assert "\x1b[2J" not in ran.out + ran.err
    assert "\x1b[31m" not in ran.out + ran.err


@pytest.mark.thorough
def test_a_train_folder_is_a_checkpoint_that_compare_reads(run, checkpoints, tmp_path):
    for stage in ("sft", "dpo"):
        ran = run("train", stage, "--base", checkpoints / "base", "--output-dir", tmp_path / stage,
                  "--rows", 16, "--steps", 2, "--batch-size", 8)  # fmt: skip
        assert ran.code == 0, ran.err
        assert f"{stage}, 2 steps, final loss" in ran.out
    again = run("train", "dpo", "--base", checkpoints / "base", "--output-dir", tmp_path / "dpo",
                "--rows", 16, "--steps", 2, "--batch-size", 8)  # fmt: skip
    assert "already there" in again.out
    ran = run("compare", checkpoints / "base", tmp_path / "sft", tmp_path / "dpo",
              "--data", "digits", "--limit", 20, "-o", tmp_path / "out")  # fmt: skip
    assert ran.code == 0, ran.err


def test_doctor_finds_this_installation_well(run):
    ran = run("doctor")
    assert ran.code == 0
    assert f"visprobe {version('visprobe')}" in ran.out


def test_what_the_system_refuses_is_one_message(run, checkpoints, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "file"))
    ran = run("imagenet", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 20, "--json")
    assert ran.code == 4
    assert "is not there and cannot be made" in json.loads(ran.out)["error"]["message"]
    assert "Traceback" not in ran.err


def test_a_folder_that_cannot_be_written_is_known_before_any_work(run, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write anywhere
    ran = run("compare", checkpoints / "base", checkpoints / "moved", "--data", "digits", "-o", tmp_path / "out")
    assert (ran.code, "cannot be written" in error_of(ran)) == (4, True)
    assert not (tmp_path / "cache").exists()


def test_allowed_bad():
    assert allowed_bad("29%", 100) == 29  # 29 / 100 * 100 is 28.999999999999996
    assert [allowed_bad(text, 200) for text in ("0", "7", "1%", "2.5%", "100%")] == [0, 7, 2, 5, 200]
    for text in ("", "-1", "1.5", "half"):
        with pytest.raises(UsageError):
            allowed_bad(text, 200)
