"""Vision files of llama.cpp, written as its converters write them, are the models that they were made from."""

import json
import random
import re
import struct
import sys

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_checkpoints import PATCH, SIDE, TEXT, VISION, filled, images, llava, write, write_llava
from tiny_qwen import qwen, write_qwen

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, PrerequisiteError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.gguf_file import GgufFile

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
EPS = {"siglip": 1e-6, "clip": 1e-5}


def fields(writer, vision, text_width, projector, eps, **more):
    writer.add_string("clip.projector_type", projector)
    for key, value in {
        "embedding_length": vision["hidden_size"], "feed_forward_length": vision["intermediate_size"],
        "block_count": vision["num_hidden_layers"], "attention.head_count": vision["num_attention_heads"],
        "image_size": vision["image_size"], "patch_size": vision["patch_size"], "projection_dim": text_width,
    }.items():  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", eps)
    writer.add_array("clip.vision.image_mean", MEAN)
    writer.add_array("clip.vision.image_std", STD)
    for key, value in more.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(key.replace("__", "."), value)


def save(path, tensors, kind=None, **description):
    """A GGUF file; `kind` is the type of matrices of blocks, as the converter's --outtype."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, arch="clip")
    fields(writer, **description)
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        if kind is not None and data.ndim == 2 and ".blk." in name and data.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def mapped(model, *skipped):
    """Tensors under the names that llama.cpp's own table gives to those of released checkpoints."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 8)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(("model.language_model", "model.text_model", "lm_head")) or any(
            part in name for part in skipped
        ):
            continue
        name = name.replace("model.vision_tower.", "vision_tower.vision_model.").replace("model.multi_", "multi_")
        name = name.replace("model.visual.", "visual.")
        found = table.get_name(name.replace("_weight", ".weight"), try_suffixes=(".weight", ".bias"))
        tensors[found] = tensor
    return tensors


def older(name):
    """A name in files for LLaVA, as the older converter makes it; layers of MLPs are swapped in it."""
    changes = {
        "model.multi_modal_projector.linear_1": "mm.0", "model.multi_modal_projector.linear_2": "mm.2",
        "model.vision_tower": "v", "encoder.layers": "blk", "embeddings.": "", "_proj": "", "self_attn.": "attn_",
        "layer_norm": "ln", "layernorm": "ln", "mlp.fc1": "ffn_down", "mlp.fc2": "ffn_up", "embedding": "embd",
        "layrnorm": "ln",
    }  # fmt: skip
    for old, new in changes.items():
        name = name.replace(old, new)
    return name


def write_llava_gguf(path, model, family, kind=None):
    names = {n: t for n, t in model.state_dict().items() if "language_model" not in n and "lm_head" not in n}
    tensors = {older(n): t for n, t in names.items() if ".layers.2." not in n and "post_layernorm" not in n}
    vision = {**VISION, "num_hidden_layers": 2}
    gelu = {"clip.use_gelu": family == "siglip", "clip.has_llava_projector": True}
    return save(path, tensors, kind, vision=vision, text_width=24, projector="mlp", eps=EPS[family], **gelu)


def same_tokens(one, other, tolerance=0.0):
    pixels = one.preprocess(images(2, size=(40, 60)))
    left, right = (encoder.forward(pixels, ["consumed", "projected"]) for encoder in (one, other))
    return all((left[site] - right[site]).abs().max() <= tolerance for site in left)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_llava(tmp_path, family):
    model = llava(family, vision_feature_layer=-2)
    path = write_llava_gguf(tmp_path / "gguf" / "mmproj-model-f32.gguf", model, family)
    whole = load_encoder(write_llava(tmp_path / "hf", model))
    expected = whole.weights()
    for spec in (path, path.parent):
        encoder = load_encoder(spec)
        weights = encoder.weights()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
        assert {n for n in expected if n not in weights} == {n for n in expected if re.search(r"layers\.2\.|post_", n)}
        assert encoder.consumed == whole.consumed == "block_02"
        assert same_tokens(encoder, whole)
    values = encoder.preprocess(images()).inputs["pixel_values"]
    assert values.shape == (2, 3, SIDE, SIDE)
    assert values.max() > 1  # (1 - mean) / deviation is 2 here; with the default deviation it would be 1
    assert any("the last one stored is assumed" in warning for warning in encoder.provenance.warnings)


def gemma3():
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={k: v for k, v in TEXT.items() if k != "model_type"} | {"head_dim": 12},
        mm_tokens_per_image=4, image_token_index=49,
    )  # fmt: skip
    with quiet():
        return filled(transformers.Gemma3ForConditionalGeneration(config))


def idefics3():
    config = transformers.Idefics3Config(
        vision_config={**VISION, "model_type": "idefics3_vision"}, text_config=TEXT, scale_factor=2, image_token_id=49
    )
    with quiet():
        return filled(transformers.Idefics3ForConditionalGeneration(config))


def test_idefics3(tmp_path):
    model = idefics3()
    path = save(
        tmp_path / "mmproj.gguf", mapped(model), vision=VISION, text_width=24, projector="idefics3", eps=1e-6,
        clip__vision__projector__scale_factor=2, clip__vision__preproc_image_size=2 * SIDE,
    )  # fmt: skip
    encoder, whole = (
        load_encoder(path),
        load_encoder(write(tmp_path / "hf", model.state_dict(), model.config, processor=False)),
    )
    assert (encoder.tower_hash, encoder.projector_hash) == (whole.tower_hash, whole.projector_hash)
    assert same_tokens(encoder, whole)
    assert encoder.processor.size == {"longest_edge": 2 * SIDE}


def test_gemma3(tmp_path):
    model = gemma3()
    tensors = mapped(model)
    tensors["mm.soft_emb_norm.weight"] = tensors["mm.soft_emb_norm.weight"] + 1
    path = save(
        tmp_path / "mmproj.gguf", tensors, vision=VISION, text_width=24, projector="gemma3", eps=1e-6,
        clip__vision__projector__scale_factor=2,
    )  # fmt: skip
    encoder, whole = load_encoder(path), load_encoder(write(tmp_path / "hf", model.state_dict(), model.config))
    assert encoder.tower_hash == whole.tower_hash
    weights, expected = encoder.weights(), whole.weights()
    norm = "projector.mm_soft_emb_norm.weight"
    assert all(torch.equal(weights[name], expected[name]) for name in expected if name != norm)
    assert (weights[norm] - expected[norm]).abs().max() <= 2**-23  # float32 near 1, added once and taken off once
    assert same_tokens(encoder, whole, tolerance=1e-5)  # as the norm's weights, times normed values below 10


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_qwen(tmp_path, kind):
    model = qwen(kind, **({"window_size": 112} if kind == "qwen2_5_vl" else {}))
    config = model.config.vision_config
    tensors = {}
    for name, tensor in model.model.visual.state_dict().items():
        if ".qkv." in name:
            tensors |= {
                f"visual.{name}".replace("qkv", part): t for part, t in zip("qkv", tensor.chunk(3), strict=True)
            }
        elif "patch_embed" not in name:
            tensors[f"visual.{name}"] = tensor
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 8)
    tensors = {table.get_name(name, try_suffixes=(".weight", ".bias")): tensor for name, tensor in tensors.items()}
    frames = model.model.visual.patch_embed.proj.weight
    tensors |= {"v.patch_embd.weight": frames[:, :, 0].detach(), "v.patch_embd.weight.1": frames[:, :, 1].detach()}
    vision = {**VISION, "num_hidden_layers": 4, "image_size": 560, "patch_size": config.patch_size}
    more = {"clip__vision__n_wa_pattern": 2} if kind == "qwen2_5_vl" else {}
    projector = {"qwen2_vl": "qwen2vl_merger", "qwen2_5_vl": "qwen2.5vl_merger"}[kind]
    path = save(tmp_path / "mmproj.gguf", tensors, vision=vision, text_width=24, projector=projector, eps=1e-6, **more)
    resolution = Resolution(pixels=32 * 48)
    encoder = load_encoder(path, resolution=resolution)
    whole = load_encoder(write_qwen(tmp_path / "hf", model), resolution=resolution)
    assert (encoder.tower_hash, encoder.projector_hash) == (whole.tower_hash, whole.projector_hash)
    assert encoder.settings_hash == whole.settings_hash
    assert same_tokens(encoder, whole)


@pytest.mark.parametrize(
    "kind", [gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.Q8_0]
)
def test_types_of_numbers(tmp_path, kind):
    model = llava("siglip", vision_feature_layer=-2)
    path = write_llava_gguf(tmp_path / "mmproj.gguf", model, "siglip", kind)
    encoder = load_encoder(path)
    name = "encoder.layers.1.self_attn.q_proj.weight"
    stored = gguf.quants.quantize(model.model.vision_tower.state_dict()[name].numpy(), kind)
    expected = torch.from_numpy(gguf.quants.dequantize(stored, kind).reshape(32, 32).astype(np.float32))
    assert torch.equal(encoder.weights()[name].float(), expected)
    is_quantised = kind == gguf.GGMLQuantizationType.Q8_0
    assert any("are quantised" in warning for warning in encoder.provenance.warnings) == is_quantised


def test_the_most_exact_of_several_files_is_read(tmp_path):
    model = llava("siglip", vision_feature_layer=-2)
    for name, kind in (
        ("a-mmproj-Q8_0", gguf.GGMLQuantizationType.Q8_0),
        ("mmproj-model-f16", None),
        ("mmproj-F32", None),
    ):
        write_llava_gguf(tmp_path / f"{name}.gguf", model, "siglip", kind)
    assert any("mmproj-F32.gguf" in warning for warning in load_encoder(tmp_path).provenance.warnings)


def test_only_what_is_asked_for_is_read(tmp_path):
    path = write_llava_gguf(tmp_path / "mmproj.gguf", llava("siglip"), "siglip")
    file = GgufFile(LocalFolder(tmp_path), path.name)
    before = file.bytes_read
    assert before < path.stat().st_size - sum(entry.nbytes for entry in file.values()) + 1
    file.read("v.patch_embd.weight")
    assert file.bytes_read - before == 32 * 3 * PATCH * PATCH * 4


def test_unknown_projectors_and_tensors(tmp_path):
    model = llava("siglip")
    common = {"vision": VISION, "text_width": 24, "eps": 1e-6}
    path = save(tmp_path / "mmproj.gguf", mapped(model, "post_"), projector="resampler", **common)
    with pytest.raises(CheckpointError, match="projector of type resampler"):
        load_encoder(path)
    path = save(tmp_path / "mmproj.gguf", {"v.blk.0.attn_rel.weight": torch.ones(2, 2)}, projector="mlp", **common)
    with pytest.raises(CheckpointError, match="does not describe a vision tower"):
        load_encoder(path)


def test_the_file_of_a_language_model(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "llm.gguf", arch="llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="names no projector; it is a file of type 'llama'"):
        load_encoder(tmp_path / "llm.gguf")


def test_an_adapter_of_a_tower_from_llama_cpp(tmp_path):
    model = llava("siglip", vision_feature_layer=-2)
    write_llava_gguf(tmp_path / "base" / "mmproj.gguf", model, "siglip")
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "../base"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    name, width = "encoder.layers.0.self_attn.q_proj", VISION["hidden_size"]
    pair = {"A": torch.ones(2, width), "B": torch.ones(width, 2)}
    key = f"base_model.model.model.vision_tower.{name}.lora_{{}}.weight"
    save_file({key.format(side): t for side, t in pair.items()}, tmp_path / "adapter" / "adapter_model.safetensors")
    weight = load_encoder(tmp_path / "adapter").weights()[f"{name}.weight"]
    assert torch.equal(weight, model.model.vision_tower.state_dict()[f"{name}.weight"] + 2)


def test_quantised_files_need_the_library(tmp_path, monkeypatch):
    path = write_llava_gguf(tmp_path / "q.gguf", llava("siglip"), "siglip", gguf.GGMLQuantizationType.Q8_0)
    exact = write_llava_gguf(tmp_path / "f.gguf", llava("siglip"), "siglip")
    monkeypatch.setitem(sys.modules, "gguf", None)
    load_encoder(exact)
    with pytest.raises(PrerequisiteError, match="gguf is not installed") as caught:
        load_encoder(path)
    assert "pip install" in caught.value.hint


def test_damaged_files_are_one_message(tmp_path):
    path = write_llava_gguf(tmp_path / "mmproj.gguf", llava("siglip"), "siglip")
    data, draw, refused = path.read_bytes(), random.Random(0), 0
    header = GgufFile(LocalFolder(tmp_path), path.name).bytes_read
    for n in range(100):
        broken = bytearray(data if n % 3 else data[: draw.randrange(len(data))])
        for _ in range(draw.randrange(1, 6)):
            if broken:
                broken[draw.randrange(min(len(broken), header))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            load_encoder(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in error.message
    assert refused > 60  # some changes are of names that nobody reads, or of numbers, and make another file


def test_counts_beyond_the_file_are_not_believed(tmp_path):
    (tmp_path / "x.gguf").write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**60)
    )
    with pytest.raises(CheckpointError, match="ends within its header"):
        load_encoder(tmp_path / "x.gguf")
    with (tmp_path / "x.gguf").open("wb") as stream:  # 4 GiB of zeros that the disk does not hold
        stream.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k")
        stream.write(struct.pack("<IIQ", 9, 0, 2**32))
        stream.truncate(2**33)
    with pytest.raises(CheckpointError, match="a header of more than"):
        load_encoder(tmp_path / "x.gguf")
