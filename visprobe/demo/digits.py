"""Built-in data set `--data digits`: the scenes as images, training rows and questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from visprobe.data.image_set import ImageSet
from visprobe.demo.rows import DigitRows
from visprobe.demo.scenes import DigitScenes
from visprobe.results.result import Result

IMAGES, ROWS = 1000, 1600  # default numbers


class Digits:
    """Built-in data set; implements `visprobe.data.named.NamedData`."""

    def images(self, val: int | None, train: int | None, seed: int) -> dict[str, ImageSet]:
        """Return scenes of two splits that share no handwriting."""
        return {
            "train": DigitScenes("train", size=train or IMAGES, seed=seed),
            "val": DigitScenes("val", size=val or IMAGES, seed=seed),
        }

    def rows(self, count: int | None, seed: int) -> DigitRows:
        """Return rows of questions about training scenes."""
        return DigitRows(count or ROWS, seed)

    def answers(self, checkpoints: Mapping[str, Path], count: int, seed: int) -> Result:
        """Evaluate checkpoints on questions about `count` unseen scenes, the blind baseline from four times as many."""
        from visprobe.demo.answers import evaluate_answers

        return evaluate_answers(checkpoints, DigitScenes("val", count, seed), DigitScenes("train", 4 * count, seed))


DIGITS = Digits()
