"""Rows of a result as tables a reader can scan: one per measure, sites downwards, checkpoints across."""

from __future__ import annotations

from dataclasses import dataclass, field

from visprobe.report.numbers import interval_text, value_text
from visprobe.results.read_site import WHERE_READ, where_read
from visprobe.results.result import Result, Row

TITLES = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "zeroshot_top1": "Zero-shot top-1 accuracy",
    "zeroshot_top5": "Zero-shot top-5 accuracy",
    "knn_10": "kNN accuracy (k = 10)",
    "knn_20": "kNN accuracy (k = 20)",
    "knn_100": "kNN accuracy (k = 100)",
    "knn_200": "kNN accuracy (k = 200)",
    "top1_by_class": "Top-1 accuracy, interval over classes",
    "projector_cost": "Top-1 accuracy after the projector less that before it",
    "top1_of_1": "Top-1 accuracy of prototypes of 1 image per class",
    "top1_of_5": "Top-1 accuracy of prototypes of 5 images per class",
    "top1_of_10": "Top-1 accuracy of prototypes of 10 images per class",
    "top1_of_50": "Top-1 accuracy of prototypes of 50 images per class",
    "paper_prototype": "Prototypes, as published",
    "honest_prototype": "Prototypes, without a look at the test images",
    "leak_prototype": "Prototypes: size of the leak",
    "paper_fast": "Probe on 50 images per class, as published",
    "honest_fast": "Probe on 50 images per class, without a look at the test images",
    "leak_fast": "Probe on 50 images per class: size of the leak",
    "paper_slow": "Probe on all training images, as published",
    "honest_slow": "Probe on all training images, without a look at the test images",
    "leak_slow": "Probe on all training images: size of the leak",
    "cka": "Debiased linear CKA",
    "matrices_changed": "Share of weight matrices that changed",
    "matrix_change": "Relative change of the weight matrices that changed (median of ‖ΔW‖ / ‖W‖)",
    "relative_change": "Relative change of all weights as one vector, gains and biases included",
    "share_equal": "Share of weights exactly equal to the base",
    "least_head_cka": "Debiased linear CKA of the least similar head of each block",
    "median_head_cka": "Debiased linear CKA of the median head of each block",
    "heads_moved": "Share of heads that moved further than rounding moves any head",
    "own_site_cka": "Debiased linear CKA with the same site of the base",
    "best_site_cka": "Debiased linear CKA with the most similar site of the base",
    "best_minus_own": "Most similar site less same site",
    "depth_shift": "Place of the most similar site, from the same site (positive: deeper)",
    "image_change": "Relative change of an image's features",
    "image_cosine": "Cosine of an image's features with the base's",
    "class_change": "Mean relative change of classes that stand out",
    "image_agreement": "Rank correlation of two checkpoints' changes over images",
    "token_change": "Mean relative change of a patch token",
    "border_minus_centre": "Relative change at the border less that in the centre",
    "top_places": "Share of the change at the tenth of places that changed most in other images",
    "top_tokens": "Share of the change in the tenth of tokens that changed most",
    "relative_error": "Relative change of the features",
    "cosine": "Cosine with the base's features",
    "procrustes": "Held-out Procrustes similarity",
    "linear_r2": "Held-out R² of a linear map from the base's features",
    "rbf_cka": "Debiased RBF CKA",
    "mutual_knn": "Shared nearest neighbours (mutual kNN, k = 10)",
    "text_knn": "Neighbours shared with a language model (mutual kNN, k = 10)",
    "text_cknna": "CKNNA with a language model (k = 10)",
    "text_cka": "Debiased linear CKA with a language model",
    "text_best": "Neighbours shared with a language model, largest over all sites and layers",
    "text_excess": "Largest share of shared neighbours, less its mean over shuffled captions",
    "word_cosine": "Cosine of a patch with its nearest word",
    "word_norm_ratio": "Length of patch tokens over that of words (medians)",
    "word_gap": "Distance between the mean directions of patches and words",
    "word_separation": "Patches told from words by a held-out direction (area under ROC)",
    "word_variety": "Effective number of different nearest words",
    "word_rank_share": "Participation ratio of the patch tokens over their width",
    "word_changed": "Share of patches with another nearest word than under the base",
    "attribute_consumed": "Attributes read linearly, where the language model reads",
    "attribute_projected": "Attributes read linearly, after the projector",
    "attribute_quarters": "Attributes of a quarter read linearly from its tokens",
    "top1_clean": "Top-1 accuracy on clean images",
    "error_consumed": "Top-1 error on changed images, where the language model reads",
    "error_projected": "Top-1 error on changed images, after the projector",
    "kept_consumed": "Share of the clean accuracy that is kept, where the language model reads",
    "kept_projected": "Share of the clean accuracy that is kept, after the projector",
    "steady_consumed": "Cosine of changed and unchanged images' features, where the language model reads",
    "steady_projected": "Cosine of changed and unchanged images' features, after the projector",
    "steady_cka_consumed": "CKA of changed and unchanged images, where the language model reads",
    "steady_cka_projected": "CKA of changed and unchanged images, after the projector",
    "change_per_weight_change": "Relative change of the features per relative change of the tower's weights",
    "rsa": "RSA: correlation of the distances between images",
    "pwcca": "PWCCA",
    "effective_rank": "Effective rank",
    "participation_ratio": "Participation ratio",
    "rankme": "RankMe",
    "two_nn": "Intrinsic dimension (TwoNN)",
    "uniformity": "Uniformity (lower: more evenly spread)",
    "high_norm": "Share of patch tokens of outlying norm",
    "share_equal_bfloat16": "Share of weights equal to the base after rounding both to bfloat16",
    "share_within_1e-05": "Share of weights changed by at most 10⁻⁵ of themselves",
    "share_within_1e-04": "Share of weights changed by at most 10⁻⁴ of themselves",
    "share_within_1e-03": "Share of weights changed by at most 10⁻³ of themselves",
    "spectral_change": "Largest singular value of the change over that of the base, median over matrices",
    "stable_rank": "Stable rank of the change, median over matrices",
    "energy_left": "Energy of the change in the base's top left singular directions",
    "energy_right": "Energy of the change in the base's top right singular directions",
    "energy_both": "Energy of the change in both",
    "angle_left": "Largest principal angle of the top left subspace in degrees, median over matrices",
    "angle_right": "Largest principal angle of the top right subspace in degrees, median over matrices",
    **{
        measure + suffix: f"{title}, {head} head on frozen patches"
        for suffix, head in (("", "linear"), ("_mlp", "two-layer"))
        for measure, title in {
            "miou": "Mean IoU",
            "pixel_accuracy": "Pixel accuracy",
            "patch_recall": "Macro recall of patches",
            "patch_precision": "Macro precision of patches",
            "patch_f1": "Macro F1 of patches",
        }.items()
    },
    "paper_patch_recall": "Macro recall of patches as published: best epoch on the images reported",
    "honest_patch_recall": "Macro recall of patches as published, but after the last epoch",
    "leak_patch_recall": "What choosing the epoch on the images reported adds to recall",
    "probe_top1": "Top-1 accuracy of a linear probe",
    "probe_log_loss": "Log loss of a linear probe, nats",
    **{
        f"probe_of_{count}": f"Top-1 accuracy of a linear probe that saw {count} image{'s' * (count > 1)} per class"
        for count in (1, 5, 10, 50)
    },
    "probe_macro_recall": "Recall of a linear probe, mean over classes",
    "probe_ece": "Calibration error of a linear probe",
    "probe_brier": "Brier score of a linear probe",
    "probe_control": "Top-1 accuracy of a linear probe that learned random labels",
    "probe_selectivity": "Selectivity: top-1 of a linear probe less that of random labels",
    "probe_map": "Mean average precision of linear probes",
    "probe_macro_f1": "F1 of linear probes, mean over labels",
    "probe_macro_auroc": "Area under the ROC curve of linear probes, mean over labels",
    "probe_r2": "Held-out R² of a linear probe",
    "accuracy": "Questions answered correctly",
    "cka_consumed": "CKA to the other checkpoint, where the language model reads",
    "cka_projected": "CKA to the other checkpoint, after the projector",
    "top1_consumed": "Top-1 accuracy, where the language model reads",
    "top1_projected": "Top-1 accuracy, after the projector",
    "score": "Score that the maps explain",
    "mass_inside": "Share of a map where the answer lies",
    "selectivity": "Share of a map that follows the question",
    "specificity": "Share of a map that follows the picture",
    "pointing": "Share of maps whose highest patch lies where the answer does",
    "rank_correlation": "Rank correlation of a map with the base's",
    "entropy": "Entropy of a map (lower: more focused)",
    "gini": "Gini coefficient of a map (higher: more focused)",
    "border_mass": "Share of a map on the border of the image",
}
_HEADINGS = {
    "weights": "Weights",
    "answers": "Questions",
    "trajectory": "Checkpoint",
    "swap": "Part",
    "sparsity": "Part",
    "spectrum": "Weights",
    "align": "Language model",
    "robustness": "Change",
    "attributes": "Attribute",
    "attribution": "Method and site",
    "map_steps": "Method and site",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table, as text and as it is behind the text; `anchor` is its place in the page."""

    anchor: str
    value: str
    interval: str
    exact: str
    number: float
    low: float
    high: float


@dataclass
class Table:
    """One measure of one result.

    Attributes:
        title: What was measured, for the caption.
        heading: What the rows are: sites, weight groups or question groups.
        methods: How the intervals were made.
        columns: Column headings and whether the column is a floor.
        lines: Row heading to the cells by column heading.
        counts: Row heading to the n of its cells, in ascending order.
    """

    title: str
    heading: str
    methods: list[str] = field(default_factory=list)
    columns: dict[str, bool] = field(default_factory=dict)
    lines: dict[str, dict[str, Cell]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)


def tables(result: Result) -> list[Table]:
    """The tables of `result`, measured values before paired differences."""
    found: dict[tuple[bool, str], Table] = {}
    for index, row in enumerate(result.rows):
        measure = row.measure.partition("/")[0]
        key = (row.role == "difference", measure)
        title = _title(row, measure).replace(WHERE_READ, where_read(result))
        table = found.setdefault(key, Table(title, _HEADINGS.get(result.analysis, "Site")))
        _add(table, row, anchor(result.analysis, index), downwards=result.analysis == "trajectory")
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def anchor(analysis: str, index: int) -> str:
    """The id of row `index` in the page; only the analysis and a number go in, never a name from outside."""
    return f"number-{''.join(c for c in analysis if c.isalnum())}-{index}"


def _title(row: Row, measure: str) -> str:
    title = TITLES.get(measure, measure)
    if row.role != "difference":
        return title
    return f"{title}: paired differences" + (", percentage points" if row.estimate.unit == "fraction" else "")


def _add(table: Table, row: Row, place: str, downwards: bool) -> None:
    """Put a row into its cell; `downwards` has checkpoints, which may be many, as lines instead of columns."""
    group = row.measure.partition("/")[2]
    line = group or row.site
    column = f"{row.checkpoint} − {row.reference}" if row.role == "difference" else row.checkpoint
    line, column = (column, line) if downwards else (line, column)
    estimate = row.estimate
    exact = f"{estimate.value!r} [{estimate.low!r}, {estimate.high!r}], n = {estimate.n}, {estimate.method}"
    shown = value_text(estimate, row.role), interval_text(estimate, row.role)
    cell = Cell(place, *shown, exact, estimate.value, estimate.low, estimate.high)
    table.lines.setdefault(line, {})[column] = cell
    table.columns.setdefault(column, row.role == "floor" and not downwards)
    table.counts[line] = sorted({*table.counts.get(line, []), estimate.n})
    if estimate.method not in table.methods:
        table.methods.append(estimate.method)
