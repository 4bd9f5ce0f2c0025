"""DINOv3: tokens equal the tower's own behind class token and registers; pixels equal its own processor's."""

import json

import pytest
import torch
import transformers
from tiny_checkpoints import BLOCKS, PATCH, images, write
from tiny_native import VISION, answering, built

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

REGISTERS = 3
FIRST = 1 + REGISTERS
BLOCK_NAMES = [f"block_{n:02d}" for n in range(BLOCKS + 1)]
STORED = {
    "image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 24, "width": 40}, "do_resize": True,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3], "resample": 2, "do_center_crop": None, "crop_size": None,
}  # fmt: skip


def tower(**changes):
    config = transformers.DINOv3ViTConfig(**VISION, image_size=32, num_register_tokens=REGISTERS, **changes)
    return built("DINOv3ViTModel", config)


def saved(folder, model, spelling="disk", **stored):
    cut = "model." if spelling == "disk" else ""
    write(folder, {k.removeprefix(cut): v for k, v in model.state_dict().items()}, model.config, processor=False)
    if stored:
        (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize("spelling", ["disk", "memory"])
@pytest.mark.parametrize("gated", [False, True])
def test_weights_and_tokens_equal_those_of_the_tower(tmp_path, spelling, gated):
    model = tower(use_gated_mlp=gated)
    encoder = load_encoder(saved(tmp_path, model, spelling, **STORED))
    own = model.state_dict()
    assert encoder.weights().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in encoder.weights().items())
    pixels = encoder.preprocess(images(2))
    assert (encoder.grid, encoder.prefix_tokens, pixels.grids) == ((3, 5), FIRST, ((3, 5),) * 2)
    tokens = encoder.forward(pixels, [*BLOCK_NAMES, "final_norm", "final_norm:cls"])
    with torch.no_grad():
        out = model(**pixels.inputs, output_hidden_states=True)
    assert all(torch.equal(tokens[name], out.hidden_states[n][:, FIRST:]) for n, name in enumerate(BLOCK_NAMES))
    assert torch.equal(tokens["final_norm"], out.last_hidden_state[:, FIRST:])
    assert torch.equal(tokens["final_norm:cls"][:, 0], out.pooler_output)
    assert (encoder.consumed, encoder.provenance.off_path) == ("final_norm", ())


def test_hashes_do_not_depend_on_the_spelling(tmp_path):
    disk, memory = (load_encoder(saved(tmp_path / x, tower(), x, **STORED)) for x in ("disk", "memory"))
    assert (disk.tower_hash, disk.settings_hash) == (memory.tower_hash, memory.settings_hash)


def test_tokens_are_in_raster_order(tmp_path):
    assert answering(load_encoder(saved(tmp_path, tower(), **STORED)), 3, 5) == list(range(15))


def test_pixels_are_those_of_the_models_own_processor(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower(), **STORED))
    pixels = encoder.preprocess(images(1, size=(60, 50))).inputs["pixel_values"]
    # transformers 5.23, DINOv3ViTImageProcessor on torchvision 0.28; the tolerance is one rounding of a float32 near 1,
    # 8-bit rounding after the resize would move these numbers by up to 2e-2
    assert pixels[0, :, 5, 7].tolist() == pytest.approx([0.318793505, -0.284597158, -0.0654800683], abs=2e-7)
    assert pixels.double().mean().item() == pytest.approx(0.053855438, abs=2e-7)


def test_an_image_of_the_right_size_is_only_normalised(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower(), **STORED))
    (picture,) = images(1, size=(24, 40))
    raw = torch.tensor(list(picture.tobytes()), dtype=torch.float64).reshape(24, 40, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(STORED[name], dtype=torch.float64)[:, None, None] for name in ("image_mean", "image_std"))
    made = encoder.preprocess([picture]).inputs["pixel_values"][0]
    # float32 against float64: two roundings of values up to 3
    assert torch.allclose(made.double(), (raw - mean) / std, rtol=0, atol=1e-6)


def test_a_batch_equals_its_images_alone(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower(), **STORED))
    pictures = [*images(1), *images(1, seed=1, size=(90, 30))]
    batch = encoder(pictures)["consumed"]
    alone = torch.cat([encoder([picture])["consumed"] for picture in pictures])
    # a batch may sum in another order: some float32 roundings of values near 1
    assert torch.allclose(batch, alone, rtol=0, atol=1e-6)


def test_the_default_processor_is_that_of_the_family(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower()))
    own = encoder.processor
    assert "default image processor" in encoder.provenance.warnings[0]
    assert (encoder.grid, own.resample) == ((32 // PATCH,) * 2, 2)
    assert (list(own.image_mean), list(own.image_std)) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_groups_and_controls(tmp_path):
    encoder = load_encoder(saved(tmp_path, tower(), **STORED))
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    assert set(groups.values()) == {"embeddings", "block_01", "block_02", "block_03", "final_norm"}
    assert all(name.startswith("embeddings.") for name, group in groups.items() if group == "embeddings")
    assert encoder.untrained(0).tower_hash != encoder.tower_hash
    assert encoder.rounded(torch.bfloat16)(images(1))["consumed"].isfinite().all()


@pytest.mark.parametrize(
    "change", [{"size": {"shortest_edge": 32}}, {"size": 224}, {"resample": 0}, {"do_resize": False}]
)
def test_a_processor_that_cannot_be_followed_is_refused(tmp_path, change):
    with pytest.raises(CheckpointError, match="does not resize as DINOv3 is read"):
        load_encoder(saved(tmp_path, tower(), **STORED | change))
