"""Checkpoints and images brought together: who is loaded, under what name, with whose pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visprobe.analyses.drift.moved import noise_floors
from visprobe.data.image_set import ImageSet
from visprobe.data.open import ImageData, open_images
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.exchange.swap import parse_swap
from visprobe.encoders.load import load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.errors import PrerequisiteError, UsageError
from visprobe.features.extract import Extraction, extract
from visprobe.features.feature_set import FeatureSet, first_of_each, with_rows
from visprobe.features.plan import Pass, check_room, describe, planned
from visprobe.io.redact import redact
from visprobe.pipelines.measurement import Measurement, Options
from visprobe.pipelines.trained import training_of, unlike_prompts
from visprobe.results.result import Result
from visprobe.results.statement import Statement

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Sites = Callable[[VisionEncoder], Sequence[str]]


def all_sites(encoder: VisionEncoder) -> list[str]:
    """Every site of the encoder, counted from the input."""
    return [site.name for site in encoder.sites]


def open_encoders(checkpoints: Sequence[str | Path], options: Options) -> list[VisionEncoder]:
    """Load the encoders under names that tell them apart.

    Raises:
        UsageError: If a checkpoint is named twice, or a device or number format is unknown.
        PrerequisiteError: If the device is not there, or features can be kept nowhere.
        CheckpointError: If a checkpoint cannot be read.
    """
    names, (device, dtype) = distinct_names(checkpoints), run_on(options)
    options.feature_store().check()
    resolution = Resolution(options.pixels, options.tiles)
    encoders = []
    for number, (spec, name) in enumerate(zip(checkpoints, names, strict=True), start=1):
        encoder = load_encoder(spec, device=device, dtype=dtype, resolution=resolution)
        encoder.name = name
        encoders.append(encoder)
        if options.progress:
            options.progress("read encoders", number, len(names))
    return encoders


def format_floors(checkpoint: str | Path, encoder: VisionEncoder, options: Options) -> list[VisionEncoder]:
    """What number formats make of an encoder, which is no movement (`visprobe.analyses.drift.moved`).

    Args:
        checkpoint: Where it was read from.
        encoder: The encoder.
        options: How it is run.

    Returns:
        It with weights rounded to bfloat16; and, where it is not run in float32, in float32: in bfloat16, rounding its
        weights changes nothing.
    """
    rounded = encoder.rounded(torch.bfloat16)
    if options.dtype == "float32":
        return [rounded]
    [exact] = open_encoders([checkpoint], replace(options, dtype="float32", progress=None))
    exact.name = f"{encoder.name} (float32)"
    return [rounded, exact]


def run_on(options: Options) -> tuple[torch.device, torch.dtype]:
    """Device and number format that `options` name.

    Raises:
        UsageError: If one is unknown.
        PrerequisiteError: If the device is not there.
    """
    return _device(options.device), _format(options.dtype)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is unknown", hint="Write auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PrerequisiteError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices", hint="Write --device cpu."
        )
    return device


def _format(name: str) -> torch.dtype:
    if name not in FORMATS:
        raise UsageError(f"--dtype {name} is unknown", hint=f"Write one of {', '.join(FORMATS)}.")
    return FORMATS[name]


class Session:
    """One measurement under way.

    Args:
        encoders: The checkpoints' encoders, the base first.
        floors: What their numbers are read against: untrained and rounded encoders.
        data: What `open_images` understands, or images that are open.
        options: How to run.
    """

    def __init__(
        self,
        encoders: Sequence[VisionEncoder],
        floors: Sequence[VisionEncoder],
        data: str | Path | ImageData,
        options: Options,
    ) -> None:
        self.encoders, self.floors = list(encoders), list(floors)
        self.images = open_images(str(data), **options.images) if isinstance(data, str | Path) else data
        self.warnings: list[str] = list(self.images.notes)
        self.seed = options.seed
        self._options = options
        self._store = options.feature_store()
        self._data: list[dict[str, Any]] = []
        self._decoded = self._forwarded = 0
        self._copies: set[str] = set()
        self._expected = False

    def passing(self, images: ImageSet, sites: Sites, encoders: Sequence[VisionEncoder] | None = None) -> Pass:
        """What `extract` does with the same arguments."""
        chosen = list(encoders or [*self.encoders, *self.floors])
        return Pass(images, sites, chosen, [self._processor_for(encoder) for encoder in chosen])

    def expect(self, passes: Sequence[Pass]) -> None:
        """Say what the passes of this measurement will do, before the first.

        Raises:
            PrerequisiteError: If the disk has no room for what they write.
        """
        self._expected = True
        plan = planned(passes)
        if self._options.note:
            self._options.note(describe(plan, self._store))
        check_room(plan, self._store)

    def extract(
        self, images: ImageSet, sites: Sites, encoders: Sequence[VisionEncoder] | None = None, *, note: bool = True
    ) -> tuple[FeatureSet, ...]:
        """Features of `images` under the encoders and floors (or under `encoders`).

        Args:
            images: The images.
            sites: From an encoder to what is wanted of it.
            encoders: Under which; by default all.
            note: Whether the images are listed in the measurement's data; not if they are part of a set that is.
        """
        one = self.passing(images, sites, encoders)
        if not self._expected:
            self.expect([one])
        extraction = extract(
            one.encoders,
            images,
            sites,
            store=self._store,
            batch_size=self._options.batch_size,
            processors=one.processors,
            progress=self._options.progress,
        )
        self._decoded += extraction.decoded
        self._forwarded += extraction.forwarded
        if note:
            self._note(images, extraction)
        if images is self.images.support:
            return extraction.features
        if images is self.images.query:
            first = extraction.features[0]
            self._copies = set(first.item_ids) - {first.item_ids[row] for row in first_of_each(first)}
        return self._distinct(extraction.features)

    def _distinct(self, features: tuple[FeatureSet, ...]) -> tuple[FeatureSet, ...]:
        """`features` with each of the measured images once: copies are not independent, and intervals count images."""
        first = features[0]
        if not self._copies.intersection(first.item_ids):
            return features
        rows = np.array([n for n, item in enumerate(first.item_ids) if item not in self._copies], dtype=np.intp)
        count = len(first.item_ids) - len(rows)
        note = (
            f"{count} of {len(first.item_ids)} images of {first.images} are copies of others, byte for byte: each is "
            "counted once"
        )
        if note not in self.warnings:
            self.warnings.append(note)
        return tuple(with_rows(one, rows) for one in features)

    def measurement(
        self, results: Sequence[Result], verdict: Sequence[Statement] = (), warnings: Sequence[str] = ()
    ) -> Measurement:
        """The results with everything they depended on."""
        checkpoints = tuple(map(provenance_of, self.encoders))
        return Measurement(
            results=tuple(results),
            verdict=tuple(verdict),
            checkpoints=checkpoints,
            data=tuple(self._data),
            warnings=(*self.warnings, *unlike_prompts(checkpoints), *warnings),
            decoded=self._decoded,
            forwarded=self._forwarded,
            seed=self._options.seed,
        )

    def _processor_for(self, encoder: VisionEncoder) -> VisionEncoder:
        """The first encoder's processor for towers of its kind and shape: a changed one would look like drift."""
        first = self.encoders[0]
        if encoder.processor_hash == first.processor_hash or encoder.pixel_kind != first.pixel_kind:
            return encoder
        note = f"{encoder.name} has another image processor than {first.name}: {first.name}'s was used for both"
        if note not in self.warnings:
            self.warnings.append(note)
        return first

    def _note(self, images: ImageSet, extraction: Extraction) -> None:
        self._data.append(
            {
                "name": images.name,
                "n": len(images.items) - len(extraction.bad),
                "classes": len(images.classes) if images.classes else None,
                "hash": extraction.images_hash,
                "bad_items": [{"id": item.id, "reason": item.reason} for item in extraction.bad],
            }
        )


def provenance_of(encoder: VisionEncoder) -> dict[str, Any]:
    """Name, origin and content hashes of an encoder, as a report lists them."""
    hashes = {"tower_hash": encoder.tower_hash, "projector_hash": encoder.projector_hash}
    about = encoder.provenance.to_json()
    training = training_of(about["path"])
    return {
        "name": encoder.name, **about, **hashes, "processor_hash": encoder.processor_hash,
        **({"training": training} if training else {}),
    }  # fmt: skip


_UNTRAINED = re.compile(r"untrained( \(.*\))?")


def distinct_names(specs: Sequence[str | Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart: folder names, with parents where needed.

    None of them is the name of a floor, whose features would otherwise be taken for those of the checkpoint. In an
    expression of two checkpoints each is shortened.

    Raises:
        UsageError: If two checkpoints are the same, or one cannot be told from the floor of the first.
    """
    whole = [_ending(str(spec), None) for spec in specs]
    if len(set(whole)) < len(whole):
        raise UsageError("the same checkpoint is named twice", hint="Name each checkpoint once.")
    for depth in range(1, max(name.count("/") for name in whole) + 2):
        names = [redact(_ending(str(spec), depth)) for spec in specs]  # told apart as they are shown
        floors = [name for name in names if _UNTRAINED.fullmatch(name) or name in noise_floors(names[0])]
        if len(set(names)) == len(names) and not floors:
            return names
    if floors:
        raise UsageError(f"{floors[0]} is the name of a floor of {names[0]}", hint="Rename that checkpoint's folder.")
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]  # only secrets tell them apart


def _ending(spec: str, depth: int | None) -> str:
    """The last `depth` parts of the path, or all of them."""
    if swap := parse_swap(spec):
        return f"{_ending(swap.into, depth)}[{swap.parts} <- {_ending(swap.source, depth)}]"
    parts = Path(spec).resolve().parts
    return "/".join(parts[-depth:] if depth else parts)
