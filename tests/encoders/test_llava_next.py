"""LLaVA-NeXT and VipLLaVA of transformers: what is read equals what the whole model computes, bit for bit."""

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, TEXT, filled, spelled, vision_config
from whole_models import answering_token, from_pretrained, noise, parts, same_weights, write_model

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet

SIZES = [(40, 50), (20, 90), (300, 200), (32, 32)]
CLASSES = {"llava_next": "LlavaNext", "llava_next_video": "LlavaNextVideo", "vipllava": "VipLlava"}
LAYERS = {"clip": (-2, "default"), "siglip": (-1, "full")}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def tiny(family="clip", kind="llava_next", **changes):
    layer, strategy = LAYERS[family]
    vision = vision_config(family, **({"vision_use_head": False} if family == "siglip" else {}))
    options = {"vision_feature_layer": layer, "image_token_index": 49, **changes}
    if kind != "vipllava":
        options |= {"vision_feature_select_strategy": strategy, "image_grid_pinpoints": PINPOINTS}
    config = getattr(transformers, f"{CLASSES[kind]}Config")(
        vision_config=vision.to_dict(), text_config=TEXT, **options
    )
    torch.manual_seed(0)
    with quiet():
        return filled(getattr(transformers, f"{CLASSES[kind]}ForConditionalGeneration")(config))


def processor(**fields):
    square = {"height": SIDE, "width": SIDE}
    return transformers.LlavaNextImageProcessorPil(
        **{"size": {"shortest_edge": SIDE}, "crop_size": square, "image_grid_pinpoints": PINPOINTS, **fields}
    )


def named(model, layout):
    """The new name of each tensor in `layout`."""
    names = dict(zip(model.state_dict(), spelled(model, layout), strict=True))
    if layout in "AC":
        names["model.image_newline"] = "image_newline"
    return names


def base_features(model, pixels):
    """Selected states and projected tokens of the base view, which come before those of the tiles."""
    count = len(PINPOINTS[0]) + 1  # a wide image: the base view and two tiles
    views = pixels[:, None].expand(-1, count, -1, -1, -1)
    with torch.no_grad():
        out = model.get_image_features(views, torch.tensor([[SIDE, 2 * SIDE]] * len(pixels)), output_hidden_states=True)
    tokens = (SIDE // PATCH) ** 2
    states = out.hidden_states[model.config.vision_feature_layer][::count]
    return states, torch.stack([tokens_of[:tokens] for tokens_of in out.pooler_output])


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("layout", "ABCD")
def test_tower_and_base_view_equal_those_of_the_whole_model(tmp_path, family, layout):
    model = tiny(family)
    write_model(tmp_path, model, named(model, layout).get, processor())
    encoder, whole = load_encoder(tmp_path), from_pretrained("LlavaNextForConditionalGeneration", tmp_path)
    assert same_weights(encoder, parts(whole.model.vision_tower, whole.model.multi_modal_projector))
    tokens = encoder(noise(*SIZES))
    states, projected = base_features(whole, encoder.preprocess(noise(*SIZES)).inputs["pixel_values"])
    # the model forwards the tiles beside it: float32 products in another order, values near 1, one rounding is 6e-8
    torch.testing.assert_close(tokens["consumed"], states[:, encoder.prefix_tokens :], rtol=0, atol=2e-6)
    torch.testing.assert_close(tokens["projected"], projected, rtol=0, atol=2e-6)
    assert (encoder.provenance.layout, encoder.grid) == (layout, (4, 4))
    assert encoder.consumed == {"clip": "block_02", "siglip": "block_03"}[family]
    assert [w for w in encoder.provenance.warnings if "tiles" in w] == [encoder.provenance.warnings[-1]]


@pytest.mark.parametrize("fields", [{}, {"size": {"height": SIDE, "width": SIDE}}, {"image_mean": [0.1, 0.2, 0.3]}])
def test_the_base_view_is_the_first_view_of_the_models_own_processor(tmp_path, fields):
    own = processor(**fields)
    encoder = load_encoder(write_model(tmp_path, tiny(), processor=own))
    expected = torch.stack([own(image, return_tensors="pt")["pixel_values"][0, 0] for image in noise(*SIZES)])
    assert torch.equal(encoder.preprocess(noise(*SIZES)).inputs["pixel_values"], expected)


def test_without_a_stored_processor_images_are_squashed_too(tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny()))
    expected = torch.stack([processor()(i, return_tensors="pt")["pixel_values"][0, 0] for i in noise(*SIZES)])
    assert torch.equal(encoder.preprocess(noise(*SIZES)).inputs["pixel_values"], expected)
    assert "default image processor" in encoder.provenance.warnings[-1]


def test_tokens_are_in_raster_order(tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny(), processor=processor()))
    for place in [(0, 3), (2, 1), (3, 0)]:
        assert answering_token(encoder, (SIDE, SIDE), PATCH, *place) == place


def test_the_video_model_reads_images_alike(tmp_path):
    model = tiny(kind="llava_next_video")
    encoder = load_encoder(write_model(tmp_path, model, processor=processor()))
    assert same_weights(encoder, parts(model.model.vision_tower, model.model.multi_modal_projector))
    _, projected = base_features(model, encoder.preprocess(noise(*SIZES)).inputs["pixel_values"])
    # float32 products of another batch, as above
    torch.testing.assert_close(encoder(noise(*SIZES))["projected"], projected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("layout", "ABCD")
@pytest.mark.parametrize("layers", [[-2, 1, -3], -1])
def test_vipllava_normalises_several_layers_before_it_projects_them(tmp_path, layout, layers):
    model = tiny(kind="vipllava", vision_feature_layer=layers)
    encoder = load_encoder(write_model(tmp_path, model, named(model, layout).get))
    whole = from_pretrained("VipLlavaForConditionalGeneration", tmp_path)
    assert same_weights(encoder, parts(whole.model.vision_tower, whole.model.multi_modal_projector))
    pixels = encoder.preprocess(noise(*SIZES)).inputs["pixel_values"]
    with torch.no_grad():
        own = whole.get_image_features(pixels).pooler_output
    assert torch.equal(encoder(noise(*SIZES))["projected"], torch.stack(list(own)))
    assert encoder.consumed == ("block_02" if layers != -1 else "block_03")
    assert encoder.provenance.off_path == (("block_03", "final_norm") if layers != -1 else ("final_norm",))
    assert encoder.weight_group("projector.projector_layernorm.weight") == "projector"
    assert encoder.untrained(0)(noise((32, 32)))["projected"].isfinite().all()
