"""PIVOT evaluation: a post-trained vision tower under a fresh projector and another language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from visprobe.encoders import VisionEncoder, load_encoder
from visprobe.errors import CheckpointError, UsageError
from visprobe.training.models.assemble import assemble


def transplant(
    tower_from: str | Path,
    language_model: str | Path,
    *,
    reuse_projector_layers: int = 0,
    image_size: int | None = None,
    seed: int = 0,
    chat_template: Path | None = None,
) -> tuple[Any, Any]:
    """Transplant the post-trained vision tower of an MLLM into a new LLaVA that reads the same block.

    Args:
        tower_from: Checkpoint of the post-trained MLLM, or a bare tower.
        language_model: Folder or hub id of a causal language model; a folder may hold one .gguf file.
        reuse_projector_layers: Number of projector layers to copy from the MLLM, from the first on; they fit only
            between language models of the same width.
        image_size: Side of the square image in pixels; None for the tower's own.
        seed: Fixes the initial weights of the other projector layers.
        chat_template: Jinja file to use instead of the language model's own chat template.

    Returns:
        `LlavaForConditionalGeneration` in float32, and its `LlavaProcessor`.

    Raises:
        CheckpointError: If the checkpoints cannot be loaded, or projector layers are to be reused that do not fit.
        UsageError: If the new projector has fewer layers than are to be reused.

    Source: arXiv 2510.16333, section 6 and table H.
    """
    encoder = load_encoder(tower_from)
    model, processor = assemble(encoder, language_model, image_size=image_size, seed=seed, chat_template=chat_template)
    _reuse(model, encoder, reuse_projector_layers)
    return model, processor


def _reuse(model: Any, encoder: VisionEncoder, layers: int) -> None:
    own = model.model.multi_modal_projector.state_dict()
    there_are = sum(name.endswith(".weight") for name in own)
    if not 0 <= layers <= there_are:
        raise UsageError(
            f"{layers} projector layers cannot be reused",
            hint=f"The new projector has {there_are}: say 0 to {there_are}.",
        )
    wanted = [name for name in own if int(name.split(".")[0].removeprefix("linear_")) <= layers]
    given = {name.removeprefix("projector."): value for name, value in encoder.weights().items()}
    for name in wanted:
        _check_fits(encoder, name, given.get(name), own[name])
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(given[name])


def _check_fits(encoder: VisionEncoder, name: str, given: torch.Tensor | None, own: torch.Tensor) -> None:
    if given is None:
        raise CheckpointError(
            f"{encoder.name} has no projector weight {name} to reuse", hint="Reuse fewer projector layers, or none."
        )
    if given.shape != own.shape:
        raise CheckpointError(
            f"projector weight {name} of {encoder.name} has shape {list(given.shape)}, the new one {list(own.shape)}",
            hint="Layers fit only between language models of the same width; reuse fewer, or none.",
        )
