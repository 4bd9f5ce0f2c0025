"""Hooks that catch the states of a tower's blocks while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from visprobe.encoders.family import Family

Keep = Callable[[str, torch.Tensor], None]


@contextmanager
def watched(tower: torch.nn.Module, family: Family, sites: set[str], keep: Keep) -> Iterator[None]:
    """Call `keep(site, state)` for each of `sites` as soon as `tower` has computed it, inside the block."""
    blocks = [block for path, _ in family.blocks for block in tower.get_submodule(path).children()]
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(_hook(tower, family, blocks, site, keep))
        yield


def _hook(tower: torch.nn.Module, family: Family, blocks: list[torch.nn.Module], site: str, keep: Keep) -> Any:
    if site == "block_00":
        return blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: keep(site, _input(args, kwargs)), with_kwargs=True
        )
    module = (
        tower.get_submodule(str(family.norm)) if site == "final_norm" else blocks[int(site.removeprefix("block_")) - 1]
    )
    return module.register_forward_hook(
        lambda _, __, output: keep(site, output[0] if isinstance(output, tuple) else output)
    )


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    state: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return state
