"""Formats that are not read: each recognised by its file names, with the step that converts it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from shlex import quote


@dataclass(frozen=True)
class Format:
    """Checkpoint format that is not read.

    Attributes:
        file: Pattern of the names of its files of weights.
        what: Name of the format, for people.
        hint: Steps that make a readable checkpoint of it; `{folder}` is its folder and `{file}` its first file.
        alone: True if such a file is a checkpoint by itself, also without a configuration beside it.
        parts: True if an index makes a checkpoint of such files, provided each has tensors of its own.
    """

    file: re.Pattern[str]
    what: str
    hint: str
    alone: bool = True
    parts: bool = False


def _format(file: str, what: str, hint: str, *, alone: bool = True, parts: bool = False) -> Format:
    return Format(re.compile(file), what, hint, alone, parts)


MEGATRON = "common.pt"  # marks, beside .metadata, a checkpoint of Megatron-Core, whose tensors have other names
_STATES_OF_DEEPSPEED = re.compile(r"(bf16_zero|zero)_pp_rank_.*_optim_states\.pt")
_INDEX = (
    "cd {folder} && python -c \"import glob, json; from safetensors import safe_open; json.dump({{'metadata': {{}}, "
    "'weight_map': {{k: f for f in sorted(glob.glob('*.safetensors')) for k in safe_open(f, 'pt').keys()}}}}, "
    "open('model.safetensors.index.json', 'w'))\", with the model's config.json beside them."
)
_INDEX_BIN = (
    "cd {folder} && python -c \"import glob, json, torch; json.dump({{'metadata': {{}}, 'weight_map': "
    "{{k: f for f in sorted(glob.glob('*-of-*.bin')) for k in torch.load(f, map_location='cpu', mmap=True)}}}}, "
    "open('pytorch_model.bin.index.json', 'w'))\", with the model's config.json beside them."
)
FORMATS = (
    _format(
        r"model_world_size_\d+_rank_\d+\.pt",
        "FSDP shards of verl or EasyR1",
        "Merge them: python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir "
        "{folder}/merged, and give {folder}/merged. EasyR1: python3 scripts/model_merger.py --local_dir {folder}, and "
        "give {folder}/huggingface.",
    ),
    _format(
        r"model_optim_rng\.pt|distrib_optim\.pt|model_rng\.pt|common\.pt",
        "a checkpoint of Megatron",
        "Convert it to a Hugging Face folder with the tool that trained it, and give that: python -m verl.model_merger "
        "merge --backend megatron --local_dir ACTOR --target_dir OUT; swift export --mcore_model FOLDER --to_hf true; "
        "AutoBridge.export_ckpt of Megatron Bridge.",
    ),
    _format(
        r"__\d+_\d+\.distcp",
        "shards of torch.distributed.checkpoint without their .metadata",
        "It is written last, and cp * leaves it out, as its name begins with a dot. Copy it from where the checkpoint "
        "was saved; if it is not there either, the saving was cut off: take an earlier checkpoint.",
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
            f"Copy the index too, or write it: {_INDEX}", parts=True),
    _format(r".+-\d+-of-\d+\.bin", "shards without their index (pytorch_model.bin.index.json)",
            f"Copy the index too, or write it: {_INDEX_BIN}", parts=True),
    _format(r"\d+\.safetensors", "numbered files without an index", f"Write the index: {_INDEX}", parts=True),
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
    _format(r".+\.safetensors", "several files of weights without an index",
            f"Write the index: {_INDEX}", alone=False, parts=True),
    _format(
        r"non_lora_(trainables|state_dict)\.bin",
        "weights that were trained beside an adapter, without that adapter",
        "Give the adapter's whole folder: adapter_config.json and adapter_model.safetensors lay beside this file.",
    ),
    _format(
        r".+\.gguf",
        "a language model of llama.cpp, without a vision tower",
        "Give the mmproj-*.gguf of the same model, which holds the tower.",
        alone=False,
    ),
    _format(
        r".+\.(pth?|bin)",
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


# Files of trainer state beside weights: optimisers, schedulers, random numbers, data loaders.
_STATE = re.compile(
    r"(training_args|optimizer|optim|scheduler|lr_scheduler|scaler|rng_state|random_states|sampler|dl_state|dataloader"
    r"|data|trainer_state|train_state|extra_state|extra_state_world_size|ema|tokenizer)([_.-].*)?"
    r"|.*(_optim_states|_model_states|_rng_state|optimizer).*"
)


def is_trainer_state(file: str) -> bool:
    """Return whether `file` has a name that trainers give to state, and not to weights."""
    return _STATE.fullmatch(file) is not None and not _STATES_OF_DEEPSPEED.fullmatch(file)


def known_formats(names: Iterable[str]) -> Iterator[tuple[Format, list[str]]]:
    """Yield those of `FORMATS` that files have, in that order, each with its files.

    Args:
        names: Names of files relative to a folder, with "/" between parts.
    """
    there = set(names)
    listed = sorted(name for name in there if not is_trainer_state(_file(name)) and _is_unread(name, there))
    for one in FORMATS:
        if files := [name for name in listed if one.file.fullmatch(_file(name))]:
            yield one, files


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _is_unread(name: str, there: Collection[str]) -> bool:
    """Return whether a shard lacks the .metadata that describes it; Megatron's file must have one beside it."""
    described = f"{name.removesuffix(_file(name))}.metadata" in there
    return not described if name.endswith(".distcp") else described or _file(name) != MEGATRON


def conversion(one: Format, folder: str, file: str) -> str:
    """Return the steps that convert files of the format `one` in `folder`."""
    return one.hint.format(folder=quote(folder), file=quote(file), transformers=TRANSFORMERS)
