"""Loading of language models: weights, tokenizer and chat template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError
from visprobe.io.regular import read_text
from visprobe.mllm.load import refuse_code

# Chat templates of language models expect text; this prefix turns the parts of a message into text first.
_FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string or message['content'] is not iterable -%}"
    "{%- set flat.messages = flat.messages + [message] -%}"
    "{%- else -%}"
    "{%- set text = namespace(value='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- set text.value = text.value + ('IMAGE\\n' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text.value)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


@dataclass(frozen=True)
class LanguageModel:
    """Causal language model in float32, with tokenizer and chat template.

    Attributes:
        model: Model of transformers.
        tokenizer: Tokenizer of the model, with a padding token.
        chat_template: Jinja chat template.
    """

    model: Any
    tokenizer: Any
    chat_template: str


def read_language_model(path: str | Path, chat_template: Path | None = None) -> LanguageModel:
    """Load the language model in `path`.

    Args:
        path: Folder or hub id of a causal language model; a folder may hold one .gguf file instead.
        chat_template: Jinja file to use instead of the model's own chat template.

    Raises:
        CheckpointError: If it cannot be loaded, or there is no chat template.
        PrerequisiteError: If the model needs remote code.
    """
    refuse_code(path)
    options = {**_gguf_options(path), "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(
            f"cannot load the language model {path}: {reason}",
            hint="Give a folder or hub id that AutoModelForCausalLM loads, with its tokenizer.",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(model.eval(), tokenizer, _template(path, tokenizer, chat_template))


def with_images(chat_template: str, image_token: str) -> str:
    """Extend a chat template to messages whose content is a list of texts and images.

    Each image becomes the image token and a newline. A template that handles images is returned unchanged.
    """
    if "'image'" in chat_template or '"image"' in chat_template:
        return chat_template
    return _FLATTEN.replace("IMAGE", image_token) + chat_template


def _gguf_options(path: str | Path) -> dict[str, str]:
    folder = Path(path)
    files = sorted(file.name for file in folder.glob("*.gguf")) if folder.is_dir() else []
    if not files or (folder / "config.json").is_file():
        return {}
    if len(files) > 1:
        raise CheckpointError(
            f"{path} holds {len(files)} GGUF files: {', '.join(files[:3])}", hint="Keep the one to use in a folder."
        )
    return {"gguf_file": files[0]}


def read_template(file: Path) -> str:
    """Read a chat template from a file; raises CheckpointError if it cannot be read."""
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {file}: {error}", hint="Check the path.") from error


def _template(path: str | Path, tokenizer: Any, file: Path | None) -> str:
    if file is not None:
        return read_template(file)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise CheckpointError(
            f"the language model {path} has no chat template",
            hint="Take its instruct version, or give a Jinja template: --set chat_template=FILE.",
        )
    return str(template)
