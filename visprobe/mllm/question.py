"""What a multimodal LLM is asked about one image."""

from __future__ import annotations

from dataclasses import dataclass

from visprobe.data.rows import IMAGE


@dataclass(frozen=True)
class Question:
    """A question about one image, with the answer whose probability is explained.

    Attributes:
        prompt: The user's turn; the image stands where it says "<image>", or in front.
        answer: An answer, such as the preferred one.
        rejected: Another answer, to be contrasted with the first.
    """

    prompt: str
    answer: str
    rejected: str | None = None

    @property
    def turn(self) -> str:
        """The user's turn with its image."""
        return self.prompt if IMAGE in self.prompt else f"{IMAGE}\n{self.prompt}"

    @property
    def answers(self) -> tuple[str, ...]:
        """The one or two answers."""
        return (self.answer,) if self.rejected is None else (self.answer, self.rejected)
