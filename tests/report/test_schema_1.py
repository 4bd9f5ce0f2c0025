"""A report of schema 1, written by visprobe before schema 2, opens with its numbers, page and figures."""

import json
from pathlib import Path

import pytest

from visprobe.errors import DataError
from visprobe.report.rebuild import draw_figure, read_runs, rebuild

REPORT = Path(__file__).with_name("schema_1.json")  # visprobe compare base sft-seed0 dpo-seed0 --same-recipe sft-seed1


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "report.json").write_text(REPORT.read_text())
    return read_runs([tmp_path])[0]


def test_baselines_have_the_role_and_kind_of_today_and_no_number_changes(opened):
    before = [row for result in json.loads(REPORT.read_text())["results"] for row in result["rows"]]
    after = [row for result in opened.results for row in result.rows]
    assert [row.estimate.value for row in after] == [row["estimate"]["value"] for row in before]
    floors = [row["role"] == "floor" for row in before]
    assert any(floors) and [row.role == "baseline" for row in after] == floors
    kinds = {row.checkpoint: row.baseline for row in after if row.baseline}
    assert kinds == {
        "untrained": "untrained", "base (bfloat16)": "rounding", "sft-seed1 (same recipe)": "recipe",
        "sft-seed0 (dense)": "control", "dpo-seed0 (dense)": "control",
    }  # fmt: skip


def test_its_page_and_figures_can_be_made(opened, tmp_path):
    assert draw_figure(opened, "drift").axes
    page = rebuild(opened, tmp_path / "new").read_text()
    assert "sft-seed1 (same recipe)" in page and "visprobe.report/2" in (tmp_path / "new/report.json").read_text()


def test_a_merged_report_of_schema_1_opens_with_its_runs(tmp_path):
    runs = [{"name": name, "document": json.loads(REPORT.read_text()) | {"seed": seed}}
            for seed, name in enumerate(("one", "two"))]  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps({"schema": "visprobe.runs/1", "runs": runs}))
    read = read_runs([tmp_path])
    assert [run.name for run in read] == ["one", "two"] and all(run.results for run in read)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"results": 3},
        lambda d: d | {"results": [3]},
        lambda d: d | {"results": [d["results"][0] | {"rows": [3]}]},
        lambda d: d | {"results": [d["results"][0] | {"rows": 3, "settings": 3}]},
        lambda d: {"schema": "visprobe.runs/1", "runs": [3]},
        lambda d: {"schema": "visprobe.runs/1", "runs": [{"name": "one"}]},
    ],
)
def test_a_damaged_one_is_one_message(change, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(change(json.loads(REPORT.read_text()))))
    with pytest.raises(DataError, match="is damaged at"):
        read_runs([tmp_path])
