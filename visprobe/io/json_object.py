"""A small JSON file of a checkpoint: configuration, index of shards, list of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visprobe.errors import CheckpointError
from visprobe.io.tensors import DAMAGED

_MAX_BYTES = 256 << 20  # the index of a model of a thousand shards has some megabytes


def read_object(path: Path) -> dict[str, Any]:
    """The object in file `path`.

    Raises:
        CheckpointError: If the file cannot be read, is of an absurd size, is damaged, or holds something else.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint=DAMAGED) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", hint="Check its permissions.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object", hint=DAMAGED)
    return found
