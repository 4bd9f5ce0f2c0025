"""Adapters whose base model is quantised: refused by that cause where the tower is, read where it is whole."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import llava, write_llava
from tiny_qwen import qwen, write_qwen

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

QKV, LLM = "visual.blocks.0.attn.qkv", "model.layers.0.self_attn.q_proj"


def packed(shape):
    return torch.zeros(shape[0], shape[1] // 2, dtype=torch.uint8)


def bitsandbytes(module, shape):
    marks = {f"{module}.weight.absmax": torch.ones(48), f"{module}.weight.quant_map": torch.ones(16),
             f"{module}.weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8)}  # fmt: skip
    return {f"{module}.weight": torch.zeros(shape[0] * shape[1] // 2, 1, dtype=torch.uint8), **marks}


def gptq(module, shape):
    scales = {f"{module}.scales": torch.ones(1, shape[0]), f"{module}.g_idx": torch.zeros(shape[1], dtype=torch.int32)}
    return {f"{module}.qweight": packed(shape).int(), f"{module}.qzeros": packed(shape).int(), **scales}


def fp8(module, shape):
    return {
        f"{module}.weight": torch.ones(shape).to(torch.float8_e4m3fn),
        f"{module}.weight_scale_inv": torch.ones(1, 1),
    }


def compressed(module, shape):
    return {f"{module}.weight_packed": packed(shape).int(), f"{module}.weight_scale": torch.ones(shape[0], 1),
            f"{module}.weight_shape": torch.tensor(shape)}  # fmt: skip


SCHEMES = {
    bitsandbytes: ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}, "bitsandbytes, 4 bit"),
    gptq: ({"quant_method": "gptq", "bits": 4}, "GPTQ, 4 bit"),
    fp8: ({}, "FP8"),
    compressed: ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
}


def base_of(folder, scheme, module, **fields):
    """A base model whose `module` is quantised by `scheme`."""
    write_qwen(folder, qwen("qwen2_5_vl"), "Q-A")
    tensors = load_file(folder / "model.safetensors")
    shape = tensors.pop(f"{module}.weight").shape
    save_file(tensors | scheme(module, shape), folder / "model.safetensors")
    told = {"quantization_config": SCHEMES[scheme][0]} if SCHEMES[scheme][0] else {}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | told | fields))
    return folder


def adapter(folder, base, modules):
    folder.mkdir()
    lora = {f"base_model.model.{module}.lora_{side}.weight": torch.full(shape, 0.1) for module, rows, columns in modules
            for side, shape in (("A", (4, columns)), ("B", (rows, 4)))}  # fmt: skip
    save_file(lora, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)
@pytest.mark.parametrize("spelled", ["{}", "model.{}"])
def test_a_quantised_tower_is_the_cause_that_is_named(tmp_path, scheme, spelled):
    base = base_of(tmp_path / "base", scheme, QKV)
    folder = adapter(tmp_path / "lora", base, [(spelled.format(QKV), 96, 32)])
    with pytest.raises(CheckpointError, match=rf"base is quantised .*\({SCHEMES[scheme][1]}") as caught:
        load_encoder(folder)
    assert str(base) in caught.value.message and "16-bit model into base_model_name_or_path" in caught.value.hint
    write_qwen(tmp_path / "whole", qwen("qwen2_5_vl"), "Q-A")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "../whole"}))
    assert load_encoder(folder).weights()


@pytest.mark.sample(1)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)
@pytest.mark.parametrize("spelled", [LLM, "model.language_model.layers.0.self_attn.q_proj"])
def test_a_quantised_language_model_is_none_of_our_business(tmp_path, scheme, spelled):
    base = base_of(tmp_path / "base", scheme, LLM)
    plain = write_qwen(tmp_path / "plain", qwen("qwen2_5_vl"), "Q-A")
    adapter(tmp_path / "lora", base, [(QKV, 96, 32), (spelled, 24, 24)])
    adapter(tmp_path / "lora16", plain, [(QKV, 96, 32), (spelled, 24, 24)])
    mine, other = load_encoder(tmp_path / "lora"), load_encoder(tmp_path / "lora16")
    assert (mine.tower_hash, mine.projector_hash) == (other.tower_hash, other.projector_hash)
    assert mine.tower_hash != load_encoder(plain).tower_hash


@pytest.mark.parametrize(
    ("name", "fields", "hint"),
    [
        ("base", {"_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}, ", Qwen/Qwen2.5-VL-3B-Instruct by its config.json"),
        ("X-unsloth-bnb-4bit", {}, ", to judge by its name .*/X into"),
        ("X-bnb-4bit", {"_name_or_path": ""}, ", to judge by its name .*/X into"),
        ("X-AWQ", {}, ", to judge by its name .*/X into"),
        ("base", {}, "put the 16-bit model into"),
    ],
)
def test_the_16_bit_model_is_named_where_something_names_it(tmp_path, name, fields, hint):
    base = base_of(tmp_path / name, bitsandbytes, QKV, **fields)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(adapter(tmp_path / "lora", base, [(QKV, 96, 32)]))
    assert re.search(hint, caught.value.hint)


def test_positions_are_whole_numbers_and_no_quantisation(tmp_path):
    base = write_llava(tmp_path / "base", llava("clip"), "A")
    tensors = load_file(base / "model.safetensors")
    tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, base / "model.safetensors")
    wrong = "model.vision_tower.encoder.layers.9.mlp.fc1"
    with pytest.raises(CheckpointError, match=r"layers\.9\.mlp\.fc1, which .* does not have"):
        load_encoder(adapter(tmp_path / "lora", base, [(wrong, 48, 32)]))
    shutil.rmtree(tmp_path / "lora")
    assert load_encoder(adapter(tmp_path / "lora", base, [(wrong.replace("9", "0"), 48, 32)])).tower_hash
