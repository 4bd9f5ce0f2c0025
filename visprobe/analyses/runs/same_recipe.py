"""What another run of the same recipe says about a difference between checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from visprobe.results.result import Result
from visprobe.results.statement import Statement, cka_interval, evidence

SAME_RECIPE = " (same recipe)"


def same_recipe(results: Sequence[Result], base: str) -> Iterator[Statement]:
    """One statement per floor that is another run of a recipe: how far it lies from the base where the MLLM reads.

    Args:
        results: Results of one comparison; only "drift" is read.
        base: Name of the base.
    """
    for drift in (result for result in results if result.analysis == "drift"):
        rows = drift.select(site=drift.settings["consumed"], measure="cka", role="floor")
        for row in (row for row in rows if row.checkpoint.endswith(SAME_RECIPE)):
            text = (
                f"{row.checkpoint}: CKA {cka_interval(row.estimate)} to {base} at {row.site}. A difference between "
                "checkpoints that is no larger than one between runs of one recipe is not about recipes."
            )
            yield Statement(text, evidence(drift, [row]))
