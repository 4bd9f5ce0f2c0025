"""Reports of schema 1, turned into those of today when they are read."""

from __future__ import annotations

import re
from typing import Any

from visprobe.results.result import BaselineKind

_ROLE = "floor"  # what schema 1 calls a baseline, without its kind
_KINDS: dict[str, BaselineKind] = {
    r"untrained( \(.*\))?": "untrained",
    r".* \(bfloat16\)": "rounding",
    r".* \(float32\)": "arithmetic",
    r".* \(same recipe\)": "recipe",
    r"chance|uniform|majority class|every class|most frequent answer": "chance",
    r"blind": "blind",
}
_SETTINGS = {"against_floors": "against_baselines", "floors": "baselines"}


def upgraded(document: Any) -> Any:
    """Return a document of schema 1, of one run or several, in schema 2.

    Schema 1 says which rows are baselines but not of which kind: that is told from their names, which visprobe gave
    them. What is not as schema 1 has it stays, for the validation to name.
    """
    if not isinstance(document, dict):
        return document
    if isinstance(document.get("runs"), list):
        runs = [run | {"document": upgraded(run.get("document"))} if isinstance(run, dict) else run
                for run in document["runs"]]  # fmt: skip
        return document | {"schema": "visprobe.runs/2", "runs": runs}
    results = document.get("results")
    if isinstance(results, list):
        document = document | {"results": [_result(result) for result in results]}
    return document | {"schema": "visprobe.report/2"}


def _result(result: Any) -> Any:
    if not isinstance(result, dict):
        return result
    rows, settings = result.get("rows"), result.get("settings")
    if isinstance(rows, list):
        result = result | {"rows": [_row(row, result.get("analysis")) for row in rows]}
    if isinstance(settings, dict):
        result = result | {"settings": {_SETTINGS.get(key, key): value for key, value in settings.items()}}
    return result


def _row(row: Any, analysis: Any) -> Any:
    if not isinstance(row, dict) or row.get("role") != _ROLE:
        return row
    return row | {"role": "baseline", "baseline": _kind(str(row.get("checkpoint")), analysis)}


def _kind(name: str, analysis: Any) -> BaselineKind:
    if analysis == "faithfulness":  # its only baseline, a random order of patches, bears the checkpoint's name
        return "chance"
    return next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, name, re.DOTALL)), "control")
