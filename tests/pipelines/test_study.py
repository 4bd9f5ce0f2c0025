"""A study: every arm with every seed from one base, one comparison, and words about arms instead of runs."""

import json
import re
import shutil

import pytest

from visprobe.demo.base import BASE
from visprobe.demo.rows import DigitRows
from visprobe.errors import UsageError
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.study import Study, run_study, train_arms
from visprobe.pipelines.study_file import read_study
from visprobe.training.recipe import Recipe

STUDY = f"""
base: {BASE}
data: digits
seeds: [0, 1]
common: {{steps: 2, batch_size: 4, learning_rate: 1.0e-3}}
arms:
  sft: {{stage: sft}}
  dpo: {{stage: dpo, beta: 0.3}}
compare: {{data: digits, limit: 30, scenes: 10}}
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))


def test_arms_and_seeds_become_runs_and_one_comparison(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    out = tmp_path / "out"
    measured = run_study(read_study(path, out), out)
    assert [c["name"] for c in measured.checkpoints] == [BASE.name, "sft-seed0", "sft-seed1", "dpo-seed0", "dpo-seed1"]
    manifests = {
        name: json.loads((out / name / "manifest.json").read_text()) for name in ("sft-seed0", "dpo-seed0", "sft-seed1")
    }
    assert manifests["sft-seed0"]["inputs"]["rows"] == manifests["dpo-seed0"]["inputs"]["rows"]  # matched
    assert manifests["sft-seed0"]["inputs"]["rows"] != manifests["sft-seed1"]["inputs"]["rows"]
    assert manifests["dpo-seed0"]["inputs"]["recipe"]["beta"] == 0.3
    runs = measured.results[0]
    assert runs.analysis == "runs"
    assert {(row.checkpoint, row.reference) for row in runs.rows} == {
        ("sft", BASE.name),
        ("dpo", BASE.name),
        ("dpo", "sft"),
    }
    assert all(row.estimate.n == 2 for row in runs.rows)
    assert {row.measure for row in runs.rows} == {"top1", "cka", "accuracy/all"}
    assert measured.verdict[0].text.startswith("In short: over 2 runs per arm")
    assert all(statement.text.startswith("Over 2 runs") for statement in measured.verdict[1:])
    before = (out / "sft-seed0" / "model.safetensors").stat().st_mtime_ns
    again = run_study(read_study(path, out), out)
    assert again.results == measured.results
    assert again.forwarded == 0
    assert (out / "sft-seed0" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.thorough
def test_one_seed_gives_a_verdict_about_the_runs(tmp_path):
    recipe = Recipe(stage="sft", steps=1, batch_size=4, learning_rate=1e-3)
    study = Study(BASE, {"sft": recipe}, (0,), rows=lambda seed: DigitRows(4, seed), limit=20, options=Options())
    measured = run_study(study, tmp_path)
    assert [c["name"] for c in measured.checkpoints] == [BASE.name, "sft"]
    assert not any(statement.text.startswith("Over") for statement in measured.verdict)


@pytest.mark.thorough
def test_a_folder_in_the_way_is_found_before_the_first_run_and_can_be_overwritten(tmp_path):
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(STUDY)
    shutil.copytree(BASE, out / "dpo-seed1")
    weights = (out / "dpo-seed1" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"dpo-seed1 holds another model \(config.json, model.safetensors\)"):
        train_arms(read_study(path, out), out)
    assert [folder.name for folder in out.iterdir()] == ["dpo-seed1"]
    assert (out / "dpo-seed1" / "model.safetensors").read_bytes() == weights
    names = train_arms(read_study(path, out), out, overwrite=True)
    assert names == {"sft": ["sft-seed0", "sft-seed1"], "dpo": ["dpo-seed0", "dpo-seed1"]}
    assert json.loads((out / "dpo-seed1" / "manifest.json").read_text())["seen"]["steps"] == 2


@pytest.mark.thorough
def test_a_study_is_extended_on_the_rows_that_its_runs_had(tmp_path):
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    text = STUDY.replace("seeds: [0, 1]", "seeds: [3]").replace("batch_size: 4", "batch_size: 4, save_every: 2")
    manifests = []
    for steps in (2, 3):
        path.write_text(text.replace("steps: 2", f"steps: {steps}"))
        train_arms(read_study(path, out), out)
        manifests.append([json.loads((out / arm / "manifest.json").read_text()) for arm in ("sft", "dpo")])
    before, after = manifests
    assert [run["extended_from"] for run in after] == [[2], [2]]
    assert {run["inputs"]["rows"] for run in before} == {run["inputs"]["rows"] for run in after}
    assert len({run["inputs"]["rows"] for run in after}) == 1


def test_all_faults_of_a_study_are_named_at_once(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "seedz: [1]\nseeds: one\narms:\n  a: {stage: sft, stepz: 3}\n  b: {stage: dpo, reward: exact}\n"
        "compare: {limt: 3}\n"
    )
    with pytest.raises(UsageError) as error:
        read_study(path, tmp_path)
    for part in (
        "unknown key seedz (did you mean seeds?)",
        "no model to start from",
        "arm a: unknown key stepz (did you mean steps?)",
        "arm b: reward has no meaning for stage dpo",
        "limt: Extra inputs are not permitted",
        "seeds: write a list",
    ):
        assert part in error.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0, 0]", "seeds: write a list of different whole numbers"),
        ("seeds: [true]", "seeds: write a list of different whole numbers"),
        ("common: [1]", "common: write one"),
        ("compare: digits", "compare: write one"),
        ("common: {seed: 3}", "arm sft: seed has no meaning here"),
        ("arms: {sft: dpo}", "arm sft: write one"),
        ("arms: {../sft: {stage: sft}}", "arm ../sft: give it another name"),
        ("arms: {report: {stage: sft}}", "arm report: give it another name"),
        ("arms: {start: {stage: sft}}", "arm start: give it another name"),  # the base's folder is called so
    ],
)
def test_a_study_that_would_count_or_overwrite_wrongly_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    arms = "" if text.startswith("arms") else "arms: {sft: {stage: sft}}\n"
    path.write_text(f"base: {tmp_path / 'start'}\n{arms}{text}\n")
    with pytest.raises(UsageError, match=re.escape(message)):
        read_study(path, tmp_path)
