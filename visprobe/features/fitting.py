"""Batches that are halved where the accelerator's memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from visprobe.errors import PrerequisiteError

Item = TypeVar("Item")
Made = TypeVar("Made")


class AdaptiveBatches:
    """Runner of work on batches, in pieces that fit into memory.

    Args:
        size: Items at a time; None starts with `start`, halved as often as memory makes necessary.
        start: Items at a time at first, where `size` is None.
    """

    def __init__(self, size: int | None, start: int) -> None:
        self.size = size or start
        self._may_shrink = size is None

    def pieces(self, batch: Sequence[Item], work: Callable[[Sequence[Item]], Made]) -> Iterator[Made]:
        """Yield the result of `work` for each piece of the batch, in order.

        Raises:
            PrerequisiteError: If a batch of the given size, or one item by itself, does not fit into memory.
        """
        first = 0
        while first < len(batch):
            piece = batch[first : first + self.size]
            try:
                made = work(piece)
            except torch.OutOfMemoryError as error:
                self._shrink(len(piece), error)
            else:
                yield made
                first += len(piece)
                continue
            torch.cuda.empty_cache()  # after the except block: the exception keeps tensors alive inside it

    def _shrink(self, tried: int, error: torch.OutOfMemoryError) -> None:
        if not self._may_shrink or tried == 1:
            hint = (
                "Write --batch-size auto or a smaller number."
                if tried > 1
                else "Free the accelerator, or --device cpu."
            )
            what = f"{tried} images at a time do" if tried > 1 else "one image does"
            raise PrerequisiteError(f"{what} not fit into the memory of the accelerator", hint=hint) from error
        self.size = tried // 2
