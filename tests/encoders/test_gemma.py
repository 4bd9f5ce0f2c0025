"""PaliGemma and Gemma 3: what is read equals what the whole model computes, bit for bit, in every spelling."""

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, TEXT, filled, vision_config
from whole_models import answering_token, from_pretrained, noise, parts, same_weights, write_model

from visprobe.encoders import load_encoder

CLASSES = {"paligemma": "PaliGemmaForConditionalGeneration", "gemma3": "Gemma3ForConditionalGeneration"}
LAYOUTS = {
    "A": ("vision_tower.vision_model.", ""),
    "B": ("model.vision_tower.vision_model.", "model."),
    "C": ("vision_tower.", ""),
    "D": ("model.vision_tower.", "model."),
}


def tiny(kind, head=False):
    vision = vision_config("siglip", vision_use_head=head).to_dict()
    text = {**TEXT, "head_dim": 12}
    if kind == "paligemma":
        config = transformers.PaliGemmaConfig(
            vision_config=vision, text_config={**text, "model_type": "gemma"}, projection_dim=24, image_token_index=49
        )
    else:
        config = transformers.Gemma3Config(
            vision_config=vision, text_config={**text, "model_type": "gemma3_text"}, mm_tokens_per_image=4,
            image_token_id=49,
        )  # fmt: skip
    torch.manual_seed(0)
    return filled(getattr(transformers, CLASSES[kind])(config))


def spelled(layout):
    tower, outer = LAYOUTS[layout]

    def rename(name):
        if name.startswith("model.vision_tower."):
            return tower + name.removeprefix("model.vision_tower.")
        if name.startswith("model.multi_modal_projector."):
            return outer + name.removeprefix("model.")
        if outer:
            return name
        return name.replace("model.language_model.", "language_model.model.").replace(
            "lm_head", "language_model.lm_head"
        )

    return rename


def processor(kind):
    cls = {"paligemma": "SiglipImageProcessorPil", "gemma3": "Gemma3ImageProcessorPil"}[kind]
    return getattr(transformers, cls)(size={"height": SIDE, "width": SIDE}, image_mean=[0.4, 0.5, 0.6])


@pytest.fixture(scope="module", params=CLASSES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def written(kind, tmp_path_factory):
    """The same model in every spelling."""
    model, root = tiny(kind), tmp_path_factory.mktemp(kind)
    return {name: write_model(root / name, model, spelled(name), processor(kind)) for name in LAYOUTS}


@pytest.mark.sample(1)
def test_weights_and_tokens_equal_those_of_the_whole_model_in_every_spelling(written, kind):
    encoders = {layout: load_encoder(folder) for layout, folder in written.items()}
    images = noise((40, 50), (20, 90))
    for layout, encoder in encoders.items():
        model = from_pretrained(CLASSES[kind], written[layout])
        assert same_weights(encoder, parts(model.model.vision_tower, model.model.multi_modal_projector))
        assert encoder.provenance.layout == layout
    pixels = torch.as_tensor(processor(kind)(images, return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        own = model.model.get_image_features(pixels, output_hidden_states=True)
    tokens = encoders["A"](images)
    for number, state in enumerate(own.hidden_states):
        assert torch.equal(tokens[f"block_{number:02d}"], state)
    assert torch.equal(tokens["consumed"], own.last_hidden_state)
    assert torch.equal(tokens["projected"], own.pooler_output)
    assert encoders["A"].consumed == "final_norm"
    for value in ("tower_hash", "projector_hash", "settings_hash", "processor_hash"):
        assert len({getattr(encoder, value) for encoder in encoders.values()}) == 1


def test_tokens_are_in_raster_order_also_after_pooling(written, kind):
    encoder = load_encoder(written["C"])
    side = {"paligemma": 1, "gemma3": 2}[kind]
    for row, column in [(0, 3), (2, 1), (3, 0)]:
        assert answering_token(encoder, (SIDE, SIDE), PATCH, row, column) == (row, column)
        found = answering_token(encoder, (SIDE, SIDE), PATCH, row, column, "projected")
        assert found == (row // side, column // side)


def test_a_batch_of_images_of_different_sizes_equals_them_one_by_one(written):
    encoder, images = load_encoder(written["C"]), noise((40, 50), (90, 20), (32, 32))
    together = encoder.forward(encoder.preprocess(images), ["projected"], reduce=lambda t: t.mean(1))["projected"]
    alone = torch.cat([encoder([image])["projected"].mean(1) for image in images])
    # float32 products in another order: values are near 1, one rounding is 6e-8
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_every_part_has_its_place(kind, tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny(kind, head=True), processor=processor(kind)))
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    assert {group for name, group in groups.items() if ".layers." in name} == {"block_01", "block_02", "block_03"}
    assert {n for n, g in groups.items() if g == "embeddings"} == {n for n in groups if n.startswith("embeddings.")}
    assert groups["post_layernorm.weight"] == "final_norm"
    assert encoder.provenance.off_path == ("head",)
    fresh, rounded = encoder.untrained(0), encoder.rounded(torch.bfloat16)
    assert fresh.weights().keys() == encoder.weights().keys() == rounded.weights().keys()
    assert fresh(noise((32, 32)))["projected"].isfinite().all()
    assert not torch.equal(rounded(noise((32, 32)))["projected"], encoder(noise((32, 32)))["projected"])


def test_without_a_stored_processor_that_of_the_family_is_used(kind, tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny(kind)))
    cls = {"paligemma": transformers.SiglipImageProcessorPil, "gemma3": transformers.Gemma3ImageProcessorPil}[kind]
    images = noise((40, 50))
    own = cls(size={"height": SIDE, "width": SIDE})(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(encoder.preprocess(images).inputs["pixel_values"], torch.as_tensor(own))
    assert "default image processor" in encoder.provenance.warnings[-1]


def test_pan_and_scan_stays_off(tmp_path):
    stored = transformers.Gemma3ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_pan_and_scan=True, pan_and_scan_min_crop_size=8,
        pan_and_scan_max_num_crops=4, pan_and_scan_min_ratio_to_activate=1.2,
    )  # fmt: skip
    encoder = load_encoder(write_model(tmp_path, tiny("gemma3"), processor=stored))
    images = noise((20, 90))
    own = torch.as_tensor(stored(images, return_tensors="pt")["pixel_values"])
    assert len(own) > 1
    assert torch.equal(encoder.preprocess(images).inputs["pixel_values"], own[:1])
