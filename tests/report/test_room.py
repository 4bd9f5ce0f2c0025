"""A page never grows beyond what can be mailed and opened, and what is left out is counted."""

import json
import time
from typing import Any

from visprobe.report.page.render import Shown, fit_figures, render
from visprobe.report.page.size_limit import MOST_BYTES, fit_tables, render_within_budget
from visprobe.report.tables import Table
from visprobe.results.result import Estimate, Result, Row


def test_a_page_is_made_with_less_and_less_room_until_it_is_small_enough() -> None:
    rooms = []

    def make(room: int) -> str:
        rooms.append(room)
        return "é" * (room + 1_000_000)  # two bytes each

    assert len(render_within_budget(make).encode()) <= MOST_BYTES
    assert rooms == sorted(rooms, reverse=True) and len(rooms) == 2


def test_figures_stand_in_the_page_as_far_as_there_is_room_in_their_order() -> None:
    figures = [Shown(str(size), "?", "", "x" * size, "y" * 5) for size in (90, 40, 3)]
    assert [figure.svg is not None for figure in fit_figures(figures, 100)] == [True, False, False]
    assert [figure.svg is not None for figure in fit_figures(figures, 60)] == [False, True, True]
    assert fit_figures(figures, 60)[0] == Shown("90", "?", "", None, None)
    assert fit_figures(figures, 1000) == figures


def test_lines_of_tables_that_are_left_out_are_counted() -> None:
    table = Table("t", "Site", columns={"a": False, "b": False}, lines={str(i): {} for i in range(30_000)})
    (first, out), (second, all_out) = fit_tables([[table], [table, table]], 12_000_000)
    assert len(first[0].lines) + out == 30_000 and 1_000 < len(first[0].lines) < 10_000
    assert second == [] and all_out == 60_000
    assert list(fit_tables([[table]], 10**9)) == [([table], 0)]


def huge() -> dict[str, Any]:
    """12,000 lines in one table, 50 checkpoints with names of 10,000 letters, 5,000 long warnings, 10,000 bad items."""
    names = [f"{number}-{'n' * 10_000}" for number in range(50)]
    one = Estimate(0.5, 0.4, 0.6, 100, "fraction", "wilson")
    many = tuple(Row(names[0], f"block_{number:05d}", "top1", one) for number in range(12_000))
    wide = tuple(Row(name, f"{site}{'s' * 10_000}", "cka", one) for name in names for site in range(4))
    warnings = [f"warning {number}: {'images of a class were left out; ' * 80}" for number in range(5000)]
    bad = [{"id": f"é{number}" * 200, "reason": "r" * 500} for number in range(10_000)]
    results = [Result(str(i), "?", rows, {"all": names}, tuple(warnings[:50])) for i, rows in enumerate((many, wide))]
    evidence = [[{"analysis": "0", "site": f"block_{number:05d}"}] for number in range(50)]
    return {
        "schema": "visprobe.report/1", "visprobe": "0", "created": "2026-01-02T03:04:05+00:00", "seed": 7,
        "command": " ".join(names), "platform": "p", "versions": {}, "warnings": warnings,
        "checkpoints": [{"name": name, "path": name, "warnings": warnings[:100]} for name in names],
        "data": [{"name": names[0], "n": 1, "bad_items": bad}],
        "results": [result.to_json() for result in results],
        "verdict": [{"text": f"In short: {name}", "evidence": e} for name, e in zip(names, evidence, strict=True)],
    }  # fmt: skip


def test_a_huge_report_is_a_page_that_can_be_opened() -> None:
    document = huge()
    before = time.process_time()
    html = render(document, {})
    # Two seconds were needed where this was written; time that grows with the square would need minutes.
    assert time.process_time() - before < 10
    assert len(html.encode()) < MOST_BYTES and max(map(len, html.split("\n"))) < 100_000
    for said in ("lines are left out", "The first 200 of 10,100", "The first 200; all", "block_00000", "block_00049"):
        assert said in html, said
    assert len(json.dumps(document)) > len(html)
