"""AIMv2: tower, pooled embedding and shared space are those of transformers' own classes, bit for bit."""

import pytest
import torch
import transformers
from tiny_checkpoints import PATCH, SIDE, VISION, images
from tiny_native import built
from whole_models import answering_token, write_model

from visprobe.encoders import EMBEDDING, load_encoder
from visprobe.errors import CheckpointError

TEXT = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def tower(**changes):
    return built("Aimv2VisionModel", transformers.Aimv2VisionConfig(**{**VISION, **changes}))


def two_tower():
    text = {**TEXT, "eos_token_id": 2}
    return built("Aimv2Model", transformers.Aimv2Config(vision_config=VISION, text_config=text, projection_dim=20))


def processor(side=SIDE):
    square = {"height": side, "width": side}
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model = tower()
    return model, load_encoder(write_model(tmp_path_factory.mktemp("aimv2"), model, processor=processor()))


def test_tokens_at_every_site_are_those_of_the_tower(written):
    model, encoder = written
    tokens = encoder(images())
    with torch.no_grad():
        own = model(encoder.preprocess(images()).inputs["pixel_values"], output_hidden_states=True)
    assert all(torch.equal(tokens[f"block_{n:02d}"], state) for n, state in enumerate(own.hidden_states))
    assert torch.equal(tokens["consumed"], own.last_hidden_state)
    assert (encoder.consumed, encoder.grid, encoder.prefix_tokens) == ("final_norm", (4, 4), 0)
    assert encoder.provenance.off_path == ("head",)


def test_the_embedding_is_what_the_attention_head_pools(written):
    model, encoder = written
    pixels = encoder.preprocess(images())
    with torch.no_grad():
        own = model(**pixels.inputs).pooler_output
    assert torch.equal(encoder.forward(pixels, [EMBEDDING])[EMBEDDING][:, 0], own)


def test_the_outputs_of_the_heads_are_what_each_block_projects(written):
    model, encoder = written
    pixels, own = encoder.preprocess(images()), []
    for layer in model.encoder.layers:
        layer.attention.out_proj.register_forward_pre_hook(lambda _, args: own.append(args[0]))
    with torch.no_grad():
        model(**pixels.inputs)
    found = encoder.forward(pixels, encoder.head_sites)
    assert all(torch.equal(found[site], state) for site, state in zip(encoder.head_sites, own, strict=True))


def test_a_lit_patch_answers_at_its_place(written):
    assert answering_token(written[1], (SIDE, SIDE), PATCH, 1, 2) == (1, 2)


def test_both_towers_of_a_pair_give_the_space_that_they_share(tmp_path):
    model = two_tower()
    encoder = load_encoder(write_model(tmp_path / "pair", model, processor=processor()))
    alone = load_encoder(write_model(tmp_path / "alone", model.vision_model, processor=processor()))
    pixels = encoder.preprocess(images())
    with torch.no_grad():
        own = model.visual_projection(model.vision_model(**pixels.inputs).pooler_output)
    assert torch.equal(encoder.forward(pixels, [EMBEDDING])[EMBEDDING][:, 0], own)
    assert (encoder.tower_hash, encoder.settings_hash) == (alone.tower_hash, alone.settings_hash)
    assert encoder.projection_hash is not None and alone.projection_hash is None
    # 640 draws: the deviation of their deviation is 3 % of it
    assert encoder.untrained(0).weights()["visual_projection.weight"].std() == pytest.approx(0.02, rel=0.15)


def test_a_tower_without_pooling_head_is_read_whatever_its_configuration_says(tmp_path):
    model = tower(use_head=False)
    folder = write_model(tmp_path, model, processor=processor(), change=lambda config: config.pop("use_head"))
    encoder = load_encoder(folder)
    assert (encoder.embeds, encoder.provenance.off_path) == (False, ())
    assert encoder.weights().keys() == model.state_dict().keys()


def test_a_tower_of_native_positions_takes_images_of_another_size(tmp_path):
    model = tower(is_native=True)
    encoder = load_encoder(write_model(tmp_path, model, processor=processor(48)))
    with torch.no_grad():
        own = model(encoder.preprocess(images()).inputs["pixel_values"]).last_hidden_state
    assert encoder.grid == (6, 6)
    assert torch.equal(encoder(images())["consumed"], own)


def test_a_tower_of_learned_positions_does_not(tmp_path):
    with pytest.raises(CheckpointError, match="gives 48x48 pixels, the tower reads 32x32"):
        load_encoder(write_model(tmp_path, tower(), processor=processor(48)))
