"""InternVL of transformers and of the original code: the same weights, tokens and pixels from every spelling."""

import json

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, write
from tiny_internvl import first_names, inner, original, original_config, original_forward, tiny
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from whole_models import answering_token, from_pretrained, noise, parts, same_weights, write_model

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

SPELLINGS = {"D": lambda name: name, "C": inner, "first": first_names}
IMAGENET = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
# float32 sums of at most 128 products in another order: values are near 1, one rounding is 6e-8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def processor(**fields):
    return transformers.GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, **IMAGENET, **fields)


def write_original(folder, model, saved=None, **changes):
    """A checkpoint of the original code, with the processor file that its repositories hold."""
    write(folder, saved or original(model), original_config(**changes), processor=False)
    stored = {
        "feature_extractor_type": "CLIPFeatureExtractor", "do_center_crop": True, "crop_size": SIDE, "size": SIDE,
        "do_resize": True, "do_normalize": True, "resample": 3, **IMAGENET,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same model in every spelling."""
    model, root = tiny(), tmp_path_factory.mktemp("internvl")
    folders = {name: write_model(root / name, model, spell, processor()) for name, spell in SPELLINGS.items()}
    return {**folders, "I": write_original(root / "I", model)}


def test_weights_and_tokens_equal_those_of_the_whole_model_in_every_spelling(written):
    model = from_pretrained("InternVLForConditionalGeneration", written["C"])
    images = noise((40, 50), (20, 90))
    pixels = torch.as_tensor(processor()(images, return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        own = model.model.get_image_features(pixels, output_hidden_states=True)
    for name, folder in written.items():
        encoder = load_encoder(folder)
        assert same_weights(encoder, parts(model.model.vision_tower, model.model.multi_modal_projector))
        assert encoder.provenance.layout == ("C" if name == "first" else name)
        tokens = encoder(images)
        for number, state in enumerate(own.hidden_states):
            assert torch.equal(tokens[f"block_{number:02d}"], state[:, 1:])
        assert torch.equal(tokens["consumed"], own.last_hidden_state[:, 1:])
        assert torch.equal(tokens["projected"], own.pooler_output)


def test_hashes_do_not_depend_on_the_spelling(written):
    encoders = [load_encoder(folder) for folder in written.values()]
    for value in ("tower_hash", "projector_hash", "settings_hash", "processor_hash"):
        assert len({getattr(encoder, value) for encoder in encoders}) == 1


@pytest.mark.parametrize(("layer", "site"), [(-1, "block_03"), (-2, "block_02"), (1, "block_01")])
def test_the_consumed_site_is_counted_from_the_input(tmp_path, layer, site):
    model = tiny(layer)
    hf = load_encoder(write_model(tmp_path / "hf", model, processor=processor()))
    first = load_encoder(write_original(tmp_path / "I", model, select_layer=layer))
    pixels = hf.preprocess(noise((40, 50))).inputs["pixel_values"]
    with torch.no_grad():
        own = model.model.get_image_features(pixels).pooler_output
    for encoder in (hf, first):
        assert encoder.consumed == site
        assert torch.equal(encoder(noise((40, 50)))["projected"], own)
        assert encoder.provenance.off_path == tuple(f"block_{n:02d}" for n in range(int(site[-1]) + 1, 4))


def test_a_tower_with_a_last_norm_is_read_after_it(tmp_path):
    model = tiny(use_mean_pooling=False)
    encoder = load_encoder(write_model(tmp_path, model, processor=processor()))
    pixels = encoder.preprocess(noise((40, 50))).inputs["pixel_values"]
    with torch.no_grad():
        own = model.model.get_image_features(pixels)
    tokens = encoder(noise((40, 50)))
    assert encoder.consumed == "final_norm"
    assert torch.equal(tokens["consumed"], own.last_hidden_state[:, 1:])
    assert torch.equal(tokens["projected"], own.pooler_output)
    assert encoder.weight_group("layernorm.weight") == "final_norm"


VARIANTS = {
    "300M": ({"attention_bias": True}, {}),
    "no bias": ({"attention_bias": False}, {"qkv_bias": False}),
    "6B": (
        {"attention_bias": False, "use_qk_norm": True, "norm_type": "rms_norm"},
        {"qkv_bias": False, "qk_normalization": True, "norm_type": "rms_norm"},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_original_equations_give_the_same_tokens(tmp_path, variant):
    ours, theirs = VARIANTS[variant]
    saved = original(tiny(**ours))
    encoder = load_encoder(write_original(tmp_path, None, saved, vision=theirs))
    images = noise((40, 50), (20, 90))
    states, projected = original_forward(
        saved, encoder.preprocess(images).inputs["pixel_values"], norm=theirs.get("norm_type", "layer_norm")
    )
    tokens = encoder(images)
    for number, state in enumerate(states):
        torch.testing.assert_close(tokens[f"block_{number:02d}"], state[:, 1:], **CLOSE)
    torch.testing.assert_close(tokens["projected"], projected, **CLOSE)
    assert encoder.provenance.layout == "I"


def test_the_defaults_of_the_original_configuration_are_those_of_its_code(tmp_path):
    """A field that config.json leaves out is a 6B's: queries and keys are normalised, norms are RMS."""
    saved = original(tiny(attention_bias=False, use_qk_norm=True, norm_type="rms_norm"))
    folder = write_original(tmp_path, None, saved)
    config = json.loads((folder / "config.json").read_text())
    for name in ("qkv_bias", "qk_normalization", "norm_type", "layer_norm_eps", "hidden_act", "model_type"):
        del config["vision_config"][name]
    (folder / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(folder)
    assert "encoder.layer.0.attention.q_norm.weight" in encoder.weights()
    assert "encoder.layer.0.attention.q_proj.bias" not in encoder.weights()


def test_the_base_view_is_the_thumbnail_of_the_models_own_processor(tmp_path):
    stored = processor(crop_to_patches=True, min_patches=2, max_patches=6)
    encoder = load_encoder(write_model(tmp_path, tiny(), processor=stored))
    images = noise((40, 50), (20, 90))
    for image, pixels in zip(images, encoder.preprocess(images).inputs["pixel_values"], strict=True):
        views = stored(image, return_tensors="pt")["pixel_values"]
        assert len(views) > 1
        assert torch.equal(pixels, torch.as_tensor(views[-1]))


def test_tokens_are_in_raster_order_also_after_the_pixel_shuffle(written):
    for name in ("C", "I"):
        encoder = load_encoder(written[name])
        for row, column in [(0, 3), (2, 1), (3, 0)]:
            assert answering_token(encoder, (SIDE, SIDE), PATCH, row, column) == (row, column)
            found = answering_token(encoder, (SIDE, SIDE), PATCH, row, column, "projected")
            assert found == (row // 2, column // 2)


def test_every_part_has_its_place(written):
    encoder = load_encoder(written["I"])
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    assert {group for name, group in groups.items() if ".layer." in name} == {"block_01", "block_02", "block_03"}
    assert {n for n, g in groups.items() if g == "embeddings"} == {n for n in groups if n.startswith("embeddings.")}
    fresh, rounded, images = encoder.untrained(0), encoder.rounded(torch.bfloat16), noise((32, 32))
    assert fresh.weights().keys() == encoder.weights().keys()
    # the original layer scale at the start of training, which initializer_factor holds
    assert torch.equal(fresh.weights()["encoder.layer.0.lambda_1"], torch.ones(32))
    assert not torch.equal(rounded(images)["projected"], encoder(images)["projected"])


def test_without_a_stored_processor_imagenets_mean_is_used(tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny()))
    images = noise((40, 50))
    own = torch.as_tensor(processor()(images, return_tensors="pt")["pixel_values"])
    assert torch.equal(encoder.preprocess(images).inputs["pixel_values"], own)
    assert "default image processor" in encoder.provenance.warnings[-1]


def test_what_the_model_does_otherwise_is_said(tmp_path):
    old = {"pad2square": True, "ps_version": "v1", "dynamic_image_size": False}
    notes = " ".join(load_encoder(write_original(tmp_path, tiny(), **old)).provenance.warnings)
    assert "pads" in notes
    assert "transposed" in notes
    assert "tiles" not in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": {"model_type": "siglip_vision_model"}}, "tower of type siglip_vision_model"),
        ({"vision_config": None}, "tower of type None"),
        ({"force_image_size": 64}, "images of 64 pixels with positions for 32"),
        ({"vision": {"qk_normalization": True, "layer_norm_eps": 1e-5}}, "epsilon of 1e-05"),
        ({"vision": {"num_hidden_layers": 4}}, "missing"),
        ({"llm_config": {}}, "cannot use the configuration"),
        ({"select_layer": 9}, "layer 9, the tower has 3 blocks"),
        ({"select_layer": None}, "vision layers None"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_encoder(write_original(tmp_path, tiny(), **changes))


@pytest.mark.parametrize(("gone", "message"), [("vision_model.", "no vision tower"), ("mlp1.", "no projector")])
def test_a_part_that_is_absent_is_named(tmp_path, gone, message):
    saved = {name: tensor for name, tensor in original(tiny()).items() if not name.startswith(gone)}
    with pytest.raises(CheckpointError, match=message):
        load_encoder(write_original(tmp_path, None, saved))
