"""A pooling head lent by another checkpoint: bit-equal to the head in its place, and no weight of the borrower's."""

import json

import pytest
import torch
from tiny_checkpoints import images, llava, write, write_llava

from visprobe.demo.scenes import DigitScenes
from visprobe.encoders import load_encoder
from visprobe.encoders.text.borrowed_head import misfit, with_head_of
from visprobe.features.extract import extract
from visprobe.features.store import FeatureStore

DROPPED = {"siglip": ("head.",), "clip": ("post_layernorm.",), "siglip without norm": ("head.", "post_layernorm.")}


def embedding(encoder):
    return encoder.forward(encoder.preprocess(images()), ["embedding"])["embedding"][:, 0]


def both(folder, kind):
    """A checkpoint with its pooling, and the same without."""
    family = kind.split()[0]
    options = {"vision": {"vision_use_head": True}} if family == "siglip" else {}
    model = llava(family, **options, **({"vision_feature_layer": -2} if "norm" in kind else {}))
    whole = load_encoder(write_llava(folder / "whole", model))
    tensors = {k: v for k, v in model.state_dict().items() if not any(part in k for part in DROPPED[kind])}
    config = json.loads(model.config.to_json_string())
    config["vision_config"] |= {"vision_use_head": False} if family == "siglip" else {}
    return whole, load_encoder(write(folder / "bare", tensors, config))


@pytest.mark.parametrize("kind", DROPPED)
def test_with_its_own_head_given_back_it_embeds_as_before(tmp_path, kind):
    whole, bare = both(tmp_path, kind)
    assert whole.embeds and not bare.embeds and misfit(bare, whole) is None
    lent = with_head_of(bare, whole)
    assert torch.equal(embedding(lent), embedding(whole))
    assert lent.head.origin == "whole" and not lent.embeds
    assert lent.weights().keys() == bare.weights().keys() and lent.tower_hash == bare.tower_hash
    assert lent.sites == bare.sites and bare.head is None


def test_a_norm_of_its_own_is_kept_and_a_half_saved_one_is_not(tmp_path):
    whole, bare = both(tmp_path, "siglip")
    assert list(with_head_of(bare, whole).head.modules) == ["head"]
    model = llava("clip")
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith("post_layernorm.bias")}
    half = load_encoder(write(tmp_path / "half", tensors, json.loads(model.config.to_json_string())))
    clip = load_encoder(write_llava(tmp_path / "clip", model))
    assert torch.equal(embedding(with_head_of(half, clip)), embedding(clip))


def test_baselines_and_copies_keep_it(tmp_path):
    whole, bare = both(tmp_path, "siglip")
    lent = with_head_of(bare, whole)
    baseline = lent.untrained(0)
    assert torch.equal(baseline.tower.head.probe, whole.tower.head.probe)
    assert embedding(baseline).isfinite().all() and not torch.equal(embedding(baseline), embedding(lent))
    assert baseline.weights().keys() == bare.weights().keys()


def test_stored_embeddings_of_one_head_are_not_those_of_another(tmp_path):
    whole, bare = both(tmp_path, "siglip")
    weights = {k: v + 0.1 if k.startswith("head.") else v for k, v in whole.weights().items()}
    other = whole.with_weights("other", weights, whole.provenance)
    scenes, store = DigitScenes("val", 4), FeatureStore(tmp_path / "store")
    found = [
        extract([with_head_of(bare, donor)], scenes, lambda e: ["embedding"], store=store).features[0]
        for donor in (whole, other)
    ]
    assert not (found[0].sites["embedding"] == found[1].sites["embedding"]).any()


def test_who_cannot_lend(tmp_path):
    whole, bare = both(tmp_path, "siglip")
    assert misfit(bare, bare) == "bare holds none either"
    clip = load_encoder(write_llava(tmp_path / "clip", llava("clip")))
    assert "another family" in str(misfit(bare, clip))
    deeper = llava(vision={"vision_use_head": True, "num_hidden_layers": whole.config.num_hidden_layers + 1})
    assert "num_hidden_layers" in str(misfit(bare, load_encoder(write_llava(tmp_path / "deep", deeper))))
