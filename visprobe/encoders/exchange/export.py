"""Extraction of a vision encoder from its checkpoint into a folder that transformers loads by itself.

`projector.safetensors` and `mllm_config.json` lie beside the tower, so that visprobe reads the folder as it read the
checkpoint, with projector and consumed site (`visprobe/encoders/checkpoint/opened.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from visprobe import __version__
from visprobe.encoders.checkpoint.opened import MLLM_CONFIG, NAMES, PROJECTOR, Checkpoint
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.load import described, load_encoder
from visprobe.encoders.processor import PROCESSORS, Resolution
from visprobe.encoders.structure.layout import DerivedTensor, Layout, keys_of, materialise
from visprobe.errors import CheckpointError
from visprobe.io import atomic
from visprobe.io.containers.safetensors_files import save_tensors
from visprobe.io.inert import escape_markdown
from visprobe.io.redact import redact, redacted


@dataclass(frozen=True)
class Extracted:
    """Result of an extraction.

    Attributes:
        folder: Folder that was written.
        encoder: Encoder read back from it.
        tower_class: transformers class that loads the tower.
        whole: True if visprobe reads the projector back too.
    """

    folder: Path
    encoder: VisionEncoder
    tower_class: str
    whole: bool


def extract_encoder(spec: str | Path, folder: Path) -> Extracted:
    """Write the vision encoder of the checkpoint `spec` into `folder`, weights bit for bit, and read it back.

    Args:
        spec: Checkpoint folder or hub id.
        folder: New folder; it does not exist or is empty.

    Returns:
        The folder and the encoder read back from it.

    Raises:
        CheckpointError: If the checkpoint cannot be read, `folder` holds something, or the weights read back
            differently.
    """
    if atomic.is_filled(folder):
        raise CheckpointError(f"{folder} is not empty", hint="Name a new folder.")
    checkpoint, layout = described(spec, Resolution())
    source = load_encoder(spec)
    with atomic.filling(folder) as partial:
        whole = _write_weights(partial, checkpoint, layout)
        _write_config(partial, layout)
        _write_processor(partial, checkpoint, layout)
        atomic.write_text(partial / "README.md", _card(source, layout, whole))
    return Extracted(folder, _checked(source, folder, whole), layout.family.cls.__name__, whole)


def _write_weights(folder: Path, checkpoint: Checkpoint, layout: Layout) -> bool:
    """Write tower and projector, and return whether the projector can be found again."""
    tensors = checkpoint.tensors.read_many(keys_of([*layout.tower.values(), *layout.projector.values()]))
    tower, projector = materialise(layout.tower, tensors), materialise(layout.projector, tensors)
    inside = layout.family.contained is not None
    lent = {name: tensor for name, tensor in projector.items() if name.split(".")[0] in layout.family.detached}
    _save(folder / "model.safetensors", tower | lent)
    if inside or not projector:
        return True
    if any(isinstance(source, DerivedTensor) for source in (*layout.tower.values(), *layout.projector.values())):
        _save(folder / PROJECTOR, projector)
        return False
    _save(folder / PROJECTOR, {key: tensors[key] for key in keys_of(layout.projector.values())})
    atomic.write_json(folder / MLLM_CONFIG, redacted(checkpoint.raw))
    atomic.write_json(folder / NAMES, {key: name for name, key in layout.tower.items()})
    return True


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    own = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # safetensors refuses tensors that share memory, as tied weights do
    shared = len({tensor.data_ptr() for tensor in own.values()}) < len(own)
    with atomic.replacing(path) as temporary:
        save_tensors({n: t.clone() for n, t in own.items()} if shared else own, temporary)


def _write_config(folder: Path, layout: Layout) -> None:
    config = json.loads(layout.config.to_json_string(use_diff=False))
    config |= {"model_type": layout.config.model_type, "architectures": [layout.family.cls.__name__]}
    atomic.write_json(folder / "config.json", redacted(config))


def _write_processor(folder: Path, checkpoint: Checkpoint, layout: Layout) -> None:
    """Write the processor: the checkpoint's own where visprobe sets a pixel budget or resizes in another way."""
    own = [path for name in PROCESSORS if (path := checkpoint.folder / name).is_file()]
    if own and not layout.geometry.plain:
        for path in own:
            shutil.copyfile(path, folder / path.name)
    else:
        layout.processor.save_pretrained(folder)


def _checked(source: VisionEncoder, folder: Path, whole: bool) -> VisionEncoder:
    encoder = load_encoder(folder)
    same = encoder.tower_hash == source.tower_hash
    if not same or (whole and encoder.projector_hash != source.projector_hash):
        raise CheckpointError(
            f"{folder} reads back with other weights than {source.provenance.path}",
            hint="This is a fault of visprobe: please report it with the checkpoint's config.json.",
        )
    return encoder


def _card(source: VisionEncoder, layout: Layout, whole: bool) -> str:
    """Return the model card: origin of the tower, how to load it, the state that the MLLM reads."""
    made_from, cls = source.provenance, layout.family.cls
    path = made_from.path if made_from.commit else Path(made_from.path).name  # local paths mean nothing to others
    named = escape_markdown(redact(path))
    at = f" at commit {made_from.commit}" if made_from.commit else ""
    module = "transformers" if ":" not in layout.family.tower_class else cls.__module__
    options = "".join(f", {name}={value}" for name, value in layout.family.options(set(layout.tower)).items())
    absent = [
        part for part in (layout.family.norm,) if part and not any(n.startswith(f"{part}.") for n in layout.tower)
    ]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-feature-extraction",
        "---",
        f"# Vision encoder of {named}",
        "",
        f"Extracted by visprobe {__version__} from {named}{at}, weights bit for bit in stored dtype "
        f"({made_from.dtype}).",
        "",
        "```python",
        f"from {module} import {cls.__name__}",
        "",
        f'tower = {cls.__name__}.from_pretrained("path/to/this/folder"{options})',
        "```",
        "",
        f"- Tower: {escape_markdown(redact(layout.tower_name))}, layout {made_from.layout} of the checkpoint.",
        f"- The MLLM reads {made_from.consumed} ({escape_markdown(made_from.why)}); blocks are counted from the input.",
        f"- SHA-256 of the tower's weights as visprobe counts it: `{source.tower_hash}`.",
    ]
    if source.has_projector:
        where = "inside the tower's class" if layout.family.contained else f"in `{PROJECTOR}`"
        lines.append(f"- The projector lies {where}; SHA-256 `{source.projector_hash}`.")
    if source.has_projector and not whole:
        lines.append(
            "- visprobe reads this folder as a bare tower: its layout does not tell how the projector is used."
        )
    lines += [f"- `{part}` was not in the checkpoint, which never uses it." for part in absent]
    lines += [f"- Note: {escape_markdown(redact(warning))}." for warning in made_from.warnings]
    return "\n".join(lines) + "\n"
