"""HTML page of a report: one file that needs no network, is complete without its script, and escapes every text."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from visprobe.figures.labels import shorten
from visprobe.io.inert import escape_control_characters
from visprobe.report.page.inline_svg import inline_svg
from visprobe.report.page.map_gallery import map_gallery
from visprobe.report.page.most_changed import most_changed
from visprobe.report.page.size_limit import (
    MOST_COMMAND,
    MOST_LISTED,
    MOST_NAME,
    MOST_TEXT,
    fit_sizes,
    fit_tables,
    render_within_budget,
)
from visprobe.report.presentations import figures_of, presentation_of
from visprobe.report.tables import anchor, tables
from visprobe.results.result import Result

_ONLY_IN_JSON = {"sites", "tests"}  # settings that the page does not list
_FIELDS = {
    "layout": "layout on disk",
    "tower": "type of tower",
    "dtype": "number format",
    "params": "parameters",
    "bytes_read": "bytes read",
    "consumed": "site that is read",
    "why": "because",
    "off_path": "not read",
    "tower_hash": "hash of the tower",
    "projector_hash": "hash of the projector",
    "processor_hash": "hash of the processor",
    "n": "images",
}
_MOST_TEXT = 400
_MOST_UNFOLDED = 30  # lines up to which a table is shown at its full height


class Shown(NamedTuple):
    """A figure of the page, with the JSON of its gallery if it has one; `svg` is None where it is too large."""

    name: str
    question: str
    caption: str
    svg: Markup | None
    gallery: str | None

    @property
    def size(self) -> int:
        """Bytes of drawing and gallery in the page."""
        return len((self.svg or "").encode()) + len(self.gallery or "")


def render(document: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Render the page: verdict, figures, all numbers, settings and provenance.

    Args:
        document: Result of `build_document`, or the content of a report.json.
        figures: SVG text by figure name ("representation_drift"); a figure that is missing is left out.

    Returns:
        HTML of at most 20 MB: figures and table lines beyond that are left out, and the page says so. Every text from
        `document` is escaped, and its control characters and bidirectional marks are spelled out.
    """
    results = [Result.from_json(result) for result in document["results"]]
    names = [checkpoint["name"] for checkpoint in document["checkpoints"]]
    shown, numbers = list(shown_figures(results, figures)), [tables(result) for result in results]
    verdict = [(s["text"], _anchors(results, s["evidence"])) for s in document["verdict"]]
    template = environment().get_template("report.html.j2")

    def make(room: int) -> str:
        cut = zip(results, fit_tables(numbers, room), strict=True)
        return template.render(
            document=document,
            names=names,
            base=names[0] if names else None,
            others=names[1:],
            verdict=verdict,
            gates=gates_of(document),
            figures=fit_figures(shown, room),
            most_changed=list(most_changed(results)),
            sections=[(result, *fitted, _settings(result)) for result, fitted in cut],
            provenance=provenance_table(document["checkpoints"]),
            training=provenance_table([one.get("training") or {} for one in document["checkpoints"]]),
            options=options_of(document),
            warnings=list(all_warnings(document, results)),
        )

    return render_within_budget(make)


@cache
def environment() -> Environment:
    """Return the Jinja environment, which escapes every text and spells out its control characters."""
    # `finalize` sees every value before it is escaped. Text from outside is plain `str`, our own markup is `Markup`.
    environment = Environment(
        loader=PackageLoader("visprobe.report.page", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: escape_control_characters(value) if type(value) is str else value,
    )
    environment.filters["plain"] = _plain
    environment.filters["short"] = shorten
    environment.filters["field"] = lambda key: _FIELDS.get(key, key)
    environment.filters["tight"] = lambda text: text.replace(" %", "\u00a0%")  # no line break before "%"
    script = PackageLoader("visprobe.report.page", "templates").get_source(environment, "report.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"script": Markup(script), "script_hash": f"sha256-{digest}"}
    environment.globals |= {"most_listed": MOST_LISTED, "most_unfolded": _MOST_UNFOLDED}
    environment.globals |= {"most_name": MOST_NAME, "most_text": MOST_TEXT, "most_command": MOST_COMMAND}
    return environment


def shown_figures(results: Sequence[Result], figures: Mapping[str, str], prefix: str = "") -> Iterator[Shown]:
    """Yield the figures in the order of the report; `prefix` keeps ids of several runs on one page distinct."""
    for result, figure in figures_of(results):
        if figure.name in figures:
            caption = figure.caption(result)
            svg = inline_svg(figures[figure.name], prefix + figure.name, escape_control_characters(caption))
            yield Shown(figure.name, result.question, caption, Markup(svg), map_gallery(result))


def fit_figures(figures: Sequence[Shown], room: int) -> list[Shown]:
    """Return the figures, without drawings for which `room` (bytes) is too small."""
    kept = fit_sizes([figure.size for figure in figures], room)
    return [one if fits else one._replace(svg=None, gallery=None) for one, fits in zip(figures, kept, strict=True)]


def gates_of(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Return a word ("Tripped", "Held"), the gate and its number with interval for each gate, tripped ones first."""
    gates = sorted(document.get("gates", ()), key=lambda gate: not gate["tripped"])
    numbers = (f"{gate['value']:.4g} [{gate['low']:.4g}, {gate['high']:.4g}]".replace("-", "−") for gate in gates)
    words = ("Tripped" if gate["tripped"] else "Held" for gate in gates)
    return list(zip(words, gates, numbers, strict=True))


def options_of(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that were set, and those left at their defaults: by name, each with "value" and "origin"."""
    options = document.get("options", {})
    chosen = {name: option for name, option in options.items() if option["origin"] != "default"}
    return chosen, {name: option for name, option in options.items() if name not in chosen}


def _settings(result: Result) -> dict[str, Any]:
    left_out = _ONLY_IN_JSON.union(presentation_of(result.analysis).drawn_settings)
    return {key: value for key, value in result.settings.items() if key not in left_out}


def _anchors(results: Sequence[Result], evidence: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the table cells that hold the numbers of one statement."""
    found = []
    for reference in evidence:
        wanted = {key: value for key, value in reference.items() if key != "analysis" and value is not None}
        for result in results:
            hits = result.select(**wanted) if result.analysis == reference["analysis"] else []
            found += [anchor(result.analysis, result.rows.index(row)) for row in hits[:1]]
    return list(dict.fromkeys(found))


_ELSEWHERE = ("name", "warnings", "training")  # fields of a checkpoint that the page shows elsewhere


def provenance_table(checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return provenance by field, one value per checkpoint (None where a checkpoint lacks the field)."""
    keys = dict.fromkeys(key for checkpoint in checkpoints for key in checkpoint if key not in _ELSEWHERE)
    return {key: [checkpoint.get(key) for checkpoint in checkpoints] for key in keys}


def all_warnings(document: Mapping[str, Any], results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """Yield every warning as (source, text)."""
    yield from (("run", text) for text in document["warnings"])
    for checkpoint in document["checkpoints"]:
        yield from ((checkpoint["name"], text) for text in checkpoint.get("warnings", ()))
    for result in results:
        yield from ((result.analysis, text) for text in result.warnings)


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value) or "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}… (all of it in report.json)"
