"""Storage of maps: one compressed .npz file with everything that scores and figures need.

"about" is a JSON text. The values of all maps of one checkpoint, method and site are concatenated in one array, in the
order in which "about" lists them, and so are the regions. Nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.evidence.focus import Floats
from visprobe.attribution.map import Map
from visprobe.errors import DataError
from visprobe.io.atomic import replacing
from visprobe.io.redact import redactor

_LAYOUT = 1
Arrays = Mapping[str, NDArray[Any]]


def save(attributions: Attributions, path: Path) -> None:
    """Write maps, regions and names to `path`, atomically; the same maps give the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    listed = [
        {"of": name, "method": key[0], "site": key[1], "maps": [_about(one) for one in maps]}
        for name, found in attributions.maps.items()
        for key, maps in found.items()
    ]
    shown = _without_secrets([*attributions.images, *attributions.ids])
    about = {
        "layout": _LAYOUT,
        "names": list(attributions.names),
        "controls": list(attributions.controls),
        "images": [shown[image] for image in attributions.images],
        "ids": [shown[picture] for picture in attributions.ids],
        "listed": listed,
        "regions": [None if region is None else list(np.shape(region)) for region in attributions.regions],
    }
    for number, entry in enumerate(listed):
        maps = attributions.maps[str(entry["of"])][str(entry["method"]), str(entry["site"])]
        arrays[f"maps_{number}"] = _joined([one.values.numpy() for one in maps], np.float32)
    arrays["regions"] = _joined([region for region in attributions.regions if region is not None], np.float64)
    arrays["about"] = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load(path: Path) -> Attributions:
    """Load what `save` wrote, bit for bit.

    Raises:
        DataError: If the file is missing, damaged, of another kind, or of another layout.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if damaged := file.zip.testzip():  # reading an array alone stops before its checksum is compared
                raise ValueError(f"the checksum of {damaged} is another")
            about = json.loads(file["about"].tobytes())
            if about["layout"] != _LAYOUT:
                raise DataError(
                    f"{path} was written in layout {about['layout']}, this program reads layout {_LAYOUT}",
                    hint="Make the maps again, or read them with the version that wrote them.",
                )
            return _attributions(about, file)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint="Make the maps first.") from error
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise many types on damaged files
        raise DataError(
            f"{path} is damaged, or holds no maps: {error}".splitlines()[0], hint="Make the maps again."
        ) from error


def _attributions(about: Any, arrays: Arrays) -> Attributions:
    maps: dict[str, dict[tuple[str, str], list[Map]]] = {
        name: {} for name in (*about["names"], *about["controls"]) if any(one["of"] == name for one in about["listed"])
    }
    for number, entry in enumerate(about["listed"]):
        key, told = (entry["method"], entry["site"]), entry["maps"]
        parts = _parts(arrays[f"maps_{number}"], [one["grid"] for one in told])
        maps[entry["of"]][key] = [
            Map(torch.from_numpy(values), one["score"], *key, one["note"], one["delta"])
            for values, one in zip(parts, told, strict=True)
        ]
    shapes = about["regions"]
    held = iter(_parts(arrays["regions"], [shape for shape in shapes if shape is not None]))
    regions: list[Floats | None] = [None if shape is None else next(held) for shape in shapes]
    names, controls, images = (tuple(about[key]) for key in ("names", "controls", "images"))
    ids = tuple(about.get("ids", ()))  # files of earlier versions have none
    return Attributions(names, controls, maps, tuple(regions), images, ids)


def _without_secrets(names: Sequence[str]) -> dict[str, str]:
    """Return each name with secrets removed; names that become equal are numbered, so that they stay distinct."""
    redact, written = redactor(), dict[str, str]()
    taken = {name for name in names if redact(name) == name}
    for name in dict.fromkeys(names):
        shown, number = redact(name), 1
        while shown != name and shown in taken:
            number += 1
            shown = f"{redact(name)} ({number})"
        written[name] = shown
        taken.add(shown)
    return written


def _about(one: Map) -> dict[str, Any]:
    return {"grid": list(one.grid), "score": one.score, "note": one.note, "delta": one.delta}


def _joined(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(np.ravel(part).astype(dtype) for part in parts)])


def _parts(joined: NDArray[Any], shapes: Sequence[Sequence[int]]) -> list[NDArray[Any]]:
    """Split `joined` into consecutive arrays of the given shapes."""
    ends = np.cumsum([0, *(rows * columns for rows, columns in shapes)])
    if ends[-1] != len(joined):
        raise ValueError(f"it holds {len(joined)} values where {ends[-1]} are listed")
    pairs = zip(shapes, ends[:-1], ends[1:], strict=True)
    return [joined[start:end].reshape(tuple(shape)).copy() for shape, start, end in pairs]
