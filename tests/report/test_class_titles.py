"""Readable names of classes: beside ids, and nothing else changed."""

from dataclasses import replace
from types import SimpleNamespace

from visprobe.report.class_titles import with_titles
from visprobe.report.page.most_changed import most_changed
from visprobe.report.tables import tables
from visprobe.results.result import Estimate, Result, Row

TENCH, OTHER = "n01440764", "n99999999"
IMAGES = SimpleNamespace(classes=(TENCH, OTHER), class_titles=("tench, Tinca tinca", OTHER), items=(), name="val")


def result():
    number = Estimate(0.5, 0.4, 0.6, 20, "ratio", "t 95 %")
    rows = [Row("sft", "block_02", f"class_change/{name}", number, "base") for name in (TENCH, OTHER)]
    rows.append(Row("sft", "block_02", f"top1/{TENCH}", number))
    settings = {
        "base": "base", "classes_changed": [{"checkpoint": "sft", "lost": [{"class": TENCH, "n": 5}]}],
        "most_changed": {"sft": [{"id": "a.png", "class": TENCH, "change": 0.2}]},
        "thumbnails": {"a.png": "data:image/jpeg;base64,AAAA"},
    }  # fmt: skip
    return Result("images", "Which images moved?", tuple(rows), settings)


def test_titles_stand_beside_ids_in_rows_settings_tables_and_under_pictures():
    named = with_titles(result(), IMAGES)
    assert [row.measure for row in named.rows] == [
        f"class_change/tench ({TENCH})", f"class_change/{OTHER}", f"top1/{TENCH}",
    ]  # fmt: skip
    assert named.settings["classes_changed"][0]["lost"] == [{"class": TENCH, "n": 5, "title": "tench"}]
    assert any(f"tench ({TENCH})" in table.lines for table in tables(named))
    [(_, [picture])] = most_changed([named])
    assert picture.label == "tench"
    assert {key: named.settings[key] for key in ("base", "thumbnails")} == {
        key: result().settings[key] for key in ("base", "thumbnails")
    }


def test_without_titles_nothing_is_touched():
    for images in (
        SimpleNamespace(classes=None, class_titles=None), SimpleNamespace(classes=("a",)),
        SimpleNamespace(classes=("a",), class_titles=None),
    ):  # fmt: skip
        assert with_titles(result(), images) == result()
    assert with_titles(replace(result(), rows=()), IMAGES).rows == ()
