"""Weights that were trained whole and lie beside an adapter: read by what their tensors are called, or refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import filled, llava, write_llava
from tiny_qwen import qwen, write_qwen

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

QKV = "model.visual.blocks.0.attn.qkv"
PEFT = "base_model.model."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base model, the same with another tower and merger, and what those are in memory."""
    root = tmp_path_factory.mktemp("beside")
    model, other = qwen("qwen2_5_vl"), filled(qwen("qwen2_5_vl"), seed=5)
    write_qwen(root / "base", model, "Q-A")
    vision = {name: tensor for name, tensor in other.state_dict().items() if ".visual." in name}
    merged = model.state_dict() | vision
    model.load_state_dict(merged)
    return root / "base", vision, load_encoder(write_qwen(root / "whole", model, "Q-D")).weights()


def adapter(folder, base, modules=("model.language_model.layers.0.self_attn.q_proj",)):
    """A LoRA of `modules`, with weights of 32 columns and as many rows as a fused qkv has."""
    folder.mkdir(parents=True)
    lora = {f"{PEFT}{m}.lora_{side}.weight": torch.full(shape, 0.1) for m in modules
            for side, shape in (("A", (4, 32)), ("B", (96, 4)))}  # fmt: skip
    save_file(lora, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def put(path, tensors, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {prefix + name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


def same(encoder, expected):
    weights = encoder.weights()
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)


def without(prefix, tensors):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def split(folder, vision):
    put(folder / "vit.safetensors", {n: t for n, t in vision.items() if ".merger." not in n}, PEFT)
    put(folder / "aligner.safetensors", {n: t for n, t in vision.items() if ".merger." in n}, PEFT)


def sharded(folder, vision, index=True):
    names = sorted(vision)
    files = {f"visual-{n + 1:05d}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, own in files.items():
        put(folder / "full_weights" / file, {name: vision[name] for name in own})
    if index:
        weight_map = {name: file for file, own in files.items() for name in own}
        (folder / "full_weights" / "visual.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def in_parts(folder, vision):
    put(folder / "vision_tower" / "pytorch_model.bin", without("model.visual.", vision))


WAYS = {
    "Qwen-VL-Series-Finetune": lambda f, v: put(f / "non_lora_state_dict.bin", v, PEFT),
    "LLaVA": lambda f, v: put(f / "non_lora_trainables.bin", v, PEFT),
    "LLaVA under DDP": lambda f, v: put(f / "non_lora_trainables.bin", v, f"module.{PEFT}"),
    "ms-swift": lambda f, v: put(f / "vit.safetensors", v, PEFT),
    "ms-swift, tower and aligner apart": split,
    "without PEFT's prefix": lambda f, v: put(f / "additional_weights.pt", v),
    "early names": lambda f, v: put(f / "visual.pth", without("model.", v)),
    "of the tower alone": lambda f, v: put(f / "visual.pt", without("model.visual.", v)),
    "under a key": lambda f, v: torch.save({"state_dict": v, "epoch": 3}, f / "weights.pt"),
    "a folder of a part": in_parts,
    "shards with their index": sharded,
    "shards without": lambda f, v: sharded(f, v, index=False),
    "two levels down": lambda f, v: put(f / "full_weights" / "vision" / "model.safetensors", v),
}


@pytest.mark.parametrize("way", WAYS)
def test_whole_weights_are_read_whatever_their_file_is_called(tmp_path, trained, way):
    base, vision, expected = trained
    folder = adapter(tmp_path / "adapter", base)
    WAYS[way](folder, vision)
    encoder = load_encoder(folder)
    assert same(encoder, expected)
    read = [warning for warning in encoder.provenance.warnings if "trained whole, read from" in warning]
    assert sum(int(note.split(": ")[-1].split()[0]) for note in read) == len(vision)


def test_what_trainers_keep_for_themselves_is_left_aside(tmp_path, trained):
    base, vision, expected = trained
    folder = adapter(tmp_path / "adapter", base)
    put(folder / "vit.safetensors", vision, PEFT)
    put(folder / "value_head.safetensors", {"v_head.summary.weight": torch.ones(1, 24)})
    put(folder / "global_step10" / "mp_rank_00_model_states.pt", {name: t + 1 for name, t in vision.items()})
    put(folder / "checkpoint-5" / "vit.safetensors", {name: t + 1 for name, t in vision.items()})
    put(folder / "ema_model.safetensors", {name: t + 1 for name, t in vision.items()})
    torch.save({"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}, folder / "optimizer.pt")
    torch.save({"state": {QKV: {"exp_avg": torch.ones(3)}}}, folder / "muon.pt")
    torch.save({"cpu": torch.zeros(9, dtype=torch.uint8), "loss": torch.tensor(0.5)}, folder / "progress.pt")
    torch.save({}, folder / "non_lora_state_dict.bin")
    for name in ("training_args.bin", "rng_state_0.pth", "scheduler.pt", "scaler.pt"):
        (folder / name).write_bytes(b"what no one can open")
    shutil.copytree(base, folder / "merged")
    encoder = load_encoder(folder)
    assert same(encoder, expected)
    assert [w for w in encoder.provenance.warnings if "a model of its own" in w] == [
        "merged/ holds a model of its own, which is not read"
    ]


def test_two_files_of_the_same_weights_are_said(tmp_path, trained):
    base, vision, expected = trained
    folder = adapter(tmp_path / "adapter", base)
    put(folder / "a.safetensors", {name: tensor + 1 for name, tensor in vision.items()})
    put(folder / "b.safetensors", vision)
    encoder = load_encoder(folder)
    assert same(encoder, expected)
    assert "b.safetensors and a.safetensors hold weights of the same names" in " ".join(encoder.provenance.warnings)


def test_lora_of_the_tower_and_a_merger_trained_whole(tmp_path, trained):
    base, vision, _ = trained
    folder = adapter(tmp_path / "adapter", base, [QKV])
    put(folder / "non_lora_state_dict.bin", {n: t for n, t in vision.items() if ".merger." in n}, PEFT)
    copy = {"lora_A.default.weight": torch.ones(4, 32), "lora_B.default.weight": torch.ones(96, 4)}
    put(folder / "pytorch_model_fsdp.bin", copy, f"{PEFT}{QKV}.")  # PEFT's own matrices once more
    old, new = load_encoder(base).weights(), load_encoder(folder).weights()
    once = new["blocks.0.attn.qkv.weight"] - old["blocks.0.attn.qkv.weight"]
    assert torch.allclose(once, torch.tensor(0.04))
    assert torch.equal(new["projector.merger.ln_q.weight"], vision["model.visual.merger.ln_q.weight"])


def strange(folder, vision):
    put(folder / "extra.safetensors", {"encoder.weight": torch.ones(2, 2)})


def other_tower(folder, vision):
    put(folder / "extra.safetensors", {name.replace("visual", "vision_tower"): t for name, t in vision.items()}, PEFT)


def damaged(folder, vision):
    strange(folder, vision)
    (folder / "extra.safetensors").write_bytes((folder / "extra.safetensors").read_bytes()[:-3])


def no_archive(folder, vision):
    (folder / "extra.bin").write_bytes(b"")


def nested(folder, vision):
    torch.save({"vision": vision, "step": 3}, folder / "extra.pt")


def matrices(folder, vision):
    put(folder / "extra.safetensors", {f"{PEFT}{QKV}.lora_A.weight": torch.ones(4, 32)})


def merged_too(folder, vision):
    shutil.rmtree(folder)
    adapter(folder, folder.parent / "base", [QKV])
    put(folder / "extra.safetensors", vision)


def unfitting(folder, vision):
    put(folder / "extra.bin", {"blocks.0.attn.qkv.weight": torch.ones(9, 9)})


REFUSED = {
    strange: "holds 1 tensors that .* does not have, 'encoder.weight'",
    other_tower: "does not have, 'model.vision_tower",
    damaged: "beside an adapter, .*extra.safetensors",
    no_archive: "beside an adapter, .*extra.bin is not a file of torch.save",
    nested: "extra.pt holds its weights in parts: vision",
    matrices: f"holds LoRA matrices of {QKV}, which the adapter beside it lacks",
    merged_too: f"holds {QKV}.weight, which the adapter beside it changes too",
    unfitting: "extra.bin, beside an adapter, holds 1 tensors",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_looks_like_weights_and_does_not_fit_is_refused_by_its_name(tmp_path, trained, make):
    base, vision, _ = trained
    shutil.copytree(base, tmp_path / "base")
    folder = adapter(tmp_path / "adapter", tmp_path / "base")
    make(folder, vision)
    with pytest.raises(CheckpointError, match=REFUSED[make]) as caught:
        load_encoder(folder)
    assert "to another folder" in caught.value.hint or "to a folder of its own" in caught.value.hint
    next(folder.glob("extra.*")).rename(tmp_path / "away")
    assert load_encoder(folder).tower_hash


def test_a_projector_that_fits_twice_is_refused(tmp_path):
    base = write_llava(tmp_path / "base", llava("clip"))
    folder = adapter(tmp_path / "adapter", base)
    put(folder / "extra.safetensors", {"layer_norm1.weight": torch.ones(32)})
    with pytest.raises(CheckpointError, match="does not have"):
        load_encoder(folder)
    put(folder / "extra.safetensors", {"linear_1.weight": torch.ones(24, 32), "linear_1.bias": torch.ones(24)})
    assert load_encoder(folder).weights()["projector.linear_1.bias"].eq(1).all()
