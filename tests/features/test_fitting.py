"""Batches that are halved where memory does not hold them, by a device that holds so many images and no more."""

import weakref

import numpy as np
import pytest
import torch

from visprobe.data.open import open_images
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders.load import load_encoder
from visprobe.errors import PrerequisiteError
from visprobe.features.extract import extract
from visprobe.features.fitting import AdaptiveBatches
from visprobe.features.store import FeatureStore


def holding(most, tried):
    def work(piece):
        tried.append(len(piece))
        if len(piece) > most:
            raise torch.OutOfMemoryError("no room")
        return [10 * item for item in piece]

    return work


def test_every_item_once_and_in_order_at_the_size_that_fits():
    fitting, tried = AdaptiveBatches(None, 64), []
    made = [item for piece in fitting.pieces(range(100), holding(20, tried)) for item in piece]
    assert made == [10 * n for n in range(100)]
    assert tried[:3] == [64, 32, 16] and fitting.size == 16
    tried.clear()
    list(fitting.pieces(range(20), holding(20, tried)))
    assert tried == [16, 4]  # what was learnt is kept


def test_a_batch_size_that_was_asked_for_is_not_changed():
    with pytest.raises(PrerequisiteError, match="32 images at a time do not fit") as refused:
        list(AdaptiveBatches(32, 64).pieces(range(40), holding(20, [])))
    assert "auto" in refused.value.hint


def test_one_image_that_does_not_fit_is_the_end():
    with pytest.raises(PrerequisiteError, match="one image does not fit"):
        list(AdaptiveBatches(None, 8).pieces(range(40), holding(0, [])))


def test_what_did_not_fit_is_let_go_before_the_next_try():
    held = []

    def work(piece):
        assert all(reference() is None for reference in held)
        made = torch.zeros(len(piece))
        held.append(weakref.ref(made))
        if len(piece) > 2:
            raise torch.OutOfMemoryError("no room")
        return len(piece)

    assert list(AdaptiveBatches(None, 8).pieces(range(4), work)) == [2, 2]


def test_features_are_the_same_at_every_size_that_memory_forces(tmp_path, monkeypatch):
    """As far as sums of another order can be: 1e-5 of the largest feature in float32."""
    processor = build_processor()
    for part in (processor, build_model(processor, seed=0)):
        part.save_pretrained(tmp_path)
    base, images = load_encoder(tmp_path), open_images("digits", limit=12).query
    whole = base.reduced

    def small(pixels, wanted):
        if len(pixels.grids) > 5:
            raise torch.OutOfMemoryError("no room")
        return whole(pixels, wanted)

    def features(size, folder):
        store = FeatureStore(tmp_path / folder)
        made = extract([base], images, lambda _: ["consumed"], store=store, batch_size=size)
        return made.features[0].sites[base.consumed]

    one, all_together = features(1, "one"), features(64, "all")
    monkeypatch.setattr(base, "reduced", small)
    fitted = features(None, "fitted")
    with pytest.raises(PrerequisiteError, match="12 images at a time"):
        features(64, "given")
    for other in (one, all_together):
        assert np.abs(fitted - other).max() < 1e-5 * np.abs(other).max()
