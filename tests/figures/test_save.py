import csv
import io
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from visprobe.analyses.drift import drift_figure as representation_drift
from visprobe.figures.save import rows_csv, save_figure
from visprobe.figures.style import TWO_COLUMNS
from visprobe.results.result import Estimate, Row

ESTIMATE = Estimate(0.1, 0.05, 0.2, 30, "fraction", "Wilson 95 %")


def test_three_files_and_no_leftovers(planted, tmp_path: Path) -> None:
    result = planted()["drift"]
    save_figure(representation_drift.draw(result), tmp_path / "figures", "drift", result.rows)
    assert sorted(os.listdir(tmp_path / "figures")) == ["drift.csv", "drift.png", "drift.svg"]
    ElementTree.parse(tmp_path / "figures/drift.svg")
    with Image.open(tmp_path / "figures/drift.png") as image:
        assert image.width == pytest.approx(TWO_COLUMNS * 200, abs=1)  # whole pixels
    with (tmp_path / "figures/drift.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.rows)
    assert [float(row["value"]) for row in rows] == [row.estimate.value for row in result.rows]
    assert rows[0]["reference"] == "base" and rows[0]["n"] == "1000"


@pytest.mark.thorough
def test_png_is_the_same_on_every_run(planted, tmp_path: Path) -> None:
    result = planted()["drift"]
    for name in ("a", "b"):
        save_figure(representation_drift.draw(result), tmp_path, name, result.rows)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_spreadsheet_finds_no_formula(start: str) -> None:
    text = rows_csv([Row(f"{start}cmd()|'/c calc'!A0", "consumed", "top1", ESTIMATE, reference=f"{start}1")])
    cells = list(csv.reader(io.StringIO(text, newline="")))[1]
    assert cells[0].startswith(f"'{start}") and cells[3].startswith(f"'{start}")


def test_a_control_character_cannot_break_a_line() -> None:
    text = rows_csv([Row("a\r\nb\t\udcff", "consumed", "top1", ESTIMATE)])
    assert text.count("\n") == 2 and r"a\x0d\x0ab\x09\udcff" in text


def test_negative_numbers_stay_numbers() -> None:
    text = rows_csv(
        [Row("sft", "consumed", "top1", Estimate(-0.1, -0.2, 0.0, 9, "fraction", "exact"), "base", "difference")]
    )
    assert "-0.1,-0.2,0.0,9" in text
