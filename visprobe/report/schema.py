"""Schema of report.json, of one run and of several, against which reports are validated when read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from visprobe.results.result import Result

VERSION = 2  # of both schemas; `schema_1` reads the one before
RUNS_SCHEMA = "visprobe.runs/2"


def _says(text: str) -> Any:
    return Field(description=text)


@dataclass(frozen=True)
class BadItem:
    """An image that could not be used, left out for every checkpoint."""

    id: Annotated[str, _says("Its name within the image set.")]
    reason: Annotated[str, _says("Why it could not be used.")]


@dataclass(frozen=True)
class Images:
    """A set of images that was measured. Further keys ("classes", "hash") may be there."""

    name: Annotated[str, _says("Name of the set and its split.")]
    n: Annotated[int, _says("Images that were used.")]
    bad_items: Annotated[list[BadItem], _says("Images that could not be used.")]


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict."""

    text: Annotated[str, _says("The sentence, with its numbers and their intervals.")]
    evidence: Annotated[
        list[dict[str, Any]],
        _says("The rows it rests on: the name of the analysis, and fields of a row with their values."),
    ]


@dataclass(frozen=True)
class Option:
    """An option of the command."""

    value: Annotated[Any, _says("Its value.")]
    origin: Annotated[str, _says('"command line", "environment", "file PATH" or "default".')]


@dataclass(frozen=True)
class Outcome:
    """What became of a condition of --fail-on for one checkpoint at one site."""

    condition: Annotated[str, _says("The condition as it was written.")]
    checkpoint: Annotated[str, _says("Name of the checkpoint.")]
    site: Annotated[str, _says("Where in the encoder.")]
    value: Annotated[float, _says("The number that was found, in the unit of the measure.")]
    low: Annotated[float, _says("Lower end of its interval.")]
    high: Annotated[float, _says("Upper end of its interval.")]
    tripped: Annotated[bool, _says("Whether the whole interval is beyond the condition's number.")]
    beyond: Annotated[bool, _says("Whether the number itself is beyond it.")] = False


@dataclass(frozen=True)
class Report:
    """One run. Keys that are not listed here may be there and are kept."""

    schema: Annotated[Literal["visprobe.report/2"], _says("Form of this file and its version.")]
    visprobe: Annotated[str, _says("Version of visprobe that wrote it.")]
    created: Annotated[str, _says("When the run ended, ISO 8601 in UTC.")]
    command: Annotated[str, _says("The command line, quoted for a POSIX shell, without secrets.")]
    seed: Annotated[int, _says("Seed of every random choice.")]
    checkpoints: Annotated[
        list[dict[str, Any]],
        _says('Provenance of each checkpoint, the base first: "name" always, the rest depends on where it came from.'),
    ]
    data: Annotated[list[Images], _says("The image sets.")]
    results: Annotated[list[Result], _says("What each analysis found.")]
    verdict: Annotated[list[Statement], _says("What the results say in sentences.")]
    warnings: Annotated[list[str], _says("What concerns the run as a whole.")]
    versions: Annotated[dict[str, str], _says("Version of Python and of each library that the numbers depend on.")]
    platform: Annotated[str, _says("Operating system and machine.")]
    options: Annotated[dict[str, Option], _says("Options of the command by name.")] = field(default_factory=dict)
    gates: Annotated[list[Outcome], _says("Outcomes of --fail-on.")] = field(default_factory=list)


@dataclass(frozen=True)
class Named:
    """One of several runs."""

    name: Annotated[str, _says("The name that tells it from the others.")]
    document: Annotated[Report, _says("Its report.json.")]


@dataclass(frozen=True)
class Runs:
    """Several runs side by side."""

    schema: Annotated[Literal["visprobe.runs/2"], _says("Form of this file and its version.")]
    runs: Annotated[list[Named], _says("The runs, in the order in which they were named.")]
    visprobe: Annotated[str, _says("Version of visprobe that wrote it.")] = ""
    created: Annotated[str, _says("When it was written, ISO 8601 in UTC.")] = ""
    command: Annotated[str, _says("The command line that put them together.")] = ""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of report.json, as it is shipped in report.schema.json."""
    found: dict[str, Any] = TypeAdapter(Report | Runs).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "report.json of visprobe", **found}
