"""The analyses that `visprobe compare` can run, those of other packages among them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points

from visprobe.analyses.analysis import Analysis
from visprobe.analyses.attributes import READABLE
from visprobe.analyses.drift import DRIFT
from visprobe.analyses.few_labels import FEW_LABELS
from visprobe.analyses.geometry import GEOMETRY
from visprobe.analyses.heads import HEADS
from visprobe.analyses.imagenet import IMAGENET
from visprobe.analyses.images import IMAGES
from visprobe.analyses.knn import KNN
from visprobe.analyses.paper_protocol import PAPER_PROTOCOL
from visprobe.analyses.probe import PROBE
from visprobe.analyses.robustness import ROBUSTNESS
from visprobe.analyses.segment import SEGMENT
from visprobe.analyses.similarity import SIMILARITY
from visprobe.analyses.similarity_more import SIMILARITY_MORE
from visprobe.analyses.sites import SITES
from visprobe.analyses.sparsity import SPARSITY
from visprobe.analyses.spectrum import SPECTRUM
from visprobe.analyses.tokens import TOKENS
from visprobe.analyses.weights import WEIGHTS
from visprobe.analyses.words import WORDS
from visprobe.analyses.zeroshot import ZEROSHOT
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
    READABLE,
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
