"""Aya Vision: SigLIP's states, and what its gated projector makes of joined squares, as the whole model has them."""

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, TEXT, VISION, images, spelled
from tiny_native import built
from whole_models import answering_token, parts, same_weights, write_model

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError


def tiny(layer=-1, **changes):
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
    text = {**TEXT, "model_type": "cohere2", "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    config = transformers.AyaVisionConfig(
        vision_config=vision, text_config=text, image_token_index=49, vision_feature_layer=layer, **changes
    )
    return built("AyaVisionForConditionalGeneration", config)


def processor(**fields):
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return transformers.GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, **half, **fields)


@pytest.mark.parametrize("layout", "ABCD")
def test_weights_and_projected_tokens_are_those_of_the_model_in_every_spelling(tmp_path, layout):
    model = tiny()
    names = dict(zip(model.state_dict(), spelled(model, layout), strict=True))
    encoder = load_encoder(write_model(tmp_path, model, names.__getitem__, processor(crop_to_patches=True)))
    assert encoder.provenance.layout == layout
    assert same_weights(encoder, parts(model.model.vision_tower, model.model.multi_modal_projector))
    pixels = torch.as_tensor(processor()(images(), return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        own = model.model.get_image_features(pixels, output_hidden_states=True)
    tokens = encoder(images())
    assert all(torch.equal(tokens[f"block_{n:02d}"], state) for n, state in enumerate(own.hidden_states))
    assert torch.equal(tokens["projected"], own.pooler_output)
    assert tokens["projected"].shape[1:] == (4, 24)


@pytest.mark.parametrize(
    ("layer", "site", "off"), [(-1, 3, ()), (-2, 2, ("block_03",)), (1, 1, ("block_02", "block_03"))]
)
def test_the_consumed_site_is_counted_from_the_input(tmp_path, layer, site, off):
    model = tiny(layer)
    encoder = load_encoder(write_model(tmp_path, model, processor=processor()))
    with torch.no_grad():
        own = model.model.get_image_features(encoder.preprocess(images()).inputs["pixel_values"])
    assert encoder.consumed == f"block_{site:02d}"
    assert encoder.provenance.off_path == (*off, "final_norm")
    assert torch.equal(encoder(images())["projected"], own.pooler_output)


@pytest.mark.parametrize(("site", "place"), [("block_00", (1, 3)), ("projected", (0, 1))])
def test_a_lit_patch_answers_at_its_place(tmp_path, site, place):
    encoder = load_encoder(write_model(tmp_path, tiny(), processor=processor()))
    assert answering_token(encoder, (SIDE, SIDE), PATCH, 1, 3, site) == place


def test_several_layers_are_refused(tmp_path):
    folder = write_model(tmp_path, tiny(), change=lambda config: config.update(vision_feature_layer=[-1, -2]))
    with pytest.raises(CheckpointError, match="the projector of Aya Vision reads one"):
        load_encoder(folder)


def test_without_a_processor_the_colours_are_those_of_siglip(tmp_path):
    assumed = load_encoder(write_model(tmp_path / "without", tiny()))
    stored = load_encoder(write_model(tmp_path / "with", tiny(), processor=processor()))
    assert assumed.processor_hash == stored.processor_hash
    assert any("preprocessor_config.json" in warning for warning in assumed.provenance.warnings)
