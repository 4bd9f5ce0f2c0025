"""Decoding of the images of rows, with a reason for each failure."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from visprobe.data.image_set import BadImage, decode
from visprobe.data.rows import BadRow
from visprobe.io.regular import IMAGE, read_regular

_LONG = 200  # characters of a name in a message: some rows hold whole images as text


def decode_image(data: bytes, key: str) -> Image.Image:
    """Decode `data` to an RGB image; the content decides its format, not the name.

    Raises:
        BadRow: If it cannot be decoded.
    """
    try:
        return decode(data)
    except BadImage as error:
        raise BadRow(f"unreadable image: {key} ({error})") from error


def read_image(folder: Path, key: str) -> Image.Image:
    """Read the RGB image called `key`: a path from `folder`, a file: URL, or a data: URL.

    Raises:
        BadRow: If the file is missing or cannot be decoded, or the image is on the network.
    """
    # A scheme stands in the first characters; a long data: URL is not searched.
    said = key if len(key) <= _LONG else f"{key[:_LONG]}…"
    scheme = urlsplit(key).scheme if ":" in key[:8] else ""
    if scheme == "data":
        return decode_image(_bytes_in(key, said), said)
    if scheme in ("http", "https", "s3", "gs"):
        raise BadRow(f"an image on the net, and nothing is fetched: {said}")
    try:
        data = read_regular(folder / (unquote(urlsplit(key).path) if scheme == "file" else key), IMAGE)
    except FileNotFoundError as error:
        raise BadRow(f"missing image: {said}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadRow(f"unreadable image: {said} ({error.strerror if isinstance(error, OSError) else error})") from error
    return decode_image(data, said)


def _bytes_in(url: str, said: str) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise BadRow(f"unreadable image: {said} (a data URL without base64)")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadRow(f"unreadable image: {said} ({error})") from error
