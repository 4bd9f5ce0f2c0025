"""Towers of transformers: built from tensors with nothing missing and nothing left over, and hooked while they run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from visprobe.encoders import EMBEDDING, HEADS
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.structure.connector import widest
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import View
from visprobe.errors import CheckpointError

# A checkpoint may leave out a pooling head, which is less than two blocks; tiny towers may be all head.
_TIMES, _FEW_WEIGHTS, _FEW_BLOCKS = 8, 10**7, 100


def load_tower(
    family: Family, config: Any, tensors: Mapping[str, torch.Tensor], *, norm_needed: bool
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Build the tower whose weights are `tensors`, in their widest dtype, in evaluation mode.

    Args:
        family: Family of the tower.
        config: transformers configuration of the tower.
        tensors: Weights by name relative to the tower, as the file spells them.
        norm_needed: True if the MLLM reads the last norm; if not, a checkpoint may leave it out.

    Returns:
        The tower, and its weights by canonical name (that of the transformers class) in stored dtype.

    Raises:
        CheckpointError: If the configuration makes no tower, or tensors are missing, unexpected or of another shape;
            all of them are counted.
    """
    if family.depth(config) < 1:
        raise CheckpointError("config.json describes a tower without blocks", hint="Copy it again from the base model.")
    _check_extent(family, config, tensors)
    names = set(tensors)
    beside = {name: tensor for name, tensor in tensors.items() if family.is_projection(name)}
    config = copy.deepcopy(config)
    try:
        with quiet():
            tower, info = family.cls.from_pretrained(
                None,
                config=config,
                state_dict={name: tensor for name, tensor in tensors.items() if name not in beside},
                dtype=widest(tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **family.options(names),
            )
    except Exception as error:  # transformers raises many types on a configuration that makes no tower
        raise CheckpointError(
            f"transformers cannot build the {family.tower_class} of config.json: {error!r}".splitlines()[0],
            hint="Check that config.json belongs to these weights.",
        ) from error
    optional = family.detached if norm_needed or family.norm is None else (*family.detached, family.norm)
    _check(family, info, tuple(f"{part}." for part in optional))
    tower = family.without_absent(tower, names).eval().requires_grad_(False)
    # from_pretrained knows no projection: `without_absent` attached it, so its weights are loaded here
    if beside:
        tower.load_state_dict(beside, strict=False)
        tower.to(widest(tensors))
    stored = {
        name: parameter.to(tensors[name].dtype) if name in tensors else parameter
        for name, parameter in tower.state_dict().items()
    }
    return tower, stored


def _check_extent(family: Family, config: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a configuration so much larger than the weights that building its tower would fill the memory."""
    there = sum(tensor.numel() for tensor in tensors.values())
    if family.depth(config) > max(len(tensors), _FEW_BLOCKS):
        said = f"{family.depth(config):,} blocks"
    else:
        try:
            # the meta device counts parameters without allocating them
            with quiet(), torch.device("meta"):
                model = family.cls(copy.deepcopy(config), **family.options(set(tensors)))
        except Exception:  # load_tower raises the same fault with its reason
            return
        needed = sum(parameter.numel() for parameter in model.parameters())
        if needed <= _TIMES * there + _FEW_WEIGHTS:
            return
        said = f"{needed:,} weights"
    raise CheckpointError(
        f"config.json describes a tower of {said}, the checkpoint holds {there:,} weights of it in {len(tensors)} "
        "tensors",
        hint="Copy config.json again from the base model.",
    )


def to_device(module: torch.nn.Module, device: str | torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Move `module` to `device`, with its weights in `dtype`.

    Buffers that are computed and not stored (rotary frequencies) keep their precision, as in `from_pretrained`.
    """
    module.to(device)
    for weight in module.state_dict(keep_vars=True).values():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    return module


def _check(family: Family, info: Mapping[str, Any], optional: tuple[str, ...]) -> None:
    missing = sorted(name for name in info["missing_keys"] if not f"{name}.".startswith(optional))
    faults = [_listed("missing", missing), _listed("unexpected", sorted(info["unexpected_keys"]))]
    _refuse_channels_last(info["mismatched_keys"])
    shapes = [f"{name} {list(stored)} instead of {list(wanted)}" for name, stored, wanted in info["mismatched_keys"]]
    faults += [_listed("of another shape", sorted(shapes)), _listed("not convertible", list(info["error_msgs"]))]
    if any(faults):
        raise CheckpointError(
            f"the tensors do not make a {family.tower_class} as configured: {'; '.join(filter(None, faults))}",
            hint="Check that config.json belongs to these weights and that the checkpoint is complete.",
        )


def _refuse_channels_last(mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    for name, stored, wanted in mismatched:
        if len(wanted) > 3 and list(stored) == [wanted[0], *wanted[2:], wanted[1]]:
            order = f"0, {len(wanted) - 1}, {', '.join(map(str, range(1, len(wanted) - 1)))}"
            raise CheckpointError(
                f"this is an MLX conversion: the convolution {name} has its channels last, {list(stored)} instead of "
                f"{list(wanted)}",
                hint=f"Give the checkpoint it was converted from, or store weight.permute({order}) of each.",
            )


def _listed(fault: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{fault}: {', '.join(names[:3])}{more}" if names else ""


Keep = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True)
class Captured:
    """Tokens of one site as the model computed them, part of an autograd graph.

    Attributes:
        leaves: Tensors to take gradients by.
        views: Turns tensors of their shapes into one view per image: patch tokens (1, T, D) in raster order, with
            their grid. Linear, so that it takes gradients as it takes states.
    """

    leaves: tuple[torch.Tensor, ...]
    views: Callable[[Sequence[torch.Tensor]], list[View]]


@contextmanager
def watched(tower: torch.nn.Module, family: Family, sites: set[str], keep: Keep) -> Iterator[None]:
    """Call `keep(site, state)` for each of `sites` as soon as `tower` has computed it, inside the block."""
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(_hook(tower, family, site, keep))
        yield


def _hook(tower: torch.nn.Module, family: Family, site: str, keep: Keep) -> Any:
    if site == "final_norm":
        return _after(tower.get_submodule(str(family.norm)), site, keep)
    if site == EMBEDDING:
        return tower.register_forward_hook(lambda *call: keep(site, _embedding(tower, family, call[-1])[:, None]))
    # block_NN is the output of block NN, block_00 the input of the first; heads are the input of their projection
    kind, number = site.rsplit("_", 1)
    blocks = family.tower_blocks(tower)
    if kind == HEADS:
        return _before(blocks[int(number) - 1].get_submodule(family.attention_output), site, keep)
    return _after(blocks[int(number) - 1], site, keep) if int(number) else _before(blocks[0], site, keep)


def _embedding(tower: torch.nn.Module, family: Family, output: Any) -> torch.Tensor:
    """Return the pooled embedding (B, D), in the space shared with a text tower if the checkpoint has one."""
    pooled: torch.Tensor = output[1]
    projection = getattr(tower, family.projection or "", None)
    return pooled if projection is None else projection(pooled)


def _before(module: torch.nn.Module, site: str, keep: Keep) -> Any:
    return module.register_forward_pre_hook(
        lambda _, args, kwargs: keep(site, args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )


def _after(module: torch.nn.Module, site: str, keep: Keep) -> Any:
    return module.register_forward_hook(
        lambda _, __, output: keep(site, output[0] if isinstance(output, tuple) else output)
    )


def check_patches(views: Sequence[View], name: str, prefix: int) -> None:
    """Refuse views with another number of patch tokens than patches: a mean would hold tokens that are none.

    Args:
        views: Patch tokens of shape (B, T, D), and the rows and columns of patches.
        name: Name of the encoder.
        prefix: Number of tokens that were taken off before the patches.

    Raises:
        CheckpointError: If the numbers differ.
    """
    for tokens, (rows, columns) in views:
        if tokens.shape[1] != rows * columns:
            raise CheckpointError(
                f"{name}: {tokens.shape[1]} tokens after the first {prefix}, for {rows} x {columns} patches",
                hint="Its family counts the tokens before the patches wrongly (Family.has_cls, more_prefix).",
            )
