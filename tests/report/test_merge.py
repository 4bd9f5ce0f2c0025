"""Several runs side by side: one table where base and images are the same, tables of their own where not."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from visprobe.errors import UsageError
from visprobe.report.merge import apart, side_by_side
from visprobe.report.page.merged_page import write_merged
from visprobe.report.rebuild import Run, read_runs
from visprobe.report.write import write_report

KEPT = ("imagenet", "drift", "weights")


@pytest.fixture
def run_of(documented):
    """A run with the given checkpoints: the same numbers for the same names, another hash for each name."""

    def make(name, checkpoints):
        document = copy.deepcopy(documented(checkpoints))
        document["results"] = [result for result in document["results"] if result["analysis"] in KEPT]
        for place, checkpoint in enumerate(document["checkpoints"]):
            checkpoint |= {"tower_hash": ("base" if place == 0 else f"{name}/{checkpoint['name']}").encode().hex()}
        return Run(name, document)

    return make


def names_in(result):
    return {row.checkpoint for row in result.rows}


@pytest.mark.thorough
def test_runs_of_one_base_share_tables_and_the_base_stands_once(run_of):
    one, two = run_of("a", ("base", "sft")), run_of("b", ("base", "dpo"))
    groups = side_by_side([one, two])
    assert [(group.result.analysis, group.runs) for group in groups] == [(name, ("a", "b")) for name in KEPT]
    accuracy = groups[0].result
    assert names_in(accuracy) == {"base", "untrained", "a: sft", "b: dpo"}
    assert {row.reference for row in accuracy.rows} == {None, "base"}
    alone = [result.rows for run in (one, two) for result in run.results if result.analysis == "imagenet"]
    shared = [row for row in alone[0] if row.checkpoint in ("base", "untrained")]
    assert len(accuracy.rows) == sum(map(len, alone)) - len(shared)
    assert apart([one, two]) == []


@pytest.mark.thorough
def test_a_base_whose_numbers_differ_stands_under_each_run(run_of):
    one, two = run_of("a", ("base", "sft")), run_of("b", ("base", "dpo"))
    row = next(r for r in two.document["results"][0]["rows"] if r["checkpoint"] == "base")
    row["estimate"]["value"] += 0.001
    assert names_in(side_by_side([one, two])[0].result) == {"a: base", "b: base", "untrained", "a: sft", "b: dpo"}


@pytest.mark.thorough
def test_equal_names_of_different_weights_are_told_apart(run_of):
    [accuracy, *_] = side_by_side([run_of("a", ("base", "sft")), run_of("b", ("base", "sft"))])
    assert names_in(accuracy.result) == {"base", "untrained", "a: sft", "b: sft"}


@pytest.mark.thorough
@pytest.mark.parametrize(("what", "tables"), [("base", 6), ("images", 5)])
def test_what_does_not_belong_together_stands_apart_and_is_said(run_of, what, tables):
    one, two = run_of("a", ("base", "sft")), run_of("b", ("base", "dpo"))
    if what == "base":
        two.document["checkpoints"][0]["tower_hash"] = "ff"
    else:
        two.document["data"][0]["hash"] = "ee" * 32  # the weights of one base are comparable all the same
    assert len(side_by_side([one, two])) == tables
    assert [text for text in apart([one, two]) if f"differ in the {what}" in text and "(a against b)" in text]


def test_seeds_versions_and_settings_that_differ_are_said(run_of):
    one, two = run_of("a", ("base", "sft")), run_of("b", ("base", "dpo"))
    two.document["seed"] = 8
    two.document["versions"]["torch"] = "9.9"
    two.document["results"][0]["settings"]["protocol"] = "paper"
    said = " ".join(apart([one, two]))
    assert "seed differs: a 7, b 8" in said and "torch differs" in said and "b 9.9" in said
    assert "imagenet was set differently: protocol a disjoint prototypes, b paper" in said


class Ids(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"][1:]] if given.get("href", "").startswith("#") else []


@pytest.mark.thorough
def test_a_merged_report_is_one_page_that_holds_hostile_names_and_can_be_merged_again(run_of, tmp_path):
    runs = [run_of("<script>alert(1)</script>", ("base", "sft")), run_of("b", ("base", "<img src=x onerror=y>"))]
    page = write_merged(tmp_path / "both", runs, "visprobe report a b").read_text()
    parsed = Ids()
    parsed.feed(page)
    assert parsed.tags.count("script") == 1 and "alert(1)</script>" not in page and "<img src=x" not in page
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(parsed.links) <= set(parsed.ids)
    assert page.count("<svg") == 6
    for name in re.findall(r'href="(figures/[^"]+|results\.csv|report\.json)"', page):
        assert (tmp_path / "both" / name).is_file()

    again = read_runs([tmp_path / "both"])
    assert [run.document for run in again] == [run.document for run in runs]
    assert write_merged(tmp_path / "both", again, "again").is_file()
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "both" / "results.parquet").to_pylist()
    assert {row["run"] for row in table} == {run.name for run in runs}


@pytest.mark.thorough
def test_a_merged_report_never_replaces_that_of_a_run(run_of, tmp_path):
    one, two = run_of("a", ("base", "sft")), run_of("b", ("base", "dpo"))
    write_report(tmp_path, one.document)
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(UsageError, match="would be lost"):
        write_merged(tmp_path, [one, two], "visprobe report a b")
    assert (tmp_path / "report.json").read_bytes() == before and json.loads(before)["seed"] == 7
