import math

import pytest
import torch

from visprobe.metrics.weights.difference import coarser, total, weight_change


def test_closed_form() -> None:
    change = weight_change(torch.tensor([3.0, 4.0, 0.0]), torch.tensor([3.0, 4.0, 0.5]))
    assert change == (0.25, 25.0, 2, 3)
    assert change.relative_change == 0.1
    assert change.share_equal == 2 / 3


def test_a_scaled_tensor_has_the_relative_change_of_its_scale() -> None:
    base = torch.randn(50, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert weight_change(base, 1.01 * base).relative_change == pytest.approx(0.01, rel=1e-12)  # float64 rounding


def test_groups_add_squares_not_ratios() -> None:
    large, small = torch.full((100,), 10.0), torch.full((1,), 0.1)
    group = total([weight_change(large, large), weight_change(small, 2 * small)])
    assert group.relative_change == pytest.approx(0.1 / math.sqrt(1e4 + 0.01), rel=1e-6)  # float32 holds 0.1 to 1e-8
    joined = weight_change(torch.cat([large, small]), torch.cat([large, 2 * small]))
    assert group == pytest.approx(joined, rel=1e-12)  # order of float64 sums
    assert group.share_equal == 100 / 101


def test_saving_an_untouched_tensor_in_bfloat16_is_no_change() -> None:
    base = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    change = weight_change(base, base.bfloat16())
    assert change.relative_change == 0
    assert change.share_equal == 1


def test_a_small_change_of_a_bfloat16_base_is_seen_in_float32_but_not_at_bfloat16() -> None:
    base = torch.randn(1000, generator=torch.Generator().manual_seed(2)).bfloat16()
    change = weight_change(base, base.float() * (1 + 2**-12))  # bfloat16 is spaced 2**-8 to 2**-7 of a weight
    assert change.relative_change == pytest.approx(2**-12, rel=1e-3)  # float32 rounding of the product
    assert change.share_equal == 1


def test_a_finely_stored_base_is_rounded_before_the_difference_is_taken() -> None:
    base = torch.tensor([1.0 + 2**-10, 2.0])
    other = torch.tensor([1.0, 2.5]).bfloat16()
    assert weight_change(base, other) == (0.25, 5.0, 1, 2)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float16),
        (torch.float32, torch.float32, torch.float32),
    ],
)
def test_coarser_dtype(a: torch.dtype, b: torch.dtype, expected: torch.dtype) -> None:
    assert coarser(a, b) == coarser(b, a) == expected


def test_zero_base_gives_zero_or_infinity() -> None:
    zero = torch.zeros(3)
    assert weight_change(zero, zero).relative_change == 0
    assert weight_change(zero, zero + 1).relative_change == math.inf


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        weight_change(torch.zeros(3), torch.zeros(4))
