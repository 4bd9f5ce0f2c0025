"""The figure of linear probes: every accuracy at its number of training images, depth where there are many sites."""

import dataclasses

from visprobe.analyses.probes import probe_figure as probe
from visprobe.figures.style import checkpoint_styles


def drawn(axes, colour: str) -> list[tuple[float, float]]:
    return [(x, y) for line in axes.lines if line.get_color() == colour and line.get_transform() == axes.transData
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # fmt: skip


def test_few_labels_stand_left_of_all_and_control_labels_below(planted) -> None:
    result = planted(("base", "sft"))["probe"]
    figure = probe.draw(result)
    panel, colour = figure.axes[0], checkpoint_styles(["base", "sft"])["sft"].colour
    site = result.settings["consumed"]
    own = [row for row in result.select(checkpoint="sft", site=site) if row.role == "value"]
    wanted = {row.estimate.value for row in own if row.measure.startswith(("probe_of", "probe_top1", "probe_control"))}
    points = drawn(panel, colour)
    assert {y for _, y in points} == wanted
    [all_of_them] = [row.estimate.value for row in own if row.measure == "probe_top1"]
    assert max(points)[0] == max(x for x, y in points if y == all_of_them)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "5", "all\n(20)"]


def test_depth_is_drawn_where_more_than_the_read_sites_were_probed(planted) -> None:
    result = planted(("base", "sft"))["probe"]
    assert len(probe.draw(result).axes) == 2
    [top1] = result.select(checkpoint="base", site=result.settings["consumed"], measure="probe_top1")
    more = tuple(dataclasses.replace(top1, site=site) for site in ("block_01", "block_02", "block_03"))
    settings = result.settings | {"sites": ["block_01", "block_02", "block_03", *result.settings["sites"]]}
    deep = dataclasses.replace(result, rows=(*result.rows, *more), settings=settings)
    assert len(probe.draw(deep).axes) == 3 and "every site" in probe.caption(deep)
