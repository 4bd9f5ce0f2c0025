from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from planted_features import feature_set

from visprobe.analyses.drift.sites import site_maps
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.similarity.cka import debiased_cka
from visprobe.results.result import Estimate, Result

SITES = ("block_00", "block_01", "block_02", "block_03", "projected")
N, WIDTH = 120, 12


def states(seed: int = 0) -> list[NDArray[np.float64]]:
    """Each site is the one before with as much new beside it."""
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal((N, WIDTH))]
    for _ in SITES[1:]:
        found.append(found[-1] + rng.standard_normal((N, WIDTH)))
    return found


def planted(name: str, reads: int = 2, noise: float = 0.0, seed: int = 1) -> FeatureSet:
    """What the language model reads (block_02) has become like the base's site `reads`."""
    rng, sites = np.random.default_rng(seed), states()
    moved = {site: x + noise * rng.standard_normal(x.shape) for site, x in zip(SITES, sites, strict=True)}
    moved["block_02"] = sites[reads] + noise * rng.standard_normal((N, WIDTH))
    return feature_set(name, moved)


BASE = planted("base")


def of(result: Result, measure: str, checkpoint: str = "sft") -> Estimate:
    return result.select(checkpoint=checkpoint, measure=measure)[0].estimate


@pytest.mark.parametrize("reads", [0, 1, 2, 3])
def test_a_planted_shift_of_depth_is_found(reads: int) -> None:
    result = site_maps(BASE, [planted("sft", reads, noise=0.3)])
    shift, excess = of(result, "depth_shift"), of(result, "best_minus_own")
    assert (shift.value, shift.low, shift.high) == (reads - 2,) * 3
    assert result.settings["most_similar"] == {"sft": SITES[reads]}
    assert excess.value == 0 if reads == 2 else excess.low > 0


def test_the_true_site_is_kept_in_at_least_95_of_100() -> None:
    shifts = [of(site_maps(BASE, [planted("sft", 2, 3.0, seed)]), "depth_shift") for seed in range(100)]
    assert sum(one.low <= 0 <= one.high for one in shifts) >= 95
    assert any(one.low < one.high for one in shifts)  # so much noise leaves it open


def test_maps_are_the_cka_of_every_pair_and_one_on_the_bases_own_diagonal() -> None:
    other = planted("sft", 1, noise=0.5)
    maps = site_maps(BASE, [other]).settings["maps"]
    assert list(maps) == ["base", "sft"]
    assert np.diag(maps["base"]) == pytest.approx(1, abs=1e-6)  # kept to six digits
    expected = [[debiased_cka(BASE.sites[a], other.sites[b]).value for b in SITES] for a in SITES]
    assert np.array(maps["sft"]) == pytest.approx(np.array(expected), abs=1e-6)


def test_a_baseline_has_rows_and_no_map() -> None:
    result = site_maps(BASE, [planted("sft", 2, 0.1)], [planted("untrained", 2, 100.0)])
    assert {row.role for row in result.select(checkpoint="untrained")} == {"baseline"}
    assert "untrained" not in result.settings["maps"]


def test_a_site_that_does_not_vary_is_named() -> None:
    flat = replace(BASE, encoder="sft", sites={**BASE.sites, "block_02": np.ones((N, 3), np.float32)})
    with pytest.raises(DataError, match="sft at block_02"):
        site_maps(BASE, [flat])
