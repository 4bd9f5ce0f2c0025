"""Input token embeddings of a multimodal LLM and their tokenizer, without the language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from visprobe.encoders.checkpoint.opened import Checkpoint, open_checkpoint
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.exchange.swap import parse_swap
from visprobe.errors import CheckpointError
from visprobe.io.hub.repository import open_folder

# Names of the table: LLaMA, Qwen and Gemma; InternLM2; GPT-2 and the first Qwen; Bloom.
_TABLES = ("embed_tokens.weight", "tok_embeddings.weight", "wte.weight", "word_embeddings.weight")
_HEAD = "lm_head.weight"
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "tokenizer_config.json", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """Token embeddings as the first block of the language model receives them, and the text of the tokens.

    Attributes:
        embeddings: Table as stored, shape (tokens, d).
        scale: Factor of the language model (the square root of d in Gemma, else 1).
        tensor: Name of the tensor in the checkpoint.
        tokenizer: Tokenizer of transformers; None where the checkpoint holds none.
        bytes_read: Bytes read for the embeddings.
    """

    embeddings: torch.Tensor
    scale: float
    tensor: str
    tokenizer: Any
    bytes_read: int

    @property
    def spoken(self) -> list[int]:
        """Token ids that text can hold, ascending: those of the tokenizer that are not special; all without one."""
        if self.tokenizer is None:
            return list(range(len(self.embeddings)))
        known, special = set(self.tokenizer.get_vocab().values()), set(self.tokenizer.all_special_ids)
        return sorted(token for token in known - special if token < len(self.embeddings))

    def spelled(self, token: int) -> str:
        """Return the text of `token`, without spaces around it unless it is only spaces; its id without a tokenizer."""
        if self.tokenizer is None:
            return f"#{token}"
        text = str(self.tokenizer.decode([token]))
        return text.strip() or repr(text)


def read_words(spec: str | Path) -> Words:
    """Load the token embeddings of the language model in checkpoint `spec`; no other weights are read.

    Args:
        spec: Folder or hub id, or an expression `A[blocks 0-11 <- B]`, which has the words of A.

    Raises:
        CheckpointError: If there is no checkpoint, or it holds no table of token embeddings, or several.
    """
    swap = parse_swap(str(spec))
    checkpoint = open_checkpoint(swap.into if swap else spec)
    name = embedding_tensor(checkpoint)
    before = checkpoint.tensors.bytes_read
    embeddings = checkpoint.tensors.read(name)
    if embeddings.ndim != 2 or not embeddings.is_floating_point() or not torch.isfinite(embeddings).all():
        raise CheckpointError(
            f"{checkpoint.spec}: {name} is no table of finite token embeddings",
            hint="Give the checkpoint in float32, bfloat16 or float16, not quantised.",
        )
    text = next((checkpoint.raw[key] for key in ("text_config", "llm_config") if key in checkpoint.raw), checkpoint.raw)
    scale = math.sqrt(embeddings.shape[1]) if str(text.get("model_type")).startswith("gemma") else 1.0
    return Words(
        embeddings, scale, name, load_tokenizer(tokenizer_folder(checkpoint)), checkpoint.tensors.bytes_read - before
    )


def embedding_tensor(checkpoint: Checkpoint) -> str:
    """Return the name of the table of input token embeddings in `checkpoint`.

    Raises:
        CheckpointError: If there is none, or several.
    """
    found = [name for name in checkpoint.tensors if name.endswith(_TABLES)]
    if not found and _tied(checkpoint.raw):  # a file may hold a tied tensor under either name
        found = [name for name in checkpoint.tensors if name.endswith(_HEAD)]
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{checkpoint.spec} holds {', '.join(found)}: which are the token embeddings is not clear"
        if found
        else f"{checkpoint.spec} holds no token embeddings: it has no language model",
        hint="Give the folder of the whole multimodal model, with its language model.",
    )


def _tied(raw: dict[str, Any]) -> bool:
    texts = [raw, *(raw[key] for key in ("text_config", "llm_config") if isinstance(raw.get(key), dict))]
    return any(text.get("tie_word_embeddings") for text in texts)


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """Return the folder of the files of the checkpoint's tokenizer, if it has any."""
    if not checkpoint.commit:
        return checkpoint.folder
    remote = open_folder(checkpoint.spec)  # only the files that an encoder needs have been fetched so far
    fetched = [remote.fetch(name) for name in _TOKENIZER_FILES if name in remote.names()]
    return fetched[0].parent if fetched else checkpoint.folder


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`, or None if it holds none that transformers can read."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:  # transformers raises many types on what it cannot read; without a tokenizer words are numbers
        return None
