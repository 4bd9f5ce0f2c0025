"""Where things stand in a figure: sites on x, labels beside lines, zero on a logarithm."""

import itertools
import random

import pytest
from matplotlib.figure import Figure

from visprobe.figures.end_labels import spread
from visprobe.figures.site_axis import line_positions, place_sites, runs
from visprobe.figures.style import checkpoint_styles, checkpoints_of
from visprobe.figures.ticks import log_y_axis

SITES = ["embeddings", "block_01", "block_02", "block_03", "final_norm", "projector"]


def test_sites_keep_their_order_and_blocks_stand_one_apart() -> None:
    x = place_sites([*SITES, *SITES])
    assert list(x) == SITES and list(x.values()) == sorted(x.values())
    assert x["block_03"] - x["block_01"] == pytest.approx(2)  # sums of 1.3 are not exact in binary
    assert min(x["block_01"] - x["embeddings"], x["projector"] - x["final_norm"]) > 1


def test_only_neighbouring_blocks_are_joined_by_a_line() -> None:
    assert runs(SITES) == [["embeddings"], ["block_01", "block_02", "block_03"], ["final_norm"], ["projector"]]


def test_lone_points_of_several_lines_stand_side_by_side_around_their_site() -> None:
    x = place_sites(SITES)
    places = [line_positions(["projector"], x, i, 3)[0] for i in range(3)]
    assert places == sorted(set(places)) and places[1] == x["projector"]
    assert line_positions(["block_01", "block_02"], x, 2, 3) == [x["block_01"], x["block_02"]]


def test_labels_are_pushed_apart_in_order_and_stay_inside() -> None:
    for seed in range(50):
        wanted = [random.Random(seed).random() ** 3 for _ in range(6)]
        placed = spread(wanted, 0.1)
        order = sorted(range(6), key=lambda i: wanted[i])
        # 1e-9: sums of tenths are not exact in binary
        assert all(placed[b] - placed[a] > 0.1 - 1e-9 for a, b in itertools.pairwise(order))
        assert min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


def test_zero_has_its_own_tick_below_everything_else() -> None:
    axes = Figure().subplots()
    zero = log_y_axis(axes, [0.0, 1e-5, 0.02])
    ticks = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert ticks["0"] == zero < 1e-5 and axes.get_ylim()[0] < zero
    assert {"10⁻⁵", "10⁻⁴", "0.001", "0.01"} <= set(ticks)


def test_without_zeros_no_tick_claims_zero() -> None:
    axes = Figure().subplots()
    bottom = log_y_axis(axes, [0.001, 0.004])
    assert bottom == axes.get_ylim()[0] < 0.001
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0.001", "0.002", "0.005"]


def test_a_checkpoint_keeps_its_look_when_others_are_missing(planted) -> None:
    everything = checkpoint_styles(["base", "sft", "dpo", "grpo"])
    assert len({(look.colour, look.marker) for look in everything.values()}) == 4
    assert checkpoint_styles([*everything, "dpo"]) == everything
    assert checkpoint_styles(["base", "sft"]) == {name: everything[name] for name in ("base", "sft")}


@pytest.mark.parametrize("analysis", ["imagenet", "drift", "weights", "answers"])
def test_baselines_are_not_checkpoints(planted, analysis: str) -> None:
    assert checkpoints_of(planted(identical=("dpo",))[analysis]) == ["base", "sft", "dpo", "grpo"]
