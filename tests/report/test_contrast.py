"""Colours of the page can be read in both themes and on paper, by the contrast ratio of WCAG 2.2."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("visprobe.report").joinpath("page/templates/report.css").read_text("utf-8")
# The backgrounds on which each colour of a text stands: the page, the verdict and code, the cell a link led to.
TEXTS = {"ink": ("paper", "faint", "mark"), "muted": ("paper", "faint", "mark"), "accent": ("paper", "faint"),
         "alarm": ("paper", "faint"), "paper": ("ink",)}  # fmt: skip
MARKS = {"accent": ("paper", "faint", "mark"), "alarm": ("paper", "faint"), "control": ("paper", "faint")}


def themes() -> dict[str, dict[str, str]]:
    """The variables of each theme; the second and third replace those of the first."""
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    light, dark, printed = (dict(re.findall(r"--(\w+): (#[0-9a-f]+);", block)) for block in blocks)
    return {"light": light, "dark": light | dark, "print": light | printed}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21) and contrast("#777777", "#fff") == pytest.approx(
        4.48, abs=0.01
    )


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_texts_and_marks_stand_out_from_what_is_behind_them(theme: str) -> None:
    colours = themes()[theme]
    for pairs, least in ((TEXTS, 4.5), (MARKS, 3.0)):
        for front, backs in pairs.items():
            for back in backs:
                found = contrast(colours[front], colours[back])
                assert found >= least, f"{theme}: {front} on {back} has {found:.2f}:1, below {least}:1"


def test_every_colour_of_a_text_is_one_that_was_looked_at() -> None:
    assert set(re.findall(r"[ ;{]color: ([^;]+);", CSS)) <= {"inherit", *(f"var(--{name})" for name in TEXTS)}
    backgrounds = {name for backs in TEXTS.values() for name in backs}
    found = set(re.findall(r"background: ([^;]+);", CSS))
    assert found <= {"#fff", *(f"var(--{name})" for name in backgrounds)}  # white is behind figures only
    assert contrast("#0b5c94", "#fff") >= 3  # the ring around a mark of a figure
