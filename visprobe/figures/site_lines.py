"""Lines over the sites of an encoder: one per checkpoint with its intervals, baselines in grey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes

from visprobe.figures.end_labels import End
from visprobe.figures.marks import add_tooltips, at_sites
from visprobe.figures.site_axis import line_positions, runs
from visprobe.figures.style import MUTED, CheckpointStyle, LineStyle
from visprobe.results.result import Estimate, Role, Row

Lines = Mapping[str, Mapping[str, Estimate]]
_HALF_LINE = 0.4  # share of the step between two blocks


def lines_of(rows: Sequence[Row], role: Role) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of `role` by checkpoint or baseline, then by site."""
    lines: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        if row.role == role:
            lines.setdefault(row.checkpoint, {})[row.site] = row.estimate
    return lines


def draw_lines(
    axes: Axes,
    lines: Lines,
    positions: Mapping[str, float],
    look: Mapping[str, CheckpointStyle],
    height: Callable[[float], float],
    opacity: float,
) -> list[End]:
    """Draw a line per checkpoint: intervals as a band over blocks, as a bar at a site alone.

    Args:
        axes: Axes to draw on, with their limits set.
        lines: Estimates from `lines_of`.
        positions: x position of each site.
        look: Colour and marker of each checkpoint.
        height: Maps a value, or an end of its interval, to y.
        opacity: Opacity of the band, in [0, 1].

    Returns:
        Ends of the lines, for `label_ends`.
    """
    ends = []
    for i, (name, estimates) in enumerate(lines.items()):
        colour, marker = look[name]
        y = [0.0]
        for run in runs([site for site in positions if site in estimates]):
            x, shown = line_positions(run, positions, i, len(lines)), [estimates[site] for site in run]
            y = [height(e.value) for e in shown]
            intervals = [sorted((height(e.low), height(e.high))) for e in shown]
            low, high = [end for end, _ in intervals], [end for _, end in intervals]
            axes.plot(x, y, color=colour, marker=marker, markeredgecolor="white", markeredgewidth=0.4, zorder=3)
            add_tooltips(axes.lines[-1], at_sites(name, run, shown))
            if len(run) > 1:
                axes.fill_between(x, low, high, color=colour, alpha=opacity, linewidth=0, zorder=2)
            else:
                axes.vlines(x, low, high, color=colour, linewidth=1, zorder=2)
        ends.append(End(name, y[-1], colour, marker))
    return ends


def draw_baselines(
    axes: Axes,
    lines: Lines,
    positions: Mapping[str, float],
    height: Callable[[float], float],
    styles: Mapping[str, LineStyle],
) -> list[End]:
    """Draw a grey line per baseline, without its intervals.

    Args:
        axes: Axes to draw on, with their limits set.
        lines: Estimates from `lines_of`.
        positions: x position of each site.
        height: Maps a value to y.
        styles: Line style of each baseline by its name.

    Returns:
        Ends of the lines, for `label_ends`.
    """
    ends = []
    for name, estimates in lines.items():
        y = [0.0]
        for run in runs([site for site in positions if site in estimates]):
            shown = [estimates[site] for site in run]
            x, y = [positions[site] for site in run], [height(e.value) for e in shown]
            if len(run) == 1:
                x, y = [x[0] - _HALF_LINE, x[0] + _HALF_LINE], y * 2
            axes.plot(x, y, color=MUTED, linestyle=styles[name], linewidth=0.9)
            add_tooltips(axes.lines[-1], at_sites(name, run, shown))
        ends.append(End(name, y[-1], MUTED, line=styles[name]))
    return ends
