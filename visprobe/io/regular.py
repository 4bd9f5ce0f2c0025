"""Reading of files that a user named: regular files alone, and none larger than expected."""

from __future__ import annotations

import codecs
import json
import stat
from pathlib import Path
from typing import Any

from visprobe.errors import CheckpointError

DAMAGED = "Copy or download the checkpoint again; the file is damaged or incomplete."
WRITTEN = 1 << 20  # bytes of a file written by hand: a recipe, a configuration; pyyaml takes a second for half of it
IMAGE = 64 << 20  # bytes of an image file, enough for 64 Mpx


class Unfit(OSError):
    """Error for a file of the wrong type or size; as text it is the reason alone, without Python's "[Errno 0]"."""

    def __str__(self) -> str:
        return str(self.strerror)


def check_regular(path: Path, most: int | None = None) -> None:
    """Refuse a file that would hang or fill the memory: a pipe, a device, a file of more than `most` bytes.

    Raises:
        OSError: If `path` does not exist, or is such a file; its `strerror` gives the reason.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
        raise Unfit(0, f"it is {what}, and no file", str(path))
    if most is not None:
        check_size(status.st_size, path, most)


def check_size(size: int, path: Path, most: int = IMAGE) -> None:
    """Raise OSError for a `size` of more than `most` bytes."""
    if size > most:
        raise Unfit(0, f"it has {size:,} bytes, and at most {most:,} are read", str(path))


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Read the bytes of the regular file at `path`; raise OSError as `check_regular` does."""
    check_regular(path, most)
    return path.read_bytes()


def read_text(path: Path, most: int | None = WRITTEN, encoding: str = "utf-8") -> str:
    """Read the text of the regular file at `path`, with universal newlines.

    Raises:
        OSError: If `path` does not exist, is not a regular file, or has more than `most` bytes.
        ValueError: If it is no text in this encoding.
    """
    check_regular(path, most)
    return path.read_text(encoding)


CONFIGURATION = 4 << 20  # bytes; names of 21,000 classes take one million
INDEX = 64 << 20  # bytes; the index of a model of a thousand shards has some ten million


def read_object(path: Path, most: int = CONFIGURATION) -> dict[str, Any]:
    """Load the JSON object in file `path`, which has at most `most` bytes.

    Raises:
        CheckpointError: If the file cannot be read, is larger, is damaged, or holds something else.
    """
    try:
        data = read_regular(path, most)
        if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise CheckpointError(
                f"{path} begins with a byte order mark (BOM), with which transformers does not read it either",
                hint=f'Save it as UTF-8 without BOM: python -c "from pathlib import Path; p = Path({str(path)!r}); '
                f"p.write_text(p.read_text({'utf-8-sig' if data.startswith(codecs.BOM_UTF8) else 'utf-16'!r}), "
                "'utf-8')\".",
            )
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint=DAMAGED) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", hint="Check its permissions.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object", hint=DAMAGED)
    return found
