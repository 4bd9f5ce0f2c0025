"""From a checkpoint folder to a vision encoder, without reading the language model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from visprobe.encoders.bare import bare
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.family import FAMILY_OF
from visprobe.encoders.layout import Layout, prefixes
from visprobe.encoders.llava_hf import MODEL_TYPES, llava_hf
from visprobe.encoders.llava_original import llava_original
from visprobe.encoders.projector import Projector, build_projector
from visprobe.encoders.provenance import Provenance
from visprobe.encoders.quiet import quiet
from visprobe.encoders.tower import load_tower
from visprobe.errors import CheckpointError
from visprobe.io.containers import open_tensors
from visprobe.io.folder import LocalFolder
from visprobe.io.tensors import Tensors

_SUPPORTED = (
    "Supported: LlavaForConditionalGeneration and LlavaOnevisionForConditionalGeneration with SigLIP, CLIP, DINOv2 or "
    "ViT, original LLaVA checkpoints (mm_vision_tower in config.json), and bare SigLIP, CLIP, DINOv2 and ViT towers."
)


def load_encoder(
    path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """The vision encoder of the checkpoint in folder `path`: tower, projector and image processor.

    Only the weight files named by the folder's own index are read, and of them only the bytes of tower and
    projector.

    Args:
        path: Folder with config.json and safetensors weights.
        device: Where the tower runs.
        dtype: Dtype in which the tower runs; `weights()` keeps the stored dtype.

    Returns:
        The encoder, in evaluation mode, without gradients.

    Raises:
        CheckpointError: If the folder, its configuration or its weights are missing, damaged or of an unknown kind.
    """
    folder = Path(path)
    index = open_tensors(LocalFolder(folder))
    layout = _layout(folder, index)
    tensors = index.read_many([*layout.tower.values(), *layout.projector.values()])
    _check_numbers(folder, tensors)
    tower, stored = load_tower(
        layout.family,
        layout.config,
        {name: tensors[key] for name, key in layout.tower.items()},
        norm_needed=layout.consumed == "final_norm",
    )
    projector = _projector(layout, tensors)
    stored |= {f"projector.{name}": tensors[key] for name, key in layout.projector.items()}
    return VisionEncoder(
        name=folder.resolve().name,
        family=layout.family,
        config=layout.config,
        tower=tower.to(device, dtype),
        projector=projector.to(device, dtype) if projector else None,
        stored=stored,
        processor=layout.processor,
        provenance=_provenance(str(path), layout, stored, index.bytes_read),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json", hint=_missing_config(folder)) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint="Copy it again from the checkpoint.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a configuration", hint="Copy it again from the checkpoint.")
    return config


def _missing_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "This is a LoRA adapter: merge it into its base model and save that."
    return "Give the folder that holds config.json and the weights."


def _layout(folder: Path, index: Tensors) -> Layout:
    raw, names = read_config(folder), list(index)
    if "mm_vision_tower" in raw:
        return llava_original(folder, raw, names)
    model_type = raw.get("model_type")
    if model_type in MODEL_TYPES:
        return llava_hf(folder, _library_config(folder), names)
    if model_type in FAMILY_OF:
        return bare(folder, _library_config(folder), names)
    raise CheckpointError(
        f"{folder} is of an unknown kind: model_type {model_type!r}, architectures {raw.get('architectures')}, "
        f"tensors beginning with {', '.join(prefixes(names))}",
        hint=_SUPPORTED,
    )


def _library_config(folder: Path) -> Any:
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types on a configuration it cannot build
        raise CheckpointError(
            f"transformers cannot read {folder / 'config.json'}: {error}".splitlines()[0],
            hint="Check the configuration, or use the version of transformers that wrote it.",
        ) from error


def _projector(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> Projector | None:
    if not layout.projector:
        return None
    weights = {name: tensors[key] for name, key in layout.projector.items()}
    projector = build_projector(weights, activation=layout.activation, tower_width=int(layout.config.hidden_size))
    return projector.eval().requires_grad_(False)


def _check_numbers(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    bad = sorted(name for name, tensor in tensors.items() if not _is_usable(tensor))
    if bad:
        raise CheckpointError(
            f"{folder} has NaN, infinite or non-float weights in {len(bad)} of {len(tensors)} tensors of tower and "
            f"projector: {', '.join(bad[:3])}",
            hint="The training diverged or the weights are quantised; use an earlier or an unquantised checkpoint.",
        )


def _is_usable(tensor: torch.Tensor) -> bool:
    if not tensor.dtype.is_floating_point or tensor.itemsize < 2:
        return False
    # NaN passes through minimum and maximum, and one pass is several times faster than isfinite of every weight
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _provenance(path: str, layout: Layout, stored: Mapping[str, torch.Tensor], bytes_read: int) -> Provenance:
    return Provenance(
        path=path,
        family=layout.family.name,
        layout=layout.name,
        tower=layout.tower_name,
        dtype="+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()})),
        params=sum(tensor.numel() for tensor in stored.values()),
        bytes_read=bytes_read,
        consumed=layout.consumed,
        why=layout.why,
        off_path=_off_path(layout, stored),
        warnings=layout.warnings,
    )


def _off_path(layout: Layout, stored: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    groups = sorted({layout.family.weight_group(n) for n in stored if not n.startswith("projector.")})
    if layout.consumed == "final_norm":
        return ("head",) if "head" in groups else ()
    return tuple(g for g in groups if g in {"final_norm", "head"} or (g.startswith("block_") and g > layout.consumed))
