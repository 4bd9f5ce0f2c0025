"""SigLIP 2 of native resolution: tokens equal the tower's own, in raster order, without the filling."""

import pytest
import torch
import transformers
from tiny_checkpoints import BLOCKS, PATCH, images, write
from tiny_native import VISION, answering, built, mixed, one_by_one, together

from visprobe.encoders import load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, UsageError

BUDGET = Resolution(pixels=39 * PATCH**2)
BLOCK_NAMES = [f"block_{n:02d}" for n in range(BLOCKS + 1)]


def tower(**changes):
    return built("Siglip2VisionModel", transformers.Siglip2VisionConfig(**VISION, num_patches=16, **changes))


def saved(folder, model, prefix="", stored=True):
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    write(folder, tensors, model.config, processor=False)
    if stored:
        transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=999).save_pretrained(folder)
    return folder


def valid(state, grid):
    return state[:, : grid[0] * grid[1]]


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_weights_and_tokens_equal_those_of_the_tower(tmp_path, prefix):
    model = tower()
    encoder = load_encoder(saved(tmp_path, model, prefix), resolution=BUDGET)
    own = model.state_dict()
    assert encoder.weights().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in encoder.weights().items())
    pixels = encoder.preprocess(images(2, size=(30, 80)))
    assert pixels.grids == ((4, 9),) * 2
    assert pixels.inputs["pixel_values"].shape == (2, 39, 3 * PATCH**2)
    tokens = encoder.forward(pixels, [*BLOCK_NAMES, "final_norm"])
    with torch.no_grad():
        out = model(**pixels.inputs, output_hidden_states=True)
    assert all(torch.equal(tokens[n], valid(out.hidden_states[i], (4, 9))) for i, n in enumerate(BLOCK_NAMES))
    assert torch.equal(tokens["final_norm"], valid(out.last_hidden_state, (4, 9)))
    assert (encoder.consumed, encoder.grid, encoder.provenance.off_path) == ("final_norm", None, ("head",))


@pytest.mark.thorough
def test_the_vision_tower_of_a_two_tower_checkpoint_is_read(tmp_path):
    text = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Siglip2Config(
        vision_config={**VISION, "num_patches": 16}, text_config={**text, "vocab_size": 50}
    )
    model = built("Siglip2Model", config)
    encoder = load_encoder(saved(tmp_path / "both", model), resolution=BUDGET)
    alone = load_encoder(saved(tmp_path / "alone", model.vision_model), resolution=BUDGET)
    assert encoder.tower_hash == alone.tower_hash
    assert torch.equal(encoder(images(1))["consumed"], alone(images(1))["consumed"])


def test_images_of_all_sizes_in_one_batch_equal_themselves_alone(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower()), resolution=BUDGET)
    pictures = mixed()
    for site in ("block_00", "block_02", "final_norm"):
        # a batch may sum in another order: some float32 roundings of values near 1
        assert torch.allclose(together(encoder, pictures, site), one_by_one(encoder, pictures, site), rtol=0, atol=1e-6)


def test_the_filling_changes_nothing(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower()), resolution=BUDGET)
    pixels = encoder.preprocess(images(1, size=(30, 80)))
    before = encoder.forward(pixels, ["final_norm"])["final_norm"]
    pixels.inputs["pixel_values"][:, 36:] = 7.0
    assert before.shape[1] == 36
    assert torch.equal(encoder.forward(pixels, ["final_norm"])["final_norm"], before)


def test_tokens_are_in_raster_order(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower()), resolution=Resolution(pixels=15 * PATCH**2))
    assert answering(encoder, 3, 5) == list(range(15))


def test_processor_groups_and_controls(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower(), stored=False), resolution=BUDGET)
    assert "default image processor" in encoder.provenance.warnings[0]
    assert encoder.processor.max_num_patches == 39
    stored = load_encoder(saved(tmp_path, tower()), resolution=BUDGET)
    assert stored.processor_hash == encoder.processor_hash
    assert load_encoder(tmp_path).processor_hash != encoder.processor_hash
    groups = {encoder.weight_group(name) for name in encoder.weights()}
    assert groups == {"embeddings", "block_01", "block_02", "block_03", "final_norm", "head"}
    assert encoder.untrained(0).tower_hash != encoder.tower_hash
    assert encoder.rounded(torch.bfloat16)(images(1))["consumed"].isfinite().all()


def test_a_tower_without_head_is_read(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower(vision_use_head=False)), resolution=BUDGET)
    assert encoder.provenance.off_path == ()


def test_what_cannot_be_read_is_one_message(tmp_path):
    with pytest.raises(UsageError, match="less than one patch of 8x8"):
        load_encoder(saved(tmp_path, tower()), resolution=Resolution(pixels=63))
    transformers.SiglipImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not give pixel_attention_mask, spatial_shapes"):
        load_encoder(tmp_path)
