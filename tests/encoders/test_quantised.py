"""A quantised tower is refused by the name of its scheme, from headers; a quantised language model is no fault."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from tiny_checkpoints import llava, spelled, write, write_original
from tiny_qwen import qwen, write_qwen

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quantised import origin_of, scheme_of
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import TensorEntry, Tensors

TOWER = "vision_tower.encoder.layers.1.self_attn.q_proj"
PROJECTOR = "multi_modal_projector.linear_1"
LANGUAGE = "language_model.model.layers.0.self_attn.q_proj"


def ints(dtype, *shape):
    return torch.ones(shape, dtype=dtype)


# From a module's name to what each scheme stores for it, with its configuration and the words that must be said.
SCHEMES = {
    "bitsandbytes nf4": (
        lambda m: {
            f"{m}.weight": ints(torch.uint8, 512, 1), f"{m}.weight.absmax": torch.ones(17),
            f"{m}.weight.quant_map": torch.ones(16),
            f"{m}.weight.quant_state.bitsandbytes__nf4": ints(torch.uint8, 80),
        },
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "bitsandbytes, 4 bit, nf4",
    ),
    "bitsandbytes 8 bit": (
        lambda m: {f"{m}.weight": ints(torch.int8, 32, 32), f"{m}.SCB": torch.ones(32)},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes, 8 bit",
    ),
    "FP8": (
        lambda m: {
            f"{m}.weight": torch.ones(32, 32).to(torch.float8_e4m3fn), f"{m}.weight_scale_inv": torch.ones(1, 1)
        },
        {"quant_method": "fp8"},
        "FP8",
    ),
    "FP8 e5m2, and the configuration forgot it": (
        lambda m: {f"{m}.weight": torch.ones(32, 32).to(torch.float8_e5m2), f"{m}.weight_scale": torch.ones(1)},
        {},
        "stored as F8_E5M2",
    ),
    "compressed-tensors": (
        lambda m: {
            f"{m}.weight_packed": ints(torch.int32, 32, 4), f"{m}.weight_scale": torch.ones(32, 1),
            f"{m}.weight_shape": torch.tensor([32, 32]),
        },
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "compressed-tensors, pack-quantized",
    ),
    "compressed-tensors int8": (
        lambda m: {f"{m}.weight": ints(torch.int8, 32, 32), f"{m}.weight_scale": torch.ones(32, 1)},
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        "compressed-tensors, int-quantized",
    ),
    "GPTQ": (
        lambda m: {
            f"{m}.qweight": ints(torch.int32, 4, 32), f"{m}.qzeros": ints(torch.int32, 1, 4),
            f"{m}.scales": torch.ones(1, 32), f"{m}.g_idx": ints(torch.int32, 32),
        },
        {"quant_method": "gptq", "bits": 4},
        "GPTQ, 4 bit",
    ),
    "AWQ": (
        lambda m: {
            f"{m}.qweight": ints(torch.int32, 32, 4), f"{m}.qzeros": ints(torch.int32, 1, 4),
            f"{m}.scales": torch.ones(1, 32),
        },
        {"quant_method": "awq", "bits": 4},
        "AWQ, 4 bit",
    ),
    "GPTQ without a configuration": (lambda m: {f"{m}.qweight": ints(torch.int32, 4, 32)}, {}, "GPTQ or AWQ"),
    "HQQ": (
        lambda m: {f"{m}.W_q": ints(torch.uint8, 16, 32), f"{m}.scale": torch.ones(1), f"{m}.zero": torch.ones(1)},
        {"quant_method": "hqq"},
        "HQQ",
    ),
    "Quanto": (
        lambda m: {f"{m}.weight._data": ints(torch.int8, 32, 32), f"{m}.weight._scale": torch.ones(32, 1)},
        {"quant_method": "quanto"},
        "Quanto",
    ),
    "torchao": (
        lambda m: {f"{m}._weight_qdata": ints(torch.int8, 32, 32), f"{m}._weight_scale": torch.ones(32, 1)},
        {"quant_method": "torchao"},
        "torchao",
    ),
    "EETQ": (
        lambda m: {f"{m}.weight": ints(torch.int8, 32, 32), f"{m}.weight_scales": torch.ones(32)},
        {"quant_method": "eetq"},
        "EETQ",
    ),
    "a scheme of tomorrow": (
        lambda m: {f"{m}.weight": ints(torch.uint8, 16, 32)}, {"quant_method": "tomorrow", "bits": 3}, "tomorrow, 3 bit"
    ),
    "no word of it anywhere": (lambda m: {f"{m}.weight": ints(torch.int8, 32, 32)}, {}, "stored as I8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return llava("siglip")


def put(folder, model, modules, scheme):
    """A checkpoint whose `modules` are stored as by `scheme`."""
    store, settings, _ = SCHEMES[scheme]
    tensors = spelled(model, "C")
    for module in modules:
        tensors.pop(f"{module}.weight")
        tensors |= store(module)
    more = {"quantization_config": settings} if settings else {}
    return write(folder, tensors, model.config.to_dict() | more)


@pytest.mark.parametrize("module", [TOWER, PROJECTOR])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_scheme_is_named_before_a_weight_is_read(tmp_path, model, monkeypatch, scheme, module):
    monkeypatch.setattr(Tensors, "read_many", lambda *_: pytest.fail("a weight was read"))
    folder = put(tmp_path, model, [module], scheme)
    with pytest.raises(CheckpointError, match=SCHEMES[scheme][2]) as caught:
        load_encoder(folder)
    assert "diverged" not in caught.value.message + caught.value.hint
    assert module in caught.value.message
    assert "16-bit" in caught.value.hint


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_language_model_is_none_of_our_business(tmp_path, model, scheme):
    whole = load_encoder(write(tmp_path / "whole", spelled(model, "C"), model.config))
    read = load_encoder(put(tmp_path / "quantised", model, [LANGUAGE], scheme))
    assert (read.tower_hash, read.projector_hash) == (whole.tower_hash, whole.projector_hash)


def test_mlx_stores_types_that_torch_does_not_know(tmp_path, model):
    header = {f"{TOWER}.weight": ("U32", [32, 4], 512), f"{TOWER}.scales": ("F16", [32, 1], 64),
              f"{TOWER}.biases": ("F16", [32, 1], 64)}  # fmt: skip
    kept = {name: tensor for name, tensor in spelled(model, "C").items() if name != f"{TOWER}.weight"}
    folder = write(tmp_path, kept, model.config.to_dict() | {"quantization": {"group_size": 32, "bits": 4}})
    whole = save(kept)
    length = int.from_bytes(whole[:8], "little")
    fields, at = json.loads(whole[8 : 8 + length]), len(whole) - 8 - length
    for name, (dtype, shape, nbytes) in header.items():
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    raw = json.dumps(fields).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + whole[8 + length :] + bytes(640))
    with pytest.raises(CheckpointError, match="MLX, 4 bit"):
        load_encoder(folder)


@pytest.mark.parametrize("layout", ["Q-A", "Q-D"])
def test_a_fused_tower_of_another_family(tmp_path, layout):
    folder = write_qwen(tmp_path, qwen("qwen2_5_vl"), layout)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("blocks.0.attn.qkv.weight"))
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"quantised .stored as F8_E4M3.: 1 of .*{name}"):
        load_encoder(folder)


def test_an_original_checkpoint(tmp_path, model):
    tensors = spelled(llava("clip"), "L")
    name = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1"
    tensors |= {f"{name}.weight": ints(torch.uint8, 768, 1), f"{name}.weight.absmax": torch.ones(24)}
    folder = write_original(tmp_path, model, "openai/clip-vit-large-patch14-336", tensors)
    with pytest.raises(CheckpointError, match=r"quantised .bitsandbytes, 4 bit"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("config", "spec", "named"),
    [
        (
            {"_name_or_path": "org/model", "quantization_config": {"quant_method": "awq"}},
            "x",
            "org/model by its config",
        ),
        ({"quantization_config": {"base_model": "org/base"}, "_name_or_path": "org/other"}, "x", "org/base by its"),
        ({"_name_or_path": "org/model-bnb-4bit"}, "x", "by its name org/model"),  # that is the quantised one again
        ({"_name_or_path": "org/model-FP8"}, "org/model-FP8", "by its name org/model"),
        ({}, "unsloth/Qwen2.5-VL-7B-Instruct-unsloth-bnb-4bit", "by its name unsloth/Qwen2.5-VL-7B-Instruct"),
        ({}, "org/model", ""),
    ],
)
def test_the_16_bit_checkpoint_is_named_where_something_says_which(config, spec, named):
    said = origin_of(config, spec)
    assert said.endswith(named) if not named.endswith(("its", "config")) else named in said
    assert bool(said) == bool(named)


def test_positions_counted_in_integers_are_no_scheme():
    entries = [TensorEntry("embeddings.position_ids", "I64", (1, 4), 32, "file"),
               TensorEntry("mask", "BOOL", (4,), 4, "file")]  # fmt: skip
    assert scheme_of({"quantization_config": {"quant_method": "awq"}}, entries) is None


def test_integers_are_not_blamed_for_another_fault(tmp_path):
    model = llava("clip")
    tensors = {name: tensor for name, tensor in spelled(model, "A").items() if "multi_modal" not in name}
    tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    with pytest.raises(CheckpointError, match="no projector"):
        load_encoder(write(tmp_path, tensors, model.config))


def test_a_quantised_file_beside_whole_shards_is_what_transformers_reads(tmp_path, model):
    folder = put(tmp_path, model, [TOWER], "bitsandbytes nf4")
    stray = (folder / "model.safetensors").read_bytes()
    write(tmp_path, spelled(model, "C"), model.config, shards=2)
    (folder / "model.safetensors").write_bytes(stray)
    with pytest.raises(CheckpointError, match="bitsandbytes") as caught:
        load_encoder(folder)
    assert "move model.safetensors away" in caught.value.hint
    (folder / "model.safetensors").unlink()
    load_encoder(folder)
