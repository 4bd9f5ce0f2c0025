"""The page, read as a browser reads it: what is in it, where its links lead, and what a hostile name can do."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from visprobe.analyses.drift import sites_figure as sites
from visprobe.errors import DataError
from visprobe.figures.save import svg_text
from visprobe.report import write
from visprobe.report.page.inline_svg import inline_svg
from visprobe.report.page.map_gallery import map_gallery
from visprobe.report.page.render import render
from visprobe.report.tables import tables
from visprobe.report.write import write_report
from visprobe.results.result import Estimate, Result, Row
from visprobe.results.statement import Statement

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "\x1b[31mred\x1b[0m",
    "evil\u202egpj.exe",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><svg onload=alert(1)>",
    "]]><!--",
    "&lt;b&gt;",
    "=cmd()|'/c calc'!A0",
    "n" * 255,
)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


class Page(HTMLParser):
    """Elements with their attributes, and the text, of one page; checks that tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.elements if attrs.get("id")]  # type: ignore[misc]


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def page(html: str) -> Page:
    return Page(html)


@pytest.mark.thorough
def test_nothing_is_fetched_and_nothing_runs_but_the_script(page: Page) -> None:
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and policy.count("unsafe-inline") == 1
    assert "style-src 'unsafe-inline'" in policy and "script-src 'sha256-" in policy
    assert page.all("script") == [{}] and not page.all("iframe") and not page.all("img")
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name == "src"]
        for name, value in attrs.items():
            if name.endswith("href"):
                assert re.match(r"#|data:,|data:image/png;base64,|figures/|report\.json$|results\.csv$", value or "")


def test_the_policy_allows_the_one_script_by_its_hash_and_no_other(html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*);", html) == [f"'sha256-{digest}'"]
    source = files("visprobe.report").joinpath("page/templates/report.js").read_text("utf-8")
    assert script == source and "http" not in source.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|Function\(|fetch\(|XMLHttp|<!--", source)


@pytest.mark.thorough
def test_without_the_script_nothing_is_missing_and_nothing_is_dead(page: Page) -> None:
    assert not page.all("button") and not page.all("input") and not page.all("noscript")
    hidden = [attrs for _, attrs in page.elements if "hidden" in attrs]
    assert hidden and all(attrs.get("class") == "gallery" for attrs in hidden)
    shown = {attrs.get("id") for attrs in page.all("figure")}
    assert {"figure-maps", "figure-map_strip_1"} <= shown  # what the galleries hold is drawn as well


def test_galleries_hold_every_map_on_one_scale_and_no_address(planted) -> None:
    result = planted(("base", "sft", "dpo"))["maps"]
    shown = json.loads(map_gallery(result) or "")
    sheet = result.settings["sheet"]
    assert shown["names"] == list(sheet["maps"]) and len(shown["pictures"]) == len(sheet["pictures"])
    for row, picture in enumerate(shown["pictures"]):
        assert picture["maps"] == [maps[row] for maps in sheet["maps"].values()]
        highest = max(v for one in picture["maps"] for line in one["values"] for v in line)
        assert highest <= picture["limit"] <= 1.1 * highest and picture["source"].startswith("data:image/jpeg")
    alone = {**sheet, "maps": {"base": sheet["maps"]["base"]}}
    assert map_gallery(replace(result, settings={"sheet": alone})) is None
    assert map_gallery(planted()["map_differences"]) is None
    sheet = {**sheet, "titles": ["\u202e</script>"] * 2, "pictures": ["https://example.org/x.jpg"] * 2}
    with pytest.raises(DataError, match="damaged"):
        map_gallery(replace(result, settings={"sheet": sheet}))


@pytest.mark.thorough
def test_cells_of_site_maps_say_what_they_are(documented, planted) -> None:
    result = planted(("base", "sft", "dpo"))["sites"]
    html = render(documented(results=[result]), {"site_maps": svg_text(sites.draw(result))})
    order, (name, table) = result.settings["sites"], list(result.settings["maps"].items())[1]
    titles = re.search(r'id="site_maps-marks1">(.*?)</g>', html, re.DOTALL)
    assert titles is not None
    found = re.findall("<title>(.*?)</title>", titles[1])
    assert found[1] == f"base {order[0]} × {name} {order[1]}: CKA {table[0][1]:.6g}" and len(found) == len(order) ** 2


def test_css_reaches_for_nothing_outside(html: str) -> None:
    assert "@import" not in html and not re.findall(r"url\((?!#)", html)


@pytest.mark.thorough
def test_ids_are_unique_and_every_link_and_reference_has_its_target(html: str, page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    hrefs = [value for _, attrs in page.elements for name, value in attrs.items() if name.endswith("href") and value]
    wanted = [href[1:] for href in hrefs if href.startswith("#")] + re.findall(r"url\(#([^)]+)\)", html)
    assert len(wanted) > 50 and set(wanted) <= set(ids)
    labels = [value for _, attrs in page.elements if (value := attrs.get("aria-labelledby"))]
    assert set(labels) <= set(ids)


@pytest.mark.thorough
def test_the_verdict_comes_first_and_leads_to_its_numbers(documented, planted) -> None:
    html = render(documented(), {})
    assert html.index("is not measurably different") < html.index('id="figures"') < html.index('id="numbers"')
    assert html.index('id="numbers"') < html.index('id="checkpoints"') < html.index('id="data"')
    difference = planted(("base", "sft", "dpo"))["imagenet"].select(role="difference", checkpoint="sft")[0]
    link = re.search(r'href="#(number-imagenet-\d+)" aria-label="Number 1', html)
    assert link is not None
    cell = html[html.index(f'id="{link[1]}"') :].split("</td>")[0]
    assert f"{100 * difference.estimate.value:+.1f}" in cell


@pytest.mark.thorough
def test_every_number_is_in_the_page_with_its_interval_and_n(page: Page, planted) -> None:
    titles = [attrs.get("title") or "" for attrs in page.all("td")]
    for result in planted(("base", "sft", "dpo")).values():
        for row in result.rows:
            e = row.estimate
            assert f"{e.value!r} [{e.low!r}, {e.high!r}], n = {e.n}, {e.method}" in titles


@pytest.mark.thorough
def test_headings_do_not_skip_a_level_and_tables_say_what_they_are(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.all("th"))
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in page.all("svg"))
    assert page.elements[[tag for tag, _ in page.elements].index("body") + 1] == (
        "a",
        {"class": "skip", "href": "#main"},
    )


@pytest.mark.thorough
def test_bad_items_warnings_and_command_are_shown(page: Page) -> None:
    for text in (
        "cat/0003.jpg",
        "OSError: truncated",
        "a warning of the run",
        "Only 1,000 images.",
        "visprobe compare base",
    ):
        assert text in page.text


def test_a_long_list_of_bad_items_is_cut_and_says_so(documented) -> None:
    items = [{"id": f"image-{i}.jpg", "reason": "r"} for i in range(5000)]
    html = render(documented(data=[{"name": "d", "n": 1, "classes": 1, "hash": "0", "bad_items": items}]), {})
    assert html.count("image-") == 200 and "The first 200" in html and "5,000" in html


def everywhere(documented: Any, text: str) -> dict[str, Any]:
    """A document in which `text` stands wherever a text from outside can stand."""
    estimate = Estimate(0.5, 0.4, 0.6, 100, "fraction", text)
    names = ("base", text)
    rows = [Row(name, text, f"top1/{text}", estimate) for name in names]
    rows.append(Row(text, text, "top1", estimate, "base", "difference"))
    odd = Result(text, text, tuple(rows), {text: {text: [text]}}, (text,))
    document: dict[str, Any] = documented(
        names,
        command=[text],
        checkpoints=[{"name": name, text: text, "nested": {text: text}, "warnings": [text]} for name in names],
        data=[{"name": text, "n": 1, "classes": text, "hash": text, "bad_items": [{"id": text, "reason": text}]}],
        warnings=[text],
        verdict=[Statement(text, ({"analysis": text, "checkpoint": text, "site": text, "measure": "top1"},))],
    )
    document["results"].append(odd.to_json())
    return document


@pytest.fixture(scope="module")
def tame(documented) -> Page:
    return Page(render(everywhere(documented, "tame"), {}))


@pytest.mark.thorough
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_changes_nothing_but_text(documented, tame: Page, text: str) -> None:
    hostile = render(everywhere(documented, text), {})
    page = Page(hostile)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in tame.elements]
    assert [sorted(attrs) for _, attrs in page.elements] == [sorted(attrs) for _, attrs in tame.elements]
    assert len(page.ids()) == len(set(page.ids()))
    assert not UNSEEN.search(hostile)
    assert "49" not in page.text.split("Verdict")[1].split("Read with")[0]  # {{ 7 * 7 }} was not computed


@pytest.mark.thorough
def test_hostile_checkpoint_names_change_nothing_in_the_figures(documented, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(write, "save_figure", lambda *_: None)  # files beside the page, which holds them
    document = documented(("base", *HOSTILE))
    hostile = write_report(tmp_path, document).read_text(encoding="utf-8")
    page = Page(hostile)
    assert len(page.all("svg")) == len(document["results"]) and page.all("script") == [{}] and not page.all("img")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert not UNSEEN.search(hostile)


def test_ids_of_two_figures_do_not_meet() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt">'
        '<style>*{fill:red}</style><defs><clipPath id="p1"><path id="m1"/></clipPath></defs>'
        '<g clip-path="url(#p1)"><use xlink:href="#m1"/><text>id="p1" url(#p1)</text></g></svg>'
    )
    first = inline_svg(svg, "drift", 'a "label"')
    assert 'id="drift-p1"' in first and "url(#drift-p1)" in first and 'xlink:href="#drift-m1"' in first
    assert 'id="p1" url(#p1)</text>' in first  # what a figure says is not what it refers to
    assert "<style" not in first and "&quot;label&quot;" in first


def test_groups_of_questions_are_rows_and_baselines_are_marked(planted) -> None:
    (table,) = tables(planted()["answers"])
    assert list(table.lines) == ["all", "count", "where"] and table.counts["count"] == [200]
    assert table.columns == {"base": False, "sft": False, "dpo": False, "grpo": False, "blind": True}


def test_a_report_without_results_is_still_a_page(documented) -> None:
    page = Page(render(documented(results=[], verdict=[], warnings=[]), {}))
    assert "This run has no figures." in page.text and "No statement" in page.text


def test_light_dark_print_and_small_screens_are_all_styled(documented) -> None:
    html = render(documented(), {})
    rules = ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "tabular-nums", "prefers-reduced-motion")
    for rule in rules:
        assert rule in html


def outcome(condition: str, tripped: bool, beyond: bool = True) -> dict[str, Any]:
    return {"condition": condition, "checkpoint": "sft", "site": "block_06", "value": -0.0612, "low": -0.07,
            "high": -0.05, "beyond": beyond, "tripped": tripped}  # fmt: skip


@pytest.mark.thorough
def test_what_became_of_conditions_stands_in_the_verdict_in_words(documented) -> None:
    gates = [outcome("top1-base<-9%", False, False), outcome("top1-base<-6%", False), outcome("top1-base<-5%", True)]
    for document in ({**documented(), "gates": gates}, {**documented(), "gates": [{**gates[2]}]}):
        text = Page(render(document, {})).text.split("Verdict")[1].split("Read with")[0]
        words = [" ".join(part.split()) for part in re.split("(?=Tripped|Held)", text)[1:]]
        assert words[0].startswith("Tripped top1-base<-5% sft at block_06: −0.0612 [−0.07, −0.05]")
        assert len(words) == len(document["gates"])
    everything = Page(render({**documented(), "gates": gates}, {})).text
    assert everything.count("the number is beyond the condition, its interval is not") == 1
    assert "Conditions" not in Page(render(documented(), {})).text


@pytest.mark.thorough
def test_options_say_where_they_came_from_and_defaults_are_folded(documented) -> None:
    options = {
        "limit": {"value": None, "origin": "default"},
        "data": {"value": "<b>", "origin": "command line"},
        "seed": {"value": 7, "origin": "file run.yaml"},
        "offline": {"value": False, "origin": "default"},
    }
    html = render({**documented(), "options": options}, {})
    after = html.split('id="reproduce"')[1]
    set_here, folded = after.split("</details>")[0].split("<details>")
    assert set_here.index("command line") < set_here.index("file run.yaml") and "&lt;b&gt;" in set_here
    assert "2 options left at their defaults" in folded and "limit" not in set_here and "data" not in folded
    old = documented()
    for key in ("options", "gates"):
        old.pop(key, None)  # a report of a version that had neither
    assert "Options that were set" not in render(old, {})
