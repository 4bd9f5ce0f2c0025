"""Streaming and RBF CKA: sums over parts against the whole, textbook forms and golden values."""

import math
from functools import reduce

import numpy as np
import pytest
from numpy.typing import NDArray

from visprobe.metrics.intervals.jackknife import replicate_by_groups
from visprobe.metrics.matrices import centred
from visprobe.metrics.similarity.cka import debiased_cka, replicate_cka, represent
from visprobe.metrics.similarity.rbf_cka import median_bandwidth, rbf_kernel, replicate_rbf_cka
from visprobe.metrics.similarity.streaming_cka import CkaSums, cka_sums, replicate_streaming

Array = NDArray[np.float64]
Batches = list[tuple[Array, Array]]


def pair(n: int = 100, d: int = 10, noise: float = 1.0) -> tuple[Array, Array]:
    legacy = np.random.RandomState(1337)  # the seed and generator of Kornblith's published notebook
    x = legacy.randn(n, d)
    return x, noise * legacy.randn(n, d) + x


def batches(x: Array, y: Array, size: int) -> Batches:
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 100])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_sums_over_batches_give_the_value_and_the_jackknife_of_the_whole(size: int, offset: float) -> None:
    x, y = pair()
    parts = batches(x + offset, y - offset, size)
    result, whole = replicate_streaming(cka_sums(parts), parts), replicate_cka(represent(x), represent(y))
    assert result.value == pytest.approx(0.513456489506, rel=1e-9)  # the golden value has 12 digits
    np.testing.assert_allclose(result.without, whole.without, atol=1e-11)  # an offset of 1000 costs three of 16 digits


def test_order_shuffle_and_tree_of_merges_do_not_matter() -> None:
    x, y = pair()
    order = np.random.default_rng(0).permutation(100)
    parts = [CkaSums.of(*part) for part in batches(x[order], y[order], 9)]
    left = reduce(CkaSums.merged, parts)
    right = reduce(CkaSums.merged, parts[:5]).merged(reduce(CkaSums.merged, parts[:4:-1]))
    whole = CkaSums.of(x, y)
    assert [left.cka(), right.cka()] == pytest.approx([whole.cka()] * 2, rel=1e-12)  # order of float64 sums
    for name in ("mean_u", "c", "p", "r", "g", "h"):
        np.testing.assert_allclose(getattr(left.xy, name), getattr(whole.xy, name), rtol=1e-9, atol=1e-11)


def test_parts_left_out_give_a_jackknife_in_one_pass() -> None:
    x, y = pair(400, 6)
    parts = [CkaSums.of(*part) for part in batches(x, y, 10)]
    by_part = replicate_by_groups(lambda ids: reduce(CkaSums.merged, [parts[i] for i in ids]).cka(), 40, 40)
    assert by_part.value == pytest.approx(debiased_cka(x, y).value, rel=1e-12)  # order of float64 sums
    # Both estimate one error; that of 40 parts is itself known to 1 / sqrt(2 * 39) = 11 %: three of these.
    assert by_part.student.error == pytest.approx(replicate_cka(represent(x), represent(y)).student.error, rel=0.34)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_low_precision_is_summed_in_float64(dtype: type) -> None:
    x, y = (a.astype(dtype) for a in pair())
    assert cka_sums(batches(x, y, 13)).cka() == pytest.approx(
        debiased_cka(x.astype(np.float64), y.astype(np.float64)).value, rel=1e-12
    )


def test_streaming_refuses_what_has_no_value() -> None:
    x, y = pair()
    for bad, words in [((x, y[1:]), "not the same images"), ((x * np.nan, y), "NaN"), ((x[0], y[0]), "shape")]:
        with pytest.raises(ValueError, match=words):
            CkaSums.of(*bad)
    with pytest.raises(ValueError, match="widths"):
        CkaSums.of(x, y).merged(CkaSums.of(x, y[:, :3]))
    with pytest.raises(ValueError, match="no batch"):
        cka_sums([])
    with pytest.raises(ValueError, match="n >= 4"):
        CkaSums.of(x[:3], y[:3]).cka()
    with pytest.raises(ValueError, match="n >= 5"):
        CkaSums.of(x[:4], y[:4]).cka_without(x[:4], y[:4])
    with pytest.raises(ValueError, match="no variance"):
        CkaSums.of(np.ones((10, 3)), y[:10]).cka()
    with pytest.raises(ValueError, match="100 images, the second pass gave 50"):
        replicate_streaming(CkaSums.of(x, y), [(x[:50], y[:50])])


def whole_kernels(x: Array, y: Array) -> list[Array]:
    sides = [centred(a, 2, "") for a in (x, y)]
    return [rbf_kernel(a, slice(None), median_bandwidth(a)) for a in sides]


def u_centred_cka(k: Array, m: Array) -> float:
    out = []
    for one in (k, m):
        a, n = one.copy(), len(one)
        np.fill_diagonal(a, 0)
        rows = a.sum(0) / (n - 2)
        a = a - rows[:, None] - rows + a.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(a, 0)
        out.append(a)
    a, b = out
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def test_rbf_golden_values_of_the_published_notebook() -> None:
    k, m = whole_kernels(*pair())
    h = np.eye(100) - 0.01
    biased = [np.trace(a @ h @ b @ h) for a, b in ((k, m), (k, k), (m, m))]
    assert biased[0] / math.sqrt(biased[1] * biased[2]) == pytest.approx(0.654831182261, rel=1e-9)  # 12 digits
    assert replicate_rbf_cka(*pair()).value == pytest.approx(0.419276751022, rel=1e-9)


def test_rbf_replicates_equal_brute_force_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visprobe.metrics.similarity.rbf_cka._CHUNK", 7)
    x, y = pair(40, 4)
    k, m = whole_kernels(x, y)
    expected = [u_centred_cka(*(np.delete(np.delete(a, i, 0), i, 1) for a in (k, m))) for i in range(40)]
    found = replicate_rbf_cka(x, y)
    assert found.value == pytest.approx(u_centred_cka(k, m), abs=1e-12)  # float64 sums
    np.testing.assert_allclose(found.without, expected, atol=1e-11)


def test_rbf_invariances_null_and_refusals() -> None:
    x, y = pair()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    assert replicate_rbf_cka(x, x).value == pytest.approx(1, abs=1e-12)
    assert replicate_rbf_cka(1e6 * x, y @ turn + 3).value == pytest.approx(replicate_rbf_cka(x, y).value, abs=1e-10)
    rng = np.random.default_rng(2)
    null = [replicate_rbf_cka(rng.standard_normal((40, 8)), rng.standard_normal((40, 50))).value for _ in range(100)]
    assert abs(np.mean(null)) < 3 * np.std(null) / 10  # three standard errors at a fixed seed
    with pytest.raises(ValueError, match="median distance is zero"):
        replicate_rbf_cka(np.repeat([[0.0], [1.0]], [90, 10], 0), x)
    with pytest.raises(ValueError, match="99"):
        replicate_rbf_cka(x, y[1:])
