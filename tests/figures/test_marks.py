"""What marks say: the number they are drawn at, with its interval and n, and nothing where that is not certain."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from figure_specs import FIGURES
from matplotlib.figure import Figure

from visprobe.figures.marks import add_tooltips, text
from visprobe.figures.save import svg_text
from visprobe.results.result import Estimate

# Pictures and curves over images: they show no row of a table.
SILENT = {"maps", "map_differences", "map_contrast", "words"}
NAMES = ("base", "sft", "dpo")


def titles(svg: str) -> list[tuple[ElementTree.Element, str]]:
    root = ElementTree.fromstring(svg)
    return [(mark, mark.findtext("{*}title") or "") for mark in root.iter() if mark.find("{*}title") is not None]


def drawn(result, name: str) -> str:
    return svg_text(FIGURES[name].draw(result, NAMES))


@pytest.mark.thorough
def test_every_figure_of_estimates_tells_its_numbers(planted) -> None:
    for name, result in planted(NAMES).items():
        if name not in FIGURES:
            continue
        found = titles(drawn(result, name))
        assert bool(found) == (name not in SILENT), name
        assert all(
            said.startswith((*NAMES, *(row.checkpoint for row in result.rows)))
            or re.match("step|block|attention|MLP", said)
            for _, said in found
        ), name


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "unit"), [("drift", "CKA"), ("knn", "%")])
def test_a_mark_is_at_the_height_of_the_number_that_it_tells(planted, name: str, unit: str) -> None:
    result = planted(NAMES)[name]
    heights, marked = [], set()
    for mark, said in titles(drawn(result, name)):
        if not mark.tag.endswith("use") or "difference" in said:
            continue
        who, site, number = re.fullmatch(r"(.*), (.*?): (?:CKA )?([\d.]+)(?: %)?[ ,].*", said).groups()
        [row] = [r for r in result.rows if (r.checkpoint, r.site, r.role) == (who, site, "value")]
        told = row.estimate.value * (100 if unit == "%" else 1)
        assert float(number) == pytest.approx(told, abs=5e-3 if unit == "%" else 1e-4)  # as many digits are told
        assert f"n = {row.estimate.n:,} ({row.estimate.method})" in said
        heights.append((row.estimate.value, float(mark.attrib["y"])))
        marked.add((who, site))
    assert marked == {(row.checkpoint, row.site) for row in result.rows if row.role == "value"}
    # y grows downwards: the drift axis shows 1 − CKA, the other the value itself.
    down = [y for _, y in sorted(heights)]
    assert down == sorted(down, reverse=name == "knn")


@pytest.mark.thorough
def test_titles_are_all_that_is_added(planted, monkeypatch) -> None:
    result = planted(NAMES)["drift"]
    told = drawn(result, "drift")
    monkeypatch.setattr("visprobe.figures.save.with_titles", lambda svg, _: svg)
    assert "<title>" in told
    assert re.sub(r"><title>[^<]*</title></(use|path)>", "/>", told) == drawn(result, "drift")


def test_marks_that_are_not_as_many_as_their_texts_keep_silent() -> None:
    figure = Figure()
    axes = figure.subplots()
    add_tooltips(axes.plot([1, 2], [1, 2], marker="o")[0], ["one"])
    assert "<title>" not in svg_text(figure)
    add_tooltips(axes.lines[0], ["<one> & \u202e", "two"])
    assert [said for _, said in titles(svg_text(figure))] == ["<one> & \\u202e", "two"]
    add_tooltips(axes.plot([1, 2], [2, 1])[0], ["start", "end"])  # a line without marks tells all its texts
    assert titles(svg_text(figure))[-1][1] == "start\nend"


def test_cells_of_a_map_are_told_row_by_row() -> None:
    figure = Figure()
    add_tooltips(figure.subplots().pcolormesh([[1, 2], [3, 4]], edgecolors="face"), "abcd")
    found = titles(svg_text(figure))
    places = [tuple(map(float, re.match(r"M ([\d.]+) ([\d.]+)", mark.attrib["d"]).groups())) for mark, _ in found]
    assert [said for _, said in found] == list("abcd")
    assert places[0][0] == places[2][0] < places[1][0] and places[0][1] == places[1][1] > places[2][1]


def test_numbers_are_told_with_their_unit() -> None:
    share = Estimate(0.612, 0.58, 0.643, 1000, "fraction", "Wilson 95 %")
    assert text("sft", share) == "sft: 61.20 % [58.00, 64.30], n = 1,000 (Wilson 95 %)"
    change = Estimate(-0.01, -0.02, 0.0, 50, "fraction", "m")
    assert text("a", change, difference=True) == "a: −1.00 percentage points [−2.00, +0.00], n = 50 (m)"
    near = Estimate(0.9999996, 0.9999995, 0.9999997, 9, "CKA", "m")
    assert text("a", near) == "a: CKA 0.999999600 [0.999999500, 0.999999700], n = 9 (m)"
    assert (
        text("a", Estimate(0.0123456, 0.0123456, 0.0123456, 9, "ratio", "exact")) == "a: ratio 0.01235, n = 9 (exact)"
    )
