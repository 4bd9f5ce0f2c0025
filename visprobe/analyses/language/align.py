"""Alignment with language models: do images that an encoder finds alike have captions that these find alike?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import (
    Paired,
    Replicates,
    Test,
    difference_rows,
    kinds_of,
    pairs,
    subtract,
    value_rows,
    with_holm,
)
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import naming
from visprobe.analyses.language.align_layers import DRAWS, Pairs, clamped, neighbour_lists, permutation_p
from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import HasCaptions
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet, of_tower
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.half_sampling import Halved, half_splits
from visprobe.metrics.similarity.cka import replicate_cka, represent
from visprobe.metrics.similarity.neighbour_overlap import cknna, neighbours_in_half
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Row

if TYPE_CHECKING:
    from visprobe.features.text import TextFeatures

QUESTION = "Do the images that an encoder finds alike have captions that a language model finds alike?"
NEIGHBOURS = 10
LEAST = 50  # pairs of image and caption; half of them must hold 10 neighbours
IMAGES = 1024  # number of pairs of the published measure; neighbour lists grow with the square
SCALES = {
    "text_knn": Scale("fraction", 0, 1),
    "text_cknna": Scale("CKNNA", -1, 1),
    "text_cka": Scale("CKA", -1, 1),
    "text_best": Scale("fraction", 0, 1),
    "text_excess": Scale("fraction", -1, 1),
}
_CKNNA_SPLITS = 20  # few: each searches the neighbours of both halves anew
Protocol = Literal["fixed", "paper"]
Features = NDArray[np.floating[Any]]
Key = tuple[str, str, str]  # checkpoint, site, measure
MakeTexts = Callable[[Sequence[str]], "Sequence[TextFeatures]"]


@dataclass(frozen=True)
class _Side:
    name: str
    layers: Mapping[str, Features]
    lists: Mapping[str, NDArray[np.intp]]

    @property
    def fixed(self) -> dict[str, str]:
        """Layers that are compared wherever the numbers fall: half way, and the last."""
        names = list(self.layers)
        return {"half depth": names[len(names) // 2], "last": names[-1]}


def alignment(
    base: FeatureSet,
    others: Sequence[FeatureSet],
    baselines: Sequence[FeatureSet],
    captions: Mapping[str, str],
    texts: MakeTexts,
    protocol: Protocol = "fixed",
    seed: int = 0,
) -> Result:
    """Compute mutual kNN, CKNNA and CKA with language models, and the largest mutual kNN over all layers.

    Args:
        base: Pooled features of the images at every site under the base.
        others: Features of the same images under other checkpoints.
        baselines: Features of the same images under untrained encoders.
        captions: Captions by item id; images without one are left out.
        texts: Maps the captions, in the order of the images, to their features under each language model.
        protocol: "fixed": fixed sites and layers, and the largest over all of them against its permutation null;
            "paper": the largest alone, after features are clamped as in the published code.
        seed: Seed of random halves and permutations.

    Returns:
        Rows "text_knn/...", "text_cknna/...", "text_cka/..." by language model, layer and site; "text_best/..." and
        "text_excess/...", the largest and how far it is above its mean over shuffled captions. All in [-1, 1].

    Raises:
        DataError: If fewer than 50 images have a caption, the images differ, or features do not vary.

    Source:
        Huh et al. 2024 (2405.07987), eq. 11 and appendix A.
    """
    sets = align([base, *others, *baselines])
    kept = [row for row, item in enumerate(sets[0].item_ids) if item in captions]
    _refuse_few(base.images, len(kept))
    told = [captions[sets[0].item_ids[row]] for row in kept]
    sides = _sides(texts(told), protocol, base.images)
    work = _Work(sets, sides, np.array(kept), protocol, seed)
    for features in sets:
        work.measure(features)
    settings = work.settings | {
        "base": base.encoder,
        "images": base.images,
        "consumed": base.consumed,
        "distinct_captions": len(set(told)),
        "without_caption": len(base.item_ids) - len(kept),
    }
    return Result("align", QUESTION, tuple(work.rows()), settings, tuple(_warnings(base, told, protocol)))


class _Work:
    def __init__(
        self, sets: Sequence[FeatureSet], sides: Sequence[_Side], kept: NDArray[np.intp], protocol: Protocol, seed: int
    ) -> None:
        self.names = [features.encoder for features in sets if not features.baseline]
        self.baselines = kinds_of(features for features in sets if features.baseline)
        self.sides, self.kept, self.protocol, self.seed = sides, kept, protocol, seed
        self.found: dict[Key, Replicates] = {}
        self.p: dict[Key, float] = {}
        self.shuffled: dict[str, NDArray[np.float64]] = {}  # largest value of each draw, by language model
        self.best: list[dict[str, str]] = []

    def measure(self, features: FeatureSet) -> None:
        sites = {site: features.sites[site][self.kept] for site in features.sites}
        if self.protocol == "paper":
            sites = _clamped_alike(sites)
        lists: dict[str, NDArray[np.intp]] = {}
        for site, array in sites.items():
            with naming(features, site, "a search for neighbours"):
                lists |= neighbour_lists({site: array}, NEIGHBOURS)
        for side in self.sides:
            pairs = Pairs(lists, side.lists, NEIGHBOURS, self.seed)
            null = pairs.null()
            self._largest(features.encoder, side, pairs, null)
            if self.protocol == "fixed":
                for site in [features.consumed, *(site for site in sites if not of_tower(site))]:
                    with naming(features, site, "alignment"):
                        self._fixed(features.encoder, site, sites[site], side, pairs, null)

    def _fixed(
        self, name: str, site: str, array: Features, side: _Side, pairs: Pairs, null: NDArray[np.float64]
    ) -> None:
        row = list(pairs.sites).index(site)
        for depth, layer in side.fixed.items():
            about, text = f"/{side.name}, {depth}, {site}", side.layers[layer]
            key, column = (name, site, f"text_knn{about}"), list(pairs.layers).index(layer)
            self.found[key] = pairs.halved(site, layer)
            self.p[key] = permutation_p(pairs.table[row, column], null[:, row, column])
            self.found[name, site, f"text_cknna{about}"] = _halved_cknna(array, text, self.seed)
            self.found[name, site, f"text_cka{about}"] = replicate_cka(represent(array), represent(text))

    def _largest(self, name: str, side: _Side, pairs: Pairs, null: NDArray[np.float64]) -> None:
        largest = null.max((1, 2))
        self.shuffled.setdefault(side.name, largest)
        row, column = np.unravel_index(int(pairs.table.argmax()), pairs.table.shape)
        where = {"site": list(pairs.sites)[row], "layer": list(pairs.layers)[column]}
        self.best.append({"checkpoint": name, "model": side.name, **where})
        key = (name, "all sites", f"text_best/{side.name}")
        self.found[key], self.p[key] = pairs.best, permutation_p(pairs.best.value, largest)
        excess = replace(pairs.best, value=pairs.best.value - float(largest.mean()))
        self.found[name, "all sites", f"text_excess/{side.name}"] = excess

    def rows(self) -> Iterator[Row]:
        order = list(SCALES)
        found = dict(sorted(self.found.items(), key=lambda item: order.index(_kind(item[0][2]))))  # stable sort
        numbers = {key: one.estimate(SCALES[_kind(key[2])]) for key, one in found.items()}
        yield from value_rows(numbers, self.baselines)
        yield from self._chance(found)
        yield from difference_rows(found, self.names, _difference)

    def _chance(self, found: Mapping[Key, Replicates]) -> Iterator[Row]:
        n, share = len(self.kept), NEIGHBOURS / (len(self.kept) - 1)
        exact = Estimate.exact(share, n, "fraction")
        for site, measure in dict.fromkeys((site, measure) for _, site, measure in found):
            if measure.startswith("text_knn/"):
                yield Row("chance", site, measure, exact, None, "baseline", "chance")
        for model, values in self.shuffled.items():
            low, high = (float(end) for end in np.quantile(values, (0.025, 0.975)))
            mean = float(values.mean())
            drawn = Estimate(mean, min(low, mean), max(high, mean), n, "fraction", f"{DRAWS} permutations 95 %")
            yield Row("shuffled", "all sites", f"text_best/{model}", drawn, None, "baseline", "control")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the numbers depend on, and the p-values."""
        return {
            "n": len(self.kept),
            "neighbours": NEIGHBOURS,
            "chance": NEIGHBOURS / (len(self.kept) - 1),
            "protocol": self.protocol,
            "language_models": {side.name: len(side.layers) - 1 for side in self.sides},
            "fixed_layers": {side.name: side.fixed for side in self.sides},
            "best": self.best,
            "tests": [*self._against_shuffled(), *self._between()],
            "tests_are": f"p against {DRAWS} shuffles of the captions (one-sided), and of paired differences (two-"
            "sided, from the standard error); p_holm is corrected over language models, layers and sites, for each "
            "checkpoint and measure",
        }

    def _against_shuffled(self) -> list[Test]:
        tests = [{"checkpoint": name, "measure": measure, "p": p} for (name, _, measure), p in self.p.items()]
        return with_holm(tests, lambda one: (one["checkpoint"], _kind(one["measure"])))

    def _between(self) -> Iterator[Test]:
        compared = {key: one for key, one in self.found.items() if _kind(key[2]) != "text_excess"}
        tests = [pair.test(subtract(pair).student.p_zero()) for pair in pairs(compared, self.names)]
        for test in with_holm(tests, lambda one: (one["checkpoint"], one["reference"], _kind(one["measure"]))):
            yield {key: value for key, value in test.items() if key != "site"}


def _difference(pair: Paired[Replicates]) -> Estimate:
    return subtract(pair).estimate(SCALES[_kind(pair.measure)].of_differences)


def _kind(measure: str) -> str:
    return measure.partition("/")[0]


def _halved_cknna(x: Features, y: Features, seed: int) -> Halved:
    def statistic(images: NDArray[np.intp]) -> float:
        k = NEIGHBOURS if len(images) == len(x) else neighbours_in_half(NEIGHBOURS)
        return cknna(x[images], y[images], k)

    return half_splits(statistic, len(x), _CKNNA_SPLITS, seed)


def _sides(texts: Sequence[TextFeatures], protocol: Protocol, images: str) -> list[_Side]:
    sides = []
    for text, name in zip(texts, _names([text.model for text in texts]), strict=True):
        layers = {layer: text.layers[layer] for layer in text.layers}
        if protocol == "paper":
            layers = clamped(layers)
        try:
            sides.append(_Side(name, layers, neighbour_lists(layers, NEIGHBOURS)))
        except ValueError as error:
            raise DataError(
                f"neighbours of the captions of {images} are not defined under {text.model}: {error}",
                hint="Give other captions; if they vary, the language model is broken.",
            ) from error
    return sides


def _names(specs: Sequence[str]) -> list[str]:
    """Name language models by the last part of their path, or by all of it where that is ambiguous."""
    short = [spec.rstrip("/").rpartition("/")[2] for spec in specs]
    return [one if short.count(one) == 1 else spec for one, spec in zip(short, specs, strict=True)]


def _clamped_alike(sites: Mapping[str, Features]) -> dict[str, Features]:
    """Clamp the sites of the tower together, and those after it one by one: their scale is another."""
    tower = clamped({site: sites[site] for site in sites if of_tower(site)})
    return tower | {site: clamped({site: sites[site]})[site] for site in sites if not of_tower(site)}


def _refuse_few(images: str, pairs: int) -> None:
    if pairs < LEAST:
        raise DataError(
            f"{images} has {pairs} usable images with a caption; alignment with {NEIGHBOURS} neighbours needs "
            f"{LEAST} or more",
            hint="Give more images with captions.",
        )


def _warnings(base: FeatureSet, captions: Sequence[str], protocol: Protocol) -> Iterator[str]:
    if missing := len(base.item_ids) - len(captions):
        yield f"{missing} images of {base.images} have no caption and were left out"
    if repeated := len(captions) - len(set(captions)):
        yield f"{repeated} of {len(captions)} captions repeat another word for word: their images have equal neighbours"
    if protocol == "paper":
        yield "the largest value over all layers is above chance by selection: read it against shuffled captions"


def _captions(images: ImageSet | None) -> dict[str, str]:
    """Return the first caption of each image by its id."""
    if not isinstance(images, HasCaptions):
        name = images.name if images else "the image set"
        raise DataError(
            f"{name} has no captions",
            hint="Give a folder with a metadata.csv that has a column caption, a data set with such a column, or "
            "WebDataset shards with .txt.",
        )
    pairs = zip(images.items, images.captions, strict=True)
    return {item.id: texts[0] for item, texts in pairs if texts and texts[0].strip()}


def _check(images: ImageSet, support: ImageSet | None) -> None:
    _refuse_few(images.name, len(_captions(images)))


def _run(inputs: Inputs, texts: MakeTexts, protocol: Protocol) -> Result:
    captions = _captions(inputs.images)
    return alignment(inputs.base, inputs.others, inputs.baselines, captions, texts, protocol, inputs.seed)


PRESENTATIONS = {
    "align": Presentation(
        titles={
            "text_knn": "Neighbours shared with a language model (mutual kNN, k = 10)",
            "text_cknna": "CKNNA with a language model (k = 10)",
            "text_cka": "Debiased linear CKA with a language model",
            "text_best": "Neighbours shared with a language model, largest over all sites and layers",
            "text_excess": "Largest share of shared neighbours, less its mean over shuffled captions",
        },
        heading="Language model",
        figures=(FigureSpec("text_alignment", "visprobe.analyses.language.align_figure"),),
        place=200,
    )
}


def align_analysis(texts: MakeTexts, protocol: Protocol = "fixed") -> Analysis:
    """Return the analysis of alignment with given language models.

    Args:
        texts: Maps captions to their features under each language model.
        protocol: "fixed" for fixed sites and layers, "paper" for the largest value alone.
    """
    return Analysis(
        name="align",
        question=QUESTION,
        needs=lambda encoder: [site.name for site in encoder.sites],
        run=partial(_run, texts=texts, protocol=protocol),
        images=IMAGES,
        baselines="untrained",
        check=_check,
        required=True,
        presentation=PRESENTATIONS["align"],
    )
