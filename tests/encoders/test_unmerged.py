"""Models that were saved with adapters left in them: read where the tower is whole, merged where the scale is known."""

import json
import re
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import llava, write_llava
from tiny_qwen import qwen, write_qwen
from zoo import internvl_chat

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

_LLM = "model.language_model.layers.0.self_attn.q_proj"
LLM = {"internvl": "language_model.model.layers.0.self_attn.q_proj", "llava": _LLM, "qwen": _LLM}
TOWER = {"internvl": "vision_model.encoder.layers.0.attn.qkv", "llava": "model.vision_tower.encoder.layers.0.mlp.fc1",
         "qwen": "model.visual.blocks.0.mlp.up_proj"}  # fmt: skip
WRAPPED = {"internvl": ("language_model.", "vision_model."), "llava": ("model.language_model.", "model.vision_tower."),
           "qwen": ("model.language_model.", "model.visual.")}  # fmt: skip
WRITE = {
    "internvl": internvl_chat,
    "llava": lambda folder: write_llava(folder, llava("clip"), "D"),
    "qwen": lambda folder: write_qwen(folder, qwen("qwen2_5_vl"), "Q-D"),
}


def left(folder, module, name="default", prefix="", rank=4):
    """Leave a LoRA of `module` in the model of `folder`, whose names below `prefix` PEFT has wrapped.

    Returns:
        The product of its matrices.
    """
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for kind in ("weight", "bias"):
        if f"{module}.{kind}" in tensors:
            tensors[f"{module}.base_layer.{kind}"] = tensors.pop(f"{module}.{kind}")
    rows, columns = tensors[f"{module}.base_layer.weight"].shape
    a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
    tensors |= {f"{module}.lora_A.{name}.weight": a, f"{module}.lora_B.{name}.weight": b}
    renamed = {re.sub(f"^{re.escape(prefix)}", f"{prefix}base_model.model.", n): t for n, t in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return b @ a


def fields(folder, **more):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | more))


def same(encoder, expected):
    weights = encoder.weights()
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.fixture(params=WRITE)
def kind(request):
    return request.param


@pytest.mark.parametrize("name", ["default", "sft"])
@pytest.mark.parametrize("wrapped", ["the language model", "the whole model", "nothing"])
def test_lora_of_the_language_model_leaves_the_tower_whole(tmp_path, kind, name, wrapped):
    WRITE[kind](tmp_path)
    expected = load_encoder(tmp_path).weights()
    left(
        tmp_path,
        LLM[kind],
        name,
        {"the language model": WRAPPED[kind][0], "the whole model": ""}.get(wrapped, "never."),
    )
    encoder = load_encoder(tmp_path)
    assert same(encoder, expected)
    assert any("LoRA of 1 modules is left unmerged" in warning for warning in encoder.provenance.warnings)


def test_two_adapters_of_the_language_model_leave_the_tower_whole(tmp_path, kind):
    WRITE[kind](tmp_path)
    expected = load_encoder(tmp_path).weights()
    left(tmp_path, LLM[kind], "policy")
    tensors = load_file(tmp_path / "model.safetensors")
    both = {n.replace(".policy.", f".{role}."): t.clone() for role in ("policy", "ref") for n, t in tensors.items()}
    save_file(both, tmp_path / "model.safetensors")
    assert same(load_encoder(tmp_path), expected)


def test_lora_of_the_tower_needs_a_scale_and_the_hint_gives_it(tmp_path, kind):
    WRITE[kind](tmp_path)
    before = load_encoder(tmp_path).weights()
    delta = left(tmp_path, TOWER[kind], prefix=WRAPPED[kind][1])
    with pytest.raises(CheckpointError, match=f"not merged, of {TOWER[kind]}.weight among others") as caught:
        load_encoder(tmp_path)
    command = re.search(r"echo .*", caught.value.hint)[0].replace("ALPHA", "12")
    subprocess.run(command, shell=True, check=True)
    after = load_encoder(tmp_path).weights()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    whole = torch.cat([after[name] - before[name] for name in before if name in changed])
    assert torch.allclose(whole, 3 * delta, atol=1e-5)


def test_the_hint_knows_that_ranks_differ(tmp_path):
    WRITE["llava"](tmp_path)
    before = load_encoder(tmp_path).weights()
    modules = {
        TOWER["llava"]: 4,
        TOWER["llava"].replace("layers.0", "layers.1"): 4,
        TOWER["llava"].replace("fc1", "fc2"): 2,
    }
    deltas = [left(tmp_path, module, prefix="never.", rank=rank) for module, rank in modules.items()]
    with pytest.raises(CheckpointError) as caught:
        load_encoder(tmp_path)
    subprocess.run(re.search(r"echo .*", caught.value.hint)[0].replace("ALPHA", "4"), shell=True, check=True)
    after = load_encoder(tmp_path).weights()
    for (module, rank), delta in zip(modules.items(), deltas, strict=True):
        name = f"{module.removeprefix('model.vision_tower.')}.weight"
        assert torch.allclose(after[name] - before[name], 4 / rank * delta, atol=1e-5)


def test_what_internvl_leaves_in_its_tower_is_scaled_by_its_own_rule(tmp_path):
    internvl_chat(tmp_path)
    before = load_encoder(tmp_path).weights()
    delta = left(tmp_path, TOWER["internvl"], prefix="vision_model.")
    left(tmp_path, LLM["internvl"], prefix="language_model.", rank=2)
    fields(tmp_path, use_backbone_lora=4, use_llm_lora=2)
    after = load_encoder(tmp_path).weights()
    names = [f"encoder.layer.0.attention.{part}_proj.weight" for part in "qkv"]
    assert torch.allclose(torch.cat([after[name] - before[name] for name in names]), 2 * delta, atol=1e-5)
    assert all(torch.equal(after[name], before[name]) for name in before if name not in names)
    fields(tmp_path, use_backbone_lora=16)
    with pytest.raises(CheckpointError, match="the rank 16, its matrices have the rank 4"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["default", "sft"])
@pytest.mark.parametrize("lora", [True, False])
def test_modules_to_save_of_an_adapter_of_any_name(tmp_path, name, lora):
    WRITE["llava"](tmp_path)
    before = load_encoder(tmp_path).weights()
    if lora:
        left(tmp_path, LLM["llava"], name)
    tensors, inside = load_file(tmp_path / "model.safetensors"), "multi_modal_projector."
    for key in [key for key in tensors if inside in key]:
        tensor = tensors.pop(key)
        tensors[key.replace(inside, f"{inside}original_module.")] = tensor
        tensors[key.replace(inside, f"{inside}modules_to_save.{name}.")] = tensor + 1
    save_file(tensors, tmp_path / "model.safetensors")
    after = load_encoder(tmp_path).weights()
    assert all(torch.equal(after[n], before[n] + 1 if n.startswith("projector.") else before[n]) for n in before)
