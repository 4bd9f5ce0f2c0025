"""Training rows: conversations with images, in one shape for every published format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

IMAGE = "<image>"
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; each `<image>` in its text stands for the next image of the row.

    Attributes:
        role: Who speaks.
        text: What is said.
        learned: Whether a supervised stage trains on it, if it is the model's: rows can say `loss: false`.
    """

    role: Role
    text: str
    learned: bool = True


@dataclass(frozen=True)
class Row:
    """One training row.

    Attributes:
        id: Stable name of the row: "file.json#17".
        turns: The conversation. A supervised row ends with an assistant turn; a preference row ends with the
            user's question, and its two answers follow in `chosen` and `rejected`.
        images: Keys of the images, in the order of the `<image>` marks; the row's source can load them.
        chosen: The preferred answer of a preference row.
        rejected: The other answer of a preference row.
        answer: The reference answer that a verifiable reward compares with.
        group: What kind of question it is, if known, for reports per group.
        unused: Names of the record's fields that hold something and are not read.
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
    """A row that cannot be trained on; the text is the reason, perhaps followed by ": " and its details."""


class Rows(Protocol):
    """Rows that are read one at a time, never all in memory."""

    @property
    def name(self) -> str:
        """Name of the source, for tables and manifests."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        """The row at `index`; raises BadRow if the data there is no usable row."""

    def image(self, key: str) -> Image.Image:
        """The RGB image behind a row's image key; raises BadRow if it is missing or damaged."""

    def content_hash(self) -> str:
        """SHA-256 over what the rows are (ids and texts; images by key), for manifests."""
