"""Figures of attribution maps: every value in the colour that the bar gives it, every text in its own place."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from legible import overlapping
from PIL import Image

from visprobe.attribution.figures import contrast as attribution_contrast
from visprobe.attribution.figures import difference as attribution_difference
from visprobe.attribution.figures import grid as attribution_grid
from visprobe.attribution.figures import strip as attribution_strip
from visprobe.attribution.figures.colours import Scale, bar, painted, scale_of
from visprobe.attribution.figures.sheet import _MEANINGS, Sheet, sheet_rows
from visprobe.attribution.figures.table import pages
from visprobe.attribution.map import Map
from visprobe.attribution.methods.by_name import METHODS
from visprobe.errors import DataError, UsageError
from visprobe.figures.save import save_figure, svg_text
from visprobe.figures.style import ONE_COLUMN, TWO_COLUMNS
from visprobe.figures.text import fitted, in_two_lines, short_number, width_of

HOSTILE = ("base", "llava-1.5-7b-dpo-seed0", "猫" * 30, "x" * 200, "evil\u202egpj.exe", "$a_b^{", "W" * 14, "\x1b[31m")


def planted(names=("base", "sft", "dpo"), images: int = 3, grid=(6, 8), size=(64, 48), seed: int = 0) -> Sheet:
    draws = torch.Generator().manual_seed(seed)
    pictures = [Image.new("RGB", size, (40 * i % 256, 90, 200)) for i in range(images)]
    maps = {
        name: [Map(torch.randn(grid, generator=draws), 0.5 - i, "gradcam", "block_04") for i in range(images)]
        for name in names
    }
    return Sheet(pictures, [f"image {i}" for i in range(images)], maps, "nats")


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8), (24, 24)])
def test_a_patch_is_one_rectangle_of_one_colour(grid) -> None:
    values = torch.arange(grid[0] * grid[1], dtype=torch.float32).reshape(grid) + 1
    one = Map(values, 0.0, "gradcam", "block_04")
    image = painted(Image.new("RGB", (64, 48), "white"), one, scale_of([one], False))
    rows, columns = image.shape[0] // grid[0], image.shape[1] // grid[1]
    blocks = image.reshape(grid[0], rows, grid[1], columns, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert len(np.unique(blocks[:, 0, :, 0].reshape(-1, 3), axis=0)) > 0.4 * values.numel()  # of 24 x 24, 8-bit colours


@pytest.mark.parametrize("signed", [False, True])
def test_the_bar_has_the_colours_of_the_maps(signed: bool) -> None:
    scale = Scale(2.0, signed)
    grey = Image.new("L", (50, 50), 128)
    ends = bar(scale)[[0, -1], 0].astype(int)
    for value, colour in ((2.0, ends[0]), (scale.low, ends[1])):
        shown = painted(grey, Map(torch.full((1, 1), value), 0.0, "gradcam", "x"), scale)[0, 0].astype(int)
        assert abs(shown - colour).max() <= 1  # 128 is not exactly the middle of 0 to 255


def test_no_value_shows_the_picture_and_negative_ones_are_hidden_or_blue() -> None:
    picture = Image.fromarray(np.arange(240 * 240, dtype=np.uint32).reshape(240, 240).astype(np.uint8))
    nothing, against = (Map(torch.full((2, 2), value), 0.0, "gradcam", "x") for value in (0.0, -1.0))
    plain = painted(picture, nothing, Scale(1.0, False))
    assert (plain[..., 0] == plain[..., 2]).all() and len(np.unique(plain)) > 100
    assert (painted(picture, against, Scale(1.0, False)) == plain).all()
    red, _, blue = painted(picture, against, Scale(1.0, True)).astype(int).transpose(2, 0, 1)
    assert (blue - red > 60).all()


@pytest.mark.parametrize(
    ("highest", "end"), [(0.0123, 0.013), (0.19, 0.19), (7.0, 7.0), (99.1, 100), (1.21e-7, 1.3e-7)]
)
def test_the_end_of_a_scale_holds_all_values_with_two_digits(highest: float, end: float) -> None:
    one = Map(torch.tensor([[-highest, highest / 2]], dtype=torch.float64), 0.0, "gradcam", "x")
    assert scale_of([one], True).limit == pytest.approx(end, rel=1e-9)  # sums of decimal steps are not exact
    assert scale_of([replace(one, values=-one.values.abs())], False).limit == 0


def test_one_scale_per_image_over_all_checkpoints() -> None:
    sheet = planted(("base", "sft"), images=2, grid=(1, 2), size=(40, 20))
    low, high, other = (torch.tensor([values]) for values in ([1.0, 0.0], [1.0, 4.0], [8.0, 0.0]))
    maps = {name: [replace(sheet.maps["base"][0], values=values) for values in column]
            for name, column in {"base": (low, other), "sft": (high, other)}.items()}  # fmt: skip
    shown = [
        axes.images[0].get_array() for axes in attribution_grid.draw(replace(sheet, maps=maps)).axes if axes.images
    ]
    base, sft, second = shown[1], shown[2], shown[4]
    assert (base[0, 0] == sft[0, 0]).all() and not (base[0, 0] == second[0, 0]).all()


def test_differences_are_exact_and_share_one_symmetric_scale() -> None:
    sheet = planted()
    made = attribution_difference.differences(sheet)
    assert list(made.maps) == ["sft − base", "dpo − base"]
    for image in range(3):
        sft, base = sheet.maps["sft"][image], sheet.maps["base"][image]
        assert torch.equal(made.maps["sft − base"][image].values, sft.values - base.values)
    bars = [axes for axes in attribution_difference.draw(made).axes if len(axes.texts) == 3]
    assert len(bars) == 1 and {t.get_text().lstrip("−") for t in bars[0].texts} - {"0"} == {
        bars[0].texts[-1].get_text()
    }


def test_what_cannot_be_subtracted_or_does_not_fit_is_refused() -> None:
    sheet = planted(("base", "sft"))
    coarser = {**sheet.maps, "sft": planted(("sft",), grid=(2, 2)).maps["sft"]}
    with pytest.raises(UsageError, match="no difference"):
        attribution_difference.differences(replace(sheet, maps=coarser))
    with pytest.raises(UsageError, match="nothing to be compared"):
        attribution_difference.differences(planted(("base",)))
    with pytest.raises(UsageError, match="do not make a figure"):
        replace(sheet, titles=["one"])
    broken = replace(sheet.maps["sft"][0], values=torch.full((6, 8), torch.nan))
    with pytest.raises(DataError, match="not finite"):
        replace(sheet, maps={"base": [broken] * 3})
    with pytest.raises(UsageError, match="2 methods"):
        replace(sheet, maps={**sheet.maps, "sft": [replace(one, method="rollout") for one in sheet.maps["sft"]]})
    with pytest.raises(UsageError, match="strip"):
        attribution_strip.draw(sheet, [0, 1])


@pytest.mark.sample(1)
@pytest.mark.parametrize(("count", "size"), [(1, (64, 64)), (2, (30, 90)), (3, (90, 30)), (4, (64, 64)), (8, (90, 30))])
def test_no_text_covers_another_whatever_checkpoints_are_called(count: int, size) -> None:
    sheet = planted(HOSTILE[-count:], images=2, size=size)
    sheet = replace(sheet, titles=["t" * 400, HOSTILE[4]], unit="nats per token of the whole answer")
    figure = attribution_grid.draw(sheet)
    assert overlapping(figure) == []
    assert figure.get_figwidth() == (ONE_COLUMN if count < 4 else TWO_COLUMNS)
    if count > 1:
        assert overlapping(attribution_difference.draw(attribution_difference.differences(sheet))) == []


def test_twelve_images_are_split_into_pages_that_say_so() -> None:
    parts = pages(planted(images=12))
    assert [title for part in parts for title in part.titles] == [f"image {i}" for i in range(12)]
    assert all(attribution_grid.draw(part).get_figheight() <= 8.6 for part in parts)
    assert len(pages(planted(images=1))) == 1 and len(parts) > 1
    count = len(parts[0].titles)
    assert f"n = {count} images (1 to {count} of 12)" in attribution_grid.caption(parts[0])
    assert f"({count + 1} to" in attribution_grid.caption(parts[1])


def test_captions_say_what_positive_means_and_what_is_left_out() -> None:
    assert set(_MEANINGS) == set(METHODS)
    sheet = planted([f"step-{i}" for i in range(11)], images=2)
    said = attribution_grid.caption(sheet)
    assert _MEANINGS["gradcam"] in said and "first 8 of 11 checkpoints" in said and "drawn as 0" in said
    assert "n = 2 images" in said and len(sheet.shown) == 8
    never = replace(sheet, maps={"base": [replace(o, values=-o.values.abs()) for o in sheet.maps["step-0"]]})
    assert "100 % of the sum" in attribution_grid.caption(never)
    assert "2 of 2 maps have no positive value" in attribution_grid.caption(never)
    assert overlapping(attribution_grid.draw(never)) == []


def test_contrasts_stand_beside_what_they_are_made_of() -> None:
    sheet = planted(("a", "b", "c"))
    made = attribution_contrast.contrast_sheet(sheet.pictures, sheet.titles, *sheet.maps.values(), "nats")
    assert overlapping(attribution_contrast.draw(made)) == []
    assert list(made.maps) == ["chosen", "rejected", "contrast"]
    assert attribution_contrast.caption(made, "evil\u202e").startswith("evil\\u202e: gradcam")


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_a_strip_shows_first_and_last_moment_and_their_scores(count: int) -> None:
    steps = [10**5 * i for i in range(count)]
    sheet = planted([f"s{step}" for step in steps], images=1)
    sheet = replace(sheet, maps={n: [replace(m[0], score=float(i))] for i, (n, m) in enumerate(sheet.maps.items())})
    figure = attribution_strip.draw(sheet, steps)
    assert overlapping(figure) == []
    line = figure.axes[-1].lines[-1].get_ydata()
    assert (line[0], line[-1], len(line)) == (0, count - 1, min(count, 9))
    assert ("9 of 40 moments" in attribution_strip.caption(sheet, steps)) == (count > 9)
    pictures = [axes.get_position() for axes in figure.axes[1 : 1 + len(line)]]
    ticks = figure.axes[-1].transData.transform([(i, 0) for i in range(len(line))])[:, 0] / figure.bbox.width
    assert ticks == pytest.approx([(place.x0 + place.x1) / 2 for place in pictures])


def test_files_are_the_same_on_every_run_and_hold_every_value(tmp_path) -> None:
    sheet = planted(HOSTILE[:3], images=1)
    for name in ("a", "b"):
        save_figure(attribution_grid.draw(sheet), tmp_path, name, sheet_rows(sheet))
    for kind in ("svg", "png", "csv"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 3 * (1 + 6 * 8)
    svg = svg_text(attribution_grid.draw(sheet))
    assert ">llava-1.5-<" in svg and "\u202e" not in svg  # text stays text


def test_text_fits_and_numbers_are_short() -> None:
    for name, points in itertools.product((*HOSTILE, "-" * 90, "a b" * 30), (20, 43, 60)):
        for line in (fitted(name, points, 6.5), *in_two_lines(name, points, 6.5).split("\n")):
            assert width_of(line) * 6.5 <= points
    assert in_two_lines("llava-1.5-7b-dpo-seed0", 50, 6.5) == "llava-1.5-7b-\ndpo-seed0"
    numbers = (0, -0.0123456, 1.2e-5, 12345, 123456, -9.996e-5, 0.3, 999.7)
    assert [short_number(value) for value in numbers] == [
        "0", "−0.0123", "1.20·10⁻⁵", "12345", "1.23·10⁵", "−1.00·10⁻⁴", "0.300", "1000",
    ]  # fmt: skip
