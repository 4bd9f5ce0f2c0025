"""The tower's own embedding of an image: bit-equal to transformers, and absent where its weights are."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file
from test_bare import CASES, PAIR, saved
from tiny_checkpoints import SIDE, filled, images, llava, write, write_llava
from tiny_native import VISION as NATIVE

from visprobe.demo.scenes import DigitScenes
from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.exchange.export import extract_encoder
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, UsageError
from visprobe.features.extract import extract
from visprobe.features.requests import resolved
from visprobe.features.store import FeatureStore

PROJECTION = "visual_projection.weight"


def embedding(encoder, pictures):
    return encoder.forward(encoder.preprocess(pictures), ["embedding"])["embedding"][:, 0]


def pair(folder, name="CLIPModel"):
    with quiet():
        model = filled(getattr(transformers, name)(CASES[name][0]))
        model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", [case for case in CASES if case != "ViTModel plain"])
def test_it_is_what_the_towers_class_pools(tmp_path, case):
    tower = saved(tmp_path, case)
    encoder = load_encoder(tmp_path)
    if case == "ViTForImageClassification":  # saved without pooler
        assert not encoder.embeds
        return
    pixels = encoder.preprocess(images()).inputs["pixel_values"]
    with torch.no_grad():
        pooled = tower(pixels).pooler_output
        if PROJECTION in encoder.weights():
            pooled = torch.nn.functional.linear(pooled, encoder.weights()[PROJECTION])
    assert torch.equal(embedding(encoder, images()), pooled)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_of_a_two_tower_model_it_is_get_image_features(tmp_path, name):
    model, encoder = pair(tmp_path, name), load_encoder(tmp_path)
    with torch.no_grad():
        own = model.get_image_features(**encoder.preprocess(images()).inputs)
    assert torch.equal(embedding(encoder, images()), getattr(own, "pooler_output", own))


def test_of_siglip2_it_is_get_image_features_without_the_filling(tmp_path):
    text = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Siglip2Config(
        vision_config={**NATIVE, "num_patches": 16}, text_config={**text, "vocab_size": 50}
    )
    with quiet():
        model = filled(transformers.Siglip2Model(config))
    write(tmp_path, model.state_dict(), model.config, processor=False)
    encoder = load_encoder(tmp_path, resolution=Resolution(pixels=39 * 64))
    pixels = encoder.preprocess(images(2, size=(30, 80)))
    with torch.no_grad():
        own = model.get_image_features(**pixels.inputs)
    assert torch.equal(encoder.forward(pixels, ["embedding"])["embedding"][:, 0], own.pooler_output)


def test_a_projection_of_another_width_is_read_in_its_own_dtype(tmp_path):
    config = transformers.CLIPConfig(**PAIR, projection_dim=12)
    with quiet():
        filled(transformers.CLIPModel(config)).half().save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.weights()[PROJECTION].dtype == torch.float16
    assert embedding(encoder, images()).shape == (2, 12)
    assert encoder.weight_group(PROJECTION) == "head"
    assert encoder.provenance.off_path == ("final_norm", "head")
    baseline = encoder.untrained(0)
    assert not torch.equal(baseline.weights()[PROJECTION], encoder.weights()[PROJECTION])
    assert embedding(baseline, images()).isfinite().all()


def test_the_projection_has_a_hash_of_its_own_and_the_tower_keeps_its(tmp_path):
    model = pair(tmp_path / "both")
    both = load_encoder(tmp_path / "both")
    write(tmp_path / "alone", model.vision_model.state_dict(), model.config.vision_config)
    alone = load_encoder(tmp_path / "alone")
    assert both.tower_hash == alone.tower_hash
    assert both.projection_hash != alone.projection_hash is None
    changed = {**both.weights(), PROJECTION: both.weights()[PROJECTION] + 1}
    other = both.with_weights("other", changed, both.provenance)
    assert other.tower_hash == both.tower_hash
    scenes, store = DigitScenes("val", 4), FeatureStore(tmp_path / "store")
    found = [extract([e], scenes, lambda e: ["embedding"], store=store).features[0] for e in (both, other)]
    assert not (found[0].sites["embedding"] == found[1].sites["embedding"]).any()


def test_an_extracted_two_tower_encoder_keeps_its_embedding(tmp_path):
    pair(tmp_path / "both")
    done = extract_encoder(tmp_path / "both", tmp_path / "out")
    assert torch.equal(embedding(done.encoder, images()), embedding(load_encoder(tmp_path / "both"), images()))


def test_a_multimodal_model_has_it_only_with_the_weights_of_its_head(tmp_path):
    with_head = load_encoder(write_llava(tmp_path / "head", llava(vision={"vision_use_head": True})))
    without = load_encoder(write_llava(tmp_path / "none", llava()))
    clip = write_llava(tmp_path / "clip", llava("clip"))
    assert (with_head.embeds, without.embeds, load_encoder(clip).embeds) == (True, False, True)
    assert with_head.provenance.off_path == ("final_norm", "head")
    assert "embedding" not in [site.name for site in with_head.sites]
    with pytest.raises(CheckpointError, match="holds no pooling head"):
        resolved(without, ["embedding"])
    with pytest.raises(UsageError, match="has no site 'embedding'"):
        embedding(without, images())
    with pytest.raises(UsageError, match="takes no reduction"):
        resolved(with_head, ["embedding:cls"])


def test_a_half_saved_norm_is_not_made_up(tmp_path):
    model = llava("clip")
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith("post_layernorm.bias")}
    config = json.loads(model.config.to_json_string())
    assert not load_encoder(write(tmp_path / "half", tensors, config)).embeds
    tensors = {k: v for k, v in tensors.items() if "post_layernorm" not in k}
    save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / "half" / "model.safetensors")
    assert not load_encoder(tmp_path / "half").embeds
