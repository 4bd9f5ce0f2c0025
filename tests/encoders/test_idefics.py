"""Idefics3 and SmolVLM: the model's own global view, and what the whole model computes of it, bit for bit."""

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, TEXT, VISION, filled
from whole_models import answering_token, from_pretrained, noise, parts, same_weights, write_model

from visprobe.encoders import load_encoder

KINDS = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}
SIZES = [(40, 50), (20, 90), (300, 200), (32, 32), (64, 64)]


def tiny(kind):
    config = getattr(transformers, f"{KINDS[kind]}Config")(
        vision_config=VISION, text_config=TEXT, image_token_id=49, scale_factor=2, pad_token_id=0
    )
    torch.manual_seed(0)
    return filled(getattr(transformers, f"{KINDS[kind]}ForConditionalGeneration")(config))


def processor(kind, **fields):
    cls = getattr(transformers, f"{KINDS[kind]}ImageProcessorPil")
    return cls(size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE}, **fields)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp(kind), tiny(kind), processor=processor(kind))


def test_weights_and_tokens_equal_those_of_the_whole_model(folder, kind):
    encoder, model = load_encoder(folder), from_pretrained(f"{KINDS[kind]}ForConditionalGeneration", folder)
    assert same_weights(encoder, parts(model.model.vision_model, model.model.connector))
    images = noise(*SIZES)
    pixels = encoder.preprocess(images).inputs["pixel_values"]
    with torch.no_grad():
        own = model.model.get_image_features(pixels[:, None], output_hidden_states=True)
    tokens = encoder(images)
    for number, state in enumerate(own.hidden_states):
        assert torch.equal(tokens[f"block_{number:02d}"], state)
    assert torch.equal(tokens["consumed"], own.last_hidden_state)
    assert torch.equal(tokens["projected"], torch.stack(own.pooler_output))
    assert encoder.consumed == "final_norm"
    assert encoder.provenance.off_path == ()


@pytest.mark.parametrize("splitting", [True, False])
def test_the_base_view_is_the_global_view_of_the_models_own_processor(kind, tmp_path, splitting):
    own = processor(kind, do_image_splitting=splitting, image_mean=[0.4, 0.5, 0.6])
    encoder = load_encoder(write_model(tmp_path, tiny(kind), processor=own))
    images = noise(*SIZES)
    expected = []
    for image in images:
        made = own(image, return_tensors="pt")
        assert made["pixel_attention_mask"].all()  # nothing of it is padding
        assert (made["pixel_values"].shape[1] > 1) == splitting
        expected.append(made["pixel_values"][0, -1])
    assert torch.equal(encoder.preprocess(images).inputs["pixel_values"], torch.stack(expected))


def test_how_often_an_image_is_resized_is_part_of_the_processors_hash(tmp_path):
    model = tiny("idefics3")
    hashes = {
        load_encoder(
            write_model(tmp_path / str(s), model, processor=processor("idefics3", do_image_splitting=s))
        ).processor_hash
        for s in (True, False)
    }
    assert len(hashes) == 2


def test_tokens_of_a_padded_batch_equal_those_alone(folder, kind):
    """The model gets samples of one and of several views as one padded batch; the last view of each is ours."""
    encoder, model = load_encoder(folder), from_pretrained(f"{KINDS[kind]}ForConditionalGeneration", folder)
    images = noise((40, 50), (20, 90))
    made = processor(kind)([[image] for image in images], return_tensors="pt")
    views = (made["pixel_values"] != 0).flatten(2).any(-1).sum(1)
    assert len(set(views.tolist())) == 2
    with torch.no_grad():
        own = model.model.get_image_features(made["pixel_values"], made["pixel_attention_mask"]).pooler_output
    projected = encoder(images)["projected"]
    for tokens, sample in zip(projected, own, strict=True):
        # float32 products in batches of another size: values are near 1, one rounding is 6e-8
        torch.testing.assert_close(tokens, sample[-len(tokens) :], rtol=0, atol=2e-6)


def test_tokens_are_in_raster_order_also_after_the_pixel_shuffle(folder):
    encoder = load_encoder(folder)
    size = (SIDE, SIDE)  # resized up and down again, the white patch stays where it is
    for row, column in [(0, 3), (2, 1), (3, 0)]:
        assert answering_token(encoder, size, PATCH, row, column) == (row, column)
        assert answering_token(encoder, size, PATCH, row, column, "projected") == (row // 2, column // 2)


def test_configurations_that_call_the_tower_by_the_models_name(kind, tmp_path):
    def renamed(config):
        config["vision_config"]["model_type"] = kind

    encoder = load_encoder(write_model(tmp_path, tiny(kind), processor=processor(kind), change=renamed))
    assert encoder.provenance.family == kind


def test_every_part_has_its_place(folder):
    encoder = load_encoder(folder)
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    assert {group for name, group in groups.items() if ".layers." in name} == {"block_01", "block_02", "block_03"}
    assert {n for n, g in groups.items() if g == "embeddings"} == {n for n in groups if n.startswith("embeddings.")}
    assert groups["post_layernorm.bias"] == "final_norm"
    assert groups["projector.modality_projection.proj.weight"] == "projector"
    fresh, rounded = encoder.untrained(0), encoder.rounded(torch.bfloat16)
    assert fresh.weights().keys() == encoder.weights().keys()
    assert fresh(noise((32, 32)))["projected"].isfinite().all()
    assert not torch.equal(rounded(noise((32, 32)))["projected"], encoder(noise((32, 32)))["projected"])


def test_without_a_stored_processor_that_of_the_family_is_used(kind, tmp_path):
    encoder = load_encoder(write_model(tmp_path, tiny(kind)))
    cls = getattr(transformers, f"{KINDS[kind]}ImageProcessorPil")
    own = cls(size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE})
    (image,) = noise((40, 50))
    expected = own(image, return_tensors="pt")["pixel_values"][:, -1]
    assert torch.equal(encoder.preprocess([image]).inputs["pixel_values"], expected)
    assert "default image processor" in encoder.provenance.warnings[-1]
