"""What the functions of visprobe return: shown in notebooks, as tables and figures, saved, read back; like commands."""

from __future__ import annotations

import csv
import inspect
import json
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch

import visprobe
from visprobe.errors import PrerequisiteError, UsageError
from visprobe.figures.save import figure_bytes, svg_text
from visprobe.pipelines.measurement import Measurement
from visprobe.report.notebook import MOST_ALONE
from visprobe.report.numbers import interval_text, value_text
from visprobe.results.result import Estimate, Result, Row
from visprobe.results.statement import Statement

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "evil\u202egpj", "{{ 7 * 7 }}", "\x1b[31mred")


@pytest.fixture(scope="module")
def measured(planted):
    return planted_measurement(planted)


def planted_measurement(planted, names=("base", "sft", "dpo")):
    results = tuple(one for key, one in planted(names).items() if key in ("imagenet", "drift", "weights"))
    checkpoints = tuple({"name": name, "path": f"/checkpoints/{name}"} for name in names)
    data = ({"name": "digits/val", "n": 1000, "classes": 10, "hash": "ab", "bad_items": []},)
    said = (Statement(f"{names[1]} moved.", ()),)
    return Measurement(results, said, checkpoints, data, (f"a note on {names[2]}",), 10, 30, 7)


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, tuple(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.thorough
def test_the_table_is_that_of_the_saved_report(measured, tmp_path):
    measured.save(tmp_path)
    table = measured.to_pandas()
    with (tmp_path / "results.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert list(table.columns) == header and len(table) == len(lines)
    told = [["" if pd.isna(cell) else str(cell) for cell in line] for line in table.itertuples(index=False)]
    assert told == lines
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "results.parquet"), check_exact=True)
    assert json.loads((tmp_path / "report.json").read_text())["command"] == "called from Python"
    drift = table[table.analysis == "drift"].reset_index(drop=True)
    pd.testing.assert_frame_equal(measured["drift"].to_pandas(), drift, check_exact=True)


def test_a_report_is_read_back_and_saved_as_it_was(measured, tmp_path):
    measured.save(tmp_path / "one")
    again = visprobe.read_report(str(tmp_path / "one"))
    pd.testing.assert_frame_equal(again.to_pandas(), measured.to_pandas(), check_exact=True)
    assert (again.verdict, again.warnings, again.images) == (measured.verdict, measured.warnings, 1000)
    assert (again.decoded, again.forwarded) == (None, None)  # not in a report, and not made up
    again.save(tmp_path / "two")
    for name in ("report.json", "results.csv", "report.html"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_figures_are_those_of_the_saved_report(measured, tmp_path):
    measured.save(tmp_path)
    assert measured.figures == ["prototype_accuracy", "representation_drift", "weight_drift"]
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.png")) == sorted(measured.figures)
    for name in measured.figures:
        figure = measured.figure(name)
        svg_text(figure)  # matplotlib's layout settles over drawings; of a report the page's is the first
        for kind in ("svg", "png"):
            assert figure_bytes(figure, kind) == (tmp_path / "figures" / f"{name}.{kind}").read_bytes()
    png, size = measured.figure("drift")._repr_png_()  # by the name of its analysis
    assert png == figure_bytes(measured.figure("representation_drift"), "png") and size["width"] > 300
    narrow = measured.figure("drift", 3.25)
    assert narrow.get_figwidth() == 3.25


def test_what_is_not_there_is_said_with_what_is(measured, tmp_path):
    with pytest.raises(UsageError) as missing:
        measured["dirft"]
    assert "imagenet, drift, weights" in missing.value.hint
    assert "drift" in measured and "dirft" not in measured and list(measured) == ["imagenet", "drift", "weights"]
    with pytest.raises(UsageError) as missing:
        measured.figure("knn")
    assert "representation_drift" in missing.value.hint
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        visprobe.nothing  # noqa: B018


@pytest.mark.thorough
def test_several_runs_are_no_measurement(measured, planted, tmp_path):
    from visprobe.report.page.merged_page import write_merged
    from visprobe.report.rebuild import read_runs

    for name, one in (("a", measured), ("b", replace(measured, seed=8))):
        one.save(tmp_path / name)
    write_merged(tmp_path / "both", read_runs([tmp_path / "a", tmp_path / "b"]), "visprobe report a b")
    with pytest.raises(UsageError, match="several runs: a, b"):
        visprobe.read_report(tmp_path / "both")


def test_a_notebook_shows_sentences_intervals_and_baselines(measured):
    html = measured._repr_html_()
    shown = Elements(html)
    assert "sft moved." in shown.text and "a note on dpo" in shown.text
    row = measured["drift"].select(measure="cka", checkpoint="sft", site="projected")[0]
    assert f"{value_text(row.estimate)} {interval_text(row.estimate)}" in shown.text
    assert f"Intervals: {row.estimate.method}" in shown.text
    assert "font-style:italic" in html and "Baselines in italics" in shown.text and "sft − base" in shown.text
    assert {tag for tag, _ in shown.found} <= {
        "div", "ul", "li", "p", "strong", "code", "table", "thead", "tbody", "tr", "th", "td", "span", "details",
        "summary",
    }  # fmt: skip
    assert len(repr(measured)) < 120 and len(repr(measured["drift"])) < 60


def test_long_results_say_how_much_is_left_out():
    one = Estimate(0.5, 0.4, 0.6, 10, "fraction", "Wilson 95 %")
    long = Result("images", "Which?", tuple(Row("sft", f"image {n}", "top1", one) for n in range(MOST_ALONE + 60)))
    shown = Elements(long._repr_html_())
    assert sum(tag == "tr" for tag, _ in shown.found) == MOST_ALONE + 1  # and the heading
    assert "60 of 180 numbers are left out" in shown.text and len(long.to_pandas()) == MOST_ALONE + 60


@pytest.mark.thorough
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_adds_no_element(planted, measured, name):
    plain = Elements(measured._repr_html_())
    shown = Elements(planted_measurement(planted, ("base", name, "dpo"))._repr_html_())
    assert shown.found == plain.found
    assert "\u202e" not in shown.text and "\x1b" not in shown.text and "49" not in shown.text.split("moved.")[0]


@pytest.mark.thorough
def test_secrets_are_not_shown(planted):
    token = "hf_" + "aB3" * 12
    measured = planted_measurement(planted, ("base", token, "dpo"))
    assert token not in measured._repr_html_() and token not in measured["drift"]._repr_html_()


@pytest.mark.parametrize("name", visprobe.__all__)
def test_every_public_name_says_what_it_takes_and_gives(name):
    public = getattr(visprobe, name)
    doc = inspect.getdoc(public)
    wanted = ("Attributes:",) if inspect.isclass(public) else ("Args:", "Returns:", "Raises:")
    assert all(f"\n{part}\n" in doc for part in wanted), name
    described = doc.partition(wanted[0])[2]
    named = [one for one in inspect.signature(public).parameters if one != "self"]
    assert [one for one in named if f"    {one}: " not in described] == []
    assert name in dir(visprobe)


def test_importing_is_cheap_and_names_are_lazy():
    code = "import sys, visprobe; dir(visprobe); print([m for m in ('torch', 'pandas', 'jinja2') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """base and moved: one block of the tower perturbed."""
    from visprobe.demo.small_llava import build_model, build_processor

    root, processor = tmp_path_factory.mktemp("pair"), build_processor()
    for name in ("base", "moved"):
        model = build_model(processor, seed=0)
        if name == "moved":
            with torch.no_grad():
                for key, value in model.named_parameters():
                    if "vision_tower.encoder.layers.2." in key:
                        value += 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return [str(root / "base"), str(root / "moved")]


def ckpts(pair):
    return [word for one in pair for word in ("--ckpt", one)]


ASKED = {
    "compare": (lambda p: [*p], {}),
    "imagenet": (ckpts, {}),
    "probe": (lambda p: [*ckpts(p), "--targets", "classes"], {"targets": "classes"}),
    "align": (ckpts, {}),
    "robust": (
        lambda p: [*ckpts(p), "--corruptions", "gaussian_noise", "--severities", "3"],
        {"corruptions": ["gaussian_noise"], "severities": [3]},
    ),
    "segment": (lambda p: [*ckpts(p), "--seeds", "1", "--steps", "5"], {"seeds": 1, "steps": 5}),
    "swap": (lambda p: [*p, "--by", "groups", "--steps", "1"], {"by": "groups", "steps": 1}),
    "gradcam": (lambda p: ["digits", *ckpts(p), "--method", "gradient-norm"], {}),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command", [pytest.param(one, marks=pytest.mark.slow if one == "gradcam" else ()) for one in ASKED]
)
def test_a_command_and_its_function_give_the_same_results(command, pair, tmp_path, monkeypatch, capsys):
    from visprobe.cli.app import main

    words, keywords = ASKED[command]
    limit = 2 if command == "gradcam" else 30
    data = [] if command == "gradcam" else ["--data", "digits"]
    line = [command, *words(pair), *data, "--limit", str(limit), "--quiet", "-o", str(tmp_path / "out")]
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["visprobe", *line])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        main()
    signal.signal(signal.SIGTERM, before)
    assert not left.value.code, capsys.readouterr().err
    how = visprobe.Options(limit=limit, store=str(tmp_path / "cache"))
    if command == "swap":
        found = visprobe.swap(*pair, "digits", how, **keywords)
    elif command == "gradcam":
        found = visprobe.gradcam(pair, "digits", visprobe.AttributionConfig(methods=("gradient-norm",)), how)
        assert "<img " in found._repr_html_() and repr(found).startswith("<AttributionResult of base, moved")
        found.save(tmp_path / "saved")
        assert (tmp_path / "saved" / "maps.npz").read_bytes() == (tmp_path / "out" / "maps.npz").read_bytes()
        found = found.measured
    else:
        found = getattr(visprobe, command)(pair, "digits", how, **keywords)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    document = found.document(["any"])
    assert [document[key] for key in ("results", "verdict", "checkpoints", "data", "warnings")] == [
        written[key] for key in ("results", "verdict", "checkpoints", "data", "warnings")
    ]


def test_training_refuses_what_the_command_refuses(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="learning_rat"):
        visprobe.train("sft", tmp_path, base="base", learning_rat=1)
    with pytest.raises(UsageError, match="no model to start from"):
        visprobe.train("sft", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="training needs trl"):
        visprobe.train("sft", tmp_path, base="base")
