"""Llama 3.2 Vision: what is read of one tile equals what the whole model hands to its cross attention."""

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, TEXT, filled
from whole_models import answering_token, from_pretrained, noise, parts, same_weights, write_model

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet

CLASS = "MllamaForConditionalGeneration"
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 4,
    "image_size": SIDE, "patch_size": PATCH, "intermediate_layers_indices": [0, 2], "vision_output_dim": 96,
}  # fmt: skip
PREFIXES = {"D": "model.", "C": ""}


def tiny():
    text = {**TEXT, "model_type": "mllama_text_model", "num_hidden_layers": 2, "cross_attention_layers": [1]}
    config = transformers.MllamaConfig(
        vision_config=VISION, text_config={**text, "vocab_size": 50, "pad_token_id": 0}, image_token_index=49
    )
    torch.manual_seed(0)
    with quiet():
        return filled(transformers.MllamaForConditionalGeneration(config))


def spelled(layout):
    def rename(name):
        inner = name.removeprefix("model.")
        if layout == "D" or name == inner:
            return name if layout == "D" else f"language_model.{name}"
        return inner.replace("language_model.", "language_model.model.")

    return rename


def processor(**fields):
    return transformers.MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, **fields)


def small():
    """Images that the model's own processor fits into one tile."""
    return noise((32, 32), (20, 30), (30, 11))


def handed_over(model, made):
    """The states that the model's own forward gives to its language model, class token first."""
    caught = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: caught.update(kwargs), with_kwargs=True
    )
    inputs = {name: made[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
    with torch.no_grad():
        model.model(input_ids=torch.ones(len(made["pixel_values"]), 1, dtype=torch.long), **inputs)
    hook.remove()
    states = caught["cross_attention_states"]
    tiles = made["pixel_values"].shape[2]
    return states.reshape(-1, tiles, states.shape[-2], states.shape[-1])[:, 0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model, root = tiny(), tmp_path_factory.mktemp("mllama")
    stored = processor(image_mean=[0.4, 0.5, 0.6])
    return {name: write_model(root / name, model, spelled(name), stored) for name in PREFIXES}


def test_weights_equal_those_of_the_whole_model_in_both_spellings(written):
    encoders = {name: load_encoder(folder) for name, folder in written.items()}
    for name, encoder in encoders.items():
        model = from_pretrained(CLASS, written[name])
        assert same_weights(encoder, parts(model.model.vision_model, model.model.multi_modal_projector))
        assert encoder.provenance.layout == name
    for value in ("tower_hash", "projector_hash", "settings_hash", "processor_hash"):
        assert len({getattr(encoder, value) for encoder in encoders.values()}) == 1


def test_a_small_image_is_seen_exactly_as_the_models_own_processor_shows_it(written):
    encoder, own = load_encoder(written["D"]), processor(image_mean=[0.4, 0.5, 0.6])
    made = own([[image] for image in small()], return_tensors="pt")
    pixels = encoder.preprocess(small())
    assert made["num_tiles"] == [[1], [1], [1]]
    assert all(torch.equal(tensor, made[name]) for name, tensor in pixels.inputs.items())


def test_a_large_image_is_fitted_into_one_tile(written):
    encoder, own = load_encoder(written["D"]), processor(image_mean=[0.4, 0.5, 0.6])
    images = noise((40, 90))
    assert own(images, return_tensors="pt")["aspect_ratio_mask"].sum() > 1
    made = own(images, return_tensors="pt", max_image_tiles=1)
    pixels = encoder.preprocess(images).inputs
    assert torch.equal(pixels["pixel_values"][:, :, :1], made["pixel_values"])
    assert not pixels["pixel_values"][:, :, 1:].any()
    assert pixels["aspect_ratio_ids"].tolist() == [[1]]
    assert pixels["aspect_ratio_mask"].tolist() == [[[1, 0, 0, 0]]]


def test_tokens_equal_what_the_language_model_attends_to(written):
    encoder, model = load_encoder(written["D"]), from_pretrained(CLASS, written["D"])
    made = processor(image_mean=[0.4, 0.5, 0.6])([[image] for image in small()], return_tensors="pt")
    tokens = encoder(small())
    assert tokens["projected"].shape == (3, 16, 24)
    # the model forwards all images at once: float32 products in another order, values near 1, one rounding is 6e-8
    torch.testing.assert_close(tokens["projected"], handed_over(model, made)[:, 1:], rtol=0, atol=2e-6)
    for number, image in enumerate(small()):
        alone = processor(image_mean=[0.4, 0.5, 0.6])([[image]], return_tensors="pt")
        assert torch.equal(tokens["projected"][number], handed_over(model, alone)[0, 1:])


def test_every_state_is_the_one_the_tower_computes(written):
    """The output of the tower holds its last state, then numbers of the others in turn."""
    encoder, model = load_encoder(written["D"]), from_pretrained(CLASS, written["D"])
    (image,) = noise((20, 30))
    inputs = encoder.preprocess([image]).inputs
    with torch.no_grad():
        own = model.model.vision_model(**inputs).last_hidden_state[0, 0, 0, 1:]
    tokens = encoder([image])
    assert encoder.consumed == "block_05"
    assert torch.equal(tokens["block_05"][0], own[:, :32])
    assert torch.equal(tokens["block_01"][0], own[:, 32::2])
    assert torch.equal(tokens["block_03"][0], own[:, 33::2])
    assert "block_01, block_03 beside it" in encoder.provenance.why


def test_tokens_are_in_raster_order_after_the_class_token(written):
    encoder = load_encoder(written["D"])
    assert encoder.prefix_tokens == 1
    for row, column in [(0, 3), (2, 1), (3, 0)]:
        assert answering_token(encoder, (SIDE, SIDE), PATCH, row, column) == (row, column)
    grey, white = noise((32, 32), seed=1), noise((32, 32), seed=2)
    states = [encoder.forward(encoder.preprocess(i), ["block_00:cls"])["block_00:cls"] for i in (grey, white)]
    assert torch.equal(*states)  # before the first block the class token knows nothing of the image


def test_every_part_has_its_place(written):
    encoder = load_encoder(written["D"])
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    numbered = {f"block_{n:02d}" for n in range(1, 6)}
    assert {group for name, group in groups.items() if ".layers." in name} == numbered
    assert groups["global_transformer.layers.0.gate_attn"] == "block_04"
    assert groups["layernorm_post.weight"] == "layernorm_post"
    assert not any(".layers." in name for name, group in groups.items() if group == "embeddings")
    assert encoder.provenance.off_path == ()
    fresh, rounded = encoder.untrained(0), encoder.rounded(torch.bfloat16)
    assert fresh.weights().keys() == encoder.weights().keys()
    assert fresh(small())["projected"].isfinite().all()
    assert not torch.equal(rounded(small())["projected"], encoder(small())["projected"])


def test_without_a_stored_processor_the_released_models_mean_is_used(tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny()))
    clip = transformers.image_utils
    own = processor(image_mean=clip.OPENAI_CLIP_MEAN, image_std=clip.OPENAI_CLIP_STD)
    made = own([[image] for image in small()], return_tensors="pt")
    assert torch.equal(encoder.preprocess(small()).inputs["pixel_values"], made["pixel_values"])
    assert "default image processor" in encoder.provenance.warnings[-1]
