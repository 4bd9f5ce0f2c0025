"""Hooks that catch the states of a tower's blocks while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import View

Keep = Callable[[str, torch.Tensor], None]
HEADS = "heads"
EMBEDDING = "embedding"


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
