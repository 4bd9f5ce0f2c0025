"""Maps over patches from changed pixels: integrated gradients and occlusion, both of Captum.

What a patch is in the inputs of a tower differs from family to family: a square of pixels, a row of a packed matrix, a
row in an order of its own. It is read off from the tower itself: an element of the input belongs to the patch token
before the first block that depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from captum.attr import FeatureAblation, IntegratedGradients
from PIL import Image, ImageFilter, ImageStat

from visprobe.attribution.map import Map
from visprobe.attribution.methods.trace import finite
from visprobe.attribution.targets.subject import Subject, captured, requiring_gradients
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.watch import watched

PIXELS = "pixels"
_BLUR = 10  # the blur's radius is the longer side by this: no digit, letter or face is left


def integrated_gradients(
    subject: Subject, images: Sequence[Image.Image], *, baseline: str = "mean", steps: int = 50, first: int = 0
) -> list[Map]:
    """Gradient by the pixels, averaged on the way from a baseline image to the image, times their difference.

    Args:
        subject: A checkpoint with a question asked of it.
        images: RGB images.
        baseline: Name of a baseline in `BASELINES`.
        steps: Points of the Gauss-Legendre rule on the way.
        first: Which of the question's images the first one is.

    Returns:
        One map per image, summed over channels and pixels of each patch. Each map's `delta` says how far its sum is
        from the difference of score between image and baseline; a note says so where that is more than a twentieth.

    Raises:
        NotFinite: If a value is not finite.

    Source:
        Sundararajan et al. 2017 (1703.01365), equations 1 and 3.
    """
    maps = []
    for part in _parts(subject, images, baseline, first):
        # One point of every image at a time: targets may differ from image to image.
        values = IntegratedGradients(part.score).attribute(
            part.values, part.baseline, n_steps=steps, internal_batch_size=len(part.values)
        )
        summed = _summed(finite(subject, "the gradient at the pixels", values), part.patches, math.prod(part.grid))
        with torch.no_grad():
            scores, before = part.score(part.values), part.score(part.baseline)
        for value, score, start in zip(summed.float().cpu(), scores.tolist(), before.tolist(), strict=True):
            delta = float(value.sum()) - (score - start)
            wide = abs(delta) > abs(score - start) / 20
            note = f"the sum is off by {delta:.2g} of {score - start:.2g}: more steps are needed" if wide else ""
            maps.append(Map(value.reshape(part.grid), score, "integrated-gradients", PIXELS, note, delta))
    return maps


def occlusion(
    subject: Subject, images: Sequence[Image.Image], *, baseline: str = "mean", side: int = 1, first: int = 0
) -> list[Map]:
    """By how much the score falls when a square of patches is replaced by the baseline image.

    Args:
        subject: A checkpoint with a question asked of it.
        images: RGB images.
        baseline: Name of a baseline in `BASELINES`.
        side: Patches along a side of the square; squares do not overlap, each of their patches gets the same value.
        first: Which of the question's images the first one is.

    Returns:
        One signed map per image, in units of the score.

    Raises:
        NotFinite: If a score is not finite.

    Source:
        Zeiler & Fergus 2014 (1311.2901), section 4.2.
    """
    maps = []
    for part in _parts(subject, images, baseline, first):
        inside = part.patches >= 0
        rows, columns = part.patches // part.grid[1], part.patches % part.grid[1]
        squares = torch.where(inside, rows // side * part.grid[1] + columns // side, 0)
        with torch.no_grad():
            scores = part.score(part.values)
        fall = FeatureAblation(part.score).attribute(
            part.values, torch.where(inside, part.baseline, part.values), feature_mask=squares
        )
        fallen = _shared(finite(subject, "the score of an occluded image", fall), part.patches, math.prod(part.grid))
        for value, score in zip(fallen.float().cpu(), scores.tolist(), strict=True):
            maps.append(Map(value.reshape(part.grid), score, "occlusion", PIXELS))
    return maps


def _mean_colour(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size, tuple(round(value) for value in ImageStat.Stat(image).mean))


def _black(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size)


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / _BLUR))


BASELINES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mean": _mean_colour,
    "black": _black,
    "blurred": _blurred,
}
"""Images without content: the mean of each channel, black, and a Gaussian blur of a tenth of the longer side."""


def patches_of(encoder: VisionEncoder, pixels: Pixels) -> torch.Tensor:
    """Which patch each element of a tower's input belongs to.

    Args:
        encoder: The encoder.
        pixels: One image, preprocessed.

    Returns:
        Number of the patch in raster order, or -1 for elements of none, such as filling; int64 of the shape of the
        one floating-point input.
    """
    leaf = requiring_gradients(pixels.to(encoder.device, encoder.dtype))
    reached: list[torch.Tensor] = []

    def stop(_: str, state: torch.Tensor) -> None:
        reached.append(state)
        raise _BeforeFirstBlock

    with torch.enable_grad(), suppress(_BeforeFirstBlock):
        with watched(encoder.tower, encoder.family, {"block_00"}, stop):
            encoder.geometry.run(encoder.tower, leaf)
        raise AssertionError("the tower has no first block")
    with torch.enable_grad():
        ((tokens, _),) = captured(encoder, leaf, reached[0]).views(reached)
        probe = torch.randn(tokens.shape[-1], generator=torch.Generator().manual_seed(0)).to(tokens)
        answers = tokens[0] @ probe
    # The number of a patch is spelled in bits; a gradient is exactly 0 where it comes from patches left out alone.
    numbers = torch.arange(1, len(answers) + 1, device=answers.device)
    values, found = leaf.inputs[_name(pixels)], torch.zeros((), dtype=torch.int64, device=answers.device)
    for bit in range(len(answers).bit_length()):
        chosen = (numbers >> bit & 1).to(answers)
        (gradient,) = torch.autograd.grad(answers, values, chosen, retain_graph=True)
        found = found + (gradient.ne(0).long() << bit)
    return found - 1


class _BeforeFirstBlock(Exception):
    """The tower has run as far as needed."""


@dataclass(frozen=True)
class _Part:
    """Images that Captum takes together: it holds dimension 0 for examples.

    Attributes:
        values: Inputs, float32 of shape (images, …).
        baseline: The same of the baseline images.
        patches: Patch of each element, shape (1, …).
        grid: Rows and columns of patches.
        score: From tensors such as `values` to scores of shape (images,).
    """

    values: torch.Tensor
    baseline: torch.Tensor
    patches: torch.Tensor
    grid: Grid
    score: Callable[[torch.Tensor], torch.Tensor]


def _parts(subject: Subject, images: Sequence[Image.Image], baseline: str, first: int) -> Iterator[_Part]:
    """All images at once where the rows of every input are images of one grid, else one by one."""
    encoder, empty = subject.encoder, [BASELINES[baseline](image.convert("RGB")) for image in images]
    pixels = encoder.preprocess(images)
    if _one_row_each(pixels):
        before, one = encoder.preprocess(empty), encoder.preprocess(images[:1])
        yield _part(subject, pixels, before, patches_of(encoder, one), first)
        return
    for number, (image, base) in enumerate(zip(images, empty, strict=True)):
        one, before = encoder.preprocess([image]), encoder.preprocess([base])
        yield _part(subject, one, before, patches_of(encoder, one), first + number)


def _one_row_each(pixels: Pixels) -> bool:
    rows = {len(tensor) for tensor in pixels.inputs.values()}
    return rows == {len(pixels)} and len(set(pixels.grids)) == 1 and not pixels.mosaics


def _part(subject: Subject, pixels: Pixels, before: Pixels, patches: torch.Tensor, first: int) -> _Part:
    name, device = _name(pixels), subject.encoder.device
    values, empty = (made.inputs[name].to(device) for made in (pixels, before))
    packed = not _one_row_each(pixels)
    if packed:
        values, empty, patches = values[None], empty[None], patches[None]
    return _Part(values, empty, patches, pixels.grids[0], partial(_score, subject, pixels, name, packed, first))


def _score(subject: Subject, pixels: Pixels, name: str, packed: bool, first: int, values: torch.Tensor) -> torch.Tensor:
    inputs = {**pixels.inputs, name: values[0] if packed else values}
    return subject.score(replace(pixels, inputs=inputs), first).float()


def _name(pixels: Pixels) -> str:
    (name,) = [name for name, tensor in pixels.inputs.items() if tensor.is_floating_point()]
    return name


def _summed(values: torch.Tensor, patches: torch.Tensor, count: int) -> torch.Tensor:
    """Sum of `values` (n, …) over the elements of each of `count` patches, shape (n, count)."""
    sums = torch.zeros(len(values), count + 1, dtype=torch.float64, device=values.device)
    return sums.index_add_(1, patches.flatten() + 1, values.flatten(1).double())[:, 1:]


def _shared(values: torch.Tensor, patches: torch.Tensor, count: int) -> torch.Tensor:
    """The value that all elements of a patch have in `values` (n, …), shape (n, count)."""
    found = torch.zeros(len(values), count + 1, device=values.device)
    return found.index_copy_(1, patches.flatten() + 1, values.flatten(1).float())[:, 1:]
