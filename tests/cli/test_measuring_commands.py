"""What the commands that measure have in common: where they write, which images they take, what they say unasked."""

import inspect
import json
import sys
from pathlib import Path

import pytest

from visprobe.cli.app import app

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from tiny_two_tower import two_tower


def test_a_report_goes_into_a_folder_named_after_the_command():
    found = {}
    for command in app.registered_commands:
        default = inspect.signature(command.callback).parameters.get("output_dir")
        if default is not None and isinstance(default.default, Path):
            found[command.name] = str(default.default)
    assert {"compare", "probe", "align", "segment", "robust", "swap", "demo"} <= found.keys()
    assert found == {name: f"visprobe-{name}" for name in found}


def test_swap_takes_training_images_per_class(run, checkpoints, tmp_path):
    ran = run("swap", checkpoints / "base", checkpoints / "moved", "--data", "digits", "--limit", 30, "--by", "groups",
              "--steps", 1, "--subset-per-class", 2, "-o", tmp_path / "out", "--json", "--quiet")  # fmt: skip
    assert ran.code == 0, ran.err
    support = [one["n"] for one in json.loads(ran.out)["data"] if one["name"].endswith("train")]
    assert support == [20]  # 10 classes
    missing = run("swap", checkpoints / "base", checkpoints / "moved", "--data", "digits", "--labels", tmp_path / "no")
    assert missing.code in (1, 2) and "Traceback" not in missing.err


@pytest.mark.sample(1)
@pytest.mark.parametrize("asked", [(), ("--analyses", "imagenet,zeroshot")])
def test_zero_shot_is_missed_only_by_who_asked_for_it(run, checkpoints, asked):
    ran = run("imagenet", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 30, "--quiet",
              *(asked or ("--analyses", "imagenet")))  # fmt: skip
    assert ran.code == 0, ran.err
    assert ("zeroshot was left out" in " ".join(ran.err.split())) == bool(asked)


def test_by_default_zero_shot_is_asked_of_two_towers_only(run, checkpoints, tmp_path, monkeypatch):
    from visprobe.pipelines import single as questions

    two_tower(tmp_path / "clip")
    seen = []

    def stop(ckpt, data, analyses, how):
        seen.append([analysis.name for analysis in analyses])
        raise KeyboardInterrupt

    monkeypatch.setattr(questions, "measure", stop)
    run("imagenet", "--ckpt", checkpoints / "base", "--data", "digits")
    run("imagenet", "--ckpt", checkpoints / "base", "--ckpt", tmp_path / "clip", "--data", "digits")
    run("imagenet", "--ckpt", checkpoints / "base", "--text-tower", tmp_path / "clip", "--data", "digits")
    assert [("zeroshot" in names) for names in seen] == [False, True, True]
