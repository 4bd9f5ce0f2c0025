"""Deletion and insertion curves of a map: the score as patches are removed, or inserted, in the map's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from visprobe.attribution.methods.input_maps import BASELINES, patches_of
from visprobe.attribution.methods.trace import finite
from visprobe.attribution.targets.subject import Subject
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.errors import DataError, UsageError

_ROUNDING = 1e-6  # ten times the relative precision of float32


@dataclass(frozen=True)
class Curves:
    """Scores of one image on the path between itself and its baseline, in the order of a map.

    Deleting patches in a random order gives the same pictures as inserting the others in the reverse order, so one
    random order is the control of both curves.

    Attributes:
        fractions: Shares of the map's cells that are deleted or inserted, from 0 to 1.
        deletion: Scores as cells of the image are replaced by the baseline, the largest value of the map first.
        insertion: Scores as cells of the baseline are replaced by the image, the largest value of the map first.
        random: Scores as cells of the image are replaced by the baseline in random order.
    """

    fractions: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    random: tuple[float, ...]

    @property
    def full(self) -> float:
        """Score of the image."""
        return self.deletion[0]

    @property
    def empty(self) -> float:
        """Score of the baseline."""
        return self.insertion[0]

    @property
    def note(self) -> str:
        """Reason why the areas are not defined; empty if they are."""
        if self.full - self.empty > _ROUNDING * max(abs(self.full), abs(self.empty)):
            return ""
        return f"the image scores {self.full:.4g}, its baseline {self.empty:.4g}: there is no gain to take apart"

    @property
    def deletion_area(self) -> float | None:
        """Area under `deletion`, baseline's score scaled to 0 and the image's to 1; lower is more faithful."""
        return self._area(self.deletion)

    @property
    def insertion_area(self) -> float | None:
        """Area under `insertion`, baseline's score scaled to 0 and the image's to 1; higher is more faithful."""
        return self._area(self.insertion)

    @property
    def random_area(self) -> float | None:
        """Area under `random` on the same scale: 0.5 in expectation if the score is a sum over patches."""
        return self._area(self.random)

    @property
    def gain(self) -> float:
        """Area under `insertion` minus that under `deletion`, in units of the score; 0 expected of a random order.

        It is not rescaled, so that every image has one, even if the baseline scores higher than the image.

        Source:
            Symmetric relevance gain: Blücher et al. 2024 (2401.06654).
        """
        return self._under(self.insertion) - self._under(self.deletion)

    def _under(self, scores: tuple[float, ...]) -> float:
        return float(np.trapezoid(scores, self.fractions))

    def _area(self, scores: tuple[float, ...]) -> float | None:
        return None if self.note else (self._under(scores) - self.empty) / (self.full - self.empty)


def curves(
    subject: Subject,
    images: Sequence[Image.Image],
    maps: Sequence[torch.Tensor],
    *,
    baseline: str = "mean",
    steps: int = 16,
    seed: int = 0,
    first: int = 0,
    batch: int = 8,
) -> list[Curves]:
    """Compute deletion and insertion curves of maps, and those of a random order.

    Args:
        subject: Checkpoint with a score to explain.
        images: RGB images.
        maps: Signed map of each image, (rows, columns) of the tower's patches or coarser. Cells of equal value come in
            random order.
        baseline: Name in `BASELINES` of the image without content that replaces patches at the same place.
        steps: Points on the path, fewer if a map has fewer cells; 3 x steps - 1 forward passes per image.
        seed: Seed of the random orders; each image has its own.
        first: Index of the first image among the subject's targets.
        batch: Images that are forwarded together.

    Returns:
        Curves of each image, in units of the score.

    Raises:
        UsageError: If the baseline does not exist, or there is less than one step.
        DataError: If maps and images do not fit.
        NotFinite: If a score is not finite.

    Source:
        Petsiuk et al. 2018 (1806.07421), section 3.3; Samek et al. 2015 (1509.06321) for the random order.
        Differs from source: whole patches, scores as asked for and not probabilities, areas between baseline and image.
    """
    _check(images, maps, baseline, steps)
    count = min((steps, *(values.numel() for values in maps)))
    found: list[Curves] = []
    for start in range(0, len(images), batch):
        numbers = range(start, min(start + batch, len(images)))
        some = [_deleted(subject, images[n], maps[n], baseline, count, seed + first + n) for n in numbers]
        # One path point of every image per pass, because targets may differ from image to image.
        scores = torch.stack([_scores(subject, parts, first + start) for parts in zip(*some, strict=True)], dim=1)
        found += [_curves(own, maps[n].numel(), count) for own, n in zip(scores.tolist(), numbers, strict=True)]
    return found


def _check(images: Sequence[Image.Image], maps: Sequence[torch.Tensor], baseline: str, steps: int) -> None:
    if baseline not in BASELINES:
        raise UsageError(f"there is no baseline {baseline!r}", hint=f"There are {', '.join(BASELINES)}.")
    if steps < 1:
        raise UsageError(f"{steps} steps lead nowhere", hint="Give at least 1.")
    if len(images) != len(maps):
        raise DataError(f"{len(maps)} maps of {len(images)} images", hint="Give one map of each image.")


def _scores(subject: Subject, pictures: Sequence[Pixels], first: int) -> torch.Tensor:
    with torch.no_grad():
        scores = subject.score(Pixels.join(pictures), first)
    return finite(subject, "the score of an image with patches deleted", scores).float().cpu()


def _deleted(
    subject: Subject, image: Image.Image, values: torch.Tensor, baseline: str, steps: int, seed: int
) -> Iterator[Pixels]:
    """Yield the image, its baseline, and the pictures between them on each of the three paths."""
    encoder = subject.encoder
    shown, empty = (encoder.preprocess([some]) for some in (image, BASELINES[baseline](image.convert("RGB"))))
    (name,) = [name for name, tensor in shown.inputs.items() if tensor.is_floating_point()]
    patches = patches_of(encoder, shown).cpu()
    cells = _cells_of(shown.grids[0], values)[patches.clamp(min=0)]
    for kept in _kept(values, steps, seed):
        mixed = torch.where(kept[cells] | (patches < 0), shown.inputs[name], empty.inputs[name])
        yield replace(shown, inputs={**shown.inputs, name: mixed})


def _cells_of(grid: Grid, values: torch.Tensor) -> torch.Tensor:
    """Return the cell of the map in which the centre of each patch lies, in raster order."""
    if values.dim() != 2 or values.shape[0] > grid[0] or values.shape[1] > grid[1]:
        raise DataError(
            f"a map of {tuple(values.shape)} cells does not fit an image of {grid[0]}x{grid[1]} patches",
            hint="Give the map that was made of this image at the same resolution.",
        )
    rows, columns = (
        (2 * torch.arange(size) + 1) * cells // (2 * size) for size, cells in zip(grid, values.shape, strict=True)
    )
    return (rows[:, None] * values.shape[1] + columns[None]).flatten()


def _points(cells: int, steps: int) -> list[int]:
    return [round(cells * step / steps) for step in range(steps + 1)]


def _kept(values: torch.Tensor, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield masks of cells that show the image: all, none, then those of deletion, insertion and the random order."""
    flat = values.detach().cpu().flatten()
    # A stable sort of shuffled cells leaves ties in random order instead of raster order.
    shuffled = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
    order = shuffled[flat[shuffled].argsort(descending=True, stable=True)]
    rank, chance = order.argsort(), shuffled.argsort()
    between = _points(len(flat), steps)[1:-1]
    yield torch.ones(len(flat), dtype=torch.bool)
    yield torch.zeros(len(flat), dtype=torch.bool)
    yield from (rank >= number for number in between)
    yield from (rank < number for number in between)
    yield from (chance >= number for number in between)


def _curves(scores: Sequence[float], cells: int, steps: int) -> Curves:
    (full, empty), rest = scores[:2], scores[2:]
    deletion, insertion, random = (tuple(rest[way * (steps - 1) : (way + 1) * (steps - 1)]) for way in range(3))
    fractions = tuple(number / cells for number in _points(cells, steps))
    return Curves(fractions, (full, *deletion, empty), (empty, *insertion, full), (full, *random, empty))
