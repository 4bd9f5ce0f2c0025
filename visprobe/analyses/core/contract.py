"""Contract of every analysis, checked on a tiny model: for the built-in ones and those of other packages."""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from visprobe.analyses.core.analysis import Analysis, Inputs, Sets
from visprobe.data.image_set import ImageSet, Item, decode
from visprobe.data.named import named_data
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.load import load_encoder
from visprobe.encoders.pixels import Pixels
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import forwarded, resolved, to_array
from visprobe.results.result import Result

IMAGES, CLASSES, SIDE = 64, 4, 16
_CLOSE = 1e-5  # float32 features have 7 digits; sums over them in at least float32 keep 5


def check_analysis(analysis: Analysis) -> None:
    """Check that `analysis` keeps its contract; call it in a test.

    - It has a name, a question that ends with a question mark, and its module a docstring.
    - It runs on what it needs, and leaves that unchanged.
    - Every row but those of its own baselines is of a given checkpoint; its value lies within its interval, and it
      has n >= 1; a difference has a reference.
    - The result survives JSON, and `Result.to_table` holds plain values.
    - The same inputs and seed give the same bits.
    - Images are paired by id: the order of rows of one checkpoint does not matter.
    - Features in float16 or float32 are computed with in at least float32.
    - NaN, infinity, other images and too few images raise DataError; features that do not vary or are of another
      width raise it or are dealt with.

    Raises:
        AssertionError: If it does not; the message lists all breaches.
    """
    inputs = planted_inputs(analysis)
    broken = [*_described(analysis), *_answers(analysis, inputs)]
    if inputs.base.sites and not broken:
        broken += [*_pairs(analysis, inputs), *_computes(analysis, inputs), *_refuses(analysis, inputs)]
    assert not broken, f"{analysis.name}: " + "; ".join(broken)


def planted_inputs(analysis: Analysis) -> Inputs:
    """Make the inputs of `analysis` from a tiny model, two descendants with other weights, and the baselines."""
    base = _tiny_encoder()
    encoders = (base, _moved(base, "sft", 0.1, 1), _moved(base, "dpo", 0.05, 2))
    baselines = [base.untrained(0), base.rounded(torch.bfloat16)]
    baselines = {"all": baselines, "untrained": baselines[:1], "none": []}[analysis.baselines]
    images, learned = _planted_images(analysis)

    def seen(shown: ImageSet) -> Sets:
        pixels = base.preprocess([decode(shown.read(index)) for index in range(IMAGES)])
        return tuple(_features(encoder, analysis, shown, pixels) for encoder in (*encoders, *baselines))

    sets, variants = seen(images), analysis.variants(images, 0) if analysis.variants else {}
    return Inputs(
        sets[0],
        sets[1:3],
        sets[3:],
        encoders,
        seed=0,
        support=seen(learned) if analysis.support else (),
        variants={name: seen(changed) for name, changed in variants.items()},
        images=images,
        support_images=learned,
    )


def _tiny_encoder() -> VisionEncoder:
    vision = transformers.SiglipVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=4
    )
    text = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=7, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="visprobe-"))
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
        transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    base = _moved(load_encoder(folder), "base", 1.0, 0)
    weakref.finalize(base, shutil.rmtree, folder, ignore_errors=True)  # analyses may read more of the checkpoint
    return base


def _moved(encoder: VisionEncoder, name: str, strength: float, seed: int) -> VisionEncoder:
    draw = torch.Generator().manual_seed(seed)
    weights = {
        key: weight + strength * (weight.std(correction=0) + 0.01) * torch.randn(weight.shape, generator=draw)
        for key, weight in encoder.weights().items()
    }
    return encoder.with_weights(name, weights, encoder.provenance)


@dataclass(frozen=True)
class _Planted:
    name: str
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    files: tuple[bytes, ...]

    def read(self, index: int) -> bytes:
        return self.files[index]


def _planted(split: str, seed: int) -> _Planted:
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (IMAGES, 4, 4, 3), dtype=np.uint8)
    resized = (Image.fromarray(one).resize((SIDE, SIDE)) for one in coarse)
    files = tuple(b"P6 %d %d 255\n" % (SIDE, SIDE) + image.tobytes() for image in resized)
    labels = draw.integers(0, CLASSES, IMAGES)
    items = tuple(Item(f"image-{i:02d}", int(label)) for i, label in enumerate(labels))
    return _Planted(split, items, tuple(f"class-{i}" for i in range(CLASSES)), files)


def _planted_images(analysis: Analysis) -> tuple[ImageSet, ImageSet]:
    """Return images, and others to train on: plain ones, or digit scenes if the analysis needs masks or the like."""
    plain = _planted("planted", 0), _planted("train", 1)
    try:
        if analysis.check is not None:
            analysis.check(*plain)
    except DataError:
        named = named_data("digits")
        assert named is not None
        scenes = named.images(IMAGES, IMAGES, 0)
        return scenes["val"], scenes["train"]
    return plain


def _features(encoder: VisionEncoder, analysis: Analysis, images: ImageSet, pixels: Pixels) -> FeatureSet:
    requests = resolved(encoder, analysis.needs(encoder))
    pooled = encoder.reduced(pixels, {request: forwarded(request) for request in requests})
    sites = {request: to_array(rows) for request, rows in pooled.items()}
    ids, labels = tuple(item.id for item in images.items), np.array([item.label for item in images.items], np.int64)
    return FeatureSet(
        encoder.name, images.name, ids, labels, images.classes, sites, encoder.consumed, baseline=encoder.baseline
    )


def _described(analysis: Analysis) -> Iterator[str]:
    if not analysis.name or not analysis.question.endswith("?"):
        yield "it needs a name, and a question that ends with a question mark"
    module = inspect.getmodule(analysis.run)
    if module is None or not module.__doc__:
        yield "the module of its run has no docstring"


def _answers(analysis: Analysis, inputs: Inputs) -> Iterator[str]:
    before = {id(a): a.copy() for features in _all(inputs) for a in features.sites.values()}
    result = analysis.run(inputs)
    if any(not np.array_equal(a, before[id(a)]) for features in _all(inputs) for a in features.sites.values()):
        yield "it changes its inputs"
    if result.analysis != analysis.name:
        yield f"its result is called {result.analysis}"
    yield from _rows(result, {features.encoder for features in _all(inputs)})
    if Result.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) != result:
        yield "its result does not survive JSON"
    plain = (str, int, float, type(None))
    if any(type(value) not in plain for row in result.to_table() for value in row.values()):
        yield "its rows hold values that are not plain strings and numbers"
    if analysis.run(inputs).to_json() != result.to_json():
        yield "the same inputs and seed give other numbers"


def _rows(result: Result, known: set[str]) -> Iterator[str]:
    for row in result.rows:
        estimate, what = row.estimate, f"{row.measure} of {row.checkpoint} at {row.site}"
        if (row.checkpoint not in known and row.role != "baseline") or row.reference not in {None, *known}:
            yield f"{what} is of no checkpoint that it was given"
        if not estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12 or estimate.n < 1:
            yield f"{what} lies outside of its interval, or has no n"
        if row.role == "difference" and row.reference is None:
            yield f"{what} is a difference without a reference"


def _pairs(analysis: Analysis, inputs: Inputs) -> Iterator[str]:
    order = np.random.default_rng(1).permutation(IMAGES)
    shuffled = replace(inputs, others=tuple(_taken(features, order) for features in inputs.others))
    if _distance(analysis.run(inputs), analysis.run(shuffled)) > 1e-12:
        yield "it pairs images by place and not by id"


def _computes(analysis: Analysis, inputs: Inputs) -> Iterator[str]:
    half = _cast(inputs, np.float16)
    for given, name in ((inputs, "float32"), (half, "float16")):
        if _distance(analysis.run(given), analysis.run(_cast(given, np.float64))) > _CLOSE:
            yield f"from {name} features it computes in less than float32"


def _refuses(analysis: Analysis, inputs: Inputs) -> Iterator[str]:
    for fault in _FAULTS:
        broken = replace(inputs, others=(fault.change(inputs.others[0]), *inputs.others[1:]))
        if fault.everywhere:
            broken = replace(
                inputs,
                base=fault.change(inputs.base),
                others=tuple(map(fault.change, inputs.others)),
                baselines=tuple(map(fault.change, inputs.baselines)),
            )
        try:
            analysis.run(broken)
            raised = None
        except DataError as error:
            raised = error
        except Exception as error:  # code of other packages may raise anything
            yield f"{fault.name} raises {type(error).__name__} and not DataError: {error}"
            continue
        if raised is None and fault.must_raise:
            yield f"{fault.name} raises nothing"
        if raised is not None and not fault.everywhere and inputs.others[0].encoder not in raised.message:
            yield f"{fault.name}: the error does not name the checkpoint: {raised.message}"


@dataclass(frozen=True)
class _Fault:
    name: str
    change: Callable[[FeatureSet], FeatureSet]
    must_raise: bool
    everywhere: bool = False


def _with(change: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> Callable[[FeatureSet], FeatureSet]:
    return lambda features: replace(features, sites={site: change(a.copy()) for site, a in features.sites.items()})


def _holding(value: float) -> Callable[[FeatureSet], FeatureSet]:
    def put(array: NDArray[np.floating]) -> NDArray[np.floating]:
        array[7] = value
        return array

    return _with(put)


def _taken(features: FeatureSet, rows: NDArray[np.integer]) -> FeatureSet:
    return replace(
        features,
        item_ids=tuple(features.item_ids[i] for i in rows),
        labels=None if features.labels is None else features.labels[rows],
        sites={site: array[rows] for site, array in features.sites.items()},
    )


_FAULTS = (
    _Fault("NaN in the features", _holding(np.nan), must_raise=True),
    _Fault("infinity in the features", _holding(np.inf), must_raise=True),
    _Fault("an image that is not the base's", lambda f: replace(f, item_ids=("x", *f.item_ids[1:])), must_raise=True),
    _Fault("a missing image", lambda f: _taken(f, np.arange(IMAGES - 1)), must_raise=True),
    _Fault("features that do not vary", _with(lambda a: np.ones_like(a)), must_raise=False),
    _Fault("features of another width", _with(lambda a: a[..., :-1]), must_raise=False),
    _Fault("four images", lambda f: _taken(f, np.arange(4)), must_raise=False, everywhere=True),
    _Fault("one image", lambda f: _taken(f, np.arange(1)), must_raise=True, everywhere=True),
)


def _all(inputs: Inputs) -> tuple[FeatureSet, ...]:
    return (inputs.base, *inputs.others, *inputs.baselines)


def _cast(inputs: Inputs, dtype: DTypeLike) -> Inputs:
    cast = _with(lambda array: array.astype(dtype))
    return replace(
        inputs,
        base=cast(inputs.base),
        others=tuple(map(cast, inputs.others)),
        baselines=tuple(map(cast, inputs.baselines)),
    )


def _distance(one: Result, other: Result) -> float:
    """Return the largest difference of two results' values, relative above 1; infinite if the rows differ."""
    keys = [[(r.checkpoint, r.site, r.measure, r.reference) for r in result.rows] for result in (one, other)]
    if keys[0] != keys[1]:
        return float("inf")
    pairs = [(a.estimate.value, b.estimate.value) for a, b in zip(one.rows, other.rows, strict=True)]
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in pairs), default=0.0)
