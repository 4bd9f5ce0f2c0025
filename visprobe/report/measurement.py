"""What a command measured, and the document it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visprobe.analyses.gates import Gate
from visprobe.analyses.registry import DEFAULT
from visprobe.analyses.result import Result
from visprobe.analyses.verdict import Statement
from visprobe.features.store import FeatureStore, default_folder
from visprobe.report.document import build_document

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How a measurement is run; the same for every command.

    Attributes:
        split: Split to measure; by default the first of val, validation, valid, test.
        limit: At most so many images of each split.
        batch_size: Images per forward pass; None is 64 (8 for maps), halved where memory is too small.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", "bfloat16" or "float16": number format of the encoders' arithmetic.
        seed: Seed of every random choice.
        store: Root of the feature store; by default the user's cache folder.
        progress: Called with (stage, done, total).
        pixels: Pixels per image for towers of native resolution.
        tiles: Whether models that cut images into tiles read the tiles too.
        analyses: Names of the analyses that compare runs.
        labels: File with the classes of the images that are measured.
        subset_per_class: At most so many training images of each class.
        same_recipe: Checkpoints of another seed of a recipe, shown as floors of compare.
        resume: Whether features and maps of earlier runs are used; otherwise they are made anew and replaced.
    """

    split: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    store: Path | None = None
    progress: Progress | None = None
    pixels: int = 448 * 448
    tiles: bool = False
    analyses: tuple[str, ...] = DEFAULT
    same_recipe: tuple[str | Path, ...] = ()
    labels: Path | None = None
    subset_per_class: int | None = None
    resume: bool = True

    def feature_store(self) -> FeatureStore:
        """Where features of this run are kept and found."""
        return FeatureStore(self.store or default_folder(), fresh=not self.resume)


@dataclass(frozen=True)
class Measurement:
    """What was measured on some checkpoints with one data set.

    Attributes:
        results: One `Result` per analysis.
        verdict: What follows, in words; empty where there is nothing to compare.
        checkpoints: Name and provenance of every checkpoint, the base first.
        data: Each image set: name, n, classes, hash, bad_items.
        warnings: What a reader must know before believing the numbers.
        decoded: Images decoded in this run: fewer than asked for if the feature store held some.
        forwarded: Images x encoders forwarded in this run.
        seed: Seed of the run.
    """

    results: tuple[Result, ...]
    verdict: tuple[Statement, ...]
    checkpoints: tuple[dict[str, Any], ...]
    data: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    decoded: int
    forwarded: int
    seed: int

    @property
    def images(self) -> int:
        """How many images were asked for, usable or not."""
        return sum(images["n"] + len(images["bad_items"]) for images in self.data)

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Images left out: where they are, and why; those whose mask could not be used among them."""
        found = [(f"{s['name']}/{item['id']}", item["reason"]) for s in self.data for item in s["bad_items"]]
        masks = [result.settings.get("without_mask", {}) for result in self.results]
        found += [(f"{name}/{id}", why) for ones in masks for name, some in ones.items() for id, why in some]
        return list(dict.fromkeys(found))

    def told(self) -> list[str]:
        """What was read and done, a line each: for those who want to know."""
        read = [
            f"{one['name']}: {one['family']}, {one['layout']}, tower {one['tower_hash'][:12]}, from {one['path']}"
            for one in self.checkpoints
        ]
        return [*read, f"{self.decoded} images decoded, {self.forwarded} images forwarded; the rest was there already"]

    def document(
        self,
        command: Sequence[str],
        options: Mapping[str, Mapping[str, Any]] | None = None,
        gates: Sequence[Gate] = (),
    ) -> dict[str, Any]:
        """The content of report.json.

        Args:
            command: The command line that asked for it.
            options: Each of its options: "value" and "origin" (where the value came from).
            gates: What `visprobe.analyses.gates.judge` made of conditions on these results.
        """
        return build_document(
            command=command,
            seed=self.seed,
            checkpoints=self.checkpoints,
            data=self.data,
            results=self.results,
            verdict=self.verdict,
            warnings=self.warnings,
            options=options or {},
            gates=gates,
        )
