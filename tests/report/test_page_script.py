"""The page's script in a browser: sorting, filter, downloads and galleries, with no complaint and no request."""

from __future__ import annotations

import csv
import io
import re
import shutil
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from chromium import Chromium
from figure_specs import FIGURES
from test_page import HOSTILE, everywhere

from visprobe.figures.save import svg_text
from visprobe.report.page.merged_page import merged_document, render_merged
from visprobe.report.page.render import render
from visprobe.report.rebuild import Run, draw_figure

BINARY = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="no Chromium here")]
NAMES = ("base", "sft", "dpo")
BAD = [{"id": f"image-{i}.jpg", "reason": "=cut(),\"short\"" if i % 2 else "+1"} for i in range(14)]  # fmt: skip
GATE = {"condition": "top1-base<-5%", "checkpoint": "sft", "site": "block_06", "value": -0.0612, "low": -0.07,
        "high": -0.05, "beyond": True, "tripped": True}  # fmt: skip
# Tables by what their caption begins with: the first of planted accuracies, and the bad items.
FIND = "const table = [...document.querySelectorAll('table')].find(t => t.caption.textContent.startsWith('{}'));"
TOP1, ITEMS = FIND.format("Top-1 accuracy."), FIND.format("Images that could not")
CELLS = "[...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[{}].textContent.trim())"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def path(documented, planted, folder: Path) -> Path:
    results = planted(NAMES)
    figures = {
        FIGURES[name].name: svg_text(FIGURES[name].draw(results[name], NAMES)) for name in ("drift", "sites", "maps")
    }
    data = [{"name": "d", "n": 14, "classes": 2, "hash": "0", "bad_items": BAD}]
    (folder / "report.html").write_text(render({**documented(NAMES, data=data), "gates": [GATE]}, figures), "utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[Chromium]:
    with Chromium(BINARY or "", folder) as browser:
        yield browser


@pytest.fixture
def page(started: Chromium, path: Path) -> Iterator[Chromium]:
    started.open(path)
    yield started
    assert started.complaints == [] and set(started.requests) <= {path.as_uri()}


def on(browser: Chromium, table: str, expression: str) -> object:
    return browser.run(f"(() => {{ {table} return {expression}; }})()")


def downloaded(folder: Path, name: str) -> str:
    end = time.monotonic() + 300
    while not (folder / name).is_file():
        assert time.monotonic() < end, f"{name} was not downloaded"
        time.sleep(0.05)
    text = (folder / name).read_text("utf-8")
    (folder / name).unlink()
    return text


@pytest.mark.thorough
def test_columns_sort_by_their_numbers_up_down_and_back(page: Chromium) -> None:
    lines, column = CELLS.format(0), "table.tHead.rows[0].cells[2]"
    before = on(page, TOP1, lines)
    values = on(page, TOP1, "[...table.tBodies[0].rows].map(r => +r.cells[2].dataset.value)")
    seen = []
    for _ in range(3):
        on(page, TOP1, f"{column}.querySelector('button').click()")
        numbers = on(page, TOP1, "[...table.tBodies[0].rows].map(r => +r.cells[2].dataset.value)")
        seen.append((on(page, TOP1, f"{column}.getAttribute('aria-sort')"), numbers))
    assert seen == [("ascending", sorted(values)), ("descending", sorted(values, reverse=True)), ("none", values)]  # type: ignore[call-overload]
    assert on(page, TOP1, lines) == before and len(set(values)) > 1  # type: ignore[call-overload]


def test_the_keyboard_sorts_text_by_the_numbers_in_it(page: Chromium) -> None:
    on(page, ITEMS, "table.tHead.rows[0].cells[0].querySelector('button').focus()")
    page.press("Enter")
    page.press("Enter")
    assert on(page, ITEMS, CELLS.format(0)) == [f"image-{i}.jpg" for i in range(13, -1, -1)]


def test_the_filter_leaves_rows_that_hold_its_text_and_gives_way_to_a_link(page: Chromium) -> None:
    box = "table.closest('.scroll').previousElementSibling.querySelector('input')"
    on(page, ITEMS, f"({box}.value = 'IMAGE-1', {box}.dispatchEvent(new Event('input')))")
    assert on(page, ITEMS, CELLS.format(0)) == [f"image-{i}.jpg" for i in (1, 10, 11, 12, 13)]
    assert on(page, ITEMS, f"{box}.parentElement.querySelector('output').textContent") == "5 of 14 rows"
    on(page, ITEMS, "(table.tBodies[0].rows[0].id = 'there', location.hash = 'there')")
    page.run("new Promise(done => setTimeout(done, 50))")
    assert len(on(page, ITEMS, CELLS.format(0))) == 14  # type: ignore[arg-type]


@pytest.mark.thorough
def test_csv_has_the_numbers_behind_the_text_with_their_intervals(page: Chromium, planted, folder: Path) -> None:
    on(page, TOP1, "table.closest('.scroll').nextElementSibling.querySelector('button').click()")
    head, *lines = csv.reader(io.StringIO(downloaded(folder, "top-1-accuracy.csv")))
    assert head[:4] == ["Site", "base", "base low", "base high"] and head[-1] == "n"
    for line in lines:
        (row,) = planted(NAMES)["imagenet"].select(checkpoint="sft", site=line[0], measure="top1", role="value")
        place = head.index("sft")
        e = row.estimate
        assert [float(cell) for cell in line[place : place + 3]] == [e.value, e.low, e.high] and line[-1] == str(e.n)


def test_csv_of_texts_holds_no_formula(page: Chromium, folder: Path) -> None:
    on(page, ITEMS, "table.closest('.scroll').nextElementSibling.querySelector('button').click()")
    lines = list(csv.reader(io.StringIO(downloaded(folder, "images-that-could-not-be-used.csv"))))
    assert lines == [["Image", "Reason"], *([one["id"], f"'{one['reason']}"] for one in BAD)]


def test_a_figure_is_taken_from_the_page_as_a_whole_file(page: Chromium, folder: Path) -> None:
    page.run("document.querySelector('[data-name=site_maps] .files button').click()")
    root = ElementTree.fromstring(downloaded(folder, "site_maps.svg"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(root.findall(".//{*}title")) == 3 * 4**2
    assert "max-width" not in root.attrib["style"] and root.attrib["width"].endswith("pt")


@pytest.mark.thorough
def test_the_slider_draws_the_map_of_each_checkpoint(page: Chromium, planted) -> None:
    sheet = planted(NAMES)["maps"].settings["sheet"]
    page.run("document.querySelector('.gallery input').focus()")
    fills = []
    for name in NAMES:
        assert page.run("document.querySelector('.gallery .now strong').textContent") == name
        titles = page.run("[...document.querySelectorAll('.screen title')].map(t => parseFloat(t.textContent))")
        assert titles == [value for line in sheet["maps"][name][0]["values"] for value in line]
        fills.append(page.run("[...document.querySelectorAll('.screen rect')].map(r => r.getAttribute('fill')).join()"))
        assert page.run("document.querySelector('.gallery input').getAttribute('aria-valuetext')").startswith(name)
        page.press("ArrowRight")
    assert len(set(fills)) == len(NAMES)
    page.run("document.querySelectorAll('.picks button')[1].click()")
    titles = page.run("[...document.querySelectorAll('.screen title')].map(t => parseFloat(t.textContent))")
    assert titles == [value for line in sheet["maps"]["dpo"][1]["values"] for value in line]


TIP = "document.querySelector('.tip:not([hidden])')?.textContent ?? null"
DRIFT = "document.querySelector('[data-name=representation_drift] .card')"


def drift_titles(html: str) -> list[str]:
    """What the marks of the drift figure stand for, as the page's source says it."""
    figure = html.split('data-name="representation_drift"')[1].split("</svg>")[0]
    return [unescape(title) for title in re.findall(r"<(?:use|path) [^>]*><title>([^<]*)</title>", figure)]


def test_pointing_at_a_mark_tells_its_number_and_leaving_it_ends_that(page: Chromium, path: Path) -> None:
    titles = drift_titles(path.read_text("utf-8"))
    assert len(titles) > 10 and all("n = " in title for title in titles)
    page.run(f"{DRIFT}.scrollIntoView({{ block: 'center' }})")
    place = page.run(
        f"(() => {{ const m = {DRIFT}.querySelector('g[id*=marks] use').getBoundingClientRect();"
        "return [m.x + m.width / 2, m.y + m.height / 2]; })()"
    )
    assert page.run(TIP) is None
    page.point(place[0] + 3, place[1])  # beside the mark, as a hand points
    assert page.run(TIP) in titles
    box = page.run(
        "(({left, right, top, bottom}) => [left, right, top, bottom])"
        "(document.querySelector('.tip').getBoundingClientRect())"
    )
    assert 0 <= box[0] < box[1] <= 1400 and 0 <= box[2] < box[3] <= 900
    page.point(2, 2)
    assert page.run(TIP) is None


def test_arrow_keys_go_from_mark_to_mark_and_escape_ends_that(page: Chromium, path: Path) -> None:
    titles = drift_titles(path.read_text("utf-8"))
    page.run(f"{DRIFT}.focus()")
    heard = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.press(key)
        heard.append(page.run(TIP))
    assert heard == [titles[0], titles[1], titles[0]]
    assert page.run("document.querySelector('.tip').getAttribute('aria-live')") == "polite"
    page.press("Escape")
    assert page.run(TIP) is None


def test_a_figure_that_is_taken_keeps_the_texts_of_its_marks(page: Chromium, path: Path, folder: Path) -> None:
    page.run("document.querySelector('[data-name=representation_drift] .files button').click()")
    root = ElementTree.fromstring(downloaded(folder, "representation_drift.svg"))
    assert [title.text for title in root.findall(".//{*}title")] == drift_titles(path.read_text("utf-8"))


def test_conditions_stand_in_the_verdict(page: Chromium) -> None:
    (shown,) = page.run(
        "[...document.querySelectorAll('.verdict .gates li')].map(li => li.innerText.replace(/\\s+/g, ' '))"
    )
    assert shown == "Tripped top1-base<-5% sft at block_06: −0.0612 [−0.07, −0.05]"
    assert page.run("document.querySelector('.gates .tripped strong').getBoundingClientRect().top < innerHeight")


@pytest.mark.thorough
@pytest.mark.parametrize("width", [390, 1400])
def test_a_page_of_several_runs_is_quiet_and_fits(started: Chromium, documented, folder: Path, width: int) -> None:
    document = documented(NAMES)
    document["results"] = [one for one in document["results"] if one["analysis"] in ("drift", "maps")]
    runs = [Run(name, document) for name in ("first", "n" * 200)]
    drawn = [{FIGURES[r.analysis].name: svg_text(draw_figure(run, r.analysis)) for r in run.results} for run in runs]
    merged = folder / "merged.html"
    merged.write_text(render_merged(merged_document(runs, "visprobe report"), runs, drawn), "utf-8")
    started.open(merged, width)
    assert started.run("document.documentElement.scrollWidth") == width
    started.run("document.querySelector('.card').focus()")
    started.press("ArrowRight")
    assert "n = " in started.run(TIP) and started.run("document.querySelectorAll('.gallery:not([hidden])').length") == 2
    assert started.complaints == [] and not [r for r in started.requests if not r.startswith(folder.as_uri())]


@pytest.mark.sample(1)
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_window(started: Chromium, path: Path, width: int) -> None:
    started.open(path, width)
    assert started.run("document.documentElement.scrollWidth") == width and not started.complaints


@pytest.mark.thorough
def test_hostile_names_do_nothing_in_a_browser(started: Chromium, documented, folder: Path) -> None:
    for number, text in enumerate(HOSTILE):
        hostile = folder / f"hostile-{number}.html"
        hostile.write_text(render(everywhere(documented, text), {}), "utf-8")
        started.open(hostile)
        started.run("document.querySelectorAll('.sort').forEach(b => b.click())")
        assert started.complaints == [] and set(started.requests) <= {p.as_uri() for p in folder.glob("*.html")}
        assert started.run("document.scripts.length") == 1
