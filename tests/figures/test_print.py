"""Figures as they are printed: one and two columns wide, legible, told apart by all, with their font inside."""

import base64
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from figure_specs import FIGURES
from fontTools.ttLib import TTFont
from legible import overlapping, shown_texts
from matplotlib.colors import to_rgb
from typer.testing import CliRunner

from visprobe.analyses.drift import drift_figure as representation_drift
from visprobe.cli.app import app
from visprobe.figures.embedded_font import with_font
from visprobe.figures.labels import unique_short_labels
from visprobe.figures.save import figure_bytes, svg_text
from visprobe.figures.style import _COLOURS, _MARKERS, ONE_COLUMN, TWO_COLUMNS, checkpoint_styles

LONG = ("llava-1.5-7b-base-checkpoint", "llava-1.5-7b-dpo-seed0-step-2000", "llava-1.5-7b-sft-seed0-step-2000")
MANY = ("base", *(f"model-{number}" for number in range(7)))
FOUR = ("base", "sft", "dpo", "grpo")
EACH = [kind for kind in FIGURES if not re.fullmatch(r"map_strip_[2-4]", kind)]  # strips are drawn alike
# Machado, Oliveira and Fernandes (2009), a whole deficiency (severity 1.0), for linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture(scope="module")
def drawn_from(planted):
    return {LONG: planted(LONG, 24), MANY: planted(MANY, 24), FOUR: planted(FOUR)}


@pytest.mark.parametrize(
    "names",
    [pytest.param(LONG, id="long names"), pytest.param(MANY, id="many checkpoints", marks=pytest.mark.thorough)],
)
@pytest.mark.parametrize("analysis", EACH)
def test_nothing_is_cut_or_covered_at_either_width_and_type_has_7_to_9_points(drawn_from, analysis, names) -> None:
    result = drawn_from[names][analysis]
    for width in (ONE_COLUMN, TWO_COLUMNS):
        figure = FIGURES[analysis].draw(result, names, width)
        assert figure.get_figwidth() == width
        assert overlapping(figure) == []
        assert all(7 <= text.get_fontsize() <= 9 for text in shown_texts(figure))


def lab(linear) -> np.ndarray:
    """CIE 1976 L*a*b* under D65 of linear sRGB."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_whatever_colours_a_reader_sees(vision) -> None:
    rgb = [np.array(to_rgb(colour)) for colour in _COLOURS]
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in rgb]
    seen = [lab(np.clip(np.array(VISIONS[vision]) @ one, 0, 1)) for one in linear]
    # 2.3 is a just noticeable difference (Sharma 2003): seven times that is plain even on thin lines.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 7 * 2.3 - 0.1


def test_every_series_has_a_marker_of_its_own_beside_its_colour() -> None:
    names = [f"arm-{number}" for number in range(len(_MARKERS))]
    assert len({look.marker for look in checkpoint_styles(names).values()}) == len(names)
    many = checkpoint_styles([f"arm-{number}" for number in range(len(_MARKERS) * len(_COLOURS))]).values()
    assert len(set(many)) == len(many)


@pytest.mark.parametrize("analysis", EACH)
def test_lines_of_different_checkpoints_differ_by_more_than_colour(drawn_from, analysis) -> None:
    figure = FIGURES[analysis].draw(drawn_from[FOUR][analysis], FOUR)
    lines = [line for axes in figure.axes for line in axes.lines]
    for look in checkpoint_styles(FOUR).values():
        own_colour = [line for line in lines if str(line.get_color()) == look.colour]
        own = [line for line in own_colour if len(line.get_xdata()) > 2]
        if analysis not in ("spectrum", "swap", "sites"):  # whose colours are of weights, ways to exchange and a frame
            assert not own or look.marker in {line.get_marker() for line in own_colour}
    styles = {(str(line.get_color()), line.get_marker(), str(line.get_linestyle())) for line in lines}
    coloured = {(colour, marker) for colour, marker, _ in styles if colour in _COLOURS and marker in _MARKERS}
    assert len({marker for _, marker in coloured}) >= len({colour for colour, _ in coloured})


@pytest.mark.thorough
def test_a_pdf_holds_truetype_outlines_of_its_font(planted) -> None:
    pdf = figure_bytes(FIGURES["imagenet"].draw(planted()["imagenet"]), "pdf")
    assert pdf.count(b"/FontFile2") >= 2 and b"/Type3" not in pdf  # regular and bold; no bitmaps or drawn glyphs


@pytest.mark.thorough
def test_an_svg_holds_every_glyph_of_its_texts_and_is_the_same_each_time(planted) -> None:
    figure = FIGURES["imagenet"].draw(planted(("base", "σ−猫"))["imagenet"])
    svg = figure_bytes(figure, "svg").decode()
    assert svg == with_font(svg_text(figure)) and "<text" in svg
    faces = re.findall(r"font-weight:(\w+);src:url\(data:font/woff;base64,([^)]*)\)", svg)
    assert {weight for weight, _ in faces} == {"normal", "bold"}
    letters = set[int]()
    for _, data in faces:
        own = set(TTFont(io.BytesIO(base64.b64decode(data))).getBestCmap())
        assert set(map(ord, "azAZ09 %")) <= own
        letters |= own
    assert {ord("σ"), ord("−")} <= letters and ord("猫") not in letters  # which DejaVu Sans does not have
    assert "@font-face" not in svg_text(figure)  # a page has its own fonts


def test_names_that_would_look_alike_lose_what_they_share() -> None:
    assert unique_short_labels(["base", "sft"]) == ["base", "sft"]
    short = unique_short_labels(LONG)
    assert len(set(short)) == 3 and max(map(len, short)) <= 24 and "dpo" in short[1] and "sft" in short[2]


def test_a_narrow_figure_has_its_names_below_and_each_once(planted) -> None:
    figure = representation_drift.draw(planted(LONG)["drift"], LONG, ONE_COLUMN)
    [legend] = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names)) == 4  # two checkpoints and two baselines
    assert not representation_drift.draw(planted(LONG)["drift"], LONG, TWO_COLUMNS).legends


def test_the_command_draws_at_a_width_and_leaves_the_numbers(tmp_path: Path) -> None:
    report = Path(__file__).parents[2] / "figures" / "demo-study" / "report.json"
    for width, inches in (("one", ONE_COLUMN), ("5.5", 5.5)):
        path = tmp_path / f"{width}.svg"
        run = CliRunner().invoke(app, ["figure", "drift", str(report), "-o", str(path), "--width", width])
        assert run.exit_code == 0, run.output
        assert f'width="{72 * inches:g}pt"' in path.read_text("utf-8")
        assert "n = 1,000 images" in run.output
        assert path.with_suffix(".csv").read_text("utf-8").count("\n") > 50
    for refused in ("wide", "0.1", "nan"):
        assert CliRunner().invoke(app, ["figure", "drift", str(report), "--width", refused]).exit_code != 0
