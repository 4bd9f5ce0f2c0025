"""Figures of a gradcam report, drawn from its results."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.attribution.figures import contrast as attribution_contrast
from visprobe.attribution.figures import difference as attribution_difference
from visprobe.attribution.figures import grid as attribution_grid
from visprobe.attribution.figures import strip as attribution_strip
from visprobe.attribution.figures.sheet_json import sheet_of
from visprobe.results.result import Result


def draw_maps(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the maps of every checkpoint, one row per picture."""
    return attribution_grid.draw(sheet_of(result.settings["sheet"]), width)


def caption_of_maps(result: Result) -> str:
    """Return the caption of `draw_maps(result)`."""
    return f"{_asked(result)}{attribution_grid.caption(sheet_of(result.settings['sheet']))}{_of(result)}"


def draw_differences(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the maps of every checkpoint minus those of the base."""
    return attribution_difference.draw(sheet_of(result.settings["sheet"]), width)


def caption_of_differences(result: Result) -> str:
    """Return the caption of `draw_differences(result)`."""
    return f"{_asked(result)}{attribution_difference.caption(sheet_of(result.settings['sheet']))}{_of(result)}"


def draw_contrast(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the maps of the answer, of the rejected one and of their difference, for one checkpoint."""
    return attribution_contrast.draw(sheet_of(result.settings["sheet"]), width)


def caption_of_contrast(result: Result) -> str:
    """Return the caption of `draw_contrast(result)`."""
    settings = result.settings
    return attribution_contrast.caption(sheet_of(settings["sheet"]), settings["checkpoint"]) + _of(result)


def draw_strip(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the maps of one picture at every step of training, with the score below."""
    return attribution_strip.draw(sheet_of(result.settings["sheet"]), result.settings["steps"], width)


def caption_of_strip(result: Result) -> str:
    """Return the caption of `draw_strip(result)`."""
    settings = result.settings
    model = settings.get("language_model")
    under = f" The language model is that of {model} at every step." if model else ""
    return f"{_asked(result)}{attribution_strip.caption(sheet_of(settings['sheet']), settings['steps'])}{under}"


def _asked(result: Result) -> str:
    return f"Explained is the {result.settings['explains']}. "


def _of(result: Result) -> str:
    shown, every = len(result.settings["sheet"]["pictures"]), result.settings.get("of", 0)
    return f" They are spread evenly over {every}." if every > shown else ""
