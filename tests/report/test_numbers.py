import pytest

from visprobe.report.numbers import interval_text, value_text
from visprobe.results.result import Estimate


@pytest.mark.parametrize(
    ("numbers", "unit", "role", "value", "interval"),
    [
        ((0.612, 0.5815, 0.6417), "fraction", "value", "61.2 %", "[58.1, 64.2]"),
        ((0.9996, 0.999, 0.9999), "fraction", "value", "99.960 %", "[99.900, 99.990]"),
        ((0.0, 0.0, 0.0), "fraction", "value", "0 %", ""),
        ((1.0, 1.0, 1.0), "fraction", "value", "100 %", ""),
        ((1.0, 0.963, 1.0), "fraction", "value", "100.0 %", "[96.3, 100.0]"),
        ((-0.011, -0.025, 0.003), "fraction", "difference", "−1.1", "[−2.5, +0.3]"),
        ((0.981, 0.976, 0.986), "CKA", "value", "0.981", "[0.976, 0.986]"),
        ((0.999987, 0.999981, 0.999992), "CKA", "value", "0.999987", "[0.999981, 0.999992]"),
        ((1.0, 1.0, 1.0), "CKA", "value", "1", ""),
        ((-0.0123, -0.02, 0.0), "CKA", "difference", "−0.0123", "[−0.0200, 0]"),
        ((0.015, 0.015, 0.015), "ratio", "value", "0.0150", ""),
        ((4.1e-5, 4.1e-5, 4.1e-5), "ratio", "value", "4.1·10⁻⁵", ""),
        ((123.4, 123.4, 123.4), "ratio", "value", "123", ""),
    ],
)
def test_numbers_as_printed(numbers, unit: str, role, value: str, interval: str) -> None:
    estimate = Estimate(*numbers, n=1000, unit=unit, method="m")
    assert (value_text(estimate, role), interval_text(estimate, role)) == (value, interval)


def test_what_is_not_one_is_never_printed_as_one() -> None:
    for distance in (0.3, 1e-2, 4e-4, 1e-5, 6e-7):
        value = 1 - distance
        assert float(value_text(Estimate(value, value, value, 9, "CKA", "m"))) < 1
