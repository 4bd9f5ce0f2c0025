"""Training rows from the built-in scenes: the same rows for every arm of a study."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from visprobe.data.digits import DigitScenes
from visprobe.data.questions import questions_about
from visprobe.training.collate import PreferenceRow

SEED_OFFSET = 1_000_000  # post-training sees scenes that the base was not trained on


def digit_rows(count: int, seed: int) -> tuple[list[PreferenceRow], Callable[[int], Image.Image]]:
    """Questions on training scenes with their right and a plausible wrong answer, and the loader of their images.

    Args:
        count: How many rows.
        seed: Another seed gives other scenes.

    Returns:
        The rows, scene by scene, and a function from a row's image key to its RGB image.
    """
    scenes = DigitScenes("train", size=count, seed=SEED_OFFSET + seed)
    rows: list[PreferenceRow] = []
    for index in range(count):
        rows += [PreferenceRow(index, q.text, q.answer, q.wrong) for q in questions_about(scenes, index)]
        if len(rows) >= count:
            break
    return rows[:count], lambda index: Image.fromarray(scenes.scene(index).image)
