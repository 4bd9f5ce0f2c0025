"""`visprobe compare --trajectory`: from a training command to the report of when the encoder moved."""

import json

import pytest


@pytest.fixture
def trained(run, checkpoints, tmp_path):
    ran = run("train", "sft", "--base", checkpoints / "base", "-o", tmp_path / "sft", "--steps", 4, "--batch-size", 4,
              "--learning-rate", 1e-3, "--snapshot-tower-every", 2, "--set", "probe_every=2")  # fmt: skip
    assert ran.code == 0, ran.err
    return tmp_path / "sft"


@pytest.mark.thorough
def test_a_run_is_followed_from_its_folder_alone(run, trained, tmp_path):
    ran = run("compare", "--trajectory", trained, "--data", "digits", "--limit", 40, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [checkpoint["name"] for checkpoint in document["checkpoints"]] == ["base", "sft step 2", "sft step 4"]
    assert [result["analysis"] for result in document["results"]] == ["trajectory"]
    assert (tmp_path / "out" / "figures" / "trajectory.svg").is_file()
    assert "sft: the features at block_04 (what the language model reads)" in " ".join(ran.out.split())
    assert "follow sft: 2/2" in ran.err
    lines = [json.loads(line) for line in (trained / "dynamics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert all(line["n"] == 256 for line in lines)


def test_a_trajectory_has_one_base(run, checkpoints):
    ran = run("compare", checkpoints / "base", checkpoints / "moved", "--trajectory", "run", "--data", "digits")
    assert ran.code == 2
    assert "takes one checkpoint beside the runs" in " ".join(ran.err.split())


def test_a_folder_without_copies_is_refused_with_advice(run, checkpoints, tmp_path):
    ran = run("compare", "--trajectory", checkpoints / "base", "--data", "digits", "-o", tmp_path / "out")
    assert ran.code == 2
    assert "--snapshot-tower-every" in " ".join(ran.err.split())
    assert not (tmp_path / "out").exists()


def test_neither_checkpoints_nor_a_run_is_one_clear_message(run, tmp_path):
    ran = run("compare", "--data", "digits", "-o", tmp_path / "out")
    assert ran.code == 2
    assert "needs two checkpoints" in " ".join(ran.err.split())


@pytest.mark.parametrize("option", [("--analyses", "heads"), ("--same-recipe", "other")])
def test_what_does_not_apply_to_a_trajectory_is_refused(run, option):
    ran = run("compare", "--trajectory", "run", *option, "--data", "digits")
    assert ran.code == 2
    assert "do not apply to --trajectory" in " ".join(ran.err.split())
