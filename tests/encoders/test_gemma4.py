"""Gemma 4: tower and pooled, standardised, embedded tokens equal those of the whole model, in raster order."""

import pytest
import torch
import transformers
from tiny_checkpoints import BLOCKS, PATCH, images, write
from tiny_native import answering, gemma4, mixed, one_by_one, together, whole

from visprobe.encoders import load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, UsageError

POOL = 2
BUDGET = Resolution(pixels=100 * (POOL * PATCH) ** 2)  # 100 tokens: the processor knows 70 and 140
BLOCK_NAMES = [f"block_{n:02d}" for n in range(BLOCKS + 1)]


def saved(folder, model, spelling="D", stored=True):
    cut = "model." if spelling == "C" else ""
    write(folder, {k.removeprefix(cut): v for k, v in model.state_dict().items()}, model.config, processor=False)
    if stored:
        own = transformers.Gemma4ImageProcessorPil(patch_size=PATCH, pooling_kernel_size=POOL, max_soft_tokens=1120)
        own.save_pretrained(folder)
    return folder


def features(model, pixels):
    """States of the blocks, and the projected tokens of each image, by the model's own `get_image_features`."""
    inputs = {"pixel_values": pixels.inputs["pixel_values"], "image_position_ids": pixels.inputs["pixel_position_ids"]}
    last = []  # `hidden_states` end with the pooled tokens, not with the last block's
    hook = model.model.vision_tower.encoder.layers[-1].register_forward_hook(lambda _, __, out: last.append(out))
    with torch.no_grad():
        out = model.get_image_features(**inputs, output_hidden_states=True)
    hook.remove()
    return [*out.hidden_states[:-1], *last], out.pooler_output


@pytest.mark.parametrize("spelling", ["D", "C"])
@pytest.mark.parametrize("standardize", [True, False])
def test_weights_and_tokens_equal_those_of_the_whole_model(tmp_path, spelling, standardize):
    model = gemma4(standardize=standardize)
    encoder = load_encoder(saved(tmp_path, model, spelling), resolution=BUDGET)
    own = dict(whole(tmp_path, type(model).__name__).model.vision_tower.state_dict())
    buffers = {f"projector.{name}": own.pop(name) for name in list(own) if name.startswith("std_")}
    weights = encoder.weights()
    embedding = "embed_vision.embedding_projection.weight"
    expected = own | buffers | {f"projector.{embedding}": model.model.get_parameter(embedding)}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert len(buffers) == (2 if standardize else 0)
    pixels = encoder.preprocess(images(1, size=(30, 80)))
    assert pixels.grids == ((10, 26),)
    tokens = encoder.forward(pixels, [*BLOCK_NAMES, "projected"])
    states, projected = features(model, pixels)
    assert all(torch.equal(tokens[name], states[n][:, :260]) for n, name in enumerate(BLOCK_NAMES))
    # pooling is a product with a longer matrix there, whose other columns are zero: float32 roundings of values near 3
    assert torch.allclose(tokens["projected"][0], projected[0], rtol=0, atol=1e-6)
    assert (encoder.provenance.layout, encoder.consumed, encoder.grid) == (spelling, BLOCK_NAMES[-1], None)


def test_images_of_all_sizes_in_one_batch_equal_the_model_and_themselves_alone(tmp_path):
    model = gemma4()
    encoder = load_encoder(saved(tmp_path, model), resolution=BUDGET)
    pictures = mixed()
    _, projected = features(model, encoder.preprocess(pictures))
    means = torch.stack([tokens.mean(dim=0) for tokens in projected])
    batch = together(encoder, pictures, "projected")
    # sums in another order: float32 roundings of values near 1
    assert torch.allclose(batch, means, rtol=0, atol=1e-6)
    for site in ("block_00", "consumed", "projected"):
        alone = one_by_one(encoder, pictures, site)
        assert torch.allclose(together(encoder, pictures, site), alone, rtol=0, atol=1e-6)


@pytest.mark.thorough
def test_tokens_are_in_raster_order(tmp_path):
    encoder = load_encoder(saved(tmp_path, gemma4()), resolution=BUDGET)
    assert answering(encoder, 14, 20) == list(range(14 * 20))


def test_the_filling_is_no_token(tmp_path):
    encoder = load_encoder(saved(tmp_path, gemma4()), resolution=BUDGET)
    pixels = encoder.preprocess(images(1, size=(30, 80)))
    before = encoder.forward(pixels, ["projected"])["projected"]
    pixels.inputs["pixel_values"][:, 260:] = 7.0
    assert torch.equal(encoder.forward(pixels, ["projected"])["projected"], before)


def test_the_standardisation_is_the_connectors(tmp_path):
    model = gemma4()
    encoder = load_encoder(saved(tmp_path / "a", model), resolution=BUDGET)
    model.model.vision_tower.std_bias += 1
    other = load_encoder(saved(tmp_path / "b", model), resolution=BUDGET)
    assert (other.tower_hash == encoder.tower_hash, other.projector_hash == encoder.projector_hash) == (True, False)
    one, two = encoder(images(1)), other(images(1))
    assert torch.equal(one["consumed"], two["consumed"])
    assert not torch.equal(one["projected"], two["projected"])


def test_processor_groups_and_controls(tmp_path):
    encoder = load_encoder(saved(tmp_path, gemma4(), stored=False), resolution=BUDGET)
    assert "default image processor" in encoder.provenance.warnings[0]
    assert load_encoder(saved(tmp_path, gemma4()), resolution=BUDGET).processor_hash == encoder.processor_hash
    assert load_encoder(tmp_path, resolution=Resolution(pixels=140 * 256)).processor.max_soft_tokens == 140
    assert {encoder.weight_group(name) for name in encoder.weights()} == {
        "embeddings", "block_01", "block_02", "block_03", "projector",
    }  # fmt: skip
    assert encoder.provenance.off_path == ()
    fresh = encoder.untrained(0)
    assert fresh(images(1))["projected"].isfinite().all()
    assert fresh.tower_hash != encoder.tower_hash
    assert encoder.rounded(torch.bfloat16)(images(1))["projected"].isfinite().all()


def test_a_budget_below_what_the_processor_can_give_is_refused(tmp_path):
    with pytest.raises(UsageError, match="fewer than Gemma 4's image processor") as fault:
        load_encoder(saved(tmp_path, gemma4()), resolution=Resolution(pixels=70 * 256 - 1))
    assert "Give at least 17920" in str(fault.value.hint)


def test_a_checkpoint_without_vision_is_one_message(tmp_path):
    model = gemma4()
    config = model.config.to_dict() | {"vision_config": None}
    text = {name: tensor for name, tensor in model.state_dict().items() if "vision" not in name}
    with pytest.raises(CheckpointError, match="has no vision_config"):
        load_encoder(write(tmp_path, text, config, processor=False))
