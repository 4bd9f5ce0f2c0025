"""`--data digits`: the built-in scenes as images, as training rows and as questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from visprobe.data.image_set import ImageSet
from visprobe.demo.rows import DigitRows
from visprobe.demo.scenes import DigitScenes
from visprobe.results.result import Result

IMAGES, ROWS = 1000, 1600  # as many as are usual


class Digits:
    """The built-in data (`visprobe.data.named.NamedData`)."""

    def images(self, val: int | None, train: int | None, seed: int) -> dict[str, ImageSet]:
        """Scenes of two splits that share no handwriting."""
        return {
            "train": DigitScenes("train", size=train or IMAGES, seed=seed),
            "val": DigitScenes("val", size=val or IMAGES, seed=seed),
        }

    def rows(self, count: int | None, seed: int) -> DigitRows:
        """Questions about training scenes."""
        return DigitRows(count or ROWS, seed)

    def answers(self, checkpoints: Mapping[str, Path], count: int, seed: int) -> Result:
        """Questions about `count` unseen scenes that each checkpoint answers right; blind from four times as many."""
        from visprobe.demo.answers import evaluate_answers

        return evaluate_answers(checkpoints, DigitScenes("val", count, seed), DigitScenes("train", 4 * count, seed))


DIGITS = Digits()
