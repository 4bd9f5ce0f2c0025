"""Names of the consumed site: read by a language model, or the output of a tower that stands alone."""

from __future__ import annotations

from dataclasses import replace

from visprobe.results.result import Result

_ALONE = "tower_alone"
WHERE_READ = "where the language model reads"


def of_towers_alone(result: Result) -> Result:
    """Return `result` with a setting that says that no language model reads its tower."""
    return replace(result, settings={**result.settings, _ALONE: True})


def what_is_read(result: Result) -> str:
    """Name what is at the consumed site, for a sentence."""
    return "the tower's output" if result.settings.get(_ALONE) else "what the language model reads"


def where_read(result: Result) -> str:
    """Name the place of the consumed site, for a sentence or a heading."""
    return "at the tower's output" if result.settings.get(_ALONE) else WHERE_READ


def read_note(result: Result) -> str:
    """Return the note to put in brackets behind the name of the consumed site, or above it."""
    return "the tower's output" if result.settings.get(_ALONE) else "read by the LLM"


def read_label(result: Result, site: str | None = None) -> str:
    """Return the consumed site with its note: "block_11 (read by the LLM)"; `site` overrides its name."""
    return f"{site or result.settings.get('consumed', 'the consumed site')} ({read_note(result)})"
