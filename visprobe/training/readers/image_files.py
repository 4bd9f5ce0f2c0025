"""Images of rows: bytes into RGB, with one reason for each way they can fail."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from visprobe.data.image_set import BadImage, decode
from visprobe.training.rows import BadRow


def decode_image(data: bytes, key: str) -> Image.Image:
    """The RGB image in `data`; the content decides its format, not its name.

    Raises:
        BadRow: If it cannot be decoded.
    """
    try:
        return decode(data)
    except BadImage as error:
        raise BadRow(f"unreadable image: {key} ({error})") from error


def read_image(path: Path, key: str) -> Image.Image:
    """The RGB image at `path`, which rows call `key`.

    Raises:
        BadRow: If the file is missing or cannot be decoded.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadRow(f"missing image: {key}") from error
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL in the name
        raise BadRow(f"unreadable image: {key} ({error})") from error
    return decode_image(data, key)
