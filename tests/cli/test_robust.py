"""`visprobe robust` from the command line: what it writes, what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.mark.thorough
def test_it_measures_draws_and_writes(run, checkpoints, tmp_path):
    base, moved = checkpoints / "base", checkpoints / "moved"
    arguments = ["robust", "--ckpt", base, "--ckpt", moved, "--data", "digits", "--limit", 20, "--severities", "5",
                 "--corruptions", "contrast,fog", "--crops", "1,0.5", "-o", tmp_path / "out", "--quiet"]  # fmt: skip
    ran = run(*arguments)
    assert ran.code == 0, ran.err
    assert "mean of corruptions" in ran.out and "crop" in ran.out
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    [result] = document["results"]
    assert {point["kind"] for point in result["settings"]["curves"]} == {"clean", "contrast", "fog", "crop"}
    assert (tmp_path / "out" / "figures" / "robustness.svg").is_file()
    again = json.loads(run(*arguments, "--json").out)
    assert again["results"] == document["results"]


@pytest.mark.thorough
def test_a_flat_val_folder_gets_its_classes_from_a_file(run, checkpoints, tmp_path):
    rng, data = np.random.default_rng(0), tmp_path / "data"
    for folder in ("train/dark", "train/light", "val"):
        (data / folder).mkdir(parents=True)
    labels = ["dark", "light"] * 5
    for number, name in enumerate(labels):
        for place in (f"train/{name}", "val"):
            grey = rng.integers(100 * (name == "light"), 100 + 100 * (name == "light"), (32, 32, 3), np.uint8)
            Image.fromarray(grey).save(data / place / f"{number}.png")
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    ran = run("robust", "--ckpt", checkpoints / "base", "--data", data, "--labels", tmp_path / "labels.txt",
              "--subset-per-class", 4, "--corruptions", "contrast", "--severities", "5", "-o", tmp_path / "out",
              "--json", "--quiet")  # fmt: skip
    assert ran.code == 0, ran.err
    [result] = json.loads(ran.out)["results"]
    assert "top1_clean" in {row["measure"] for row in result["rows"]}
    assert result["settings"]["n_support"] == 8


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--corruptions", "frost,fog,hail", "'frost', 'hail'"),
        ("--severities", "0,3,7", "severity 0, 7"),
        ("--severities", "light", "--severities 'light'"),
        ("--resolutions", "0", "0 pixels"),
        ("--crops", "1.5", "1.5"),
    ],
)
def test_what_there_is_not_is_refused(run, checkpoints, tmp_path, option, value, words):
    ran = run("robust", "--ckpt", checkpoints / "base", "--data", "digits", "--limit", 20, option, value,
              "-o", tmp_path / "out", "--quiet")  # fmt: skip
    assert ran.code == 2
    assert words in ran.err and "Traceback" not in ran.err
