"""Analyses of encoders that need not share a shape or a base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from visprobe.analyses.core.analysis import Analysis, Inputs, Sets, only
from visprobe.data.image_set import ImageSet
from visprobe.data.subset import first_spread
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError, UsageError, VisprobeError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.plan import Pass
from visprobe.features.requests import resolved
from visprobe.io.disk import plain_errors
from visprobe.pipelines.measurement import Measurement, Options, as_list
from visprobe.pipelines.session import Session, open_encoders
from visprobe.report.class_titles import with_titles
from visprobe.report.page.most_changed import with_thumbnails
from visprobe.results.read_site import of_towers_alone
from visprobe.results.result import Result


@plain_errors
def measure(
    checkpoints: str | Path | Sequence[str | Path],
    data: str | Path,
    analyses: Sequence[Analysis],
    options: Options | None = None,
) -> Measurement:
    """Run analyses on the encoders of checkpoints that need not have one shape or one base.

    Args:
        checkpoints: One or more checkpoint folders; differences are taken to the first.
        data: Folder or name of an image set, for `open_images`.
        analyses: Analyses to run; one that cannot run is left out with a warning, unless none can.
        options: Options of the measurement.

    Returns:
        Results with an untrained tower of each shape as baseline.

    Raises:
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.measure(["base", "dpo"], "digits", [MY_ANALYSIS])`, for analyses of your own
        (`visprobe.analyses.core.analysis.Analysis`).
    """
    options = options or Options()
    encoders = open_encoders(as_list(checkpoints), options)
    for equip in (analysis.equip for analysis in analyses if analysis.equip):
        encoders = [equip(encoder) for encoder in encoders]
    session = Session(encoders, _untrained_of_each_shape(encoders, options.seed), data, options)
    results = run_analyses(session, analyses)
    if not results:
        raise DataError("; ".join(session.warnings), hint="Give other images, or ask for another analysis.")
    return session.measurement(results)


def _untrained_of_each_shape(encoders: Sequence[VisionEncoder], seed: int) -> list[VisionEncoder]:
    """Return one untrained tower per shape, named after the first encoder of that shape if there are several."""
    first = {(e.provenance.family, e.sites, e.grid, e.processor_hash): e for e in reversed(encoders)}
    baselines = []
    for encoder in reversed(first.values()):
        baseline = encoder.untrained(seed)
        baseline.name = baseline.name if len(first) == 1 else f"{baseline.name} ({encoder.name})"
        baselines.append(baseline)
    return baselines


def run_analyses(session: Session, analyses: Sequence[Analysis]) -> list[Result]:
    """Run `analyses` on the session's encoders and baselines.

    Args:
        session: Session whose first encoder is the base.
        analyses: Analyses to run.

    Returns:
        Results in the order of `analyses`. An analysis that cannot run is left out with a warning, unless it is the
        only one or is marked as required.

    Raises:
        DataError, UsageError: If none can run, all for the same reason.
    """
    runner = _Runner(session, alone=len(analyses) == 1)
    able = [analysis for analysis in analyses if runner.fits(analysis)]
    if not able:  # skip the pass over the images
        if len({error.message for error in runner.left_out}) == 1:
            raise runner.left_out[0]
        return []
    # The group of all images runs first, because only its pass is listed as the data of the measurement.
    groups = {
        count: [analysis for analysis in able if analysis.images == count]
        for count in dict.fromkeys([None, *(analysis.images for analysis in able)])
    }
    session.expect([one for count, group in groups.items() for one in runner.passes(group, count)])
    results: dict[str, Result] = {}
    for count, group in groups.items():
        results |= runner.run(group, count)
    answered = [results[analysis.name] for analysis in able if analysis.name in results]
    images = session.images.query
    if not session.encoders[0].has_projector:
        answered = [of_towers_alone(result) for result in answered]
    return [with_titles(with_thumbnails(result, images), images) for result in answered]


class _Runner:
    def __init__(self, session: Session, *, alone: bool) -> None:
        self._session, self._alone = session, alone
        self.left_out: list[VisprobeError] = []

    def fits(self, analysis: Analysis) -> bool:
        """Return whether the base and the images have what `analysis` needs."""
        base, images = self._session.encoders[0], self._session.images
        try:
            analysis.needs(base)
            if analysis.check is not None:
                analysis.check(images.query, images.support)
        except (DataError, UsageError) as error:
            self._leave_out(analysis, error)
            return False
        if analysis.fixed_grid and base.grid is None:
            problem = f"{base.name} gives each image its own number of tokens"
            self._leave_out(analysis, UsageError(problem, hint="Leave this analysis out for it."))
            return False
        return True

    def passes(self, group: Sequence[Analysis], count: int | None) -> Iterator[Pass]:
        """Yield the passes over images that `run` makes."""
        images, support = self._session.images.query, self._session.images.support
        shown = images if count is None else first_spread(images, count)
        yield self._pass(shown, group)
        if support is not None and (learning := [analysis for analysis in group if analysis.support]):
            yield self._pass(support, learning)
        for analysis in group:
            made = analysis.variants(shown, self._session.seed) if analysis.variants else {}
            yield from (self._pass(one, [analysis]) for one in made.values())

    def run(self, group: Sequence[Analysis], count: int | None) -> dict[str, Result]:
        """Run the analyses that use `count` images (None: all), on features from one pass over them."""
        images, support = self._session.images.query, self._session.images.support
        shown = images if count is None else first_spread(images, count)
        features = self._extract(shown, group, note=count is None)
        learning = [analysis for analysis in group if analysis.support and support is not None]
        learned = self._extract(support, learning, note=count is None) if support and learning else {}
        results: dict[str, Result] = {}
        for analysis in group:
            base, *others = self._own(analysis, features)
            descendants = len(self._session.encoders) - 1
            inputs = Inputs(
                base=base,
                others=tuple(others[:descendants]),
                baselines=tuple(others[descendants:]),
                encoders=tuple(self._session.encoders),
                seed=self._session.seed,
                support=self._own(analysis, learned) if analysis in learning else (),
                variants=self._variants(analysis, shown),
                images=shown,
                support_images=support,
            )
            try:
                results[analysis.name] = analysis.run(inputs)
            except DataError as error:
                self._leave_out(analysis, error)
        return results

    def _variants(self, analysis: Analysis, images: ImageSet) -> dict[str, Sets]:
        made = analysis.variants(images, self._session.seed) if analysis.variants else {}
        return {name: self._own(analysis, self._extract(one, [analysis], note=False)) for name, one in made.items()}

    def _extract(self, images: ImageSet, group: Sequence[Analysis], *, note: bool) -> dict[str, FeatureSet]:
        """Extract by encoder the features that the analyses run on it need."""
        one = self._pass(images, group)
        sets = self._session.extract(images, one.sites, one.encoders, note=note)
        return {features.encoder: features for features in sets}

    def _pass(self, images: ImageSet, group: Sequence[Analysis]) -> Pass:
        encoders = [e for e in self._encoders() if not group or any(self._is_run_on(a, e) for a in group)]

        def wanted(encoder: VisionEncoder) -> list[str]:
            asking = [analysis for analysis in group if self._is_run_on(analysis, encoder)]
            return resolved(encoder, [request for analysis in asking for request in analysis.needs(encoder)])

        return self._session.passing(images, wanted, encoders)

    def _encoders(self) -> list[VisionEncoder]:
        return [*self._session.encoders, *self._session.baselines]

    def _is_run_on(self, analysis: Analysis, encoder: VisionEncoder) -> bool:
        return encoder.baseline is None or analysis.baselines in ("all", encoder.baseline.kind)

    def _own(self, analysis: Analysis, features: dict[str, FeatureSet]) -> Sets:
        run_on = [encoder for encoder in self._encoders() if self._is_run_on(analysis, encoder)]
        return tuple(only(features[e.name], resolved(e, analysis.needs(e))) for e in run_on)

    def _leave_out(self, analysis: Analysis, error: VisprobeError) -> None:
        if self._alone or analysis.required:
            raise error
        self.left_out.append(error)
        self._session.warnings.append(f"{analysis.name} was left out: {error.message}")
