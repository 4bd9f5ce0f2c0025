"""Attribution maps over a training run: one set for each saved step, with scores of their focus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visprobe.attribution.attributions import CENTRE, Attributions
from visprobe.attribution.evidence.scores import score
from visprobe.attribution.figures.sheet import Sheet
from visprobe.attribution.figures.sheet_json import sheet_json
from visprobe.attribution.methods.by_name import Maps
from visprobe.attribution.presentation import STRIPS
from visprobe.attribution.targets.shown import as_shown
from visprobe.encoders.encoder import VisionEncoder
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.pipelines.attribution.images import images_of, load_pictures, open_attribution_images
from visprobe.pipelines.attribution.map_sheets import title_of
from visprobe.pipelines.attribution.not_used import not_used, refuse_what_cannot_be_asked
from visprobe.pipelines.attribution.run import (
    RANDOMISED,
    AttributionConfig,
    AttributionResult,
    MapMaker,
    listed,
    notes,
    regions_of,
)
from visprobe.pipelines.attribution.snapshots import SnapshotsInOneLLM
from visprobe.pipelines.attribution.target import AttributionTarget, resolve_target
from visprobe.pipelines.compare import refuse_other_shapes
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.session import Session, distinct_names, open_encoders, provenance_of
from visprobe.pipelines.trajectory import Run, base_of, read_run, run_warnings
from visprobe.results.result import Result, Role, Row
from visprobe.results.statement import Statement, evidence
from visprobe.training.run_folder.manifest import weights_hash

QUESTION = "When during training did it begin to look where it looks?"
_LEVEL = 0.05


def gradcam_steps(
    folder: Path,
    named: Sequence[str],
    config: AttributionConfig | None = None,
    options: Options | None = None,
    kept: Path | None = None,
    base: Path | None = None,
) -> AttributionResult:
    """Compute attribution maps under the base and under each snapshot of the tower that a training run kept.

    Answers are explained under one language model, that of the finished run (of the base while the run goes on), so
    that only tower and projector change from step to step.

    Args:
        folder: Folder of the run.
        named: Image files, folders, or one data set.
        config: Settings of the maps.
        options: Options of the measurement.
        kept: Folder that caches the maps of each step as soon as they are made.
        base: Checkpoint that the run started from; by default the one in its manifest.

    Returns:
        Results "map_strip_1" …, one per picture, and "map_steps": by step the score and the measures of
        `visprobe.attribution.evidence.scores`, with paired differences to the base.

    Raises:
        UsageError: If the run has no snapshots, its base is not known, or options do not go together.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.
    """
    config, options = config or AttributionConfig(), options or Options()
    run = read_run(folder)
    start = base if base is not None else base_of([run])
    opened = open_attribution_images(named, Path(config.questions) if config.questions else None, options)
    images = opened.images
    following = _RunAttribution(run, start, config, options, kept)
    session = Session([following.base], [], images, options)
    refuse_what_cannot_be_asked(config, following.base, images)
    pictures, bad = load_pictures(images.query, config.prompt, opened.prompts, config.region)
    following.make_maps(session, pictures)
    measured = session.measurement(*following.found(list(run_warnings([run], start))))
    data = (listed(images.query, bad), *measured.data)
    measured = replace(measured, checkpoints=tuple(following.checkpoints), data=data)
    return AttributionResult(measured, following.attributions, following.explained)


class _RunAttribution:
    """Maps of the base and of every saved step, with at most one encoder in memory beside the base's."""

    explained: AttributionTarget
    attributions: Attributions

    def __init__(self, run: Run, start: Path, config: AttributionConfig, options: Options, kept: Path | None) -> None:
        self._run, self._start, self._config, self._options, self._kept = run, start, config, options, kept
        [self.base] = open_encoders([start], options)
        self.base.name, self._name = distinct_names([start, run.folder])
        self.checkpoints = [provenance_of(self.base)]
        self.steps = {self.base.name: 0}
        self._notes: list[str] = []

    def make_maps(self, session: Session, pictures: Sequence[Any]) -> None:
        """Compute the maps of the base, of random weights and of every saved step."""
        self.explained = self._under_one_model(self._explain(session, pictures))
        work = self._work(self.explained)
        found = {self.base.name: work.maps(str(self._start), self.base)}
        found[RANDOMISED] = work.maps(str(self._start), self.base, random=True)
        for number, (step, path) in enumerate(self._run.moments.items(), start=1):
            encoder = self._open(step, path)
            found[encoder.name] = self._moment(session, encoder, path)
            if self._options.progress:
                self._options.progress(f"follow {self._name}", number, len(self._run.moments))
        regions, lost = regions_of(self.explained.pictures, self.base)
        pictures = self.explained.pictures
        images, ids = images_of(pictures), [picture.id for picture in pictures]
        self.attributions = Attributions(tuple(self.steps), (CENTRE, RANDOMISED), found, regions, images, ids)
        unused = not_used(self._config.with_methods(self.explained), self._options, self.explained)
        self._notes += [*lost, *self.explained.notes, *unused, *notes([self.base], self.attributions)]

    def found(self, warnings: list[str]) -> tuple[list[Result], list[Statement], list[str]]:
        """Return results, verdict and warnings."""
        about = {
            "target": self.explained.target,
            "explains": self.explained.meaning,
            "baseline": self._config.baseline,
            **self.explained.settings,
        }
        warnings += self._notes
        results = list(strips(self.attributions, self.explained, self.base, list(self.steps.values()), about))
        if len(set(self.attributions.images)) < 2:
            warnings.append("one image has no interval: maps are drawn, and measures of focus left out")
            return results, [], warnings
        result = steps_result(self.attributions, self.explained.unit, self.steps, about)
        return [result, *results], list(steps_verdict(result, self._name)), warnings

    def _open(self, step: int, path: Path) -> VisionEncoder:
        [encoder] = open_encoders([path], replace(self._options, progress=None, note=None))
        refuse_other_shapes(self.base, [encoder])
        encoder.name = f"{self._name} step {step}"
        self.steps[encoder.name] = step
        self.checkpoints.append(provenance_of(encoder))
        return encoder

    def _moment(self, session: Session, encoder: VisionEncoder, path: Path) -> Maps:
        explained = self.explained
        if explained.target == "class":  # prototypes are features, so each step needs its own
            own = Session([encoder], [], session.images, replace(self._options, progress=None, note=None))
            explained = self._explain(own, explained.pictures, "class")
        return self._work(explained).maps(str(path), encoder)

    def _explain(self, session: Session, pictures: Sequence[Any], target: str | None = None) -> AttributionTarget:
        config = self._config
        asked = (config.texts, config.text_tower, config.class_name)
        return resolve_target(target or config.target, pictures, session, [str(self._start)], *asked)

    def _under_one_model(self, explained: AttributionTarget) -> AttributionTarget:
        if explained.of_tower:
            return explained
        subjects = SnapshotsInOneLLM(explained.subjects, self._run, self._start)
        name = self.base.name if subjects.model == self._start else self._name
        about = {"language_model": name, "language_model_hash": weights_hash(subjects.model)}
        self._notes.append(
            f"the language model is that of {name} at every step"
            + (f", also beside {self.base.name}'s tower and projector" if name != self.base.name else "")
        )
        return replace(explained, subjects=subjects, settings={**explained.settings, **about})

    def _work(self, explained: AttributionTarget) -> MapMaker:
        options = replace(self._options, progress=None, note=None)
        return MapMaker(self._config.with_methods(explained), options, explained, self._kept)


def strips(
    attributions: Attributions,
    explained: AttributionTarget,
    encoder: VisionEncoder,
    steps: Sequence[int],
    about: Mapping[str, Any],
) -> Iterator[Result]:
    """Yield results "map_strip_1" …: the maps of the first few pictures (first method and site) at every step.

    Args:
        attributions: All maps.
        explained: Target and pictures.
        encoder: Encoder of the base, whose processor crops the pictures.
        steps: Training step of each checkpoint.
        about: Settings to store in each result.
    """
    key = next(iter(attributions.maps[attributions.names[0]]))
    for number, picture in enumerate(explained.pictures[:STRIPS]):
        maps = {name: [attributions.maps[name][key][number]] for name in attributions.names}
        sheet = Sheet([as_shown(picture.image, encoder)], [title_of(picture, explained)], maps, explained.unit, number,
                      len(explained.pictures))  # fmt: skip
        settings = {**about, "steps": list(steps), "sheet": sheet_json(sheet)}
        question = f"Where does it look in picture {number + 1} as training goes on?"
        yield Result(f"map_strip_{number + 1}", question, (), settings)


def steps_result(attributions: Attributions, unit: str, steps: Mapping[str, int], about: Mapping[str, Any]) -> Result:
    """Return result "map_steps": scores and focus measures of every step, with paired differences to the base.

    Args:
        attributions: Maps of the base, of every step, and of the controls.
        unit: Unit of the score.
        steps: Training step by checkpoint name, the base first.
        about: Settings to store in the result.

    Raises:
        DataError: If there are fewer than two images, or a measure is not defined for its map.
    """
    scored, base = score(attributions), attributions.names[0]
    pairs = {(name, base) for name in attributions.names[1:]}
    rows = [row for row in scored.rows if row.role != "difference" or (row.checkpoint, row.reference) in pairs]
    tests = [one for one in scored.tests if (one["checkpoint"], one["reference"]) in pairs]
    settings = {**scored.settings, **about, "tests": tests, "steps": dict(steps)}
    return Result("map_steps", QUESTION, (*_scores(attributions, unit), *rows), settings, scored.warnings)


def _scores(attributions: Attributions, unit: str) -> Iterator[Row]:
    """Yield the mean score of each step and its paired difference to the base."""
    base = attributions.names[0]
    key = next(iter(attributions.maps[base]))
    _, images = np.unique(np.asarray(attributions.images), return_inverse=True)
    values = {name: np.array([one.score for one in attributions.maps[name][key]]) for name in attributions.names}

    def row(name: str, numbers: Any, reference: str | None, role: Role) -> Row:
        return Row(name, "@".join(key), "score", clustered_mean(numbers, images, Scale(unit)), reference, role)

    for name, own in values.items():
        yield row(name, own, None, "value")
        if name != base:
            yield row(name, own - values[base], base, "difference")


def steps_verdict(result: Result, run: str) -> Iterator[Statement]:
    """Yield a sentence on the first step at which the maps of the first method and site differ from the base's.

    A step differs if p of its paired difference is below 0.05 after Holm's adjustment over all steps.

    Args:
        result: Result of `steps_result`.
        run: Name of the run.
    """
    base, site, steps = result.base, result.sites[0], result.settings["steps"]
    inside = "mass_inside" if result.settings["with_region"] >= 2 else "gini"
    what = {"mass_inside": "the share of the maps' mass where the answer lies", "gini": "the focus of the maps (Gini)"}
    rows = result.select(site=site, measure=inside, role="difference")
    p = {t["checkpoint"]: t["p"] for t in result.tests if (t["site"], t["measure"]) == (site, inside)}
    if not rows:
        return
    adjusted = holm([p[row.checkpoint] for row in rows])
    first = next((row for row, one in zip(rows, adjusted, strict=True) if one < _LEVEL), None)
    last = rows[-1]
    when = (
        "is not measurably different from the base's at any of its moments"
        if first is None
        else f"is measurably different from the base's at step {steps[first.checkpoint]} for the first time"
    )
    e = last.estimate
    text = (
        f"{run}: {what[inside]} {when}; at step {steps[last.checkpoint]}, the last, the difference to {base} is "
        f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}] (n = {e.n})."
    )
    yield Statement(text, evidence(result, [row for row in dict.fromkeys((first, last)) if row is not None]))
