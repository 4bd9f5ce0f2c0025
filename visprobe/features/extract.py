"""Extraction in one pass over the images: each is read and decoded once, and seen once by each encoder.

Features in the feature store are not computed again, so an interrupted pass resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import BadImage, ImageSet, decode
from visprobe.data.progress import Progress
from visprobe.encoders import EMBEDDING
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.pixels import Pixels
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet, in_tower
from visprobe.features.fitting import AdaptiveBatches
from visprobe.features.in_flight import ROOM, Room, memory_of
from visprobe.features.requests import forwarded, resolved, to_array
from visprobe.features.store import ChunkKey, FeatureStore, StoredSites

BATCH = 64
CHUNK = 128  # images per file of the store: a killed run loses one chunk, and files stay few
KEPT = 1 << 20  # largest image file, in bytes, that is held until its batch; larger ones are read again
_T = TypeVar("_T")


@dataclass(frozen=True)
class BadItem:
    """Image that was left out, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Extraction:
    """Features of one image set under several encoders.

    Attributes:
        features: One `FeatureSet` per encoder, in the order given, over the same images.
        bad: Images that could not be used; they are missing from every feature set.
        decoded: Images decoded in this pass.
        forwarded: Images x encoders forwarded in this pass.
        images_hash: SHA-256 over the ids and contents of all images.
    """

    features: tuple[FeatureSet, ...]
    bad: tuple[BadItem, ...]
    decoded: int
    forwarded: int
    images_hash: str


def extract(
    encoders: Sequence[VisionEncoder],
    images: ImageSet,
    sites: Callable[[VisionEncoder], Sequence[str]],
    *,
    store: FeatureStore,
    batch_size: int | None = None,
    processors: Sequence[VisionEncoder] | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Compute pooled features of every image under every encoder.

    Args:
        encoders: Encoders that see the images.
        images: Image set.
        sites: Maps an encoder to the features wanted of it (`visprobe.features.requests`); "consumed" stands for the
            site that the MLLM reads.
        store: Store that features are read from and written to.
        batch_size: Images per forward pass; None is 64, halved where the accelerator's memory is too small.
        processors: For each encoder, the encoder whose processor makes its pixels; by default its own.
            A comparison of checkpoints takes the base's for all, so that only weights differ.
        progress: Called with (name of the image set, images done, images in all).

    Returns:
        Feature sets paired by item id, float32 of shape (valid images, d) per site.

    Raises:
        DataError: If no image can be used.
        CheckpointError: If an encoder lacks a site that is wanted of it.
        PrerequisiteError: If a batch does not fit into the accelerator's memory.
    """
    jobs = [Job(e, p, sites(e)) for e, p in zip(encoders, processors or encoders, strict=True)]
    work = _Pass(images, store, jobs, AdaptiveBatches(batch_size, BATCH))
    for done in work.run():
        if progress:
            progress(images.name, done, len(images.items))
    return work.result()


class Job:
    """Encoder of a pass, with the arrays to compute.

    Args:
        encoder: Encoder that runs.
        processor: Encoder whose image processor makes its pixels.
        sites: Features wanted of it.
    """

    def __init__(self, encoder: VisionEncoder, processor: VisionEncoder, sites: Sequence[str]) -> None:
        self.encoder = encoder
        self.processor = processor
        self.pixels = (processor.processor_hash, *processor.pixel_kind)
        self.requests = resolved(encoder, sites)
        self.arrays = {request: _array(encoder, request) for request in self.requests}

    def key(self, hashes: tuple[str, ...]) -> ChunkKey:
        """Return the key in a store of the features of images with these hashes."""
        compute = f"{self.encoder.dtype}/{self.encoder.device.type}/{_libraries()}".removeprefix("torch.")
        encoder = self.encoder
        return ChunkKey(encoder.tower_hash, encoder.settings_hash, self.processor.processor_hash, compute, hashes)

    def compute(self, pixels: Pixels) -> dict[str, NDArray[np.floating]]:
        """Compute its arrays for some images, one row per image."""
        if not self.requests:  # a pass without requests only checks that images can be used
            return {}
        pooled = self.encoder.reduced(pixels, {request: forwarded(request) for request in self.requests})
        return {self.arrays[request]: to_array(rows) for request, rows in pooled.items()}


def _array(encoder: VisionEncoder, request: str) -> str:
    """Name an array; arrays that depend on a projector carry its hash, as it can be retrained under the same tower."""
    if in_tower(request):
        return request
    if request == EMBEDDING:
        return f"{request}-{encoder.projection_hash}" + (f"-{encoder.head.hash}" if encoder.head else "")
    return f"{request}-{encoder.projector_hash}"


@cache
def _libraries() -> str:
    """Return versions of the libraries that decode images and run towers, as features depend on them."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pillow"))


Made = dict[tuple[object, ...], Pixels]  # key of the preprocessing to the pixels of one image


@dataclass(frozen=True)
class _File:
    """Image file that was read and hashed.

    Attributes:
        index: Index in the image set.
        hash: SHA-256 of its content, or the error if it cannot be read.
        data: Content, or the error; None for a large file.
        memory: Bytes needed to turn a large file into pixels; 0 for others.
    """

    index: int
    hash: str
    data: bytes | BadImage | None
    memory: int = 0


@dataclass
class _Chunk:
    """Consecutive images of the set, read and hashed, and the jobs that still need them."""

    start: int
    data: list[_File]
    hashes: tuple[str, ...]
    jobs: list[Job]
    bad: dict[int, str] = field(default_factory=dict)


class _Pass:
    def __init__(self, images: ImageSet, store: FeatureStore, jobs: list[Job], fitting: AdaptiveBatches) -> None:
        self.images, self.store, self.jobs, self.fitting = images, store, jobs, fitting
        self.chunks: list[tuple[int, tuple[str, ...]]] = []
        self.decoded = self.forwarded = 0
        self.room = Room(ROOM)

    def run(self) -> Iterator[int]:
        parts: dict[int, list[dict[str, NDArray[np.floating]]]] = {}
        # One batch is read and decoded in the background while the encoders work on the one before it.
        with ThreadPoolExecutor(4) as readers, ThreadPoolExecutor(1) as ahead:
            for chunk, batch in _one_ahead(self._batches(readers), ahead):
                if batch:
                    self._forward(chunk, batch, parts)
                    yield chunk.start
                else:
                    for job in chunk.jobs:
                        arrays = {**_joined(parts.pop(id(job), []), job), "bad": _to_array(chunk.bad)}
                        owner = f"{job.encoder.name} ({job.encoder.provenance.path})"
                        self.store.write(job.key(chunk.hashes), arrays, owner, self.images.name)
                    self.chunks.append((chunk.start, chunk.hashes))
                    yield chunk.start + len(chunk.data)

    def _batches(self, readers: ThreadPoolExecutor) -> Iterator[tuple[_Chunk, list[Made]]]:
        """Yield the pixels of every image in batches; an empty batch ends its chunk."""
        # only one batch of pixels is held at a time: 128 images in tiles take gigabytes
        for start in range(0, len(self.images.items), CHUNK):
            chunk = self._load(start, readers)
            processors = {job.pixels: job.processor for job in chunk.jobs}
            size = self.fitting.size
            for first in range(0, len(chunk.data) if chunk.jobs else 0, size):
                data = chunk.data[first : first + size]
                made = list(readers.map(lambda file, how=processors: self._pixels(file, how), data))
                chunk.bad |= {first + n: str(item) for n, item in enumerate(made) if isinstance(item, BadImage)}
                self.decoded += len(data)
                if good := [item for item in made if not isinstance(item, BadImage)]:
                    yield chunk, good
            yield chunk, []

    def _load(self, start: int, readers: ThreadPoolExecutor) -> _Chunk:
        indices = range(start, min(start + CHUNK, len(self.images.items)))
        data = list(readers.map(self._read, indices))
        hashes = tuple(file.hash for file in data)
        unseen = [job for job in self.jobs if self.store.missing(job.key(hashes), [*job.arrays.values(), "bad"])]
        # Checkpoints with equal weights (a frozen tower, a copy) have one key: only the first of them is forwarded.
        first = {(job.key(hashes), tuple(sorted(job.arrays.values()))): job for job in reversed(unseen)}
        return _Chunk(start, data, hashes, [job for job in unseen if job in first.values()])

    def _read(self, index: int) -> _File:
        try:
            data = self.images.read(index)
        except OSError as error:
            bad = BadImage(f"cannot be read: {error}")
            return _File(index, str(bad), bad)
        large = len(data) > KEPT
        return _File(index, _hash(data), None if large else data, memory_of(data) if large else 0)

    def _pixels(self, file: _File, processors: Mapping[tuple[object, ...], VisionEncoder]) -> Made | BadImage:
        """Decode one image once and preprocess it with each processor."""
        if isinstance(file.data, BadImage):
            return file.data
        with self.room.taken(file.memory if file.data is None else memory_of(file.data)):
            try:
                image = decode(self._again(file) if file.data is None else file.data, reduced=True)
            except BadImage as error:
                return error
            return {how: encoder.preprocess([image]) for how, encoder in processors.items()}

    def _again(self, file: _File) -> bytes:
        """Read a large file again, and refuse it if its hash has changed."""
        try:
            data = self.images.read(file.index)
        except OSError as error:
            data = str(error).encode()
        if _hash(data) != file.hash:
            raise DataError(
                f"{self.images.items[file.index].id} of {self.images.name} changed while the images were read",
                hint="Run again when nobody writes there; what is done is kept.",
            )
        return data

    def _forward(
        self, chunk: _Chunk, batch: list[Made], parts: dict[int, list[dict[str, NDArray[np.floating]]]]
    ) -> None:
        stacked: dict[tuple[object, ...], Pixels] = {}  # batches, shared by encoders with equal preprocessing

        def compute(job: Job, piece: Sequence[Made]) -> dict[str, NDArray[np.floating]]:
            # first image and length identify a piece, also after the batch size was halved
            which = (job.pixels, id(piece[0]), len(piece))
            if which not in stacked:
                stacked[which] = Pixels.join([pixels[job.pixels] for pixels in piece])
            return job.compute(stacked[which])

        for job in chunk.jobs:
            parts.setdefault(id(job), []).extend(self.fitting.pieces(batch, partial(compute, job)))
            self.forwarded += len(batch) if job.requests else 0

    def result(self) -> Extraction:
        bad: dict[int, str] = {}
        for start, hashes in self.chunks:
            reasons = self._bad_of(hashes)
            bad.update({start + int(offset): reason for offset, reason in reasons.items()})
        valid = [index for index in range(len(self.images.items)) if index not in bad]
        if not valid:
            raise DataError(
                f"none of the {len(self.images.items)} images of {self.images.name} can be used"
                + (f"; the first: {next(iter(bad.values()))}" if bad else ""),
                hint="Open one of them by hand; visprobe reads JPEG, PNG, WebP, BMP, GIF, TIFF and PPM.",
            )
        return Extraction(
            features=tuple(self._feature_set(job, valid) for job in self.jobs),
            bad=tuple(BadItem(self.images.items[index].id, reason) for index, reason in sorted(bad.items())),
            decoded=self.decoded,
            forwarded=self.forwarded,
            images_hash=self._images_hash(),
        )

    def _bad_of(self, hashes: tuple[str, ...]) -> dict[str, str]:
        """Return offset and reason of each unusable image of a chunk, which must be the same for every encoder."""
        found = [_from_array(self.store.read(job.key(hashes), ["bad"])["bad"]) for job in self.jobs]
        for job, reasons in zip(self.jobs, found, strict=True):
            if reasons.keys() != found[0].keys():
                raise DataError(
                    f"an image of {self.images.name} could be decoded for one of {self.jobs[0].encoder.name} and "
                    f"{job.encoder.name} and not for the other, which was done at another time",
                    hint=f"Remove {self.store.folder}, or set VISPROBE_CACHE to another folder, and run again.",
                )
        return found[0]

    def _feature_set(self, job: Job, valid: list[int]) -> FeatureSet:
        items = [self.images.items[index] for index in valid]
        contents = [content for _, hashes in self.chunks for content in hashes]
        keys = [job.key(hashes) for _, hashes in self.chunks]
        return FeatureSet(
            encoder=job.encoder.name,
            images=self.images.name,
            item_ids=tuple(item.id for item in items),
            labels=np.array([item.label for item in items], dtype=np.int64) if self.images.classes else None,
            classes=self.images.classes,
            sites=StoredSites(self.store, keys, job.arrays),
            consumed=job.encoder.consumed,
            contents=tuple(contents[index] for index in valid),
            baseline=job.encoder.baseline,
        )

    def _images_hash(self) -> str:
        digest = hashlib.sha256()
        for start, hashes in self.chunks:
            for offset, content in enumerate(hashes):
                line = f"{self.images.items[start + offset].id}\0{content}\n"
                digest.update(line.encode("utf-8", "backslashreplace"))  # a file name need not be UTF-8
        return digest.hexdigest()


def _one_ahead(items: Iterator[_T], thread: ThreadPoolExecutor) -> Iterator[_T]:
    """Yield the items, the next one computed by `thread` while the present one is used."""
    end = object()
    pending = thread.submit(next, items, end)
    while (item := pending.result()) is not end:
        pending = thread.submit(next, items, end)
        yield item  # type: ignore[misc]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _joined(parts: list[dict[str, NDArray[np.floating]]], job: Job) -> dict[str, NDArray[Any]]:
    empty = np.zeros((0, 0), np.float32)  # for a chunk in which every image is bad
    return {name: np.concatenate([p[name] for p in parts]) if parts else empty for name in job.arrays.values()}


def _to_array(bad: Mapping[int, str]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(bad).encode(), dtype=np.uint8)


def _from_array(data: NDArray[np.uint8]) -> dict[str, str]:
    reasons: dict[str, str] = json.loads(data.tobytes())
    return reasons
