"""Bare towers of every class, as transformers saves them."""

from itertools import combinations

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_checkpoints import SIDE, TEXT, VISION, filled, images

from visprobe.analyses.accuracy.imagenet import needs_everywhere
from visprobe.encoders import EMBEDDING, load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError
from visprobe.features.requests import forwarded

TEXT_TOWER = {k: TEXT[k] for k in ("intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")}
PAIR = {"vision_config": VISION, "text_config": {**TEXT_TOWER, "hidden_size": 32, "eos_token_id": 2, "bos_token_id": 1}}
DINO = {k: v for k, v in VISION.items() if k != "intermediate_size"}
CASES = {
    "SiglipVisionModel": (transformers.SiglipVisionConfig(**VISION), {}, None),
    "SiglipModel": (transformers.SiglipConfig(**PAIR), {}, "vision_model"),
    "CLIPVisionModel": (transformers.CLIPVisionConfig(**VISION), {}, None),
    "CLIPVisionModelWithProjection": (transformers.CLIPVisionConfig(**VISION), {}, "vision_model"),
    "CLIPModel": (transformers.CLIPConfig(**PAIR), {}, "vision_model"),
    "Dinov2Model": (transformers.Dinov2Config(**DINO), {}, None),
    "Dinov2Model swiglu": (transformers.Dinov2Config(**DINO, use_swiglu_ffn=True), {}, None),
    "Dinov2ForImageClassification": (transformers.Dinov2Config(**DINO), {}, "dinov2"),
    "Dinov2WithRegistersModel": (transformers.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3), {}, None),
    "Aimv2VisionModel": (transformers.Aimv2VisionConfig(**VISION), {}, None),
    "Aimv2Model": (transformers.Aimv2Config(**PAIR), {}, "vision_model"),
    "ViTModel": (transformers.ViTConfig(**VISION), {}, None),
    "ViTModel plain": (transformers.ViTConfig(**VISION), {"add_pooling_layer": False}, None),
    "ViTForImageClassification": (transformers.ViTConfig(**VISION), {}, "vit"),
}
PREFIX = {
    "SiglipV": 0,
    "SiglipM": 0,
    "Aimv2Vi": 0,
    "Aimv2Mo": 0,
    "CLIPVis": 1,
    "CLIPMod": 1,
    "Dinov2M": 1,
    "Dinov2F": 1,
    "Dinov2W": 4,
    "ViTMode": 1,
}


def saved(folder, case):
    config, options, inner = CASES[case]
    with quiet():
        model = filled(getattr(transformers, case.split()[0])(config, **options))
        model.save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    return model.get_submodule(inner) if inner else model


@pytest.mark.parametrize("case", CASES)
def test_consumed_is_the_models_last_hidden_state(tmp_path, case):
    tower = saved(tmp_path, case)
    encoder = load_encoder(tmp_path)
    with torch.no_grad():
        out = tower(encoder.preprocess(images()).inputs["pixel_values"], output_hidden_states=True)
    tokens = encoder(images())
    prefix = encoder.prefix_tokens
    assert prefix == PREFIX.get(case[:7], 1)
    assert torch.equal(tokens["consumed"], out.last_hidden_state[:, prefix:])
    assert encoder.consumed == ("block_03" if case.startswith("CLIP") else "final_norm")
    assert all(torch.equal(tokens[f"block_{n:02d}"], out.hidden_states[n][:, prefix:]) for n in range(4))
    assert encoder.grid == (4, 4)
    assert not encoder.has_projector


def test_a_wrong_count_of_tokens_before_the_patches_is_refused(tmp_path):
    saved(tmp_path, "ViTModel")
    encoder = load_encoder(tmp_path)
    encoder.prefix_tokens -= 1
    with pytest.raises(CheckpointError, match="17 tokens after the first 0, for 4 x 4 patches"):
        encoder(images())


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_model(tmp_path, case):
    own = saved(tmp_path, case).state_dict()
    weights = load_encoder(tmp_path).weights()
    assert weights.keys() - {"visual_projection.weight"} == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)


def test_names_of_version_4_give_the_same_hash(tmp_path):
    saved(tmp_path / "new", "CLIPVisionModel")
    tower = load_encoder(tmp_path / "new")
    saved(tmp_path / "pair", "CLIPVisionModelWithProjection")
    assert tower.tower_hash != load_encoder(tmp_path / "pair").tower_hash  # other weights
    tensors = {f"vision_model.{name}": tensor for name, tensor in tower.weights().items()}
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, tmp_path / "new" / "model.safetensors")
    assert load_encoder(tmp_path / "new").tower_hash == tower.tower_hash


@pytest.mark.parametrize("case", ["CLIPVisionModel", "Dinov2WithRegistersModel", "ViTModel"])
def test_the_class_token_can_be_asked_for(tmp_path, case):
    tower = saved(tmp_path, case)
    encoder = load_encoder(tmp_path)
    pixels = encoder.preprocess(images())
    with torch.no_grad():
        states = tower(pixels.inputs["pixel_values"], output_hidden_states=True).hidden_states
    token = encoder.forward(pixels, ["block_02:cls"], reduce=lambda tokens: tokens.mean(1))["block_02:cls"]
    assert torch.equal(token, states[2][:, 0])


def test_dinov2_runs_at_the_size_its_processor_gives(tmp_path):
    saved(tmp_path, "Dinov2Model")
    transformers.BitImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 40}
    ).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.grid == (6, 5)
    assert encoder(images())["consumed"].shape == (2, 30, 32)


def test_a_folder_without_processor_gets_the_default_and_a_warning(tmp_path):
    saved(tmp_path, "Dinov2Model")
    (tmp_path / "preprocessor_config.json").unlink()
    encoder = load_encoder(tmp_path)
    assert encoder.preprocess(images()).inputs["pixel_values"].shape == (2, 3, SIDE, SIDE)
    assert "default image processor" in encoder.provenance.warnings[0]


@pytest.mark.parametrize("case", CASES)
def test_what_accuracy_reads_is_read_once(tmp_path, case):
    """Of DINOv2 the embedding is the class token after the last norm: one site, not two with the same numbers."""
    saved(tmp_path, case)
    encoder = load_encoder(tmp_path)
    wanted = needs_everywhere(encoder)
    pixels = encoder.preprocess(images())
    found = encoder.reduced(pixels, {site: forwarded(site) for site in wanted})
    assert not [(a, b) for a, b in combinations(wanted, 2) if torch.equal(found[a], found[b])]
    if case.startswith("Dinov2M"):
        assert encoder.embeds and EMBEDDING not in wanted
        token, pooled = (encoder.reduced(pixels, {"": (site, None)})[""] for site in ("final_norm:cls", EMBEDDING))
        assert torch.equal(token, pooled)
