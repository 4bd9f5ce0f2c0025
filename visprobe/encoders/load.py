"""From a checkpoint to a vision encoder, without reading the language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from visprobe.encoders.checkpoint import Checkpoint, open_checkpoint
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.families import MODEL_OF, MODELS, TOWER_OF, TOWERS
from visprobe.encoders.families.bare import bare_layout
from visprobe.encoders.families.frozen_tower import with_frozen_tower
from visprobe.encoders.families.internvl_original import original_internvl_layout
from visprobe.encoders.families.llava_original import original_layout
from visprobe.encoders.layout import Layout, keys_of, made, off_path, prefixes
from visprobe.encoders.model import model_layout
from visprobe.encoders.processor import Resolution
from visprobe.encoders.provenance import Provenance
from visprobe.encoders.swap import parse_swap, swapped
from visprobe.encoders.tiles import NO_TILES, Tiled
from visprobe.encoders.tower import load_tower, placed
from visprobe.errors import CheckpointError


def load_encoder(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: Resolution | None = None,
) -> VisionEncoder:
    """The vision encoder of the checkpoint `path`: tower, connector and image processor.

    Only the weight files named by the checkpoint's own index are read, and of them only the bytes of tower and
    connector.

    Args:
        path: Folder with config.json and weights, or an expression `A[blocks 0-11 <- B]` of two of them.
        device: Where the tower runs.
        dtype: Dtype in which the tower runs; `weights()` keeps the stored dtype.
        resolution: Pixels per image for towers of native resolution, and whether tiles are read.

    Returns:
        The encoder, in evaluation mode, without gradients.

    Raises:
        CheckpointError: If the folder, its configuration or its weights are missing, damaged or of an unknown kind.
        UsageError: If an expression is malformed, or its two encoders do not fit.
    """
    if swap := parse_swap(str(path)):
        into, source = (
            load_encoder(spec, device=device, dtype=dtype, resolution=resolution) for spec in (swap.into, swap.source)
        )
        return swapped(swap, into, source)
    checkpoint, layout = described(path, resolution or Resolution())
    tensors = checkpoint.tensors.read_many(keys_of([*layout.tower.values(), *layout.projector.values()]))
    _check_numbers(checkpoint.spec, tensors)
    tower, stored = load_tower(
        layout.family,
        layout.config,
        made(layout.tower, tensors),
        norm_needed=layout.consumed == "final_norm",
    )
    weights = made(layout.projector, tensors)
    projector = placed(layout.connector.build(weights), device, dtype) if layout.connector else None
    stored |= {f"projector.{name}": tensor for name, tensor in weights.items()}
    return VisionEncoder(
        name=Path(path).resolve().name,
        layout=layout,
        tower=placed(tower, device, dtype),
        projector=projector,
        stored=stored,
        provenance=_provenance(checkpoint, layout, stored),
    )


def described(path: str | Path, resolution: Resolution) -> tuple[Checkpoint, Layout]:
    """The checkpoint `path`, open, and what it turned out to hold; no weight is read.

    Raises:
        CheckpointError: As `load_encoder`.
    """
    checkpoint = with_frozen_tower(open_checkpoint(path))
    layout = _find_layout(checkpoint, resolution)
    if resolution.tiles and not isinstance(layout.geometry, Tiled):
        layout = replace(layout, warnings=(*layout.warnings, NO_TILES))
    return checkpoint, layout


def _find_layout(checkpoint: Checkpoint, resolution: Resolution) -> Layout:
    if "mm_vision_tower" in checkpoint.raw:
        return original_layout(checkpoint, resolution)
    model_type = str(checkpoint.raw.get("model_type"))
    if model_type == "internvl_chat":
        return original_internvl_layout(checkpoint, resolution)
    if model_type in MODEL_OF:
        return model_layout(MODEL_OF[model_type], checkpoint, TOWER_OF, resolution)
    if model_type in TOWER_OF:
        return bare_layout(TOWER_OF[model_type], checkpoint, resolution)
    raise CheckpointError(
        f"{checkpoint.spec} is of an unknown kind: model_type {model_type!r}, architectures "
        f"{checkpoint.raw.get('architectures')}, tensors beginning with {', '.join(prefixes(checkpoint.tensors))}",
        hint=f"Supported: {', '.join(model.name for model in MODELS)}, original LLaVA checkpoints (mm_vision_tower in "
        f"config.json), original InternVL ones, and bare towers ({', '.join(family.name for family in TOWERS)}).",
    )


def _check_numbers(where: str, tensors: Mapping[str, torch.Tensor]) -> None:
    bad = sorted(name for name, tensor in tensors.items() if not _is_usable(tensor))
    if bad:
        raise CheckpointError(
            f"{where} has NaN, infinite or non-float weights in {len(bad)} of {len(tensors)} tensors of tower and "
            f"projector: {', '.join(bad[:3])}",
            hint="The training diverged or the weights are quantised; use an earlier or an unquantised checkpoint.",
        )


def _is_usable(tensor: torch.Tensor) -> bool:
    if not tensor.dtype.is_floating_point or tensor.itemsize < 2:
        return False
    # NaN passes through minimum and maximum, and one pass is several times faster than isfinite of every weight
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _provenance(checkpoint: Checkpoint, layout: Layout, stored: Mapping[str, torch.Tensor]) -> Provenance:
    return Provenance(
        path=checkpoint.spec,
        family=layout.family.name,
        layout=layout.name,
        tower=layout.tower_name,
        dtype="+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()})),
        params=sum(tensor.numel() for tensor in stored.values()),
        bytes_read=checkpoint.tensors.bytes_read,
        consumed=layout.consumed,
        why=layout.why,
        off_path=off_path(layout, (name for name in stored if not name.startswith("projector."))),
        warnings=(*checkpoint.notes, *checkpoint.tensors.notes, *layout.warnings),
        commit=checkpoint.commit,
    )
