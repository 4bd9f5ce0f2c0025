"""Sessions of a measurement: encoders loaded under distinct names, images opened, features extracted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visprobe.data.image_set import ImageSet
from visprobe.data.open import ImageData, open_images
from visprobe.encoders.baseline import Baseline
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
    """Return the names of all sites of the encoder, from the input on."""
    return [site.name for site in encoder.sites]


def open_encoders(checkpoints: Sequence[str | Path], options: Options) -> list[VisionEncoder]:
    """Load encoders under distinct names.

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


def format_baselines(checkpoint: str | Path, encoder: VisionEncoder, options: Options) -> list[VisionEncoder]:
    """Return copies of an encoder in other number formats: drift below theirs is rounding, not training.

    Args:
        checkpoint: Checkpoint that the encoder was read from.
        encoder: Loaded encoder.
        options: Options of the measurement.

    Returns:
        The encoder with weights rounded to bfloat16; if it does not run in float32, also one in float32, because
        rounding changes nothing where it runs in bfloat16 already. See `visprobe.analyses.drift.noise_floor`.
    """
    rounded = encoder.rounded(torch.bfloat16)
    if options.dtype == "float32":
        return [rounded]
    [exact] = open_encoders([checkpoint], replace(options, dtype="float32", progress=None))
    exact.name, exact.baseline = f"{encoder.name} (float32)", Baseline("arithmetic", encoder.name)
    return [rounded, exact]


def run_on(options: Options) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype that `options` name.

    Raises:
        UsageError: If device or dtype is unknown.
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
    """Measurement in progress: encoders, images, and a feature store.

    Args:
        encoders: Encoders of the checkpoints, the base first.
        baselines: Encoders that serve as baselines: untrained and rounded ones.
        data: Folder or name of an image set, for `open_images`, or opened images.
        options: Options of the measurement.
    """

    def __init__(
        self,
        encoders: Sequence[VisionEncoder],
        baselines: Sequence[VisionEncoder],
        data: str | Path | ImageData,
        options: Options,
    ) -> None:
        self.encoders, self.baselines = list(encoders), list(baselines)
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
        """Describe the pass over images that `extract` makes with the same arguments."""
        chosen = list(encoders or [*self.encoders, *self.baselines])
        return Pass(images, sites, chosen, [self._processor_for(encoder) for encoder in chosen])

    def expect(self, passes: Sequence[Pass]) -> None:
        """Announce the passes of this measurement, and check the disk for room, before the first.

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
        """Extract features of `images`, or take them from the store.

        Args:
            images: Image set.
            sites: Maps an encoder to the names of the sites that are wanted of it.
            encoders: Encoders to run; by default those of checkpoints and baselines.
            note: List the images in the data of the measurement; False for a part of a set that is listed already.
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
        """Drop copies of images: they are not independent, so intervals would be too narrow."""
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
        """Return the results as a measurement, with checkpoints, data and warnings."""
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
        """Use the first encoder's processor for all towers that take such pixels: another one would look like drift."""
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
    """Return name, origin and content hashes of an encoder, for a report."""
    hashes = {"tower_hash": encoder.tower_hash, "projector_hash": encoder.projector_hash}
    about = encoder.provenance.to_json()
    training = training_of(about["path"])
    return {
        "name": encoder.name, **about, **hashes, "processor_hash": encoder.processor_hash,
        **({"training": training} if training else {}),
    }  # fmt: skip


_BASELINE = re.compile(r"untrained( \(.*\))?|(?P<of>.+) \((bfloat16|float32)\)")


def distinct_names(specs: Sequence[str | Path]) -> list[str]:
    """Return the shortest distinct endings of the paths: folder names, with parents where needed.

    None of them is the name of a baseline encoder, because features are found by encoder name. In a swap expression
    both checkpoints are shortened.

    Raises:
        UsageError: If two checkpoints are the same, or one has the name of a baseline of the first.
    """
    whole = [_ending(str(spec), None) for spec in specs]
    if len(set(whole)) < len(whole):
        raise UsageError("the same checkpoint is named twice", hint="Name each checkpoint once.")
    for depth in range(1, max(name.count("/") for name in whole) + 2):
        names = [redact(_ending(str(spec), depth)) for spec in specs]  # told apart as they are shown
        found = [_BASELINE.fullmatch(name) for name in names]
        baselines = [match[0] for match in found if match and match["of"] in (None, names[0])]
        if len(set(names)) == len(names) and not baselines:
            return names
    if baselines:
        raise UsageError(
            f"{baselines[0]} is the name of a baseline of {names[0]}", hint="Rename that checkpoint's folder."
        )
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]  # only secrets tell them apart


def _ending(spec: str, depth: int | None) -> str:
    if swap := parse_swap(spec):
        return f"{_ending(swap.into, depth)}[{swap.parts} <- {_ending(swap.source, depth)}]"
    parts = Path(spec).resolve().parts
    return "/".join(parts[-depth:] if depth else parts)
