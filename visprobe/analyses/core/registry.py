"""The analyses that `visprobe compare` can run, those of other packages among them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points

from visprobe.analyses.accuracy.few_labels import FEW_LABELS
from visprobe.analyses.accuracy.imagenet import IMAGENET
from visprobe.analyses.accuracy.knn import KNN
from visprobe.analyses.accuracy.paper_protocol import PAPER_PROTOCOL
from visprobe.analyses.accuracy.zeroshot import ZEROSHOT
from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.drift.drift import DRIFT
from visprobe.analyses.drift.heads import HEADS
from visprobe.analyses.drift.images import IMAGES
from visprobe.analyses.drift.sites import SITES
from visprobe.analyses.drift.tokens import TOKENS
from visprobe.analyses.language.words import WORDS
from visprobe.analyses.probes.probe import PROBE
from visprobe.analyses.robustness.robustness import ROBUSTNESS
from visprobe.analyses.segmentation.segment import SEGMENT
from visprobe.analyses.similarity.geometry import GEOMETRY
from visprobe.analyses.similarity.similarity import SIMILARITY
from visprobe.analyses.similarity.similarity_more import SIMILARITY_MORE
from visprobe.analyses.weights.sparsity import SPARSITY
from visprobe.analyses.weights.spectrum import SPECTRUM
from visprobe.analyses.weights.weights import WEIGHTS
from visprobe.errors import UsageError

ENTRY_POINTS = "visprobe.analyses"
BUILT_IN: tuple[Analysis, ...] = (
    IMAGENET,
    DRIFT,
    WEIGHTS,
    SPARSITY,
    SPECTRUM,
    HEADS,
    SITES,
    IMAGES,
    TOKENS,
    SIMILARITY,
    SIMILARITY_MORE,
    GEOMETRY,
    KNN,
    FEW_LABELS,
    PAPER_PROTOCOL,
    ROBUSTNESS,
    ZEROSHOT,
    PROBE,
    WORDS,
    SEGMENT,
)
DEFAULT = ("imagenet", "drift", "weights")
# What compare, and align with a language model, are for; any other analysis that cannot answer is left out and said.
REQUIRED = ("drift", "weights", "align")


def available() -> dict[str, Analysis]:
    """All analyses by name: the built-in ones, then those of installed packages (entry point `visprobe.analyses`).

    Raises:
        UsageError: If another package's analysis cannot be loaded or has the name of another one.
    """
    found = {analysis.name: analysis for analysis in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            analysis = entry.load()
        except Exception as error:  # code of others may raise anything
            raise UsageError(
                f"the analysis {entry.value} cannot be loaded: {error}", hint="Repair or uninstall that package."
            ) from error
        if not isinstance(analysis, Analysis) or analysis.name in found:
            raise UsageError(
                f"{entry.value} is no Analysis with a name of its own", hint="Repair or uninstall that package."
            )
        found[analysis.name] = analysis
    return found


def chosen(names: Sequence[str]) -> list[Analysis]:
    """The analyses called `names`, in that order.

    Raises:
        UsageError: If a name is unknown; all unknown ones are said.
    """
    known = available()
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no analysis {', '.join(map(repr, unknown))}", hint=f"There are {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]
