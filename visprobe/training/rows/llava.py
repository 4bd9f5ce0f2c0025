"""Rows of JSON files in the formats of LLaVA, LLaVA-NeXT, LLaVA-OneVision and MMPR."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from visprobe.data.rows import BadRow, Row
from visprobe.errors import DataError
from visprobe.training.rows.image_files import read_image
from visprobe.training.rows.json_index import JsonIndex
from visprobe.training.rows.records import image_cells, to_row


class LlavaRows:
    """Rows of one JSON file whose images are paths below a folder.

    Args:
        path: JSON array or JSON Lines of records in one of `records.FORMATS`.
        images: Folder that the image paths start from.
        group: Group of rows that name none.

    Raises:
        DataError: If the file cannot be read.
    """

    def __init__(self, path: Path, images: Path, group: str | None = None) -> None:
        self.index = JsonIndex(path)
        self.name = path.name
        self.images = images
        self._group = group

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raises BadRow if the record is unusable."""
        try:
            record = self.index.record(index)
        except ValueError as error:
            raise BadRow(f"not valid JSON: {error}") from error
        images = tuple(_path(cell) for cell in image_cells(record))
        row = to_row(record, row_id=f"{self.name}#{index}", images=images)
        return row if row.group else replace(row, group=self._group)

    def image(self, key: str) -> Image.Image:
        """Return the RGB image at the path `key`; raises BadRow if it is missing or damaged."""
        return read_image(self.images, key)

    def content_hash(self) -> str:
        """Return the SHA-256 over the file's name, which the row ids hold, and its content."""
        return hashlib.sha256(f"{self.name}\n{self.index.sha256}".encode()).hexdigest()


def _path(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(path, str):
        raise BadRow("an image is not a path")
    return path


def llava_json(path: Path, images: Path | None = None) -> LlavaRows:
    """Open the rows of a JSON file in a LLaVA format.

    Args:
        path: JSON array or JSON Lines of {"id", "image": path or list of paths, "conversations": [{"from", "value"}]},
            or of {"image", "question" or "prompt", "chosen", "rejected"}.
        images: Folder that the image paths start from; by default the folder of `path`.

    Returns:
        The rows, read one at a time.

    Raises:
        DataError: If the file cannot be read, or the folder does not exist.
    """
    if images is not None and not images.is_dir():
        raise DataError(f"{images} is not a folder", hint="Name the folder that the image paths start from.")
    return LlavaRows(path, path.parent if images is None else images)
