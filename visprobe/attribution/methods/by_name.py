"""Attribution methods by name: maps of any images at any sites, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from PIL import Image

from visprobe.attribution.map import Map
from visprobe.attribution.methods.attention_maps import ATTENTION_MAPS, attention_maps
from visprobe.attribution.methods.input_maps import BASELINES, PIXELS, integrated_gradients, occlusion
from visprobe.attribution.methods.token_maps import TOKEN_MAPS
from visprobe.attribution.methods.trace import NotFinite, trace
from visprobe.attribution.targets.subject import Subject, in_float32
from visprobe.errors import UsageError

INPUT_MAPS = ("integrated-gradients", "occlusion")
METHODS = (*TOKEN_MAPS, *INPUT_MAPS, *ATTENTION_MAPS)
Maps = dict[tuple[str, str], list[Map]]


def maps(
    subject: Subject,
    images: Sequence[Image.Image],
    methods: Sequence[str],
    sites: Sequence[str] = ("consumed",),
    *,
    batch: int = 8,
    baseline: str = "mean",
    steps: int = 50,
    side: int = 1,
    first: int = 0,
) -> Maps:
    """Compute maps of all images by all methods at all sites.

    If a gradient or a score overflows the dtype of the model, the batch runs again in float32, and its maps get a note.

    Args:
        subject: Checkpoint with a score to explain.
        images: RGB images of any sizes.
        methods: Names in `METHODS`.
        sites: Names of sites, or "consumed". Integrated gradients and occlusion always have the one site "pixels".
        batch: Images that are forwarded together.
        baseline: Image without content for integrated gradients and occlusion: a name in `BASELINES`.
        steps: Steps of integrated gradients.
        side: Side in patches of the squares that occlusion replaces.
        first: Index of the first image among the subject's targets.

    Returns:
        One map per image by method and site, in order; "consumed" is replaced by the site's own name.

    Raises:
        UsageError: If a method, site or baseline does not exist, or the tower's attention cannot be recorded.
        DataError: If the score does not depend on a site, or overflows in float32.
    """
    methods, sites = list(dict.fromkeys(methods)), _checked(subject, methods, sites, baseline)
    on_tokens, on_attention = ([m for m in methods if m in some] for some in (TOKEN_MAPS, ATTENTION_MAPS))
    runs: list[Callable[[Sequence[Image.Image], int], Maps]] = []
    if on_tokens:
        runs.append(lambda some, first: _token_maps(subject, some, on_tokens, sites, first))
    if on_attention:
        runs.append(lambda some, first: attention_maps(subject, some, on_attention, sites, first))
    if "integrated-gradients" in methods:
        integrate = partial(integrated_gradients, subject, baseline=baseline, steps=steps)
        runs.append(lambda some, first: _keyed(integrate(some, first=first)))
    if "occlusion" in methods:
        occlude = partial(occlusion, subject, baseline=baseline, side=side)
        runs.append(lambda some, first: _keyed(occlude(some, first=first)))
    found: Maps = {(m, site): [] for m in methods for site in ([PIXELS] if m in INPUT_MAPS else sites)}
    for start in range(0, len(images), batch):
        for run in runs:
            part = partial(run, images[start : start + batch], first + start)
            for key, made in _wide_enough(subject, part).items():
                found[key] += made
    return found


def _token_maps(
    subject: Subject, images: Sequence[Image.Image], methods: Sequence[str], sites: Sequence[str], first: int
) -> Maps:
    traces = trace(subject, images, sites, first)
    return {
        (method, site): [Map(TOKEN_MAPS[method](one), one.score, method, site) for one in traces[site]]
        for method in methods
        for site in sites
    }


def _keyed(made: list[Map]) -> Maps:
    return {(made[0].method, made[0].site): made}


def _wide_enough(subject: Subject, run: Callable[[], Maps]) -> Maps:
    """Return the maps of `run`, in float32 if the model's own dtype overflows."""
    try:
        return run()
    except NotFinite as overflow:
        if subject.encoder.dtype == torch.float32:
            raise
        note = f"run in float32: {overflow.message}"
    with in_float32(subject.modules):
        again = run()
    return {
        key: [replace(one, note="; ".join(filter(None, (note, one.note)))) for one in made]
        for key, made in again.items()
    }


def _checked(subject: Subject, methods: Sequence[str], sites: Sequence[str], baseline: str) -> list[str]:
    """Return the names of the sites, each once; refuse unknown methods, sites and baselines."""
    encoder = subject.encoder
    named = list(dict.fromkeys(encoder.consumed if site == "consumed" else site for site in sites))
    for kind, given, known in (
        ("attribution method", methods, METHODS),
        ("site", named, [site.name for site in encoder.sites]),
        ("baseline", [baseline], list(BASELINES)),
    ):
        if absent := [name for name in given if name not in known]:
            raise UsageError(
                f"{subject.name} has no {kind} {', '.join(map(repr, absent))}", hint=f"There are {', '.join(known)}."
            )
    return named
