"""Vision files of llama.cpp (`mmproj*.gguf`) as checkpoints of the models that they were made from.

Names and changes of the conversion follow llama.cpp's converters: fused projections of queries, keys and
values are split, the two frames of Qwen's patch embedding are separate, Gemma's norm has 1 added, and files for LLaVA
swap the names of the two layers of each MLP and leave the last block out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visprobe.encoders.structure.layout import DerivedTensor, Source, keys_of, materialise
from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.gguf_file import GgufFile
from visprobe.io.containers.tensors import TensorEntry, Tensors

_EXACT_FIRST = ("f32", "bf16", "f16")
_VIT = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj", "ln1": "layer_norm1", "ln2": "layer_norm2", "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}  # fmt: skip
_VIT_PARTS = {
    "v.patch_embd": "embeddings.patch_embedding", "v.position_embd": "embeddings.position_embedding",
    "v.class_embd": "embeddings.class_embedding", "v.pre_ln": "pre_layrnorm", "v.post_ln": "post_layernorm",
}  # fmt: skip
_QWEN = {"attn_out": "attn.proj", "ln1": "norm1", "ln2": "norm2"}
_QWEN_PARTS = {"v.post_ln": "visual.merger.ln_q", "mm.0": "visual.merger.mlp.0", "mm.2": "visual.merger.mlp.2"}
_QKV = ("attn_q", "attn_k", "attn_v")
_FRAMES = ("v.patch_embd.weight", "v.patch_embd.weight.1")
_SWAPPED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
_BLOCK = re.compile(r"v\.blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True)
class _Kind:
    """Names and description of the files of one type of projector.

    Attributes:
        blocks: Prefix of the number of a block.
        block: Parts of a block, from the file's name to that of transformers.
        parts: Other parts.
        describe: Maps the file to config.json and preprocessor_config.json.
    """

    blocks: str
    block: Mapping[str, str]
    parts: Mapping[str, str]
    describe: Callable[[GgufFile], tuple[dict[str, Any], dict[str, Any]]]


class Converted(Tensors):
    """Tensors of an mmproj file under the names of transformers.

    Args:
        file: Open GGUF file.
        sources: Name in transformers to the tensor or tensors that it is made of.
    """

    def __init__(self, file: GgufFile, sources: Mapping[str, Source]) -> None:
        super().__init__(file.where)
        self.container, self.notes, self.bytes_read = file.container, file.notes, file.bytes_read
        self._file, self._sources = file, sources
        for name, source in sources.items():
            parts = [file[key] for key in keys_of([source])]
            metas = {part.name: torch.empty(part.shape, device="meta") for part in parts}
            shape = tuple(materialise({name: source}, metas)[name].shape)
            nbytes = sum(part.nbytes for part in parts)
            self._entries[name] = TensorEntry(name, parts[0].dtype, shape, nbytes, file.where)

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        wanted = {entry.name: self._sources[entry.name] for entry in entries}
        tensors = materialise(wanted, self._file.read_many(keys_of(wanted.values())))
        self.bytes_read = self._file.bytes_read
        return tensors


def mmproj_file(folder: Folder) -> str | None:
    """Return the mmproj file of a folder that holds no other weights; of several the most exact."""
    names = [name for name in folder.names() if "/" not in name]
    if any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".index.json")) for name in names):
        return None
    found = [name for name in names if "mmproj" in name.lower() and name.endswith(".gguf")]
    return min(found, key=_rank, default=None)


def open_mmproj(folder: Folder, name: str) -> tuple[dict[str, Any], dict[str, Any], Tensors]:
    """Open an mmproj file as a checkpoint of transformers.

    Args:
        folder: Folder of the file.
        name: Name of the file.

    Returns:
        config.json, preprocessor_config.json, and the tensors under the names of transformers.

    Raises:
        CheckpointError: If the file is damaged, or its projector or a tensor is of an unknown kind.
    """
    file = GgufFile(folder, name)
    kind = _kind(file)
    try:
        config, processor = kind.describe(file)
        tensors = Converted(file, _sources(file, kind))
    except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointError(
            f"{file.where} does not describe a vision tower: {error!r}".splitlines()[0],
            hint="Convert the model again with llama.cpp's convert_hf_to_gguf.py --mmproj.",
        ) from error
    return config, processor, tensors


def _rank(name: str) -> tuple[int, str]:
    tokens = re.split(r"[^a-z0-9]+", name.lower())
    return next((at for at, kind in enumerate(_EXACT_FIRST) if kind in tokens), len(_EXACT_FIRST)), name


def _kind(file: GgufFile) -> _Kind:
    metadata = file.metadata
    default = "mlp" if metadata.get("clip.has_llava_projector") else None
    found = metadata.get("clip.vision.projector_type") or metadata.get("clip.projector_type") or default
    if found is None:
        raise CheckpointError(
            f"{file.where} names no projector; it is a file of type {metadata.get('general.architecture')!r}",
            hint="Give the mmproj file that belongs to it: the vision tower is not in the language model's file.",
        )
    if found not in _KINDS:
        raise CheckpointError(
            f"{file.where} has a projector of type {found}",
            hint=f"Supported in GGUF files: {', '.join(_KINDS)}; or give the checkpoint that the file was made from.",
        )
    return _KINDS[str(found)]


def _sources(file: GgufFile, kind: _Kind) -> dict[str, Source]:
    swapped = _is_swapped(file)
    sources: dict[str, Source] = {}
    split: dict[str, dict[str, str]] = {}
    for key in file:
        if not key.startswith(("v.", "mm.")) or key.startswith("mm.a."):
            continue
        match = _BLOCK.fullmatch(key)
        part = _SWAPPED.get(match[2], match[2]) if match and swapped else match[2] if match else ""
        if match and part in kind.block:
            sources[f"{kind.blocks}{match[1]}.{kind.block[part]}.{match[3]}"] = key
        elif match and part in _QKV:
            split.setdefault(f"{kind.blocks}{match[1]}.attn.qkv.{match[3]}", {})[part] = key
        elif key in _FRAMES and "v.patch_embd" not in kind.parts:
            split.setdefault("visual.patch_embed.proj.weight", {})[key] = key
        else:
            whole, dot, end = (key, "", "") if key in kind.parts else key.rpartition(".")
            sources[kind.parts[whole] + dot + end] = key
    for name, keys in split.items():
        sources[name] = _together(keys, _FRAMES, _frames) if "patch" in name else _together(keys, _QKV, torch.cat)
    if (norm := "multi_modal_projector.mm_soft_emb_norm.weight") in sources:
        sources[norm] = DerivedTensor(tuple(keys_of([sources[norm]])), lambda tensors: tensors[0] - 1)
    return sources


def _together(keys: Mapping[str, str], order: Sequence[str], make: Callable[..., torch.Tensor]) -> DerivedTensor:
    return DerivedTensor(tuple(keys[part] for part in order), make)


def _frames(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(tensors), dim=2)


def _is_swapped(file: GgufFile) -> bool:
    """Return whether `ffn_down` is the first layer of each MLP, as in files of the older converter."""
    first = file.get("v.blk.0.ffn_down.weight")
    return first is not None and first.shape[1] == file.metadata["clip.vision.embedding_length"]


def _vision(file: GgufFile) -> dict[str, Any]:
    """Return fields common to all towers; blocks are counted from the tensors, since some files give another number."""
    field = {key.removeprefix("clip.vision."): value for key, value in file.metadata.items()}
    return {
        "hidden_size": int(field["embedding_length"]),
        "intermediate_size": file["v.blk.0.ffn_down.weight" if _is_swapped(file) else "v.blk.0.ffn_up.weight"].shape[0],
        "num_hidden_layers": 1 + max(int(m[1]) for m in map(_BLOCK.fullmatch, file) if m),
        "num_attention_heads": int(field["attention.head_count"]),
        "image_size": int(field["image_size"]),
        "patch_size": int(field["patch_size"]),
        "layer_norm_eps": round(float(field["attention.layer_norm_epsilon"]), 12),  # stored as float32
    }


def _processor(file: GgufFile, kind: str, **fields: Any) -> dict[str, Any]:
    normal = {
        f"image_{name}": [float(v) for v in file.metadata[f"clip.vision.image_{name}"]] for name in ("mean", "std")
    }
    return {"image_processor_type": f"{kind}ImageProcessor", **normal, **fields}


def _text(file: GgufFile) -> dict[str, Any]:
    return {"hidden_size": int(file.metadata["clip.vision.projection_dim"])}


def _llava(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
    vision, is_clip = _vision(file), "v.class_embd" in file
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    gelu = "gelu" if is_clip else "gelu_pytorch_tanh"
    act = gelu if file.metadata.get("clip.use_gelu") else "quick_gelu"
    layers = [int(layer) for layer in file.metadata.get("clip.vision.feature_layer", ())]
    if not layers:
        file.notes.append("the file does not say which block the language model reads: the last one stored is assumed")
    config = {
        "model_type": "llava",
        "vision_config": {"model_type": f"{'clip' if is_clip else 'siglip'}_vision_model", "hidden_act": act, **vision},
        "vision_feature_layer": (layers if len(layers) > 1 else layers[0]) if layers else -1,
        "vision_feature_select_strategy": "default" if is_clip else "full",
    }
    if is_clip:
        return config, _processor(file, "CLIP", size={"shortest_edge": size["width"]}, crop_size=size)
    return config, _processor(file, "Siglip", size=size)


def _gemma3(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = _vision(file)
    scale = int(file.metadata.get("clip.vision.projector.scale_factor", 4))
    side = vision["image_size"] // vision["patch_size"] // scale
    file.notes.append("the norm of Gemma's projector is stored with 1 added: its weights are exact to 1e-7")
    config = {
        "model_type": "gemma3",
        "vision_config": {"model_type": "siglip_vision_model", **vision},
        "text_config": _text(file),
        "mm_tokens_per_image": side * side,
    }
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    return config, _processor(file, "Gemma3", size=size, do_pan_and_scan=False)


def _idefics3(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = _vision(file)
    config = {
        "model_type": "idefics3",
        "vision_config": {"model_type": "idefics3_vision", **vision},
        "text_config": {"model_type": "llama", "num_attention_heads": 1, "num_key_value_heads": 1, **_text(file)},
        "scale_factor": int(file.metadata["clip.vision.projector.scale_factor"]),
    }
    edge = int(file.metadata.get("clip.vision.preproc_image_size", 4 * vision["image_size"]))
    sizes = {"size": {"longest_edge": edge}, "max_image_size": {"longest_edge": vision["image_size"]}}
    return config, _processor(file, "Idefics3", **sizes)


def _qwen2(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = _vision(file)
    own = {
        "embed_dim": vision["hidden_size"],
        "hidden_size": _text(file)["hidden_size"],
        "mlp_ratio": vision["intermediate_size"] // vision["hidden_size"],
    }
    return _qwen(file, "qwen2_vl", own)


def _qwen25(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
    vision, pattern = _vision(file), int(file.metadata["clip.vision.n_wa_pattern"])
    own = {
        "hidden_size": vision["hidden_size"],
        "intermediate_size": vision["intermediate_size"],
        "out_hidden_size": _text(file)["hidden_size"],
        "fullatt_block_indexes": list(range(pattern - 1, vision["num_hidden_layers"], pattern)),
        "window_size": int(file.metadata.get("clip.vision.window_size", 112)),
    }
    return _qwen(file, "qwen2_5_vl", own)


def _qwen(file: GgufFile, model_type: str, own: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = _vision(file)
    cut = {"patch_size": vision["patch_size"], "temporal_patch_size": 2}
    merge = int(file.metadata.get("clip.vision.spatial_merge_size", 2))
    shared = {"depth": vision["num_hidden_layers"], "num_heads": vision["num_attention_heads"], **cut}
    config = {"model_type": model_type, "vision_config": {**shared, **own, "spatial_merge_size": merge}}
    return config, _processor(file, "Qwen2VL", merge_size=merge, **cut)


_LLAVA_PARTS = {f"mm.{2 * n}": f"multi_modal_projector.linear_{n + 1}" for n in range(3)}
_GEMMA_PARTS = {
    "mm.input_projection.weight": "multi_modal_projector.mm_input_projection_weight",
    "mm.soft_emb_norm": "multi_modal_projector.mm_soft_emb_norm",
}


def _vit(prefix: str, projector: Mapping[str, str], describe: Callable[..., Any]) -> _Kind:
    parts = {key: prefix + part for key, part in _VIT_PARTS.items()}
    return _Kind(f"{prefix}encoder.layers.", _VIT, {**parts, **projector}, describe)


_KINDS = {
    "mlp": _vit("vision_tower.", _LLAVA_PARTS, _llava),
    "gemma3": _vit("vision_tower.", _GEMMA_PARTS, _gemma3),
    "idefics3": _vit("model.vision_model.", {"mm.model.fc": "model.connector.modality_projection.proj"}, _idefics3),
    "qwen2vl_merger": _Kind(
        "visual.blocks.", {**_QWEN, "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}, _QWEN_PARTS, _qwen2
    ),
    "qwen2.5vl_merger": _Kind(
        "visual.blocks.",
        {**_QWEN, "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
        _QWEN_PARTS,
        _qwen25,
    ),
}
