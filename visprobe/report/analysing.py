"""Analyses run together: one pass over the images for everything that they ask for."""

from __future__ import annotations

from collections.abc import Sequence

from visprobe.analyses.analysis import Analysis, Inputs, only
from visprobe.analyses.registry import DEFAULT
from visprobe.analyses.result import Result
from visprobe.data.subset import first_spread
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError, UsageError, VisprobeError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import resolved
from visprobe.report.most_changed import with_thumbnails
from visprobe.report.session import Session, Sites


def run_analyses(session: Session, analyses: Sequence[Analysis], also: Sites) -> tuple[list[Result], list[FeatureSet]]:
    """Run `analyses` on the session's encoders and floors.

    Args:
        session: The measurement under way; its first encoder is the base.
        analyses: What to run.
        also: What else is wanted of each encoder in the same pass.

    Returns:
        The results in the order of `analyses`, and all features of the pass over all images.
    """
    alone = len(analyses) == 1
    able = [analysis for analysis in analyses if _fits(session, analysis, alone)]
    results: dict[str, Result] = {}
    whole: list[FeatureSet] = []
    for count in dict.fromkeys([None, *(analysis.images for analysis in able)]):
        group = [analysis for analysis in able if analysis.images == count]
        images = session.images.query if count is None else first_spread(session.images.query, count)

        def wanted(encoder: VisionEncoder, group: list[Analysis] = group, count: int | None = count) -> list[str]:
            needs = [request for analysis in group for request in analysis.needs(encoder)]
            return resolved(encoder, [*needs, *(also(encoder) if count is None else [])])

        features = session.extract(images, wanted, note=count is None)
        whole = list(features) if count is None else whole
        for analysis in group:
            try:
                results[analysis.name] = analysis.run(_inputs(session, features, analysis))
            except DataError as error:
                _leave_out(session, analysis, error, alone)
    answered = [results[analysis.name] for analysis in able if analysis.name in results]
    return [with_thumbnails(result, session.images.query) for result in answered], whole


def _fits(session: Session, analysis: Analysis, alone: bool) -> bool:
    base = session.encoders[0]
    try:
        analysis.needs(base)
    except UsageError as error:
        _leave_out(session, analysis, error, alone)
        return False
    if analysis.fixed_grid and base.grid is None:
        session.warnings.append(f"{analysis.name} was left out: {base.name} gives each image its own number of tokens")
        return False
    return True


def _leave_out(session: Session, analysis: Analysis, error: VisprobeError, alone: bool) -> None:
    """One question without an answer is no reason to lose the others; the default ones are what compare is for."""
    if alone or analysis.name in DEFAULT:
        raise error
    session.warnings.append(f"{analysis.name} was left out: {error.message}")


def _inputs(session: Session, features: Sequence[FeatureSet], analysis: Analysis) -> Inputs:
    encoders = [*session.encoders, *session.floors]
    own = [only(f, resolved(e, analysis.needs(e))) for f, e in zip(features, encoders, strict=True)]
    count = len(session.encoders)
    floors = own[count:] if analysis.floors else []
    return Inputs(own[0], tuple(own[1:count]), tuple(floors), tuple(session.encoders), session.seed)
