"""Maps over patches from changed pixels: integrated gradients and occlusion, both by Captum.

A patch in a tower's input differs from family to family: a square of pixels, a row of a packed matrix, in raster order
or another. It is therefore found with gradients: an input element belongs to the patch token, before the first block,
that depends on it.
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
from visprobe.encoders.tower import watched

PIXELS = "pixels"
_BLUR = 10  # longer side / radius of the blur, which leaves no digit, letter or face


def integrated_gradients(
    subject: Subject, images: Sequence[Image.Image], *, baseline: str = "mean", steps: int = 50, first: int = 0
) -> list[Map]:
    """Integrated gradients: the gradient averaged on the path from a baseline image, times image minus baseline.

    Args:
        subject: Checkpoint with a score to explain.
        images: RGB images.
        baseline: Name of a baseline in `BASELINES`.
        steps: Points of the Gauss-Legendre rule on the path.
        first: Index of the first image among the subject's targets.

    Returns:
        One signed map per image, in units of the score, summed over channels and pixels of each patch. `delta` is the
        sum of the map minus the score difference between image and baseline; a map gets a note where it exceeds 5 %.

    Raises:
        NotFinite: If a value is not finite.

    Source:
        Sundararajan et al. 2017 (1703.01365), equations 1 and 3.
    """
    maps = []
    for part in _parts(subject, images, baseline, first):
        # One path point of every image per pass, because targets may differ from image to image.
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
    """Occlusion: the fall of the score when a square of patches is replaced by the baseline image.

    Args:
        subject: Checkpoint with a score to explain.
        images: RGB images.
        baseline: Name of a baseline in `BASELINES`.
        side: Patches along a side of the square; squares do not overlap, each of their patches gets the same value.
        first: Index of the first image among the subject's targets.

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
    """Find the patch that each element of a tower's input belongs to.

    Args:
        encoder: Vision encoder.
        pixels: One preprocessed image.

    Returns:
        Index of the patch in raster order, or -1 for elements of none, such as padding; int64 of the shape of the one
        floating-point input.
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
        # A random projection makes each token one number; its gradient by the token's own pixels does not cancel to 0.
        probe = torch.randn(tokens.shape[-1], generator=torch.Generator().manual_seed(0)).to(tokens)
        answers = tokens[0] @ probe
    # Patch numbers are read bit by bit, in log2(patches) backward passes: the gradient of the patches whose number has
    # a bit set is exactly 0 at pixels of all other patches.
    numbers = torch.arange(1, len(answers) + 1, device=answers.device)
    values, found = leaf.inputs[_name(pixels)], torch.zeros((), dtype=torch.int64, device=answers.device)
    for bit in range(len(answers).bit_length()):
        chosen = (numbers >> bit & 1).to(answers)
        (gradient,) = torch.autograd.grad(answers, values, chosen, retain_graph=True)
        found = found + (gradient.ne(0).long() << bit)
    return found - 1


class _BeforeFirstBlock(Exception):
    """Signal that stops the tower before its first block."""


@dataclass(frozen=True)
class _Part:
    """Images that Captum takes together, which treats dimension 0 as examples.

    Attributes:
        values: Inputs, float32 of shape (images, …).
        baseline: Inputs of the baseline images, the same shape.
        patches: Patch index of each element, shape (1, …).
        grid: Rows and columns of patches.
        score: Function from tensors like `values` to scores of shape (images,).
    """

    values: torch.Tensor
    baseline: torch.Tensor
    patches: torch.Tensor
    grid: Grid
    score: Callable[[torch.Tensor], torch.Tensor]


def _parts(subject: Subject, images: Sequence[Image.Image], baseline: str, first: int) -> Iterator[_Part]:
    """Yield all images at once if every input has one row per image and one grid, else one by one."""
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
    """Sum `values` (n, …) over the elements of each of `count` patches, shape (n, count)."""
    # Column 0 collects elements of no patch (-1) and is dropped.
    sums = torch.zeros(len(values), count + 1, dtype=torch.float64, device=values.device)
    return sums.index_add_(1, patches.flatten() + 1, values.flatten(1).double())[:, 1:]


def _shared(values: torch.Tensor, patches: torch.Tensor, count: int) -> torch.Tensor:
    """Return the value that all elements of a patch share in `values` (n, …), shape (n, count)."""
    found = torch.zeros(len(values), count + 1, device=values.device)
    return found.index_copy_(1, patches.flatten() + 1, values.flatten(1).float())[:, 1:]
