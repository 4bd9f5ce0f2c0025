"""Loading of a checkpoint's vision encoder, without reading the language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from visprobe.encoders.checkpoint.opened import Checkpoint, open_checkpoint
from visprobe.encoders.checkpoint.tensor_names import of_language_model
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.exchange.swap import parse_swap, swapped
from visprobe.encoders.families import MODEL_OF, MODELS, TOWER_OF, TOWERS
from visprobe.encoders.layouts.bare import bare_layout
from visprobe.encoders.layouts.internvl_original import original_internvl_layout
from visprobe.encoders.layouts.llava_original import original_layout, with_frozen_tower, with_usual_names
from visprobe.encoders.processor import Resolution
from visprobe.encoders.settings import Provenance
from visprobe.encoders.structure.geometry import NO_TILES, Tiled
from visprobe.encoders.structure.layout import NAMED, Layout, keys_of, materialise, prefixes
from visprobe.encoders.structure.model import model_layout
from visprobe.encoders.tower import load_tower, to_device
from visprobe.errors import CheckpointError
from visprobe.io.containers.formats import TRANSFORMERS
from visprobe.io.disk import plain_errors


@plain_errors
def load_encoder(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: Resolution | None = None,
) -> VisionEncoder:
    """Load the vision encoder of the checkpoint `path`: tower, connector and image processor.

    Only the weight files named by the checkpoint's own index are read, and of them only the bytes of tower and
    connector.

    Args:
        path: Folder with config.json and weights, or an expression `A[blocks 0-11 <- B]` of two of them.
        device: Device of the tower.
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
    tensors = checkpoint.tensors.read_many(_keys(layout))
    _check_numbers(checkpoint.spec, tensors)
    layout = replace(layout, warnings=(*layout.warnings, *_on_twins(checkpoint, layout, tensors)))
    with _naming_the_place((*checkpoint.notes, *layout.warnings)):
        tower, projector, stored = _built(
            layout, materialise(layout.tower, tensors), materialise(layout.projector, tensors)
        )
    return VisionEncoder(
        name=Path(path).resolve().name,
        layout=layout,
        tower=to_device(tower, device, dtype),
        projector=projector and to_device(projector, device, dtype),
        stored=stored,
        provenance=_provenance(checkpoint, layout, stored),
    )


def described(path: str | Path, resolution: Resolution) -> tuple[Checkpoint, Layout]:
    """Open the checkpoint `path` and find its layout; no weight is read.

    Raises:
        CheckpointError: If the folder or its configuration is missing, damaged or of an unknown kind, or its headers
            lack weights.
    """
    checkpoint = with_frozen_tower(with_usual_names(open_checkpoint(path)))
    try:
        with _naming_the_place(checkpoint.notes):
            layout = _find_layout(checkpoint, resolution)
    except CheckpointError:
        checkpoint.check_whole(name for name in checkpoint.tensors if not of_language_model(name))
        raise  # quantised weights are not the cause
    checkpoint.check_whole(_keys(layout))
    if resolution.tiles and not isinstance(layout.geometry, Tiled):
        layout = replace(layout, warnings=(*layout.warnings, NO_TILES))
    return checkpoint, layout


def check_headers(checkpoint: Checkpoint, layout: Layout) -> None:
    """Check from headers alone that the encoder can be loaded: build it with the code that loads it, without memory.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; NaN and infinite weights go unseen.
    """
    outlines = checkpoint.tensors.outlines(_keys(layout))
    with _naming_the_place((*checkpoint.notes, *layout.warnings)):
        _built(layout, _hollow(materialise(layout.tower, outlines)), _hollow(materialise(layout.projector, outlines)))


def _hollow(outlines: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return zeros of the given shapes, each one number expanded."""
    return {name: torch.zeros((), dtype=one.dtype).expand(one.shape) for name, one in outlines.items()}


def _keys(layout: Layout) -> list[str]:
    return keys_of([*layout.tower.values(), *layout.projector.values()])


def _built(
    layout: Layout, tower_weights: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> tuple[torch.nn.Module, torch.nn.Module | None, dict[str, torch.Tensor]]:
    """Return tower and connector, and all their weights by canonical name."""
    norm_needed = layout.consumed == "final_norm"
    tower, stored = load_tower(layout.family, layout.config, tower_weights, norm_needed=norm_needed)
    projector = layout.connector.build(weights) if layout.connector else None
    return tower, projector, stored | {f"projector.{name}": tensor for name, tensor in weights.items()}


@contextmanager
def _naming_the_place(notes: Sequence[str]) -> Iterator[None]:
    """Add to errors raised inside where the tower was found, if that is not the usual place."""
    try:
        yield
    except CheckpointError as error:
        if named := next((note for note in notes if note.startswith(NAMED)), None):
            raise CheckpointError(f"{error.message}; {named}", hint=error.hint) from error
        raise


def _on_twins(checkpoint: Checkpoint, layout: Layout, read: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Yield a note on each other tower in the same files: whether its weights equal those that were `read`."""
    own = keys_of(source for name, source in layout.tower.items() if not layout.family.is_projection(name))
    for place, names in layout.twins.items():
        others = checkpoint.tensors.read_many(names[key] for key in own if key in names)
        unlike = sum(key not in names or not _same(read[key], others[names[key]]) for key in own)
        differ = f"differs from the tower that is read in {unlike} of {len(own)} tensors"
        yield f"the tower {place}* {differ if unlike else 'holds the same weights as the one that is read'}"


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


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
    if "pretrained_cfg" in checkpoint.raw or "architecture" in checkpoint.raw:
        raise CheckpointError(
            f"{checkpoint.spec} is {checkpoint.raw.get('architecture')} of timm, whose names and settings are its own",
            hint=TRANSFORMERS,
        )
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
            f"{where} has NaN or infinite weights in {len(bad)} of {len(tensors)} tensors of tower and projector: "
            f"{', '.join(bad[:3])}",
            hint="The training diverged; use an earlier checkpoint.",
        )


def _is_usable(tensor: torch.Tensor) -> bool:
    if not tensor.numel():  # the registers of a tower that has none
        return True
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
        off_path=layout.off_path(name for name in stored if not name.startswith("projector.")),
        warnings=(*checkpoint.notes, *checkpoint.tensors.notes, *layout.warnings),
        commit=checkpoint.commit,
    )
