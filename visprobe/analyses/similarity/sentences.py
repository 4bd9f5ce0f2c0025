"""Sentences on units that changed although CKA did not."""

from __future__ import annotations

from collections.abc import Iterator

from visprobe.analyses.core.grouped import ranged
from visprobe.analyses.drift.noise_floor import NOISE, has_moved
from visprobe.results.result import Row
from visprobe.results.rules import Findings, Rule
from visprobe.results.statement import Statement, cka_text, evidence


def _unseen(findings: Findings, name: str) -> Iterator[tuple[Row, Row, Row]]:
    """Yield rows of relative error, its baseline and CKA where units changed although CKA did not."""
    # The relative error sees rotations, CKA does not. It must exceed that of rounding times the root of CKA's margin.
    drift, similarity = findings["drift"], findings["similarity"]
    for site in (drift.consumed, "projected"):
        wanted = {"site": site, "measure": "relative_error"}
        for row in similarity.select(**wanted, checkpoint=name, role="value"):
            ckas = drift.select(checkpoint=name, site=site, measure="cka", role="value")
            noise = [row for row in similarity.select(**wanted, role="baseline") if row.baseline in NOISE]
            baseline = max(noise, key=lambda row: row.estimate.high, default=None)
            if ckas and baseline and not has_moved(drift, ckas[0]) and has_moved(similarity, row):
                yield row, baseline, ckas[0]


def _rotation(findings: Findings, name: str) -> Iterator[Statement]:
    for row, baseline, cka in _unseen(findings, name):
        error, rounding = row.estimate, baseline.estimate
        text = (
            f"{name}: at {row.site} units were permuted, rotated, scaled or shifted, which CKA does not see: relative "
            f"error {error.value:.3g} [{error.low:.3g}, {error.high:.3g}] against {rounding.value:.2g} of the "
            f"number format, CKA {cka_text(cka.estimate.value)}."
        )
        refs = (*evidence(findings["similarity"], [row, baseline]), *evidence(findings["drift"], [cka]))
        yield Statement(text, refs)


def _rotations(findings: Findings) -> Iterator[Statement]:
    unseen = [one for name in findings.descendants for one in _unseen(findings, name)]
    for site in dict.fromkeys(row.site for row, _, _ in unseen):
        rows = [row for row, _, _ in unseen if row.site == site]
        words = f"at {site} units were permuted, rotated, scaled or shifted, which CKA does not see; relative error"
        yield ranged(findings["similarity"], rows, words, lambda row: f"{row.estimate.value:.3g}")


RULES = (Rule(22, many=_rotations), Rule(50, each=_rotation))
