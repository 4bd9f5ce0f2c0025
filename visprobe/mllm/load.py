"""Loading of a multimodal LLM and its processor, with checks that both can be trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from visprobe.encoders.checkpoint.opened import check_labels
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.families import MODEL_OF
from visprobe.errors import CheckpointError, PrerequisiteError, UsageError
from visprobe.mllm import Resample

_WHOLE = "Give a folder with a multimodal model and its processor, as save_pretrained writes it."
_UNREADABLE = (OSError, ValueError, KeyError, StrictDataclassError)  # raised by transformers for unusable files
_AGAIN = "The checkpoint is incomplete or damaged; copy or download it again."


def load_for_training(path: str | Path, precision: str = "float32") -> tuple[Any, Any]:
    """Load the multimodal LLM in `path` and its processor.

    Args:
        path: Folder, or the id of a model on the Hugging Face hub.
        precision: Dtype of the weights in memory: "float32", "bfloat16", "float16", or "auto" for the file's own.

    Returns:
        The model, and a processor with image token and chat template.

    Raises:
        CheckpointError: If the folder does not exist, weights are missing or damaged, or the processor is absent or
            lacks its image token or chat template.
        PrerequisiteError: If the processor needs a library that is not installed, or the model remote code.
    """
    processor, _ = processor_for_training(path)
    return model_for_training(path, precision), processor


def processor_for_training(path: str | Path, resample: Resample = "processor") -> tuple[Any, Any]:
    """Load the processor in `path` and the configuration of its model, without reading weights.

    Args:
        path: Folder, or the id of a model on the Hugging Face hub.
        resample: Filter that the processor resizes images with; "processor" for its own.

    Raises:
        CheckpointError: If the folder does not exist, or processor or configuration cannot be used.
        PrerequisiteError: If the processor needs a library that is not installed, or the model remote code.
        UsageError: If `resample` names a filter and the image processor takes none.
    """
    _check_folder(path)
    refuse_code(path)
    processor = read_processor(path)
    if resample != "processor":
        _resize_with(resample, path, processor)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers raises many types on unusable files
        raise _cannot(path, f"its configuration does not load: {_first_line(error)}", _WHOLE) from error
    check_processor(path, processor, config)
    return processor, config


def read_processor(path: str | Path) -> Any:
    """Load the processor in `path` with its Pillow backend, like the encoders: torchvision's pixels differ slightly.

    Raises:
        CheckpointError: If it does not load.
        PrerequisiteError: If it needs a library that is not installed.
    """
    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
            images = getattr(processor, "image_processor", None)
            if images is not None and not type(images).__name__.endswith("Pil"):
                # Not by an option of AutoProcessor, whose tokenizer would take "backend" for its own.
                processor.image_processor = AutoImageProcessor.from_pretrained(
                    path, backend="pil", trust_remote_code=False
                )
            return processor
    except ImportError as error:  # processors that also take videos need torchvision
        raise PrerequisiteError(
            f"cannot load the processor of {path}: {_first_line(error)}",
            hint="Install the library it names: pip install torchvision, for example.",
        ) from error
    except Exception as error:  # transformers raises many types on unusable files
        raise _cannot(path, f"its processor does not load: {_first_line(error)}", _WHOLE) from error


def _resize_with(resample: Resample, path: str | Path, processor: Any) -> None:
    """Set the image processor's filter, which is then saved with it."""
    images = getattr(processor, "image_processor", None)
    if images is None:
        return  # `check_processor` refuses it
    if getattr(images, "resample", None) is None:
        raise UsageError(
            f"resample {resample}: the image processor of {path}, {type(images).__name__}, takes no filter",
            hint="Leave resample out, or overrule a recipe that sets it: --set resample=processor.",
        )
    images.resample = Image.Resampling[resample.upper()]


def model_for_training(path: str | Path, precision: str = "float32", *, on_paper: bool = False) -> Any:
    """Load the multimodal LLM in `path`; with `on_paper` on the meta device, without weights in memory.

    Raises:
        CheckpointError: If weights are missing or damaged.
    """
    try:
        with quiet():
            model, loaded = AutoModelForImageTextToText.from_pretrained(
                path,
                dtype=precision,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                device_map="meta" if on_paper else None,
            )
    except SafetensorError as error:
        raise _cannot(path, f"a file of its weights is damaged: {_first_line(error)}", _AGAIN) from error
    except (*_UNREADABLE, RuntimeError) as error:
        raise _cannot(path, f"its model does not load: {_first_line(error)}", _WHOLE) from error
    if missing := sorted(loaded["missing_keys"]):
        raise _cannot(path, f"its files lack {_listed(missing)}", _AGAIN)
    if wrong := sorted(
        f"{name} {list(found)}, not {list(wanted)}" for name, found, wanted in loaded["mismatched_keys"]
    ):
        problem = f"tensors have other shapes than config.json says: {_listed(wrong)}"
        raise _cannot(path, problem, "Check that config.json belongs to these weights.")
    return model


def check_processor(path: str | Path, processor: Any, config: Any) -> None:
    """Refuse a processor that cannot make training rows for the model of `config`.

    Raises:
        CheckpointError: If it has no image processor, no image token that the model knows, or no chat template.
    """
    if not hasattr(processor, "image_processor"):
        raise _cannot(path, "it has a tokenizer but no processor for images", _WHOLE)
    family = MODEL_OF.get(config.model_type)
    token = getattr(processor, family.image_token if family else "image_token", None)
    tokenizer = processor.tokenizer
    known = tokenizer.convert_tokens_to_ids(token) if token else None
    if known is None or known == tokenizer.unk_token_id or token not in tokenizer.get_vocab():
        raise _cannot(path, f"its tokenizer has no image token {token!r}", "Add it to the tokenizer and save that.")
    expected = getattr(config, "image_token_id", None)
    if expected is not None and expected >= len(tokenizer):
        problem = f"config.json has image_token_id {expected}, the tokenizer ends at {len(tokenizer) - 1}"
        raise _cannot(path, problem, "Check that the tokenizer belongs to these weights.")
    if not processor.chat_template:
        raise _cannot(
            path,
            "its processor has no chat template",
            "Set processor.chat_template to that of the model's instruct version and save the processor again.",
        )


def refuse_code(path: str | Path) -> None:
    """Refuse a model whose class only code in its folder defines: remote code is never run.

    Raises:
        PrerequisiteError: If the model needs such code.
    """
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text("utf-8-sig")) if file.is_file() else {}
    except (ValueError, RecursionError):
        return  # reported when the configuration is loaded
    if not isinstance(config, dict):
        return
    check_labels(config, file)
    kind = config.get("model_type")
    if config.get("auto_map") and kind not in CONFIG_MAPPING:
        raise PrerequisiteError(
            f"{path} needs code of its own ({kind or 'a model of no known type'}), which is not run",
            hint="Convert it to a class of transformers, which the model's authors often offer as a repository ending "
            "in -hf.",
        )


def _check_folder(path: str | Path) -> None:
    folder = Path(path)
    if os.path.isdir(folder):  # Path.is_dir raises for impossible names, such as too long ones
        if (folder / "adapter_config.json").is_file():
            raise _cannot(path, "it is a LoRA adapter", "Merge it into its base model and save that.")
        return
    looks_like_path = isinstance(path, Path) or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1
    if looks_like_path:
        raise _cannot(path, "there is no such folder", _WHOLE)


def _cannot(path: str | Path, why: str, hint: str) -> CheckpointError:
    return CheckpointError(f"cannot load {path} for training: {why}", hint=hint)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":"):  # only announces the next line
        lines = [" ".join(line.strip() for line in lines[:2])]
    return lines[0][:300]
