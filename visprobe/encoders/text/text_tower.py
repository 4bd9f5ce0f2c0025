"""Text tower of a two-tower checkpoint: maps sentences to the space of image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import AutoTokenizer

from visprobe.encoders.checkpoint.opened import Checkpoint, open_checkpoint
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.exchange.swap import parse_swap
from visprobe.encoders.families import TOWER_OF
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.layout import under
from visprobe.encoders.text.words import tokenizer_folder
from visprobe.encoders.tower import load_tower, to_device
from visprobe.errors import CheckpointError

_PREFIX = "text_model."
_TEXT_PROJECTION, _VISUAL_PROJECTION = "text_projection.weight", "visual_projection.weight"
_KINDS = {kind: family for kind, family in TOWER_OF.items() if family.text_class and "vision" not in kind}
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
_BATCH = 64


@dataclass(frozen=True, eq=False)
class TextTower:
    """Text tower, in float32 on the CPU.

    Attributes:
        path: Checkpoint that it was read from.
        masked: True if padding is masked and the state at the end of the text pooled (CLIP); SigLIP attends to
            padding too, and reads the last token.
        config: transformers configuration.
        model: transformers model.
        tokenizer: transformers tokenizer.
        projection: CLIP's map from the pooled state to the shared space, of shape (D, text width); None for SigLIP.
        visual_projection: CLIP's map from the image tower's pooled state to that space, of shape (D, image width).
        bytes_read: Bytes of the weight files that were read.
    """

    path: str
    masked: bool
    config: Any
    model: torch.nn.Module
    tokenizer: Any
    projection: torch.Tensor | None
    visual_projection: torch.Tensor | None
    bytes_read: int

    @property
    def dim(self) -> int:
        """Width of the shared space."""
        return int(self.config.projection_size if self.projection is None else self.projection.shape[0])

    def tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return inputs of the text model, lower-cased and padded to its full length, as these towers were trained.

        Raises:
            CheckpointError: If the tokenizer does not belong to the text tower.
        """
        made = self.tokenizer(
            [text.lower() for text in texts],
            padding="max_length", truncation=True, max_length=self.config.max_position_embeddings, return_tensors="pt",
        )  # fmt: skip
        ids, end = made["input_ids"], self.config.eos_token_id
        # an end token of 2 is that of old CLIP configurations, whose text ends at the token with the highest id
        ends = not self.masked or end == 2 or bool((ids == end).any(1).all())
        if int(ids.max()) >= self.config.vocab_size or not ends:
            raise CheckpointError(
                f"the tokenizer of {self.path} gives tokens that its text tower does not know",
                hint="Copy the tokenizer's files again from the original model.",
            )
        return {"input_ids": ids} | ({"attention_mask": made["attention_mask"]} if self.masked else {})

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Compute embeddings of `texts` as `get_text_features` does, float32 of shape (n, D), not normalised."""
        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                pooled = self.model(**self.tokens(texts[start : start + _BATCH])).pooler_output
                rows.append(pooled if self.projection is None else linear(pooled, self.projection))
        return torch.cat(rows)


def load_text_tower(spec: str | Path) -> TextTower:
    """Load the text tower of the two-tower checkpoint `spec`; no other weights are read.

    Raises:
        CheckpointError: If there is none, its weights are incomplete, or its tokenizer is missing or unusable.
    """
    checkpoint = open_checkpoint(spec)
    if not _is_two_tower(checkpoint):
        raise CheckpointError(
            f"{spec} holds no text tower (model_type {checkpoint.raw.get('model_type')!r})",
            hint=f"Give the model with both towers ({', '.join(_KINDS)}) that the vision tower came from.",
        )
    return _loaded(checkpoint)


def own_text_tower(spec: str) -> TextTower | None:
    """Load the text tower of the checkpoint that an encoder was read from, or None if it holds none.

    Args:
        spec: Folder, hub id or expression, as in `Provenance.path`; `A[blocks 0-11 <- B]` has the text tower of A.

    Raises:
        CheckpointError: If it holds one whose weights are incomplete, or whose tokenizer is missing or unusable.
    """
    checkpoint = _own(spec)
    return _loaded(checkpoint) if checkpoint else None


def has_text_tower(spec: str) -> bool:
    """Return whether `own_text_tower` would find one, without reading a weight; False if `spec` cannot be opened."""
    return _own(spec) is not None


def _own(spec: str) -> Checkpoint | None:
    while swap := parse_swap(spec):
        spec = swap.into
    try:
        checkpoint = open_checkpoint(spec)
    except CheckpointError:  # such as an encoder made in memory, whose path is no checkpoint
        return None
    return checkpoint if _is_two_tower(checkpoint) else None


def _is_two_tower(checkpoint: Checkpoint) -> bool:
    return checkpoint.raw.get("model_type") in _KINDS and _outer(checkpoint) is not None


def _outer(checkpoint: Checkpoint) -> str | None:
    """Return the prefix of both towers' tensors, mostly empty; None without a text tower."""
    heads = {name.partition(_PREFIX)[0] for name in checkpoint.tensors if _PREFIX in name}
    return min((head for head in heads if not head or head.endswith(".")), key=len, default=None)


def _loaded(checkpoint: Checkpoint) -> TextTower:
    family, config = _KINDS[checkpoint.raw["model_type"]], checkpoint.config.text_config
    before = checkpoint.tensors.bytes_read
    outer = _outer(checkpoint) or ""
    names = under(outer + _PREFIX, checkpoint.tensors)
    beside = [outer + name for name in (_TEXT_PROJECTION, _VISUAL_PROJECTION)] if family.projection else []
    tensors = checkpoint.tensors.read_many([*names.values(), *beside])
    text = Family(name=f"{family.name}_text", model_types=(), tower_class=family.text_class)
    model, _ = load_tower(text, config, {n: tensors[key] for n, key in names.items()}, norm_needed=True)
    projections = [tensors[name].float() if name in tensors else None for name in (*beside, None, None)[:2]]
    return TextTower(
        path=checkpoint.spec,
        masked=family.projection is not None,
        config=config,
        model=to_device(model, "cpu", torch.float32),
        tokenizer=_tokenizer(checkpoint),
        projection=projections[0],
        visual_projection=projections[1],
        bytes_read=checkpoint.tensors.bytes_read - before,
    )


def _tokenizer(checkpoint: Checkpoint) -> Any:
    folder = tokenizer_folder(checkpoint)
    # Without a vocabulary transformers makes an empty tokenizer, and says nothing.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise CheckpointError(
            f"{checkpoint.spec} has a text tower and no tokenizer",
            hint="Copy the tokenizer's files beside the weights.",
        )
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types on what it cannot read
        raise CheckpointError(
            f"transformers cannot read the tokenizer of {checkpoint.spec}: {error}".splitlines()[0],
            hint="Copy tokenizer.json from the original model; spiece.model alone needs: pip install sentencepiece.",
        ) from error
