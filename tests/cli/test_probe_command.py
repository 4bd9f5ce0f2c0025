"""`visprobe probe`: one report with figure, labels, and what is refused."""

import json

import pytest


@pytest.mark.thorough
def test_a_probe_of_two_checkpoints_in_one_report(run, checkpoints, tmp_path):
    ckpts = ("--ckpt", checkpoints / "base", "--ckpt", checkpoints / "moved")
    out = tmp_path / "report"
    options = ("--data", "digits", "--limit", 120, "--per-class", "1,5", "--seeds", 2, "-o", out)
    done = run("probe", *ckpts, *options, "--sites", "all", "--json")
    assert done.code == 0, done.err
    [result] = json.loads(done.out)["results"]
    rows = {(r["checkpoint"], r["measure"], r["role"]) for r in result["rows"]}
    assert ("moved", "probe_top1", "difference") in rows and ("untrained", "probe_of_5", "baseline") in rows
    assert result["settings"]["overlap"] == {"images": 0, "examples": []}
    assert (out / "figures" / "linear_probe.png").stat().st_size > 5000
    assert "Top-1 accuracy of a linear probe" in (out / "report.html").read_text()
    short = run("probe", *ckpts, *options, "--quiet")
    assert short.code == 0 and "probe_top1" in short.out and "probe_brier" not in short.out


@pytest.mark.thorough
def test_labels_are_probed_and_what_is_not_there_is_one_message(run, checkpoints, tmp_path):
    options = ("--ckpt", checkpoints / "base", "--data", "digits", "--limit", 120, "-o", tmp_path / "report")
    done = run("probe", *options, "--targets", "labels", "--json")
    assert done.code == 0, done.err
    [result] = json.loads(done.out)["results"]
    assert "probe_map" in {row["measure"] for row in result["rows"]}
    for wrong, code, words in (
        (("--targets", "depth"), 1, "no targets 'depth'"),
        (("--per-class", "1,x"), 2, "no list of numbers"),
    ):
        failed = run("probe", *options, *wrong)
        assert failed.code == code and words in failed.err and "Traceback" not in failed.err
