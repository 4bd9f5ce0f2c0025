"""`visprobe robust` from the command line: what it writes, what it refuses."""

import json

import pytest


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
