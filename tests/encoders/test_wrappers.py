"""Whatever training code wraps around a model, its tensors have the names of the model alone."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_checkpoints import llava, spelled, write
from tiny_qwen import qwen, write_qwen

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.tensor_names import plain_name
from visprobe.errors import CheckpointError

ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_fpw_module.")
FIRST = ("module.", "base_model.model.", "model.base_model.model.", *ANYWHERE)
LLAVA = {layout: sorted(spelled(llava("siglip"), layout)) for layout in "ABCDL"}
QWEN = [
    "visual.blocks.0.attn.qkv.weight", "visual.merger.mlp.0.bias", "visual.patch_embed.proj.weight", "lm_head.weight",
    "model.layers.0.mlp.down_proj.weight", "model.norm.weight",
]  # fmt: skip
NAMES = {**LLAVA, "Q-A": QWEN, "Q-D": [f"model.{name}" for name in QWEN if name.startswith("visual.")]}


@pytest.mark.parametrize("layout", NAMES)
def test_names_of_models_stay(layout):
    assert [plain_name(name) for name in NAMES[layout]] == NAMES[layout]


@given(
    name=st.sampled_from(sorted({name for names in NAMES.values() for name in names})),
    outer=st.lists(st.sampled_from(FIRST), max_size=4),
    inner=st.lists(st.tuples(st.integers(1, 20), st.sampled_from(ANYWHERE)), max_size=4),
)
def test_wrappers_are_taken_off_in_any_order_and_depth(name, outer, inner):
    parts = name.split(".")
    for at, wrapper in inner:
        parts.insert(min(at, len(parts) - 1), wrapper.rstrip("."))
    assert plain_name("".join(outer) + ".".join(parts)) == name


def equal(one, other):
    return (one.tower_hash, one.projector_hash) == (other.tower_hash, other.projector_hash)


@pytest.mark.parametrize("layout", "ABCDL")
@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.module.{}", "base_model.model.{}", "actor.model.{}"])
def test_wrapped_checkpoints_are_read(tmp_path, layout, wrap):
    model = llava("siglip", vision_feature_layer=-2)
    config = {"model_type": "llava_qwen", "mm_vision_tower": str(tmp_path / "tower"), "mm_projector_type": "mlp2x_gelu",
              "mm_vision_select_layer": -2}  # fmt: skip
    config = config if layout == "L" else model.config
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "config.json").write_text(model.config.vision_config.to_json_string())
    tensors = spelled(model, layout)
    plain = load_encoder(write(tmp_path / "plain", tensors, config))
    wrapped = load_encoder(write(tmp_path / "wrapped", {wrap.format(k): v for k, v in tensors.items()}, config))
    assert equal(plain, wrapped)


def test_wrapped_towers_that_hold_their_connector_are_read(tmp_path):
    model = qwen("qwen2_5_vl")
    plain = load_encoder(write_qwen(tmp_path / "plain", model, "Q-A"))
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    wrapped = {re.sub(r"(blocks\.\d+)", r"\1._checkpoint_wrapped_module", name): t for name, t in tensors.items()}
    assert equal(plain, load_encoder(write(tmp_path / "wrapped", wrapped, model.config, processor=False)))


def test_only_the_policy_of_an_rl_trainer_is_taken(tmp_path):
    model, reference = spelled(llava("siglip"), "D"), spelled(llava("siglip", seed=1), "D")
    tensors = {f"module.policy.{k}": v for k, v in model.items()}
    tensors |= {f"module.ref_model.{k}": v for k, v in reference.items()} | {"v_head.summary.weight": torch.ones(1, 24)}
    config = llava("siglip").config
    encoder = load_encoder(write(tmp_path / "rl", tensors, config))
    assert equal(encoder, load_encoder(write(tmp_path / "plain", model, config)))
    assert any("left aside" in warning for warning in encoder.provenance.warnings)


def test_two_names_that_become_one(tmp_path):
    tensors = spelled(llava("siglip"), "D")
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.bias"
    tensors["model.vision_tower.encoder.layers.0._orig_mod.mlp.fc1.bias"] = tensors[name] + 1
    with pytest.raises(CheckpointError, match=rf"both '{name}' without their wrappers"):
        load_encoder(write(tmp_path, tensors, llava("siglip").config))
