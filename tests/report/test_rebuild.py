"""Reports read back: the same page from the same document, one clear message for anything else."""

import json
import re
from pathlib import Path

import pytest
from figure_specs import FIGURES

from visprobe.errors import DataError, UsageError
from visprobe.report import write
from visprobe.report.rebuild import draw_figure, read_runs, rebuild
from visprobe.report.write import write_report


@pytest.fixture(scope="module")
def written(documented, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "run"
    document = documented()
    kept = [result for result in document["results"] if result["analysis"] in ("imagenet", "drift", "weights")]
    write_report(folder, {**document, "results": kept})
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.thorough
def test_a_rebuilt_report_is_the_report_to_the_byte(written, tmp_path):
    [run] = read_runs([written])
    assert run.name == "run"
    page = rebuild(run, tmp_path)
    assert page == tmp_path / "report.html"
    assert files(tmp_path) == files(written)


def test_every_planted_figure_can_be_drawn_again_from_its_document(documented, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(documented()))
    [run] = read_runs([tmp_path / "report.json"])
    for result in run.results:
        if result.analysis in FIGURES:
            assert draw_figure(run, result.analysis).axes


def test_a_figure_goes_by_its_name_or_by_its_analysis(written):
    [run] = read_runs([written])
    assert draw_figure(run, "drift").axes and draw_figure(run, "representation_drift").axes
    with pytest.raises(UsageError, match="no figure 'swap'") as error:
        draw_figure(run, "swap")
    assert "prototype_accuracy" in error.value.hint


def changed(document, path, value):
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: json.dumps(d)[:-50], "is damaged"),
        (lambda d: "", "is damaged"),
        (lambda d: "[" * 200_000, "is damaged"),
        (lambda d: "[1, 2]", "no report of visprobe"),
        (lambda d: json.dumps({"schema": 3}), "no report of visprobe"),
        (lambda d: json.dumps({"schema": "other/1"}), "no report of visprobe"),
        (lambda d: changed(d, ["schema"], "visprobe.report/3"), r"visprobe\.report/3, written by visprobe 0"),
        (lambda d: json.dumps({"schema": "visprobe.report/1"}), "results: Field required|damaged at 11 places"),
        (lambda d: changed(d, ["results", 0, "rows", 1, "estimate", "value"], "0.5"), r"results\.0\.rows\.1\.estimate"),
        (lambda d: changed(d, ["results", 0, "rows", 1, "estimate", "low"], float("nan")), "is damaged"),
        (lambda d: changed(d, ["results", 0, "rows", 1, "role"], "cause"), r"rows\.1\.role"),
        (lambda d: changed(d, ["data", 0], None), r"data\.0"),
    ],
)
def test_what_is_no_whole_report_is_one_message(written, tmp_path, make, message):
    document = json.loads((written / "report.json").read_text())
    (tmp_path / "report.json").write_text(make(document))
    with pytest.raises(DataError, match=message):
        read_runs([tmp_path])


def test_settings_that_break_a_figure_are_one_message_and_nothing_is_written(written, tmp_path):
    document = json.loads((written / "report.json").read_text())
    for result in document["results"]:
        result["settings"] |= {"sites": 3, "groups": 3, "identical": 3}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "report.json").write_text(json.dumps(document))
    [run] = read_runs([tmp_path / "in"])
    with pytest.raises(DataError, match=r"the report in is damaged"):
        rebuild(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_and_a_doubled_report_are_refused(written, tmp_path):
    with pytest.raises(DataError, match=r"holds no report\.json"):
        read_runs([tmp_path])
    with pytest.raises(UsageError, match="named twice"):
        read_runs([written, written / "report.json"])
    copy = tmp_path / "copy"
    write_report(copy, json.loads((written / "report.json").read_text()))
    with pytest.raises(UsageError, match="the same report"):
        read_runs([written, copy])


@pytest.mark.thorough
def test_the_table_holds_every_number_and_no_formula(documented, tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(write, "figures_of", lambda results: [])  # no figures, which take twenty seconds
    document = documented(("=base()", "sft\x1b[2J"))
    write_report(tmp_path, document)
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    stored = [
        {"analysis": result["analysis"], **{k: v for k, v in row.items() if k != "estimate"}, **row["estimate"]}
        for result in document["results"]
        for row in result["rows"]
    ]
    assert rows == stored  # in Parquet, as they are
    text = Path(tmp_path / "results.csv").read_text()
    assert "'=base()" in text and not re.search(r"(^|,)=", text, re.MULTILINE) and "\x1b" not in text
    assert text.count("\n") == len(stored) + 1
