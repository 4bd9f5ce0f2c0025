"""Runs on disk followed from the base to the end: the right checkpoints in the right order, and what follows."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders.load import load_encoder
from visprobe.errors import UsageError
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.trajectory import read_run, trajectory
from visprobe.report.tables import tables
from visprobe.report.write import write_report
from visprobe.training.callbacks import save_vision
from visprobe.training.run_folder.manifest import weights_hash


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, 20 images each."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for kind, level in (("dark", 80), ("light", 170)):
        for number in range(20):
            path = folder / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([level, number]).normal(level, 40, (64, 64, 3))
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def save(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def make_run(folder, base, steps, part, size=0.05):
    """A run folder as training leaves it, with noise of growing size added to the weights of `part`."""
    processor, model = build_processor(), build_model(build_processor(), seed=0)
    start = {name: value.clone() for name, value in model.named_parameters()}
    for number, step in enumerate(steps):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if part in name:
                    noise = torch.randn(value.shape, generator=generator)
                    value.copy_(start[name] + number * size / len(steps) * noise)
        if number < len(steps) - 1:
            save_vision(model, processor, folder / "snapshots" / f"step-{step:06d}", torch.bfloat16)
    # The last step was copied too, and saved whole.
    save_vision(model, processor, folder / "snapshots" / f"step-{steps[-1]:06d}", torch.bfloat16)
    save(model, processor, folder)
    manifest = {"base": str(base), "inputs": {"base": weights_hash(base)}, "seen": {"steps": steps[-1]}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    processor = build_processor()
    save(build_model(processor, seed=0), processor, root / "base")
    make_run(root / "sft", root / "base", [10, 20, 30], "vision_tower.encoder.layers.1.")
    make_run(root / "frozen", root / "base", [10, 30], "multi_modal_projector")
    return root


@pytest.fixture(scope="module")
def how(tmp_path_factory):
    return Options(store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def measured(root, photos, how):
    return trajectory([root / "sft", root / "frozen"], str(photos), how)


@pytest.mark.thorough
def test_the_sequence_is_base_copies_and_finished_model(root, measured) -> None:
    names = [checkpoint["name"] for checkpoint in measured.checkpoints]
    assert names == ["base", "sft step 10", "sft step 20", "sft step 30", "frozen step 10", "frozen step 30"]
    dtypes = {checkpoint["name"]: checkpoint["dtype"] for checkpoint in measured.checkpoints}
    assert dtypes["sft step 20"] == "bfloat16"
    assert dtypes["sft step 30"] == "float32"  # the model that was saved, not its rounded copy
    [result] = measured.results
    assert result.settings["runs"]["sft"] == [{"step": s, "checkpoint": f"sft step {s}"} for s in (10, 20, 30)]


@pytest.mark.thorough
def test_distances_are_those_of_a_plain_comparison(root, photos, how, measured) -> None:
    from visprobe.pipelines.compare import compare

    plain = compare([root / "base", root / "sft"], str(photos), how)
    for measure in ("cka", "top1"):
        theirs = [r.select(checkpoint="sft", measure=measure, site="block_04") for r in plain.results]
        ours = measured.results[0].select(checkpoint="sft step 30", measure=measure, site="block_04")
        assert [row.estimate for row in ours] == [row.estimate for rows in theirs for row in rows]


def test_when_it_moved_is_found_and_rounding_is_not_motion(measured) -> None:
    texts = [statement.text for statement in measured.verdict]
    sft = next(text for text in texts if text.startswith("sft: the features at block_04"))
    assert "had measurably moved by step 20 (not yet at step 10)" in sft  # step 10 is the base, rounded
    frozen = next(text for text in texts if text.startswith("frozen: the features at block_04"))
    assert "equal to those of the base bit for bit" in frozen
    assert any(
        text.startswith("frozen: the features after the projector had measurably moved by step 30") for text in texts
    )
    assert any("rounded to bfloat16" in text for text in measured.warnings)


def test_an_untouched_copy_is_exactly_as_far_as_the_rounding_baseline(measured) -> None:
    [result] = measured.results
    [baseline] = result.select(checkpoint="base (bfloat16)", site="block_04")
    [copy] = result.select(checkpoint="frozen step 10", site="block_04", measure="cka")
    assert copy.estimate == baseline.estimate
    assert copy.estimate.value < 1


@pytest.mark.thorough
def test_the_report_has_the_figure_and_a_line_per_moment(measured, tmp_path) -> None:
    page = write_report(tmp_path, measured.document(["visprobe"])).read_text()
    assert 'id="figure-trajectory"' in page
    assert (tmp_path / "figures" / "trajectory.csv").read_text().count("sft step 30") > 4
    cka = next(table for table in tables(measured.results[0]) if "CKA" in table.title)
    assert list(cka.columns) == ["block_04", "projected"]
    assert list(cka.lines) == ["base (bfloat16)", *(c["name"] for c in measured.checkpoints[1:])]


@pytest.mark.thorough
def test_a_base_that_is_gone_can_be_named(root, photos, how, tmp_path) -> None:
    run = shutil.copytree(root / "sft", tmp_path / "sft")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "base": str(tmp_path / "gone")}))
    with pytest.raises(UsageError, match="is gone") as caught:
        trajectory([run], str(photos), how)
    assert "visprobe compare BASE --trajectory RUN" in caught.value.hint
    measured = trajectory([run], str(photos), how, base=root / "base")
    assert not any("are not those that" in text for text in measured.warnings)
    other = build_model(build_processor(), seed=5)
    save(other, build_processor(), tmp_path / "other")
    measured = trajectory([run], str(photos), how, base=tmp_path / "other")
    assert any("are not those that" in text for text in measured.warnings)


def test_a_run_that_goes_on_is_followed_as_far_as_it_is(root, photos, how, tmp_path) -> None:
    run = shutil.copytree(root / "sft", tmp_path / "sft")
    (run / "checkpoints").mkdir()  # what a finished run can be extended from
    assert read_run(run).manifest
    (run / "manifest.json").unlink()  # as a run does that begins; the model is then that of an earlier one
    assert read_run(run).manifest == {}
    with pytest.raises(UsageError, match="is not finished"):
        trajectory([run], str(photos), how)
    measured = trajectory([run], str(photos), how, base=root / "base")
    assert any("not finished: its last moment is step 30" in text for text in measured.warnings)
    assert measured.checkpoints[-1]["dtype"] == "bfloat16"


def test_runs_of_different_bases_and_runs_without_copies_are_refused(root, photos, how, tmp_path) -> None:
    run = shutil.copytree(root / "sft", tmp_path / "sft")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "inputs": {"base": "0" * 64}}))
    with pytest.raises(UsageError, match="did not start from one base"):
        trajectory([root / "frozen", run], str(photos), how)
    with pytest.raises(UsageError, match="holds no copies") as caught:
        read_run(root / "base")
    assert "--snapshot-tower-every" in caught.value.hint


def test_images_without_classes_give_the_distance_alone(root, photos, how) -> None:
    measured = trajectory([root / "sft"], str(photos / "dark"), dataclasses.replace(how, limit=12))
    assert {row.measure for row in measured.results[0].rows} == {
        "cka",
        "relative_change",
        "matrix_change",
        "matrices_changed",
    }
    assert any("accuracy was not measured" in text for text in measured.warnings)


def test_the_report_knows_a_copy_by_its_content(root, measured) -> None:
    [checkpoint] = [c for c in measured.checkpoints if c["name"] == "sft step 20"]
    assert checkpoint["tower_hash"] == load_encoder(root / "sft" / "snapshots" / "step-000020").tower_hash
