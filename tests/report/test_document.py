import json
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from figure_specs import FIGURES

from visprobe.io import atomic
from visprobe.report import write
from visprobe.report.write import write_report
from visprobe.results.result import Result


@pytest.fixture
def brief(documented):
    """A document of two results, where it does not matter which figures are drawn."""

    def make(**changed):
        document = documented(**changed)
        document["results"] = [r for r in document["results"] if r["analysis"] in ("imagenet", "drift")]
        return document

    return make


def test_the_document_survives_strict_json(documented) -> None:
    document = documented()
    assert json.loads(atomic.to_json(document)) == document
    assert document["schema"] == "visprobe.report/2"
    assert document["created"] == "2026-01-02T03:04:05+00:00"
    assert document["command"] == "visprobe compare base sft dpo --data cifar10-2500"
    assert document["seed"] == 7
    assert document["verdict"][0]["evidence"][0]["reference"] == "base"
    assert {"python", "torch", "transformers", "numpy"} <= set(document["versions"])


@pytest.mark.thorough
def test_results_come_back_as_they_went_in(documented, planted) -> None:
    results = list(planted(("base", "sft", "dpo")).values())
    assert [Result.from_json(r) for r in json.loads(json.dumps(documented()["results"]))] == results


@pytest.mark.thorough
def test_times_are_given_in_utc(documented) -> None:
    tokyo = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=9)))
    assert documented(created=tokyo)["created"] == "2026-01-01T18:04:05+00:00"
    now = datetime.fromisoformat(documented(created=None)["created"])
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_an_argument_with_spaces_can_be_pasted_back(documented) -> None:
    assert documented(command=["visprobe", "my data"])["command"] == "visprobe 'my data'"


@pytest.mark.thorough
def test_secrets_are_in_no_file(brief, tmp_path: Path, monkeypatch) -> None:
    canary = "canary0123456789ABCDEF"
    monkeypatch.setenv("HF_TOKEN", canary)
    document = brief(
        command=["visprobe", "compare", "--token", "other" + canary, f"hf://x?token={canary}"],
        warnings=[f"401 for https://host/?token={canary}"],
        checkpoints=[{"name": "base", "path": f"https://user:{canary}@host/base"}],
    )
    write_report(tmp_path, document)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or canary.encode() not in path.read_bytes()


@pytest.mark.thorough
def test_a_file_name_that_is_not_utf8_can_be_written(brief, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    data = [{"name": "d", "n": 1, "classes": 1, "hash": "0", "bad_items": [{"id": name, "reason": "r"}]}]
    write_report(tmp_path, brief(data=data))
    assert r"caf\udce9.jpg" in json.loads((tmp_path / "report.json").read_text())["data"][0]["bad_items"][0]["id"]


@pytest.mark.thorough
def test_report_json_page_and_figures_are_written(documented, whole: Path) -> None:
    document = documented()
    assert sorted(os.listdir(whole)) == ["figures", "report.html", "report.json", "results.csv", "results.parquet"]
    assert json.loads((whole / "report.json").read_text()) == document
    stems = sorted(FIGURES[result["analysis"]].name for result in document["results"])
    assert sorted(os.listdir(whole / "figures")) == [f"{s}.{kind}" for s in stems for kind in ("csv", "png", "svg")]


@pytest.mark.thorough
def test_the_page_can_be_made_again_from_its_json(brief, tmp_path: Path) -> None:
    first = write_report(tmp_path / "a", brief()).read_bytes()
    assert first == (tmp_path / "a" / "report.html").read_bytes()
    again = write_report(tmp_path / "b", json.loads((tmp_path / "a/report.json").read_text())).read_bytes()
    assert first == again


@pytest.mark.thorough
def test_nan_is_refused_before_anything_is_written(documented, tmp_path: Path) -> None:
    document = documented()
    document["results"][0]["settings"]["p"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "run", document)
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_a_failed_page_leaves_the_earlier_report(brief, tmp_path: Path, monkeypatch) -> None:
    before = write_report(tmp_path, brief()).read_bytes()

    def broken(*_: object) -> str:
        raise RuntimeError("template")

    monkeypatch.setattr(write, "render", broken)
    with pytest.raises(RuntimeError):
        write_report(tmp_path, brief(seed=8))
    assert (tmp_path / "report.html").read_bytes() == before
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 7


@pytest.mark.thorough
def test_figures_of_an_earlier_report_do_not_stay(brief, tmp_path: Path) -> None:
    write_report(tmp_path, brief())
    (tmp_path / "figures" / "mine.svg").write_text("kept")
    document = brief()
    document["results"] = [r for r in document["results"] if r["analysis"] == "drift"]
    document["verdict"] = []
    write_report(tmp_path, document)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"representation_drift.{kind}" for kind in ("svg", "png", "csv")} | {"mine.svg"}


@pytest.mark.thorough
def test_a_report_cut_off_while_it_is_written_has_no_page(brief, tmp_path: Path, monkeypatch) -> None:
    write_report(tmp_path, brief())

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(write, "save_figure", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, brief(seed=8))
    assert not (tmp_path / "report.html").exists()
