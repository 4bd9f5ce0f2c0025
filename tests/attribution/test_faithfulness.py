"""Deletion and insertion: closed forms for a score that is a sum over patches, and what has no scale."""

import numpy as np
import pytest
import torch
from towers import TOWERS, encoder_of, images, shrink, siglip

from visprobe.attribution.evidence.faithfulness import curves
from visprobe.attribution.methods.input_maps import BASELINES, occlusion
from visprobe.attribution.targets.subject import TowerSubject
from visprobe.encoders.processor import Resolution
from visprobe.errors import DataError, UsageError

EPS = 1e-5  # float32 sums of sixteen means of order one


class Sum:
    """A score that is the sum over patches of their mean pixel, each with a weight of its own in each image."""

    name = "sum"

    def __init__(self, encoder, weights):
        self.encoder, self.weights, self.calls = encoder, weights, []

    def shares(self, pixels):
        return pixels.inputs["pixel_values"].reshape(-1, 3, 4, 8, 4, 8).mean((1, 3, 5)).flatten(1)

    def score(self, pixels, first=0):
        self.calls.append(len(pixels))
        return (self.shares(pixels) * self.weights[first : first + len(pixels)]).sum(1)


@pytest.fixture
def planted(tmp_path):
    """A subject, three pictures, and what each patch adds to the score of each."""
    encoder, pictures = siglip(tmp_path), images(3, size=(32, 32))
    subject = Sum(encoder, torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    empty = [BASELINES["mean"](picture) for picture in pictures]
    change = subject.shares(encoder.preprocess(pictures)) - subject.shares(encoder.preprocess(empty))
    subject.weights *= (change * subject.weights).sum(1, keepdim=True).sign()  # the image scores more than its baseline
    return subject, pictures, change * subject.weights


@pytest.mark.parametrize("steps", [5, 16, 100])
def test_of_a_sum_over_patches_the_ideal_map_has_the_closed_form(planted, steps):
    subject, pictures, added = planted
    found = curves(subject, pictures, [one.reshape(4, 4) for one in added], steps=steps, batch=2)
    points = [round(16 * n / min(steps, 16)) for n in range(min(steps, 16) + 1)]
    for one, own in zip(found, added, strict=True):
        sums = [0, *own.sort(descending=True).values.cumsum(0).tolist()]
        assert one.fractions == tuple(n / 16 for n in points)
        assert one.insertion == pytest.approx([one.empty + sums[n] for n in points], abs=EPS)
        assert one.deletion == pytest.approx([one.full - sums[n] for n in points], abs=EPS)
        assert one.deletion_area < one.random_area < one.insertion_area
        assert one.deletion_area + one.insertion_area == pytest.approx(1, abs=EPS)  # what one loses the other gains
        assert one.gain == pytest.approx((one.insertion_area - one.deletion_area) * (one.full - one.empty), abs=EPS)
    assert subject.calls == [2] * (3 * min(steps, 16) - 1) + [1] * (3 * min(steps, 16) - 1)


@pytest.mark.thorough
def test_the_random_order_has_half_the_area_in_expectation(planted):
    subject, pictures, _ = planted
    found = [curves(subject, pictures[:1], [torch.zeros(4, 4)], seed=seed)[0] for seed in range(40)]
    areas = np.array([one.random_area for one in found])
    assert areas.std() > 0
    assert abs(areas.mean() - 0.5) < 4 * areas.std() / len(areas) ** 0.5  # four standard errors
    # A map that prefers nothing is the random order, bit for bit.
    assert all(one.deletion == one.random for one in found)


def test_of_one_seed_orders_are_the_same_in_any_batch_and_differ_between_images(planted):
    subject, pictures, added = planted
    ideal = [one.reshape(4, 4) for one in added]
    assert curves(subject, pictures, ideal, seed=1) == curves(subject, pictures, ideal, seed=1, batch=1)
    assert curves(subject, pictures[1:], ideal[1:], seed=1, first=1) == curves(subject, pictures, ideal, seed=1)[1:]
    same = curves(Sum(subject.encoder, subject.weights[:1].repeat(2, 1)), [pictures[0]] * 2, ideal[:1] * 2)
    assert same[0].deletion == same[1].deletion
    assert same[0].random != same[1].random


def test_cells_of_a_coarser_map_are_deleted_whole(planted):
    subject, pictures, added = planted
    whole = added[0].reshape(2, 2, 2, 2).sum((1, 3))
    (found,) = curves(subject, pictures[:1], [whole])
    sums = np.cumsum([0, *sorted(whole.flatten().tolist(), reverse=True)])
    assert found.fractions == (0, 0.25, 0.5, 0.75, 1)
    assert found.deletion == pytest.approx(found.full - sums, abs=EPS)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["siglip2", "pixtral", "qwen2_5_vl", "llava_onevision tiles"])
def test_the_first_patch_deleted_is_the_one_that_occlusion_hides(tmp_path, monkeypatch, name):
    shrink(monkeypatch)
    smaller = TOWERS["qwen2_5_vl"][0], (16, 32), (4, 8), 4, Resolution(pixels=16 * 32)
    monkeypatch.setitem(TOWERS, "qwen2_5_vl", smaller)
    encoder = encoder_of(name, tmp_path)
    subject = TowerSubject(encoder, lambda tokens, first: torch.stack([one.float().square().mean() for one in tokens]))
    pictures = images(2, size=TOWERS[name][1])
    hidden = occlusion(subject, pictures)
    cells = hidden[0].values.numel()
    found = curves(subject, pictures, [one.values for one in hidden], steps=cells)
    for one, own in zip(found, hidden, strict=True):
        assert one.full == pytest.approx(own.score, abs=EPS)
        assert one.full - one.deletion[1] == pytest.approx(float(own.values.max()), abs=EPS)
        assert len(set(one.deletion)) > cells / 2


def test_without_a_gain_there_is_no_area_but_a_reason(planted):
    subject, pictures, added = planted
    flat = TowerSubject(subject.encoder, lambda tokens, first: torch.stack([one.sum() * 0 + 3 for one in tokens]))
    (constant,) = curves(flat, pictures[:1], [added[0].reshape(4, 4)])
    (against,) = curves(Sum(subject.encoder, -subject.weights), pictures[:1], [-added[0].reshape(4, 4)])
    for one in (constant, against):
        assert one.deletion_area is one.insertion_area is one.random_area is None
        assert "no gain" in one.note
    assert constant.gain == 0
    assert against.gain > 0  # the ideal order of a score that falls


def test_faults_are_said(planted):
    subject, pictures, _ = planted
    square = torch.ones(4, 4)
    with pytest.raises(UsageError, match="no baseline 'white'"):
        curves(subject, pictures, [square] * 3, baseline="white")
    with pytest.raises(UsageError, match="0 steps"):
        curves(subject, pictures, [square] * 3, steps=0)
    with pytest.raises(DataError, match="2 maps of 3 images"):
        curves(subject, pictures, [square] * 2)
    with pytest.raises(DataError, match="4x4 patches"):
        curves(subject, pictures[:1], [torch.ones(5, 4)])
    with pytest.raises(DataError, match="not finite"):
        curves(Sum(subject.encoder, subject.weights * torch.inf), pictures, [square] * 3)
