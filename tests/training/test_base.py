"""The demo's base: made from nothing reproducibly, loadable by plain transformers, and as good as its manifest says."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visprobe.demo import base as base_module
from visprobe.demo.answers import answer
from visprobe.demo.base import BASE, PatchHead, train_base
from visprobe.demo.scene_pool import ScenePool, patch_labels
from visprobe.demo.scenes import COLOURS, DigitScenes
from visprobe.demo.small_llava import build_processor
from visprobe.results.result import Result
from visprobe.training.run_folder.manifest import weights_hash


def load(folder):
    return LlavaForConditionalGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two trainings of three steps with one seed, and one with another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_module, "_TEST_SCENES", 10)
        patch.setattr(base_module, "_BLIND_SCENES", 10)
        steps = []
        folders = []
        for i, seed in enumerate((0, 0, 1)):
            folders.append(tmp_path_factory.mktemp("base") / str(i))
            settings = {"scenes": 40, "seeing_steps": 2, "answering_steps": 1}
            train_base(folders[-1], seed, **settings, progress=lambda *step: steps.append(step))
    return folders, steps


def test_same_seed_same_weights_other_seed_other_weights(tiny):
    first, again, other = (weights_hash(folder) for folder in tiny[0])
    assert first == again != other


def test_progress_is_told_after_every_step(tiny):
    assert tiny[1][:3] == [("seeing", 1, 2), ("seeing", 2, 2), ("answering", 1, 1)]


def test_the_shipped_base_loads_without_a_word_and_in_float32(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, processor = load(BASE)
    assert "warn" not in capfd.readouterr().err.lower()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.vision_feature_layer == -1 and model.config.vision_feature_select_strategy == "full"
    assert processor.tokenizer.get_vocab() == build_processor().tokenizer.get_vocab()


def test_the_shipped_base_is_small_and_the_one_of_its_manifest():
    manifest = json.loads((BASE / "manifest.json").read_text())
    assert manifest["weights_sha256"] == weights_hash(BASE)
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 2_000_000
    assert manifest["inputs"]["seed"] == 0 and manifest["cpu_seconds"] > 0


def test_the_shipped_base_answers_as_well_as_its_manifest_says():
    stated = Result.from_json(json.loads((BASE / "manifest.json").read_text())["answers"])
    (share,) = stated.select(measure="accuracy/all", role="value")
    (baseline,) = stated.select(measure="accuracy/all", role="baseline")
    assert share.estimate.value > baseline.estimate.value + 0.25
    for row in stated.select(role="value"):
        (blind,) = stated.select(role="baseline", measure=row.measure)
        assert row.estimate.low > blind.estimate.high, row.measure
    correct = answer(*load(BASE), DigitScenes("val", 100, seed=1)).correct
    # four standard errors of a share at n = 880, the most that 100 of the 500 scenes can sensibly differ
    assert abs(correct.mean() - share.estimate.value) < 0.05


def test_the_loss_on_answers_covers_the_answer_and_its_end_only():
    processor = build_processor()
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read the top row."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "3 7"}]},
    ]
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    made = processor.tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, **options)
    ids, mask = np.array(made["input_ids"]), np.array(made["assistant_masks"], bool)
    assert processor.tokenizer.convert_ids_to_tokens(ids[mask]) == ["3", "7", "<|im_end|>"]
    assert processor.tokenizer.unk_token_id not in ids


def test_training_sees_images_as_the_processor_makes_them():
    data = DigitScenes("train", 3)
    images = [Image.fromarray(data.scene(i).image) for i in range(3)]
    theirs = build_processor().image_processor(images=images, return_tensors="pt")["pixel_values"]
    # both are float32, but scale in another order: one unit in the last place of numbers up to 2
    torch.testing.assert_close(ScenePool.of(data).pixel_values(np.arange(3)), theirs, rtol=0, atol=5e-7)


def test_patch_labels_name_what_most_pixels_of_a_patch_show():
    data = DigitScenes("train", 20)
    names = list(COLOURS)
    for scene in map(data.scene, range(20)):
        digits, colours = patch_labels(scene)
        for patch in range(64):
            row, column = divmod(patch, 8)
            window = scene.masks[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            counts = np.bincount(window.ravel(), minlength=5)[1:]
            if counts.max() < 4:
                assert digits[patch] == colours[patch] == 0
            else:
                shown = scene.digits[counts.argmax()]
                assert (digits[patch], colours[patch]) == (shown.digit + 1, names.index(shown.colour) + 1)


def test_the_patch_head_weighs_background_a_tenth():
    """Closed form: with uniform logits every patch costs log(classes), whatever its weight."""
    head = PatchHead(4)
    for linear in (head.digit, head.colour):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    torch.nn.init.constant_(head.digit.bias[:1], np.log(10))  # background has half of the probability
    digits, colours = torch.tensor([[0, 3]]), torch.zeros(1, 2, dtype=torch.int64)
    expected = (0.1 * np.log(2) + 1.0 * np.log(20)) / 1.1 + np.log(7)
    assert head.loss(torch.zeros(1, 2, 4), digits, colours).item() == pytest.approx(expected)
