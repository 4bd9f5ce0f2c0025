"""Batches that are halved where memory does not hold them, by a device that holds so many images and no more."""

import pytest
import torch

from visprobe.errors import PrerequisiteError
from visprobe.features.fitting import Fitting


def holding(most, tried):
    def work(piece):
        tried.append(len(piece))
        if len(piece) > most:
            raise torch.OutOfMemoryError("no room")
        return [10 * item for item in piece]

    return work


def test_every_item_once_and_in_order_at_the_size_that_fits():
    fitting, tried = Fitting(None, 64), []
    made = [item for piece in fitting.pieces(range(100), holding(20, tried)) for item in piece]
    assert made == [10 * n for n in range(100)]
    assert tried[:3] == [64, 32, 16] and fitting.size == 16
    tried.clear()
    list(fitting.pieces(range(20), holding(20, tried)))
    assert tried == [16, 4]  # what was learnt is kept


def test_a_batch_size_that_was_asked_for_is_not_changed():
    with pytest.raises(PrerequisiteError, match="32 images at a time do not fit") as refused:
        list(Fitting(32, 64).pieces(range(40), holding(20, [])))
    assert "auto" in refused.value.hint


def test_one_image_that_does_not_fit_is_the_end():
    with pytest.raises(PrerequisiteError, match="1 images at a time do not fit"):
        list(Fitting(None, 8).pieces(range(40), holding(0, [])))
