"""A page never grows beyond what can be mailed and opened, and what is left out is counted."""

from visprobe.report.page import Shown, fit_figures
from visprobe.report.room import MOST_BYTES, fit_tables, fitting
from visprobe.report.tables import Table


def test_a_page_is_made_with_less_and_less_room_until_it_is_small_enough() -> None:
    rooms = []

    def make(room: int) -> str:
        rooms.append(room)
        return "é" * (room + 1_000_000)  # two bytes each

    assert len(fitting(make).encode()) <= MOST_BYTES
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
