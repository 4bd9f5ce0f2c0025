"""Formats that people have and that are not read: each told by its file names, with the step that converts it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format that is not read.

    Attributes:
        file: What the name of one of its files of weights looks like.
        what: What it is, for people.
        hint: How it becomes a checkpoint that is read; `{folder}` is the folder it lies in and `{file}` its first file.
        alone: Whether such a file is a checkpoint by itself, also without a configuration beside it.
    """

    file: re.Pattern[str]
    what: str
    hint: str
    alone: bool = True


def _format(file: str, what: str, hint: str, *, alone: bool = True) -> Format:
    return Format(re.compile(file), what, hint, alone)


_STATES_OF_DEEPSPEED = re.compile(r"(bf16_zero|zero)_pp_rank_.*_optim_states\.pt")
_JOIN = (
    'Join them into one: python -c "import glob; from safetensors.torch import load_file, save_file; '
    "save_file({{k: v for f in sorted(glob.glob('*.safetensors')) for k, v in load_file(f).items()}}, "
    "'model.safetensors')\", run in {folder}."
)
FORMATS = (
    _format(
        r"model_world_size_\d+_rank_\d+\.pt",
        "FSDP shards of verl or EasyR1",
        "Merge them: python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir OUT (EasyR1: "
        "python scripts/model_merger.py --local_dir {folder}), and give the folder that it writes.",
    ),
    _format(
        r"__\d+_\d+\.distcp",
        "shards of torch.distributed.checkpoint without their .metadata",
        "The file .metadata is written last: the saving was cut off, or it was not copied. Copy it, or take an earlier "
        "checkpoint.",
    ),
    _format(
        r"(model_optim_rng|distrib_optim|model_rng)\.pt",
        "a checkpoint of Megatron",
        "Convert it with the tool that trained it (Megatron Bridge, mcore_adapter, Megatron-LM's tools/checkpoint) to "
        "a Hugging Face folder, and give that.",
    ),
    _format(
        _STATES_OF_DEEPSPEED.pattern,
        "DeepSpeed's state without its model states",
        "Copy the whole folder, with the mp_rank_*_model_states.pt or zero_pp_rank_*_model_states.pt.",
    ),
    _format(
        r".+\.ckpt",
        "a checkpoint of PyTorch Lightning",
        "Its state dict is read under another name: cd {folder} && ln -s {file} pytorch_model.bin, with the model's "
        "config.json beside it.",
    ),
    _format(r"open_clip_.+\.(safetensors|bin)", "a model of open_clip", "{transformers}"),
    _format(r"(flax_model.*\.msgpack|tf_model.*\.h5|_CHECKPOINT_METADATA)", "a checkpoint of Flax or TensorFlow",
            "Save it from PyTorch: safetensors beside config.json.", alone=False),
    _format(r"(weights|model|adapters)\.npz", "arrays of MLX or NumPy", "Convert them back to a Hugging Face folder.",
            alone=False),
    _format(r".+\.nemo", "a model of NeMo", "Export it to a Hugging Face folder with NeMo's exporter, and give that."),
    _format(r".+\.onnx", "an ONNX export", "Give the checkpoint that it was exported from.", alone=False),
    _format(r".+-\d+-of-\d+\.safetensors", "shards without their index (model.safetensors.index.json)",
            f"Copy the index too. {_JOIN}"),
    _format(r"\d+\.safetensors", "numbered files without an index", _JOIN),
    _format(
        r"adapter_model\.(safetensors|bin)",
        "an adapter without its adapter_config.json",
        "Copy adapter_config.json too, from where the adapter was trained: it says what it changes and how much.",
    ),
    _format(
        r"consolidated\.\d+\.pth",
        "tensor-parallel shards of the original release",
        "Give the model as transformers saves it: the hub has it, or transformers' conversion script makes it.",
        alone=False,
    ),
    _format(r".+\.safetensors", "several files of weights without an index", _JOIN, alone=False),
    _format(
        r".+\.pth?",
        "a file of torch.save under a name of its own",
        "If it is the state dict of the whole model, it is read as pytorch_model.bin: cd {folder} && ln -s {file} "
        "pytorch_model.bin, with the model's config.json beside it; else convert it with the tool that wrote it.",
        alone=False,
    ),
)  # fmt: skip
TRANSFORMERS = (
    "Give the same tower as transformers saves it: the hub has most of them (openai/clip-*, laion/CLIP-*, "
    "google/siglip*, facebook/dinov2-*), and transformers has scripts that convert the others."
)


# What trainers write beside weights to go on later: state of optimisers, schedulers, random numbers, data loaders.
_STATE = re.compile(
    r"(training_args|optimizer|optim|scheduler|lr_scheduler|scaler|rng_state|random_states|sampler|dl_state|dataloader"
    r"|data|trainer_state|train_state|extra_state|extra_state_world_size|ema|tokenizer)([_.-].*)?"
    r"|.*(_optim_states|_model_states|_rng_state|optimizer).*"
)


def is_trainer_state(file: str) -> bool:
    """Whether `file` is named as trainers name what they need to go on, beside the weights."""
    return _STATE.fullmatch(file) is not None and not _STATES_OF_DEEPSPEED.fullmatch(file)


def known_format(names: Iterable[str]) -> tuple[Format, list[str]] | None:
    """The first of `FORMATS` that files have, and the files that are of it.

    Args:
        names: Names of files relative to a folder, with "/" between parts.
    """
    listed = [name for name in names if not is_trainer_state(name.rpartition("/")[2])]
    for one in FORMATS:
        if files := [name for name in listed if one.file.fullmatch(name.rpartition("/")[2])]:
            return one, files
    return None


def conversion(one: Format, folder: str, file: str) -> str:
    """What to do with files of the format `one` in `folder`."""
    return one.hint.format(folder=folder, file=file, transformers=TRANSFORMERS)
