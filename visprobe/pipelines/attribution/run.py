"""Attribution maps of pictures under several checkpoints, with scores and controls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from visprobe import __version__
from visprobe.attribution.attributions import CENTRE, Attributions
from visprobe.attribution.evidence.controls import randomised
from visprobe.attribution.evidence.faithful import faithfulness
from visprobe.attribution.evidence.faithfulness import curves
from visprobe.attribution.evidence.focus import Floats
from visprobe.attribution.evidence.regions import on_patches
from visprobe.attribution.evidence.scores import score
from visprobe.attribution.evidence.verdict import attribution_verdict, preferred
from visprobe.attribution.methods.by_name import Maps, maps
from visprobe.attribution.storage import load, save
from visprobe.attribution.targets.subject import Subject
from visprobe.data.image_set import ImageSet
from visprobe.data.prompts import Prompt
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError, UsageError
from visprobe.features.extract import BadItem
from visprobe.features.fitting import AdaptiveBatches
from visprobe.io.atomic import to_json
from visprobe.io.disk import plain_errors
from visprobe.pipelines.attribution.images import Picture, images_of, load_pictures, open_attribution_images
from visprobe.pipelines.attribution.map_sheets import contrast, sheets, spread
from visprobe.pipelines.attribution.not_used import not_used, refuse_what_cannot_be_asked
from visprobe.pipelines.attribution.target import AttributionTarget, LastModel, answer_target, resolve_target
from visprobe.pipelines.measurement import PYTHON, Measurement, Options, as_list
from visprobe.pipelines.session import Session, open_encoders
from visprobe.report.notebook import measurement_html
from visprobe.results.result import Result

if TYPE_CHECKING:
    from pandas import DataFrame

RANDOMISED = "randomised"
SCORES = ("attribution", "map_steps", "faithfulness")  # results over all pictures
BATCH = 8  # pictures per pass: the backward pass needs all activations in memory
# Grad-CAM weighs channels by the mean of their gradient over patches, which blurs a score that depends on few patches.
# A score of the mean token has the same gradient for all patches where it reads them, so the norm shows nothing
# (analyses/attribution/card.md has the numbers).
OF_ANSWERS, OF_POOLED = ("gradient-norm", "gradcam"), ("gradcam",)


@dataclass(frozen=True)
class AttributionConfig:
    """Settings of attribution maps, for `gradcam`.

    Example:
        `visprobe.AttributionConfig(target="contrast", prompt=Prompt("Is there a dog?", "yes", "no"))` with
        `from visprobe.data.prompts import Prompt`.

    Attributes:
        methods: Names in `visprobe.attribution.methods.by_name.METHODS`; the first is drawn. If empty, `OF_ANSWERS` for
            answers of a whole model, `OF_POOLED` for targets of the mean token.
        sites: Names of sites; the first is drawn.
        target: Number to explain: a key of `visprobe.pipelines.attribution.target.MEANING`, or "token:N"; None chooses.
        prompt: Question and answers for every image.
        questions: File of questions for single images (`visprobe.data.prompts`).
        region: Folder of masks, or a class of the images' own masks: where the answers lie.
        class_name: Class that is explained, instead of each image's own.
        texts: The first is explained, against the others.
        text_tower: Two-tower model that reads them; None for the checkpoint's own.
        baseline: Image without content, for methods that change the input.
        faithfulness: Number of images for deletion and insertion curves of the first method's maps; 0 for none.
    """

    methods: tuple[str, ...] = ()
    sites: tuple[str, ...] = ("consumed",)
    target: str | None = None
    prompt: Prompt = field(default_factory=Prompt)
    questions: str | Path | None = None
    region: str | None = None
    class_name: str | None = None
    texts: tuple[str, ...] = ()
    text_tower: str | None = None
    baseline: str = "mean"
    faithfulness: int = 0

    def with_methods(self, explained: AttributionTarget) -> AttributionConfig:
        """Return a copy with default methods for this target, if none are set."""
        return replace(self, methods=self.methods or (OF_POOLED if explained.of_tower else OF_ANSWERS))


@dataclass(frozen=True, repr=False)
class AttributionResult:
    """Attribution maps with their scores. A notebook shows the verdict, the maps of a few pictures, and the scores.

    Attributes:
        measured: Scores with intervals, paired differences to the base, and controls.
        attributions: All maps.
        explained: Target and pictures.
    """

    measured: Measurement
    attributions: Attributions
    explained: AttributionTarget

    def __repr__(self) -> str:
        return repr(self.measured).replace("Measurement", "AttributionResult", 1)

    def _repr_html_(self) -> str:
        maps = [name for name in self.figures if name == "maps" or name.startswith("map_strip")]
        drawn = [self.measured.drawn(name) for name in maps[:1]]
        document = self.measured.document(PYTHON)
        document["results"] = [one for one in document["results"] if one["analysis"] in SCORES]
        return measurement_html(document, [(one.figure, one.caption) for one in drawn])

    @property
    def figures(self) -> list[str]:
        """Names of the figures that `figure` draws, in the order of the report."""
        return self.measured.figures

    def figure(self, name: str, width: float | None = None) -> Figure:
        """Draw a figure of the report; see `Measurement.figure`."""
        return self.measured.figure(name, width)

    def to_pandas(self) -> DataFrame:
        """Return all scores as one table; see `Measurement.to_pandas`."""
        return self.measured.to_pandas()

    def save(self, folder: str | Path) -> Path:
        """Write the report, and maps.npz with the values of all maps.

        Args:
            folder: Output folder, made if missing. Files of an earlier report are replaced.

        Returns:
            The path of report.html.
        """
        page = self.measured.save(folder)
        save(self.attributions, Path(folder) / "maps.npz")
        return page


@plain_errors
def gradcam(
    checkpoints: str | Path | Sequence[str | Path],
    named: str | Path | Sequence[str | Path],
    config: AttributionConfig | None = None,
    options: Options | None = None,
    kept: str | Path | None = None,
) -> AttributionResult:
    """Compute attribution maps of pictures under each checkpoint, with scores and controls.

    Args:
        checkpoints: Checkpoints, the base first: folders or hub ids.
        named: Image files, folders, or one data set ("digits").
        config: Settings of the maps; by default the base's own answer is explained.
        options: Options of the measurement; `limit` is the number of pictures.
        kept: Folder that caches the maps of each checkpoint as soon as they are made.

    Returns:
        Maps of every picture under every checkpoint and under random weights; their scores with 95 % intervals over
        pictures (shares as fractions of 1), paired differences to the base, and baselines; a verdict.

    Raises:
        UsageError: If options do not go together, or a method, site, target or class does not exist.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.gradcam(["base", "dpo"], "digits", visprobe.AttributionConfig(target="answer"))`
    """
    config, options = config or AttributionConfig(), options or Options()
    specs, named = as_list(checkpoints), as_list(named)
    encoders = open_encoders(specs, options)
    opened = open_attribution_images(named, Path(config.questions) if config.questions else None, options)
    images = opened.images
    refuse_what_cannot_be_asked(config, encoders[0], images)
    session = Session(encoders, [], images, options)
    pictures, bad = load_pictures(images.query, config.prompt, opened.prompts, config.region)
    asked, models = (config.texts, config.text_tower, config.class_name), LastModel()
    explained = resolve_target(config.target, pictures, session, specs, *asked, models)
    config = config.with_methods(explained)
    _refuse_other_maps(encoders, explained.pictures)
    work = MapMaker(config, options, explained, Path(kept) if kept else None)
    random = work.maps(specs[0], encoders[0], random=True)
    found = {encoder.name: work.maps(spec, encoder) for spec, encoder in zip(specs, encoders, strict=True)}
    found[RANDOMISED] = random
    regions, warnings = regions_of(explained.pictures, encoders[0])
    names = tuple(encoder.name for encoder in encoders)
    ids = [picture.id for picture in explained.pictures]
    attributions = Attributions(names, (CENTRE, RANDOMISED), found, regions, images_of(explained.pictures), ids)
    results = [*_scored(attributions, explained, config, warnings), *sheets(attributions, explained, encoders[0])]
    if config.faithfulness:
        results.append(work.faithfulness(specs, encoders, found))
    if explained.target == "contrast":
        shown = [explained.pictures[place] for place in spread(explained.pictures)]
        three = [answer_target(target, shown, specs, encoders, models)
                 for target in ("answer", "rejected", "contrast")]  # fmt: skip
        drawn = (config.methods[0], config.sites[0], len(explained.pictures))
        results.append(contrast(specs[-1], encoders[-1], three, *drawn))
    warnings += [*explained.notes, *not_used(config, options, explained), *notes(encoders, attributions)]
    verdict = [one for result in results if result.analysis == "attribution" for one in attribution_verdict(result)]
    if explained.target == "contrast":
        verdict.insert(0, preferred(attributions))
    measured = session.measurement(results, verdict, warnings)
    return AttributionResult(
        replace(measured, data=(listed(images.query, bad), *measured.data)), attributions, explained
    )


class MapMaker:
    """Maker of maps for one checkpoint at a time, with a cache on disk."""

    def __init__(
        self, config: AttributionConfig, options: Options, explained: AttributionTarget, kept: Path | None
    ) -> None:
        self._config, self._options, self._explained, self._kept = config, options, explained, kept

    def maps(self, spec: str, encoder: VisionEncoder, *, random: bool = False) -> Maps:
        """Return the maps of a checkpoint, or with `random` those of the same model with random weights."""
        name = RANDOMISED if random else encoder.name
        file = self._kept / f"{self._key(spec, encoder, random)}.npz" if self._kept is not None else None
        if file is not None and file.is_file() and self._options.resume:
            with suppress(DataError):  # damaged, or of another layout: they are made again
                return load(file).maps[name]
        subject = self._explained.subjects(spec, encoder)
        if random:
            with randomised(subject, self._options.seed):
                made = self._made(subject, name)
        else:
            made = self._made(subject, name)
        if file is not None:
            ids = [picture.id for picture in self._explained.pictures]
            file.parent.mkdir(parents=True, exist_ok=True)
            save(Attributions((name,), (), {name: made}, [None] * len(ids), ids), file)
        return made

    def faithfulness(
        self, specs: Sequence[str], encoders: Sequence[VisionEncoder], found: Mapping[str, Maps]
    ) -> Result:
        """Return deletion and insertion curves for the maps of each checkpoint's first method and site."""
        config, explained = self._config, self._explained
        pictures = explained.pictures[: config.faithfulness]
        made = {}
        for number, (spec, encoder) in enumerate(zip(specs, encoders, strict=True), start=1):
            (method, site), drawn = next(iter(found[encoder.name].items()))
            made[encoder.name] = curves(
                explained.subjects(spec, encoder),
                [picture.image for picture in pictures],
                [one.values for one in drawn[: len(pictures)]],
                baseline=config.baseline,
                seed=self._options.seed,
                batch=self._options.batch_size or BATCH,
            )
            if self._options.progress:
                self._options.progress("faithfulness", number, len(specs))
        return faithfulness(made, images_of(pictures), method, site, explained.unit, config.baseline)

    def _made(self, subject: Subject, name: str) -> Maps:
        config, pictures = self._config, self._explained.pictures
        images, made = [picture.image for picture in pictures], dict[tuple[str, str], list[Any]]()
        fitting, done = AdaptiveBatches(self._options.batch_size, BATCH), 0

        def work(places: Sequence[int]) -> Maps:
            some = [images[place] for place in places]
            return maps(subject, some, config.methods, config.sites, batch=len(some), baseline=config.baseline,
                        first=places[0])  # fmt: skip

        for part in fitting.pieces(range(len(images)), work):
            for key, some in part.items():
                made.setdefault(key, []).extend(some)
            done += len(next(iter(part.values())))
            if self._options.progress:
                self._options.progress(f"maps of {name}", done, len(images))
        return made

    def _key(self, spec: str, encoder: VisionEncoder, random: bool) -> str:
        """Return the cache key: a hash of everything that the maps depend on."""
        pictures = [[picture.id, picture.content, picture.label, asdict(picture.prompt)]
                    for picture in self._explained.pictures]  # fmt: skip
        config = self._config
        depends = [__version__, encoder.name, encoder.tower_hash, encoder.projector_hash, encoder.settings_hash,
                   encoder.processor_hash, str(encoder.dtype), _files(spec), encoder.provenance.commit,
                   self._explained.target, self._explained.settings, pictures, config.methods, config.sites,
                   config.baseline, [random, self._options.seed]]  # fmt: skip
        return hashlib.sha256(to_json(depends).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _refuse_other_maps(encoders: Sequence[VisionEncoder], pictures: Sequence[Picture]) -> None:
    """Refuse checkpoints whose maps cannot be compared patch by patch, before any map is made.

    Raises:
        UsageError: If one is read at another site than the base, or has another grid of patches.
    """
    base, *others = encoders
    image = pictures[0].image
    grid = base.preprocess([image]).grids[0]
    for other in others:
        found = other.preprocess([image]).grids[0]
        if (other.consumed, found) != (base.consumed, grid):
            raise UsageError(
                f"{base.name} is read at {base.consumed} in {grid[0]}x{grid[1]} patches, {other.name} at "
                f"{other.consumed} in {found[0]}x{found[1]}: their maps cannot be compared",
                hint="Compare checkpoints that descend from one base, or look into each by itself.",
            )


def _files(spec: str) -> list[list[Any]]:
    """Return names, sizes and times of a checkpoint's files: hashing a whole language model would take too long."""
    folder = Path(spec)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def regions_of(pictures: Sequence[Picture], encoder: VisionEncoder) -> tuple[list[Floats | None], list[str]]:
    """Return the region of each picture as shares of the tower's patches (None without one), and warnings."""
    found: list[Floats | None] = []
    lost: list[str] = []
    for picture in pictures:
        try:
            region = picture.region
            grid = encoder.preprocess([picture.image]).grids[0]
            found.append(None if region is None else on_patches(region, grid, encoder, size=picture.image.size))
        except DataError as error:
            found.append(None)
            lost.append(f"{picture.id}: {error.message}")
    warnings = [f"{len(lost)} regions are left out, the first of {lost[0]}"] if lost else []
    without = sum(picture.region is None for picture in pictures)
    if 0 < without < len(pictures):
        warnings.append(f"{without} of {len(pictures)} pictures have no region: measures of regions leave them out")
    return found, warnings


def _scored(
    attributions: Attributions, explained: AttributionTarget, config: AttributionConfig, warnings: list[str]
) -> list[Result]:
    if len(set(attributions.images)) < 2:
        warnings.append("one image has no interval: maps are drawn, and measures of focus left out")
        return []
    result = score(attributions)
    about = {"target": explained.target, "explains": explained.meaning, "baseline": config.baseline}
    return [replace(result, settings={**result.settings, **about, **explained.settings})]


def notes(encoders: Sequence[VisionEncoder], attributions: Attributions) -> list[str]:
    """Return warnings about differing image processors and about single maps.

    Args:
        encoders: Encoders of the checkpoints, the base first.
        attributions: All maps.
    """
    base, *others = encoders
    said = [
        f"{other.name} has another image processor than {base.name}: each sees the pictures through its own"
        for other in others
        if other.processor_hash != base.processor_hash
    ]
    for name, found in attributions.maps.items():
        for (method, site), made in found.items():
            noted = [one.note for one in made if one.note]
            if noted:
                said.append(f"{name}, {method}@{site}: {len(noted)} of {len(made)} maps: {noted[0]}")
    return said


def listed(images: ImageSet, bad: Sequence[BadItem]) -> dict[str, Any]:
    """Describe the images for a report: name, n, classes, hash, and images that could not be used.

    Args:
        images: Image set.
        bad: Images of the set that could not be used.
    """
    contents = hashlib.sha256()
    left_out = {item.id for item in bad}
    for row, item in enumerate(images.items):
        if item.id not in left_out:
            name = item.id.encode("utf-8", "backslashreplace")  # a file name need not be UTF-8
            contents.update(name + hashlib.sha256(images.read(row)).digest())
    return {
        "name": images.name,
        "n": len(images.items) - len(bad),
        "classes": len(images.classes) if images.classes else None,
        "hash": contents.hexdigest(),
        "bad_items": [{"id": item.id, "reason": item.reason} for item in bad],
    }
