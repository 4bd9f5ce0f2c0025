"""Training rows: conversations with images, in one shape for every published format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

IMAGE = "<image>"
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """Turn of a conversation; each `<image>` in its text stands for the next image of the row.

    Attributes:
        role: Speaker of the turn.
        text: Text of the turn.
        learned: Whether a supervised stage trains on it, for the model's turns; rows can say `loss: false`.
    """

    role: Role
    text: str
    learned: bool = True


@dataclass(frozen=True)
class Row:
    """Training row: a conversation with images and, by kind, its answers.

    Attributes:
        id: Stable id of the row: "file.json#17".
        turns: Conversation. A supervised row ends with an assistant turn; a preference row ends with the user's
            question, and its two answers follow in `chosen` and `rejected`.
        images: Keys of the images, in the order of the `<image>` marks, for `Rows.image`.
        chosen: Preferred answer of a preference row.
        rejected: Other answer of a preference row.
        answer: Reference answer for a verifiable reward.
        group: Kind of question, if known, for reports per group.
        unused: Names of the record's fields with a value that are not read.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    group: str | None = None
    unused: tuple[str, ...] = ()


class BadRow(Exception):
    """Row that cannot be trained on; the text is the reason, perhaps followed by ": " and details."""


class Rows(Protocol):
    """Rows that are read one at a time, never all in memory."""

    @property
    def name(self) -> str:
        """Name of the source, for tables and manifests."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raises BadRow if it is unusable."""

    def image(self, key: str) -> Image.Image:
        """Return the RGB image of an image key; raises BadRow if it is missing or damaged."""

    def content_hash(self) -> str:
        """Return the SHA-256 over the rows (ids and texts; images by key), for manifests."""
