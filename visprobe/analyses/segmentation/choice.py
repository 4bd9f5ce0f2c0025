"""Which rate and round the heads of a segmentation took, and whether they lie on the edge of what was tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from visprobe.analyses.segmentation.heads import FORMS
from visprobe.analyses.segmentation.rows import AllFound
from visprobe.metrics.segmentation.patch_head import RATES, ROUNDS

_MEANS = {
    "smallest rate": "smaller learning rates might find more",
    "largest rate": "larger learning rates might find more",
    "first round": "the training is too coarse to stop at the best time",
    "last round": "a longer training (--steps) might find more",
}


def trainings(found: AllFound) -> dict[str, Any]:
    """Rate and round that were chosen for each head, and the edges that they lie on."""
    chosen = [
        {
            "checkpoint": name,
            "site": site,
            "head": form,
            "seed": seed,
            "target": one.head.kind.target,
            "rate": one.head.kind.rate,
            "round": one.round,
            "edges": list(one.edges),
        }
        for (name, site), each in found.items()
        for seed, of_seed in enumerate(each)
        for form, own in of_seed.items()
        for one in own.chosen
    ]
    return {"chosen": chosen}


def edge_warnings(chosen: list[dict[str, Any]]) -> Iterator[str]:
    """One sentence per form of head and edge of what was tried on which choices lie."""
    for form, hidden in FORMS.items():
        own = [one for one in chosen if one["head"] == form]
        tried = {"smallest rate": min(RATES[hidden]), "largest rate": max(RATES[hidden]), "first round": 1}
        for edge, meaning in _MEANS.items():
            if at := [one for one in own if edge in one["edges"]]:
                first = at[0]
                yield (
                    f"{len(at)} of {len(own)} {form} heads do best with the {edge} that was tried "
                    f"({tried.get(edge, ROUNDS):g}; first {first['checkpoint']} at {first['site']}): {meaning}"
                )
