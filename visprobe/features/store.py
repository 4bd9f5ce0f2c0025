"""Store of features on disk, keyed by everything the numbers depend on, so that nothing stale is ever read.

One file per encoder and chunk of images. Its name is a hash of the tower's weights, the pixels' processing, the
dtype, the device kind, the versions of the libraries and of this layout, and the content of the images; it
holds one array per site and pooling. Names and times of image files play no part. The file's header has a hash of each
array, which is compared before the array is used: a damaged array counts as missing and is computed again. The header
also has the key and the names of encoder and image set, for people.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from visprobe.errors import PrerequisiteError
from visprobe.io.atomic import replacing
from visprobe.io.cache import cache_folder
from visprobe.io.disk import is_disk_full, translate_os_error
from visprobe.io.lock import locked
from visprobe.io.redact import redact

LAYOUT_VERSION = 2
_DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "|u1"}


def default_folder() -> Path:
    """Return the folder of features in $VISPROBE_CACHE, or in the user's cache folder of this platform."""
    return cache_folder("features")


@dataclass(frozen=True)
class ChunkKey:
    """Everything that the features of one chunk of images depend on.

    Attributes:
        tower_hash: Content hash of the tower's tensors.
        settings_hash: Hash of the settings under which the same tensors could run differently.
        processor_hash: Hash of the processor's settings.
        compute: Dtype, device kind and versions of the libraries, "float32/cpu/torch 2.9.0, …".
        image_hashes: SHA-256 of each image file of the chunk, in order.
    """

    tower_hash: str
    settings_hash: str
    processor_hash: str
    compute: str
    image_hashes: tuple[str, ...]

    def text(self) -> str:
        """Return the key as JSON."""
        return json.dumps([LAYOUT_VERSION, *astuple(self)])

    def digest(self) -> str:
        """Return the SHA-256 of the key, 64 hexadecimal digits."""
        return hashlib.sha256(self.text().encode()).hexdigest()


class FeatureStore:
    """Arrays of features by `ChunkKey` and array name.

    Args:
        folder: Root of the store, created on the first write.
        fresh: True if arrays that this object did not write count as missing, so that they are computed anew.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.folder = folder
        self._fresh = fresh
        self._written: set[tuple[str, str]] = set()  # digest of a chunk and name of an array
        self._whole: set[tuple[Path, int, str]] = set()  # file, its time of writing, and name of an intact array
        self._damaged: set[Path] = set()

    def check(self) -> None:
        """Report before the work begins that nothing can be written here; a read-only store is a warning.

        Raises:
            PrerequisiteError: If the folder does not exist and cannot be created.
        """
        if os.access(_existing(self.folder), os.W_OK | os.X_OK):
            return
        if not self.folder.is_dir():
            raise self._cannot_be_written("the folder is not there and cannot be made")
        _say_read_only(self.folder)

    def free(self) -> int:
        """Return the free bytes on the disk of the store."""
        return shutil.disk_usage(_existing(self.folder)).free

    def held(self) -> int:
        """Return the bytes of the features in the store."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors"))

    def missing(self, key: ChunkKey, names: Collection[str]) -> set[str]:
        """Return those of `names` that this chunk lacks, or holds damaged.

        Each array is hashed once per run, which reads only bytes that are needed anyway.
        """
        digest = key.digest()
        wanted = [name for name in names if not self._fresh or (digest, name) in self._written]
        return set(names) - set(self._believed(key, wanted))

    def write(self, key: ChunkKey, arrays: Mapping[str, NDArray[Any]], owner: str = "", images: str = "") -> None:
        """Add `arrays` (one row per valid image) to the chunk, which keeps its other arrays.

        Args:
            key: Key of the chunk.
            arrays: Arrays by name.
            owner: Name of the encoder, for people.
            images: Name of the image set, for people.

        Raises:
            PrerequisiteError: If the disk is full, or the folder is not writable.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The lock makes read-add-replace one step: two processes may add different sites to the same chunk.
            with locked(path.parent / ".lock", f"writes features to {path.parent}"):
                self._add(key, path, arrays, owner, images)
        except OSError as error:
            why = error.strerror or str(error)
            raise (translate_os_error(error, path) if is_disk_full(error) else self._cannot_be_written(why)) from error
        self._written |= {(key.digest(), name) for name in arrays}

    def _add(self, key: ChunkKey, path: Path, arrays: Mapping[str, NDArray[Any]], owner: str, images: str) -> None:
        held = self.read(key, self._believed(key, self._names(key)))
        with replacing(path) as temporary:
            held |= arrays
            noted = {
                "key": key.text(),
                "sha256": json.dumps({name: array_hash(array) for name, array in held.items()}),
                "owner": redact(owner),
                "images": redact(images),
            }
            # The header must be UTF-8; file names need not be.
            save_file(held, temporary, {k: v.encode("utf-8", "backslashreplace").decode() for k, v in noted.items()})

    def _cannot_be_written(self, why: str) -> PrerequisiteError:
        return PrerequisiteError(
            f"features cannot be kept in {self.folder}: {why}",
            hint="Set VISPROBE_CACHE to a folder of your own.",
        )

    def read(self, key: ChunkKey, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read the named arrays of the chunk.

        Raises:
            KeyError: If the chunk or an array is missing.
        """
        if not names:
            return {}
        with safe_open(self._path(key), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names}

    def mapped(self, key: ChunkKey, name: str) -> NDArray[Any]:
        """Map the named array of the chunk as a view of its file: rows are read on access.

        Raises:
            KeyError: If the chunk or the array is missing.
        """
        path = self._path(key)
        with path.open("rb") as file:
            # safetensors: 8 bytes of header length, a JSON header, then the arrays at offsets from its end
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
        if 0 in entry["shape"]:  # a chunk in which every image is bad; an empty file part cannot be mapped
            return np.zeros(entry["shape"], _DTYPES[entry["dtype"]])
        offset = 8 + length + entry["data_offsets"][0]
        return np.memmap(path, _DTYPES[entry["dtype"]], "r", offset, tuple(entry["shape"]))

    def _believed(self, key: ChunkKey, names: Sequence[str]) -> list[str]:
        """Return those of `names` that the chunk holds intact."""
        path, held = self._path(key), self._names(key)
        there = [name for name in names if name in held]
        if not there:
            return []
        written = path.stat().st_mtime_ns
        unknown = [name for name in there if (path, written, name) not in self._whole]
        if unknown:
            with safe_open(path, framework="numpy") as file:
                hashes = noted_hashes(file.metadata())
            whole = [name for name in unknown if self._hash(key, name) == hashes.get(name)]
            self._whole |= {(path, written, name) for name in whole}
            if len(whole) < len(unknown):
                self._say_damaged(path)
        return [name for name in there if (path, written, name) in self._whole]

    def _hash(self, key: ChunkKey, name: str) -> str:
        try:
            return array_hash(self.mapped(key, name))
        except (KeyError, ValueError):  # a header that safetensors accepts but that this store never writes
            return "damaged"

    def _names(self, key: ChunkKey) -> list[str]:
        path = self._path(key)
        if not path.is_file():
            return []
        try:
            with safe_open(path, framework="numpy") as file:
                return list(file.keys())
        except (SafetensorError, OSError):
            self._say_damaged(path)
            return []

    def _say_damaged(self, path: Path) -> None:
        if path not in self._damaged:
            logging.getLogger(__name__).warning("%s is damaged: what it held is computed again", path)
        self._damaged.add(path)

    def _path(self, key: ChunkKey) -> Path:
        digest = key.digest()
        return self.folder / digest[:2] / f"{digest}.safetensors"


@cache
def _say_read_only(folder: Path) -> None:
    """Warn once, however often stores are opened in a run."""
    logging.getLogger(__name__).warning(
        "%s cannot be written: what lies there is used, and where something is missing the run ends; "
        "VISPROBE_CACHE=FOLDER keeps features in a folder of your own",
        folder,
    )


def _existing(folder: Path) -> Path:
    """Return `folder`, or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def array_hash(array: NDArray[Any]) -> str:
    """Return the SHA-256 over the dtype, shape and bytes of an array."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\0".encode())
    if array.size:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def noted_hashes(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the hash of each array by its name, read from the header of a chunk; none where it is damaged."""
    try:
        noted = json.loads((metadata or {}).get("sha256", ""))
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


class StoredSites(Mapping[str, NDArray[np.floating]]):
    """Arrays of a feature set as they lie in the store: joined on access, and not cached.

    Args:
        store: Store that holds them.
        chunks: Keys of the chunks, in the order of the images.
        arrays: Request to the name of its array.
    """

    def __init__(self, store: FeatureStore, chunks: Sequence[ChunkKey], arrays: Mapping[str, str]) -> None:
        self._store, self._chunks, self._arrays = store, tuple(chunks), dict(arrays)

    def __getitem__(self, request: str) -> NDArray[np.floating]:
        joined: NDArray[np.floating] = np.concatenate(self.parts(request))
        return joined

    def parts(self, request: str) -> list[NDArray[np.floating]]:
        """Return the rows of all chunks in order, as views of the files: for arrays larger than memory."""
        parts = [self._store.mapped(key, self._arrays[request]) for key in self._chunks]
        return [part for part in parts if part.size]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
