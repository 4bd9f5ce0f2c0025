"""Whether a site counts as moved: rarely where nothing but rounding happened, surely where a block changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from planted_features import feature_set
from planted_towers import write_base
from scipy.stats import t

from visprobe.analyses.drift.drift import representation_drift
from visprobe.analyses.drift.noise_floor import LEVEL, MARGIN, adjusted, has_moved, p_beyond
from visprobe.encoders import load_encoder
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import CKA
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.similarity.cka import replicate_cka, represent
from visprobe.results.result import Result

ROUNDED = "base (bfloat16)"
SITES = tuple(f"block_{i:02d}" for i in range(8))


def moved_sites(result: Result, name: str = "other") -> list[str]:
    return [row.site for row in result.select(checkpoint=name, role="value") if has_moved(result, row)]


def noisy(name: str, size: float, seed: int, draw: int = 9, planted: dict[str, float] | None = None) -> FeatureSet:
    """Eight sites of the images of `seed`, with noise of one size, or of the size planted at a site."""
    shared, rng = np.random.default_rng(seed), np.random.default_rng([seed, draw])
    sizes = {site: (planted or {}).get(site, size) for site in SITES}
    clean = {site: shared.standard_normal((60, 12)) for site in SITES}
    return feature_set(name, {s: clean[s] + sizes[s] * rng.standard_normal((60, 12)) for s in SITES})


@pytest.mark.thorough
def test_noise_of_the_size_of_rounding_raises_few_false_alarms():
    alarms = 0
    for seed in range(200):
        base, baseline = noisy("base", 0.0, seed), noisy(ROUNDED, 0.01, seed, 1)
        alarms += bool(moved_sites(representation_drift(base, [noisy("other", 0.01, seed, 2)], [baseline])))
    assert alarms <= 12  # 6 % of 200


def test_at_the_margin_itself_the_rate_over_all_sites_is_that_promised():
    """Distances are exactly MARGIN roundings: the null at its boundary, where the t test must hold its level."""
    alarms = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        pulls = rng.standard_normal((2, len(SITES), 100)) * 1e-6

        def drawn(distance, pull):
            value = 1 - distance + pull.mean()
            return Replicated(value, value - (pull - pull.mean()) / (len(pull) - 1))

        baseline = {s: drawn(1e-5, pull) for s, pull in zip(SITES, pulls[0], strict=True)}
        other = {s: drawn(MARGIN * 1e-5, pull) for s, pull in zip(SITES, pulls[1], strict=True)}
        alarms += min(adjusted(p_beyond(other, baseline)).values()) <= LEVEL
    # Independent sites reach the promised 5 % but for a hair; three standard errors of 400 draws are 3.3 points.
    assert 0.02 <= alarms / 400 <= 0.083


@pytest.mark.thorough
def test_a_planted_change_is_found_at_its_sites_and_only_there():
    right = 0
    for seed in range(50):
        base, baseline = noisy("base", 0.0, seed), noisy(ROUNDED, 0.01, seed, 1)
        other = noisy("other", 0.01, seed, 2, {"block_03": 0.05, "block_05": 0.05})
        right += moved_sites(representation_drift(base, [other], [baseline])) == ["block_03", "block_05"]
    assert right >= 47  # the 5 % error rate


@pytest.mark.thorough
def test_p_values_are_those_of_the_paired_difference_held_by_holm():
    base, baseline, other = noisy("base", 0, 3), noisy(ROUNDED, 0.02, 3, 1), noisy("other", 0.05, 3, 2)
    result = representation_drift(base, [other], [baseline])
    raw = []
    for site in SITES:
        x = base.sites[site].astype(np.float64)
        values = np.empty(60)
        for i in range(60):
            keep = np.arange(60) != i
            a, b = (
                1 - replicate_cka(represent(x[keep]), represent(f.sites[site][keep])).value for f in (other, baseline)
            )
            values[i] = a - MARGIN * b
        a, b = (1 - replicate_cka(represent(x), represent(f.sites[site])).value for f in (other, baseline))
        error = np.sqrt(59 / 60 * np.square(values - values.mean()).sum())
        raw.append(t.sf((a - MARGIN * b) / error, 59))
    assert list(result.settings["p_moved"]["other"].values()) == pytest.approx(holm(raw), abs=1e-9)  # float64 sums
    assert json.loads(json.dumps(result.settings)) == result.settings


def test_arithmetic_is_not_movement_and_a_missing_baseline_is_one():
    base = noisy("base", 0.0, 1)
    touched = replace(base, encoder="other", sites={s: x * np.float32(1 + 1e-6) for s, x in base.sites.items()})
    assert not moved_sites(representation_drift(base, [touched]))
    assert len(moved_sites(representation_drift(base, [noisy("other", 0.01, 1)]))) == len(SITES)


def rounding_noise(encoder, seed: int):
    """The encoder with every weight moved at random within the spacing of bfloat16, as if rounded another way."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in encoder.weights().items():
        spacing = torch.exp2(torch.floor(torch.log2(weight.abs().clamp_min(1e-30))) - 7)
        weights[name] = weight + spacing * (torch.rand(weight.shape, generator=draw) - 0.5)
    return encoder.with_weights("other", weights, encoder.provenance)


def test_the_furthest_baseline_of_the_number_formats_counts():
    base, near, far = noisy("base", 0, 4), noisy(ROUNDED, 0.001, 4, 1), noisy("base (float32)", 0.05, 4, 2)
    other = noisy("other", 0.05, 4, 3)
    assert not moved_sites(representation_drift(base, [other], [near, far]))
    assert len(moved_sites(representation_drift(base, [other], [near]))) == len(SITES)


@pytest.mark.thorough
def test_weights_rounded_another_way_raise_few_false_alarms(tmp_path):
    alarms = 0
    for seed in range(5):
        encoder = load_encoder(write_base(tmp_path / str(seed), seed))
        names = [site.name for site in encoder.sites]
        coarse = np.random.default_rng(seed).integers(0, 256, (80, 6, 6, 3), dtype=np.uint8)
        pixels = encoder.preprocess([Image.fromarray(one).resize((32, 32)) for one in coarse])

        def features(one, name, names=names, pixels=pixels):
            pooled = one.forward(pixels, names, lambda tokens: tokens.mean(1))
            return feature_set(name, {site: rows.double().numpy() for site, rows in pooled.items()})

        base = features(encoder, "base")
        baseline = features(encoder.rounded(torch.bfloat16), ROUNDED)
        for draw in range(40):
            other = features(rounding_noise(encoder, draw), "other")
            alarms += bool(moved_sites(representation_drift(base, [other], [baseline])))
    assert alarms <= 12  # 6 % of 200


def coverage(repeats: int) -> float:
    """How often the interval of CKA(a, base) - CKA(b, base) holds the difference in the population."""
    rng, spectrum, hits = np.random.default_rng(2), np.arange(1, 17) ** -0.5, 0

    def population(noise: float) -> float:
        own_x, own_y = spectrum**2, spectrum**2 + noise**2 * spectrum[::-1] ** 2
        return float((own_x**2).sum() / np.sqrt((own_x**2).sum() * (own_y**2).sum()))

    truth = population(0.5) - population(0.3)
    for _ in range(repeats):
        x = rng.standard_normal((150, 16)) * spectrum
        a, b = (x + noise * rng.standard_normal((150, 16)) * spectrum[::-1] for noise in (0.5, 0.3))
        origin = represent(x)
        difference = replicate_cka(origin, represent(a)) - replicate_cka(origin, represent(b))
        interval = difference.estimate(CKA.of_differences)
        hits += interval.low <= truth <= interval.high
    return hits / repeats


@pytest.mark.thorough
def test_the_interval_of_a_difference_covers_the_truth():
    assert 0.935 <= coverage(2000) <= 0.965  # standard error of 2000 draws: 0.5 points
