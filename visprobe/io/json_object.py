"""A small JSON file of a checkpoint: configuration, index of shards, list of names."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import DAMAGED
from visprobe.io.regular import read_regular

CONFIGURATION = 4 << 20  # bytes; names of 21,000 classes take one million
INDEX = 64 << 20  # bytes; the index of a model of a thousand shards has some ten million


def read_object(path: Path, most: int = CONFIGURATION) -> dict[str, Any]:
    """The object in file `path`, which has at most `most` bytes.

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
