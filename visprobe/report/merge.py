"""Merging of several runs: comparable results share a table, and differences between the runs are listed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from visprobe.report.presentations import presentations
from visprobe.report.rebuild import Run
from visprobe.results.result import Result, Row

_Member = tuple[Run, Result]


class Together(NamedTuple):
    """Results of one analysis whose numbers may be compared: the same base and the same images.

    Attributes:
        result: All rows. Checkpoints are named "run: name", except those that are the same in several runs.
        runs: Names of the runs.
    """

    result: Result
    runs: tuple[str, ...]


def side_by_side(runs: Sequence[Run]) -> list[Together]:
    """Join the results of all runs where base and images are the same, in the order of the first run."""
    groups: dict[tuple[object, ...], list[_Member]] = {}
    shown = presentations()
    for run in runs:
        for result in run.results:
            about_weights = result.analysis in shown and shown[result.analysis].about_weights
            images = () if about_weights else _images(run)
            groups.setdefault((result.analysis, _base(run), images), []).append((run, result))
    ordered = sorted(groups.values(), key=lambda members: [g[0] for g in groups].index(members[0][1].analysis))
    return [Together(_joined(members), tuple(run.name for run, _ in members)) for members in ordered]


def apart(runs: Sequence[Run]) -> list[str]:
    """Return sentences on how the runs differ in base, images, seed, versions or settings; empty if they do not."""
    said = []
    for what, of in (("the base, their first checkpoint", _base), ("the images", _images)):
        if len(groups := _by(runs, of)) > 1:
            lists = " against ".join(", ".join(run.name for run in group) for group in groups)
            said.append(f"The runs differ in {what} ({lists}): their numbers stand in separate tables.")
    for field in ("seed", "visprobe"):
        if len({str(run.document[field]) for run in runs}) > 1:
            said.append(f"{field} differs: {', '.join(f'{run.name} {run.document[field]}' for run in runs)}.")
    for package in dict.fromkeys(name for run in runs for name in run.document["versions"]):
        versions = [run.document["versions"].get(package, "none") for run in runs]
        if len(set(versions)) > 1:
            said.append(
                f"{package} differs: {', '.join(f'{r.name} {v}' for r, v in zip(runs, versions, strict=True))}."
            )
    return said + list(_settings_apart(runs))


def _settings_apart(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a sentence for each scalar setting of an analysis that differs between runs."""
    by_analysis: dict[str, list[_Member]] = {}
    for run in runs:
        for result in run.results:
            by_analysis.setdefault(result.analysis, []).append((run, result))
    for analysis, members in by_analysis.items():
        for key in dict.fromkeys(key for _, result in members for key in result.settings if key != "base"):
            values = [result.settings.get(key) for _, result in members]
            single = all(value is None or isinstance(value, str | int | float) for value in values)
            if single and len(set(values)) > 1:
                shown = ", ".join(f"{run.name} {value}" for (run, _), value in zip(members, values, strict=True))
                yield f"{analysis} was set differently: {key} {shown}."


def _by(runs: Sequence[Run], of: Callable[[Run], object]) -> list[list[Run]]:
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault(of(run), []).append(run)
    return list(groups.values())


def _base(run: Run) -> object:
    """Return a key of the base: the hashes of its weights, or run and name in a report without them."""
    base = run.document["checkpoints"][0] if run.document["checkpoints"] else {}
    hashes = tuple(base.get(key) for key in ("tower_hash", "projector_hash", "processor_hash"))
    return hashes if hashes[0] else (run.name, base.get("name"))


def _images(run: Run) -> tuple[str, ...]:
    return tuple(sorted({str(images.get("hash", run.name)) for images in run.document["data"]}))


def _joined(members: Sequence[_Member]) -> Result:
    first = members[0][1]
    if len(members) == 1:
        return first
    shared = _shared(members)
    rows: dict[Row, None] = {}  # an ordered set: rows of shared checkpoints occur once
    for run, result in members:
        for row in result.rows:
            reference = row.reference and _own(row.reference, run, shared)
            rows[replace(row, checkpoint=_own(row.checkpoint, run, shared), reference=reference)] = None
    return replace(first, rows=tuple(rows))


def _own(name: str, run: Run, shared: Collection[str]) -> str:
    return name if name in shared else f"{run.name}: {name}"


def _shared(members: Sequence[_Member]) -> set[str]:
    """Return names with equal weights and rows in several runs and no other meaning: the base, its baselines."""
    meanings: dict[str, list[object]] = {}
    for run, result in members:
        hashes = {c["name"]: (c.get("tower_hash"), c.get("projector_hash")) for c in run.document["checkpoints"]}
        for name in {row.checkpoint for row in result.rows} | {row.reference for row in result.rows if row.reference}:
            rows = tuple(row for row in result.rows if row.checkpoint == name)
            meanings.setdefault(name, []).append((hashes.get(name), rows))
    return {name for name, found in meanings.items() if len(found) > 1 and all(one == found[0] for one in found)}
