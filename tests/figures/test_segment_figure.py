"""The figure of segmentation: IoU of every class that occurs, and examples in the colours of the classes."""

import dataclasses

import numpy as np
import pytest

from visprobe.analyses.segmentation import segment_figure as segment
from visprobe.figures.style import checkpoint_styles

NAMES = ("base", "sft", "dpo")


def test_every_class_that_occurs_is_at_its_iou_frequent_ones_first(planted) -> None:
    result = planted(NAMES)["segment"]
    settings, panel = result.settings, segment.draw(result).axes[-1]
    occur = sorted((i for i, n in enumerate(settings["class_pixels"]) if n), key=lambda i: -settings["class_pixels"][i])
    assert [label.get_text() for label in panel.get_yticklabels()] == [settings["class_names"][i] for i in occur]
    for name in NAMES:
        [line] = [line for line in panel.lines if line.get_label() == name]
        assert line.get_color() == checkpoint_styles(NAMES)[name].colour
        known = settings["class_iou"][name][settings["consumed"]]
        assert list(line.get_xdata()) == [known[i] for i in occur]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == list(settings["class_iou"])


def test_markers_of_a_class_do_not_hide_each_other(planted) -> None:
    figure = segment.draw(planted(NAMES)["segment"])
    figure.canvas.draw()
    panel = figure.axes[-1]
    lines = [line for line in panel.lines if line.get_label() in (*NAMES, "untrained")]
    heights = sorted(panel.transData.transform((0, line.get_ydata()[0]))[1] * 72 / figure.dpi for line in lines)
    assert np.diff(heights).min() > 0.6 * lines[0].get_markersize()


def test_examples_show_the_mask_and_what_each_checkpoint_finds_in_one_code_of_colours(planted) -> None:
    result = planted(NAMES)["segment"]
    figure = segment.draw(result)
    examples = result.settings["examples"]
    titles = [text for axes in figure.axes[:-1] if (text := axes.get_title(loc="left"))]
    assert titles == ["image", "mask", *examples[0]["found"]]
    assert len(figure.axes) == 1 + len(examples) * len(titles)
    squares = {tuple(np.round(line.get_markerfacecolor(), 6)) for line in figure.axes[-1].lines
               if line.get_marker() == "s" and not isinstance(line.get_markerfacecolor(), str)}  # fmt: skip
    for axes in figure.axes[1 : len(titles)]:
        painted = np.asarray(axes.images[0].get_array()).reshape(-1, 3)
        assert {tuple(np.round(colour, 6)) for colour in np.unique(painted, axis=0)} <= squares | {(1.0, 1.0, 1.0)}


@pytest.mark.parametrize("gone", [("examples",), ("class_iou", "class_pixels", "examples")])
def test_what_was_not_kept_is_not_drawn(planted, gone) -> None:
    result = planted(NAMES)["segment"]
    empty = {"examples": [], "class_iou": {}, "class_pixels": []}
    bare = dataclasses.replace(result, settings=result.settings | {key: empty[key] for key in gone})
    assert len(segment.draw(bare).axes) == 1


def test_classes_without_pixels_and_names_of_any_length(planted) -> None:
    result = planted(NAMES)["segment"]
    settings = dict(result.settings)
    settings["class_pixels"] = [0, *settings["class_pixels"][1:]]
    settings["class_names"] = ["x" * 200] * len(settings["class_names"])
    panel = segment.draw(dataclasses.replace(result, settings=settings)).axes[-1]
    assert len(panel.get_yticklabels()) == sum(1 for n in settings["class_pixels"] if n)
    assert max(len(label.get_text()) for label in panel.get_yticklabels()) <= 22
    assert "settings" not in segment.caption(result) and result.settings["consumed"] in segment.caption(result)
