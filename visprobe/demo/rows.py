"""Training rows from the built-in scenes, the same for every arm of a study."""

from __future__ import annotations

import hashlib
from functools import cached_property

from PIL import Image

from visprobe.data.rows import IMAGE, Row, Turn
from visprobe.demo.questions import Question, questions_about
from visprobe.demo.scenes import DigitScenes

SEED_OFFSET = 1_000_000  # post-training uses scenes that the base was not trained on


class DigitRows:
    """Rows of questions about training scenes, each with its right and a plausible wrong answer.

    Args:
        count: Number of rows.
        seed: Seed of the scenes.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        self._scenes = DigitScenes("train", size=count, seed=SEED_OFFSET + seed)

    @property
    def name(self) -> str:
        """Name of the source: "digits-1600-seed0"."""
        return f"digits-{self.count}-seed{self.seed}"

    @cached_property
    def _questions(self) -> list[tuple[int, Question]]:
        asked: list[tuple[int, Question]] = []
        for scene in range(self.count):
            asked += [(scene, question) for question in questions_about(self._scenes, scene)]
            if len(asked) >= self.count:
                break
        return asked[: self.count]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        """Return row `index`: one image, one question, both answers."""
        scene, question = self._questions[index]
        return Row(
            id=f"{self.name}#{index}",
            turns=(Turn("user", f"{IMAGE}\n{question.text}"),),
            images=(str(scene),),
            chosen=question.answer,
            rejected=question.wrong,
            answer=question.answer,
            group=question.group,
        )

    def image(self, key: str) -> Image.Image:
        """Return the scene of an image key as an RGB image."""
        return Image.fromarray(self._scenes.scene(int(key)).image)

    def held_out(self, count: int) -> DigitScenes:
        """Return scenes of handwriting that is never trained on."""
        return DigitScenes("val", count)

    def content_hash(self) -> str:
        """Return the SHA-256 over the questions, their answers and their scenes."""
        return hashlib.sha256("\n".join(f"{self._scenes.name} {row}" for row in self._questions).encode()).hexdigest()
