"""Copies of the tower and measurements on the way: right, small, harmless to training, safe against kill -9."""

import json
import random
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visprobe.demo.rows import DigitRows
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders.load import load_encoder
from visprobe.errors import DataError, TrainingError
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.trajectory import trajectory
from visprobe.results.result import Result
from visprobe.training.callbacks import Snapshots, save_vision
from visprobe.training.dynamics import Probe, line_of, random_state_kept
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
from visprobe.training.run_folder.by_step import DYNAMICS, append_line, forget_after, read_lines, snapshots

SETTINGS = {"stage": "sft", "steps": 5, "batch_size": 4, "learning_rate": 1e-3, "seed": 3}
ROWS = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base with dropout in its language model: training draws random numbers at every step."""
    folder = tmp_path_factory.mktemp("checkpoints") / "base"
    processor = build_processor()
    model = build_model(processor, seed=0)
    model.config.text_config.attention_dropout = 0.2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, darker and lighter, 12 images each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for kind, level in (("dark", 80), ("light", 170)):
        for number in range(12):
            path = folder / kind / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            noise = np.random.default_rng([level, number]).normal(level, 40, (64, 64, 3))
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def probed(base, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sft"
    extra = {"probe_every": 2, "probe_images": str(photos), "snapshot_tower_every": 2}
    return folder, run(base, Recipe(**SETTINGS, **extra), DigitRows(ROWS), folder)


@pytest.mark.thorough
def test_a_copy_is_the_tower_and_projector_rounded_to_bfloat16(base, tmp_path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    save_vision(model, AutoProcessor.from_pretrained(base), tmp_path / "copy", torch.bfloat16)
    copy, whole = load_encoder(tmp_path / "copy"), load_encoder(base)
    assert copy.provenance.dtype == "bfloat16"
    assert [site.name for site in copy.sites] == [site.name for site in whole.sites]
    assert (copy.consumed, copy.processor_hash) == (whole.consumed, whole.processor_hash)
    ours, theirs = copy.weights(), whole.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name].to(torch.bfloat16)) for name in theirs)
    stored = load_file(tmp_path / "copy" / "model.safetensors")
    assert {name.split(".")[1] for name in stored} == {"vision_tower", "multi_modal_projector"}


def test_a_copy_is_a_few_per_cent_where_the_language_model_dominates(tmp_path) -> None:
    processor = build_processor()
    model = build_model(processor, seed=0)
    small = sum(p.numel() for n, p in model.named_parameters() if "language_model" not in n)
    # As in a 7B LLaVA, where tower and projector are about 5 % of the weights: more embeddings do it here.
    model.resize_token_embeddings(19 * small // 128, mean_resizing=False)
    model.save_pretrained(tmp_path / "whole")
    save_vision(model, processor, tmp_path / "copy", torch.bfloat16)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "copy")}
    assert 0.02 < sizes["copy"] / sizes["whole"] < 0.03  # 5 % of the weights, at half the bytes


def test_a_copy_killed_while_it_is_written_is_not_there(base, tmp_path, forked) -> None:
    script = """
import os, signal, sys
from pathlib import Path
import torch
from visprobe.training import callbacks
from visprobe.training.run_folder.by_step import snapshot_path
from visprobe.mllm.load import load_for_training
def torn(weights, path):
    Path(path).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
callbacks.save_tensors = torn
model, processor = load_for_training(sys.argv[1])
callbacks.save_vision(model, processor, snapshot_path(Path(sys.argv[2]), 7), torch.bfloat16)
"""
    assert forked(script, base, tmp_path) == -signal.SIGKILL
    assert snapshots(tmp_path) == {}
    forget_after(tmp_path, 7)  # the next start of the run
    assert list((tmp_path / "snapshots").iterdir()) == []


@pytest.mark.thorough
def test_copies_are_taken_at_their_steps_and_hold_the_model_of_that_step(base, probed, tmp_path) -> None:
    folder, _ = probed
    assert list(snapshots(folder)) == [2, 4]
    shorter = Recipe(**{**SETTINGS, "steps": 4, "schedule": "constant", "warmup": 0.0}, snapshot_tower_every=4)
    run(base, shorter, DigitRows(ROWS), tmp_path / "four")
    final, copy = load_encoder(tmp_path / "four"), load_encoder(snapshots(tmp_path / "four")[4])
    ours = copy.weights()
    assert all(torch.equal(ours[name], value.to(torch.bfloat16)) for name, value in final.weights().items())


@pytest.mark.thorough
def test_losses_and_weights_are_those_of_a_run_without_the_probe(base, photos, tmp_path, monkeypatch) -> None:
    def wasteful(*args, **kwargs):
        torch.rand(7), np.random.rand(), random.random()  # as a library might, when it builds a model
        return load_encoder(*args, **kwargs)

    monkeypatch.setattr("visprobe.training.dynamics.load_encoder", wasteful)
    plain = run(base, Recipe(**SETTINGS), DigitRows(ROWS), tmp_path / "plain")
    recipe = Recipe(**SETTINGS, probe_every=1, probe_images=str(photos))
    assert run(base, recipe, DigitRows(ROWS), tmp_path / "probed")["losses"] == plain["losses"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "probed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.thorough
def test_copies_of_a_probe_image_are_counted_once(base, photos, tmp_path) -> None:
    images = tmp_path / "images"
    shutil.copytree(photos, images)
    for path in sorted(images.rglob("*.png"))[:5]:
        shutil.copy(path, path.with_name(f"again-{path.name}"))
    once, twice = (
        run(base, Recipe(**SETTINGS, probe_every=9, probe_images=str(folder)), DigitRows(ROWS), tmp_path / name)
        for name, folder in (("once", photos), ("twice", images))
    )
    assert once["losses"] == twice["losses"]
    lines = [read_lines(tmp_path / name / DYNAMICS)[-1] for name in ("once", "twice")]
    assert lines[0]["n"] == lines[1]["n"] == 24 and lines[0]["cka"] == lines[1]["cka"]


def test_random_numbers_go_on_as_if_nothing_had_been_drawn() -> None:
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with random_state_kept():
        draw()
        torch.manual_seed(9)
    assert draw() == expected


def test_the_probe_measures_the_start_every_so_many_steps_and_the_end(probed) -> None:
    folder, _ = probed
    lines = read_lines(folder / DYNAMICS)
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    start, *_, end = lines
    assert start["n"] == 24
    assert start["cka"]["block_04"] == start["cka"]["projected"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert start["relative_change"] == {"tower": 0.0, "projector": 0.0}
    assert start["top1_difference"]["block_04"]["value"] == 0
    for site in ("block_04", "projected"):
        assert end["cka"][site]["high"] < 1
        assert 0 <= end["top1"][site]["low"] <= end["top1"][site]["value"] <= end["top1"][site]["high"] <= 1
        difference = end["top1"][site]["value"] - start["top1"][site]["value"]
        assert end["top1_difference"][site]["value"] == pytest.approx(difference)


@pytest.mark.thorough
def test_the_last_line_is_what_compare_finds_in_the_saved_model(base, probed, photos, tmp_path) -> None:
    folder, _ = probed
    measured = trajectory([folder], str(photos), Options(store=tmp_path / "store"), base=base)
    [result] = measured.results
    rows = tuple(row for row in result.rows if row.checkpoint == f"{folder.name} step 5")
    offline = line_of(Result("trajectory", "?", rows))
    online = {key: value for key, value in read_lines(folder / DYNAMICS)[-1].items() if key not in ("step", "seconds")}
    assert online == offline  # the same arithmetic on the same bits


@pytest.mark.thorough
def test_a_killed_run_resumes_with_one_line_per_step(base, probed, photos, tmp_path, forked) -> None:
    script = """
import json, os, signal, sys
from pathlib import Path
from visprobe.demo.rows import DigitRows
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
def progress(stage, done, total):
    if stage.startswith("train") and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Recipe(**json.loads(sys.argv[3])), DigitRows(20), Path(sys.argv[2]), progress=progress)
"""
    extra = {"probe_every": 2, "probe_images": str(photos), "snapshot_tower_every": 2, "save_every": 3}
    recipe = Recipe(**SETTINGS, **extra)
    assert forked(script, base, tmp_path / "out", recipe.model_dump_json()) == -signal.SIGKILL
    before = read_lines(tmp_path / "out" / DYNAMICS)
    assert [line["step"] for line in before] == [0, 2, 4]
    assert run(base, recipe, DigitRows(ROWS), tmp_path / "out")["resumed_from"] == "checkpoint-3"
    after = [{**line, "seconds": 0} for line in read_lines(tmp_path / "out" / DYNAMICS)]
    assert after == [{**line, "seconds": 0} for line in read_lines(probed[0] / DYNAMICS)]
    assert [line["step"] for line in after] == [0, 2, 4, 5]
    assert list(snapshots(tmp_path / "out")) == [2, 4]


@pytest.mark.parametrize("setting", ["snapshot_tower_every", "probe_every"])
def test_zero3_hides_the_tower_and_is_refused_before_the_first_step(base, photos, tmp_path, setting) -> None:
    recipe, processor = Recipe(stage="sft", probe_every=1, probe_images=str(photos)), build_processor()
    watching = (
        Probe(recipe, base, tmp_path, processor) if setting == "probe_every" else Snapshots(1, tmp_path, processor)
    )
    sharded = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    with pytest.raises(TrainingError, match="cannot be copied") as caught:
        watching.on_train_begin(sharded, SimpleNamespace(global_step=0), None, model=None)
    assert setting in caught.value.hint


def test_images_that_cannot_be_read_are_refused_before_training(base, tmp_path) -> None:
    recipe = Recipe(**SETTINGS, probe_every=1, probe_images=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="absent does not exist"):
        run(base, recipe, DigitRows(ROWS), tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_lines_are_strict_json_and_a_torn_one_is_left_out(tmp_path) -> None:
    path = tmp_path / DYNAMICS
    for step in (0, 1, 2):
        append_line(path, {"step": step, "norm": float("nan") if step == 1 else 0.5})
    with path.open("a") as file:
        file.write('{"step": 3, "no')
    assert [line["norm"] for line in read_lines(path)] == [0.5, None, 0.5]
    forget_after(tmp_path, 1)
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [0, 1]
    forget_after(tmp_path, 0)  # a new start: also the line of step 0 may be of another base
    assert path.read_text() == ""


def test_a_new_start_forgets_the_copies_of_an_earlier_run(tmp_path) -> None:
    for step in (2, 4, 6):
        (tmp_path / "snapshots" / f"step-{step:06d}").mkdir(parents=True)
    forget_after(tmp_path, 4)
    assert list(snapshots(tmp_path)) == [2, 4]
    forget_after(tmp_path, 0)
    assert snapshots(tmp_path) == {}
