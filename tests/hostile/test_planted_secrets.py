"""Secrets that lie in paths, files, variables and command lines stand in nothing that is written or said."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hostile_names import call, move
from PIL import Image
from pyarrow import parquet

from visprobe.demo.base import BASE
from visprobe.demo.scenes import DigitScenes
from visprobe.pipelines.session import distinct_names

HUB, CLOUD, CHAT, GIT = (
    "hf_" + "Q7x" * 11 + "Z",
    "AKIA" + "IOSFODNN7EXAMPL9",
    "sk-proj-" + "aB3" * 12,
    "ghp_" + "k" * 36,
)
PASSWORD, VARIABLE, KEY = "s3cr3tPassw0rd", "valueOfAVariable0123", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY"
PLANTED = (HUB, CLOUD, CHAT, GIT, PASSWORD, VARIABLE, KEY)
ENVIRONMENT = {"HF_TOKEN": VARIABLE, "AWS_SECRET_ACCESS_KEY": KEY, "MY_API_KEY": "anotherVariable99"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """base/ and sft/ below folders that hold secrets, with secrets in their files; images in another such folder."""
    root = tmp_path_factory.mktemp("secrets")
    for number, parts in enumerate(((f"run-{HUB}", "base"), ("https:", f"user:{PASSWORD}@host", "sft"))):
        folder = root.joinpath("models", *parts)
        folder.mkdir(parents=True)
        for file in Path(BASE).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        config |= {"_name_or_path": f"https://user:{PASSWORD}@host/m", "api_key": CHAT}
        (folder / "config.json").write_text(json.dumps(config))
        state = {"log_history": [], "trial_name": HUB, "trial_params": {"aws_secret_access_key": KEY, "token": GIT}}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        if number:
            move(folder / "model.safetensors", number)
    scenes = DigitScenes("train", 40)
    for number in range(40):
        folder = root / f"data-{CLOUD}" / ("train", "val")[number % 2] / f"class{number % 4 // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes.scene(number).image).save(folder / f"{number}-{GIT}.png")
    (folder / f"0{CHAT}.png").write_bytes(b"no image")
    return root


@pytest.fixture(autouse=True)
def variables(monkeypatch, place):
    monkeypatch.setenv("VISPROBE_CACHE", str(place / "cache"))
    for name, secret in ENVIRONMENT.items():
        monkeypatch.setenv(name, secret)


def models(place):
    return place / "models" / f"run-{HUB}" / "base", place / "models" / "https:" / f"user:{PASSWORD}@host" / "sft"


def leaks(data):
    return [secret for secret in (*PLANTED, *ENVIRONMENT.values()) if secret.encode() in data]


def contents(path):
    """The bytes of a file, and those of what is packed inside it."""
    yield path.read_bytes()
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as packed:
            yield from map(packed.read, packed.namelist())
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
        yield repr((table.schema.metadata, table.to_pylist())).encode()
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode()


@pytest.mark.thorough
def test_no_output_holds_a_planted_secret(place):
    base, sft = models(place)
    out, data = place / "out", place / f"data-{CLOUD}"
    asked = ["--prompt", f"token={VARIABLE}", "--answer", "yes", "--method", "gradient-norm"]
    commands = [
        ["compare", base, sft, "--data", data, "-o", out / "compare", "--analyses", "drift,weights", "--max-bad", "9"],
        ["imagenet", "--ckpt", base, "--data", data, "-o", out / "imagenet", "--json", "--analyses", "imagenet",
         "--max-bad", "9"],
        ["gradcam", data, "--limit", 2, "--ckpt", base, "--ckpt", sft, "-o", out / "gradcam", *asked],
        ["report", out / "compare", out / "imagenet", "-o", out / "merged"],
        ["scan", place / "models", "-o", out / "scan.csv"],
        ["scan", place / "models", "-o", out / "scan.json", "--json"],
        ["cache", "ls"],
        ["cache", "ls", "--json"],
    ]  # fmt: skip
    for arguments in commands:
        ran = call(*arguments)
        assert ran.code == 0, ran.err
        assert not leaks((ran.out + ran.err).encode()), arguments
    files = [path for root in (out, place / "cache") for path in root.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert {str(path): found for path in files if (found := [x for part in contents(path) for x in leaks(part)])} == {}


def test_no_checkpoint_that_is_written_holds_one(place):
    """Nor do a card and a manifest; a run with a secret in its settings is known again all the same."""
    base, sft = models(place)
    out = place / f"out-{GIT}"
    train = ["train", "sft", "--base", out / "clean", "--data", "digits", "--steps", "1", "-b", "2", "-o",
             out / "trained", "--set", f"probe_images={place}/data-{CLOUD}", "--set", "probe_every=1"]  # fmt: skip
    commands = [
        ["extract-encoder", sft, "-o", out / "tower"],
        ["extract-encoder", base, "-o", out / "other"],
        ["transplant", "--tower", base, "--into", out / "clean", "-o", out / "transplanted"],
        train,
        train,
    ]
    copied = out / "clean"
    copied.mkdir(parents=True)
    for file in Path(BASE).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    for arguments in commands:
        ran = call(*arguments)
        assert ran.code == 0, ran.err
        assert not leaks((ran.out + ran.err).encode()), arguments
    assert "already there" in ran.out
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {str(path): found for path in files if (found := [x for part in contents(path) for x in leaks(part)])} == {}


@pytest.mark.sample(1)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_messages_hold_none(place, more):
    base, _ = models(place)
    (place / "config.yaml").write_text(f"token: {HUB}\ndevice: {CHAT}\n")
    for arguments in (
        ["compare", f"https://user:{PASSWORD}@host/x", base, "--data", "digits"],
        ["compare", base, base, "--data", f"./nothing-{HUB}"],
        ["compare", base, "b", "--token", CHAT, "--data", "digits"],
        ["imagenet", "--ckpt", base, "--data", "digits", "--device", f"password={PASSWORD}"],
        ["imagenet", "--ckpt", base, "--data", "digits", "--config", place / "config.yaml"],
        ["report", place / GIT],
    ):
        ran = call(*arguments, *more)
        assert ran.code and not leaks((ran.out + ran.err).encode()), arguments


@pytest.mark.thorough
def test_a_traceback_holds_none(place):
    arguments = ["compare", f"https://user:{PASSWORD}@host/{HUB}", str(models(place)[0]), "--data", "digits"]
    program = (
        f"import os, sys; os.environ['VISPROBE_DEBUG'] = '1'; sys.argv = ['visprobe', *{arguments!r}]; "
        "from visprobe.cli.app import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ran.returncode and b"Traceback" in ran.stderr and b"does not exist" in ran.stderr
    assert not leaks(ran.stdout + ran.stderr)


def test_checkpoints_that_only_secrets_tell_apart_have_names(place):
    assert distinct_names([f"/a/{HUB}", f"/a/{HUB}2"]) == ["//a/[redacted] (1)", "//a/[redacted] (2)"]
