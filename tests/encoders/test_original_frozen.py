"""Original LLaVA checkpoints without tower weights: the tower that they name is used, and that is said."""

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_checkpoints import BLOCKS, filled, images, vision_config
from tiny_original import mlp, shrink, tower, write_tower

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

FROZEN = {"mm_tunable_parts": "mm_mlp_adapter,mm_language_model"}


def base(kind, folder):
    """A tower by itself, as it was before the training."""
    module = {
        "siglip": lambda: transformers.SiglipVisionModel(vision_config("siglip", num_hidden_layers=BLOCKS + 1)),
        "clip": lambda: transformers.CLIPVisionModel(vision_config("clip")),
    }[kind]()
    filled(module).save_pretrained(folder)
    return module


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_the_named_tower_is_used_and_said(tmp_path, kind):
    module = base(kind, tmp_path / kind)
    encoder = load_encoder(write_tower(tmp_path / "l", {}, tmp_path / kind, **FROZEN))
    assert encoder.tower_hash == load_encoder(tmp_path / kind).tower_hash
    assert f"it was frozen; that of {tmp_path / kind} is used" in encoder.provenance.warnings[0]
    with torch.no_grad():
        hidden = module(encoder.preprocess(images()).inputs["pixel_values"], output_hidden_states=True).hidden_states
    patches = hidden[-2] if kind == "siglip" else hidden[-2][:, 1:]
    assert torch.equal(encoder(images())["consumed"], patches)
    assert encoder.has_projector
    if kind == "siglip":  # LLaVA deletes the last block, whatever layer is selected
        assert encoder.consumed == "block_03"
        assert encoder.provenance.off_path == ("block_04", "final_norm", "head")


def test_a_projector_alone(tmp_path):
    base("clip", tmp_path / "clip")
    whole = load_encoder(write_tower(tmp_path / "l", {}, tmp_path / "clip"))
    stage = tmp_path / "stage-1a"
    stage.mkdir()
    (stage / "config.json").write_text((tmp_path / "l" / "config.json").read_text())
    torch.save(mlp(), stage / "mm_projector.bin")
    encoder = load_encoder(stage)
    assert (encoder.tower_hash, encoder.projector_hash) == (whole.tower_hash, whole.projector_hash)


def test_the_tower_of_another_mllm(tmp_path):
    base("clip", tmp_path / "clip")
    _, named, saved = tower("clip", tmp_path)
    write_tower(tmp_path / "source", saved, named)
    folder = write_tower(tmp_path / "l", {}, tmp_path / "clip", vision_source_mllm_path=str(tmp_path / "source"))
    encoder = load_encoder(folder)
    assert encoder.tower_hash == load_encoder(tmp_path / "source").tower_hash
    assert str(tmp_path / "source") in encoder.provenance.warnings[0]


@pytest.mark.parametrize("kind", ["timm", "sam"])
def test_a_frozen_tower_by_its_own_names(tmp_path, monkeypatch, kind):
    shrink(monkeypatch)
    _, named, saved = tower(kind, tmp_path)
    write_tower(tmp_path / "whole", saved, named)
    (tmp_path / "weights").mkdir()
    save_file(saved, tmp_path / "weights" / "model.safetensors")
    folder = write_tower(tmp_path / "l", {}, named, vision_tower_pretrained=str(tmp_path / "weights"))
    assert load_encoder(folder).tower_hash == load_encoder(tmp_path / "whole").tower_hash


@pytest.mark.parametrize("level", ["", "vision_model."])
def test_empty_weights_of_a_frozen_tower(tmp_path, level):
    module = base("clip", tmp_path / "clip")
    empty = {level + name: torch.ones(0) for name in module.state_dict()}
    encoder = load_encoder(write_tower(tmp_path / "l", empty, tmp_path / "clip", **FROZEN))
    assert encoder.tower_hash == load_encoder(tmp_path / "clip").tower_hash
    assert "it was frozen" in encoder.provenance.warnings[0]


def test_empty_weights_of_a_trained_tower(tmp_path):
    module = base("clip", tmp_path / "clip")
    empty = {name: torch.ones(0) for name in module.state_dict()}
    trained = {"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model"}
    with pytest.raises(CheckpointError, match="has no elements"):
        load_encoder(write_tower(tmp_path / "a", empty, tmp_path / "clip", **trained))
    some = dict(module.state_dict()) | {"post_layernorm.weight": torch.ones(0)}
    with pytest.raises(CheckpointError, match=r"post_layernorm\.weight.*has no elements"):
        load_encoder(write_tower(tmp_path / "b", some, tmp_path / "clip", **FROZEN))
    with pytest.raises(CheckpointError, match=r"no vision tower, though its configuration says .* was trained"):
        load_encoder(write_tower(tmp_path / "c", {}, tmp_path / "clip", **trained))


@pytest.mark.parametrize("named", ["moco-vit-b-16", "sam_vit_l"])
def test_a_frozen_tower_that_cannot_be_had(tmp_path, named):
    with pytest.raises(CheckpointError, match=f"names the tower {named}, which was frozen") as caught:
        load_encoder(write_tower(tmp_path, {}, named))
    assert "\n" not in caught.value.message
    assert "vision_tower_pretrained" in caught.value.hint


def test_missing_misshapen_and_mixed_weights(tmp_path):
    _, named, saved = tower("clip", tmp_path)
    name = "vision_model.encoder.layers.1.mlp.fc1.bias"
    with pytest.raises(CheckpointError, match=r"missing: encoder\.layers\.1\.mlp\.fc1\.bias"):
        load_encoder(write_tower(tmp_path / "a", {k: v for k, v in saved.items() if k != name}, named))
    with pytest.raises(CheckpointError, match=r"fc1\.bias \[3\] instead of \[48\]"):
        load_encoder(write_tower(tmp_path / "b", saved | {name: torch.ones(3)}, named))
    encoder = load_encoder(write_tower(tmp_path / "c", saved | {name: saved[name].bfloat16()}, named))
    assert encoder.provenance.dtype == "bfloat16+float32"
    assert encoder.weights()[name.removeprefix("vision_model.")].dtype == torch.bfloat16
