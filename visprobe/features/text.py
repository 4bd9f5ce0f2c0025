"""Features of captions under a language model: the mean over tokens at every layer, cached in the feature store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from visprobe.data.progress import Progress
from visprobe.encoders.checkpoint.opened import library_config
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.text.words import load_tokenizer
from visprobe.errors import CheckpointError, DataError
from visprobe.features.store import ChunkKey, FeatureStore, StoredSites
from visprobe.io.containers.folder import Folder
from visprobe.io.hub.repository import open_folder

LONGEST = 512  # tokens of a caption that are read
_CHUNK, _BATCH = 128, 16
_HOW = f"mean over the tokens of a caption, special ones included, at most {LONGEST}"
_BLOCK = 2**24  # bytes hashed at a time
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class TextFeatures:
    """Features of captions under one language model.

    Attributes:
        model: Name of the language model as the user gave it.
        layers: "layer_00" (the embeddings) to "layer_NN" to float32 of shape (captions, d); read when asked for.
        content: SHA-256 of the model's files.
        forwarded: Captions that went through the model in this run.
    """

    model: str
    layers: Mapping[str, NDArray[np.floating]]
    content: str
    forwarded: int


class LanguageModel:
    """Language model whose hidden states are read at every layer.

    Its files are hashed on construction; weights are only loaded if a caption has to go through them.

    Args:
        spec: Folder or hub id of a language model in the layout of transformers; no code of the model is run.
        device: Device of the model.
        dtype: Dtype in which it runs.

    Attributes:
        spec: Folder or hub id as the user gave it.
        layers: "layer_00" (the embeddings) to "layer_NN".
        content: SHA-256 of its files.

    Raises:
        CheckpointError: If it is no language model, or has no tokenizer.
    """

    def __init__(self, spec: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.spec, self._device, self._dtype = spec, torch.device(device), dtype
        files = _files(open_folder(spec), spec)
        self._folder = files[0].parent
        config = library_config(self._folder)
        text = config.get_text_config()
        if config.is_encoder_decoder or not getattr(text, "num_hidden_layers", None):
            raise _no_model(spec, f"model_type {config.model_type!r} is no decoder of text")
        self.layers = [f"layer_{number:02d}" for number in range(text.num_hidden_layers + 1)]
        self._tokenizer = load_tokenizer(self._folder)
        if self._tokenizer is None:
            raise CheckpointError(
                f"{spec} has no tokenizer that transformers can read", hint="Copy the tokenizer's files beside it."
            )
        self._tokenizer.padding_side = "right"  # a causal model's states do not depend on later tokens
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
        self.content = _content(files)

    def features(self, captions: Sequence[str], store: FeatureStore, progress: Progress | None = None) -> TextFeatures:
        """Compute the mean over tokens of every caption at every layer, except for those in the store.

        Args:
            captions: Texts of the captions.
            store: Store that features are read from and written to.
            progress: Called with (name of the stage, captions done, captions in all).

        Raises:
            CheckpointError: If transformers cannot load the model.
            DataError: If a caption has no token.

        Source:
            Huh et al. 2024 (2405.07987), section 2: features of language models are averaged over tokens.
        """
        chunks = [tuple(captions[start : start + _CHUNK]) for start in range(0, len(captions), _CHUNK)]
        keys, forwarded = [self._key(chunk) for chunk in chunks], 0
        for done, (chunk, key) in enumerate(zip(chunks, keys, strict=True), start=1):
            if store.missing(key, self.layers):
                store.write(key, self._forward(chunk), self.spec, "captions")
                forwarded += len(chunk)
            if progress:
                progress(f"captions, {self.spec}", min(done * _CHUNK, len(captions)), len(captions))
        layers = StoredSites(store, keys, {name: name for name in self.layers})
        return TextFeatures(self.spec, layers, self.content, forwarded)

    def _key(self, captions: Sequence[str]) -> ChunkKey:
        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
        place = f"{str(self._dtype).removeprefix('torch.')}/{self._device.type}/{libraries}"
        hashes = tuple(hashlib.sha256(caption.encode("utf-8", "backslashreplace")).hexdigest() for caption in captions)
        return ChunkKey(self.content, _HOW, "text", place, hashes)

    def _forward(self, captions: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Compute the features of `captions`, float32 of shape (captions, d) by layer."""
        parts = [list(self._batch(captions[start : start + _BATCH])) for start in range(0, len(captions), _BATCH)]
        joined = [np.concatenate(layer) for layer in zip(*parts, strict=True)]
        return dict(zip(self.layers, joined, strict=True))

    def _batch(self, captions: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        inputs = self._tokenizer(list(captions), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        ids, mask = inputs["input_ids"].to(self._device), inputs["attention_mask"].to(self._device)
        if empty := [caption for caption, count in zip(captions, mask.sum(1), strict=True) if not count]:
            raise DataError(
                f"the caption {empty[0]!r} has no token under {self.spec}", hint="Give images captions of words."
            )
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        weights = mask[:, :, None].float()
        for state in states:
            yield ((state.float() * weights).sum(1) / weights.sum(1)).cpu().numpy()

    @cached_property
    def _model(self) -> Any:
        try:
            with quiet():
                model = AutoModel.from_pretrained(
                    self._folder, dtype=self._dtype, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # transformers raises many types on what it cannot load
            raise _no_model(self.spec, f"{type(error).__name__}: {error}".splitlines()[0]) from error
        return model.eval().to(self._device)


def _files(folder: Folder, spec: str) -> list[Path]:
    """Fetch the model's files: configuration, tokenizer and weights."""
    names = [name for name in folder.names() if "/" not in name]
    kind = next((kind for kind in _WEIGHTS if any(name.endswith(kind) for name in names)), None)
    if kind is None or "config.json" not in names:
        raise _no_model(spec, "config.json or weights are missing")
    wanted = [name for name in names if name.endswith((kind, ".json", ".txt", ".model"))]
    return [folder.fetch(name) for name in ("config.json", *sorted(set(wanted) - {"config.json"}))]


def _content(files: Sequence[Path]) -> str:
    """Return the SHA-256 over the contents of `files`, whatever their names."""
    digests = []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        digests.append(digest.hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _no_model(spec: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{spec} cannot be loaded as a language model: {why}",
        hint="Give the folder or hub id of a causal language model in the layout of transformers.",
    )
