"""What the site that matters is called: a language model reads it, or it is where a tower that stands alone ends."""

from __future__ import annotations

from dataclasses import replace

from visprobe.results.result import Result

_ALONE = "tower_alone"
WHERE_READ = "where the language model reads"


def of_towers_alone(result: Result) -> Result:
    """`result`, which is on a tower that no language model reads, saying so in its settings."""
    return replace(result, settings={**result.settings, _ALONE: True})


def what_is_read(result: Result) -> str:
    """What is at the consumed site, in a sentence."""
    return "the tower's output" if result.settings.get(_ALONE) else "what the language model reads"


def where_read(result: Result) -> str:
    """Where the consumed site is, in a sentence or a heading."""
    return "at the tower's output" if result.settings.get(_ALONE) else WHERE_READ


def read_note(result: Result) -> str:
    """What stands in brackets behind the name of the consumed site, or above it."""
    return "the tower's output" if result.settings.get(_ALONE) else "read by the LLM"


def read_label(result: Result, site: str | None = None) -> str:
    """The consumed site with that note: "block_11 (read by the LLM)"; `site` is its name, with a pooling if need be."""
    return f"{site or result.settings.get('consumed', 'the consumed site')} ({read_note(result)})"
