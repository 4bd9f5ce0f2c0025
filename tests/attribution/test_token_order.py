"""In every family's own order of tokens, each method's map of a bright patch answers where the patch is."""

import pytest
import torch
from towers import NO_ATTENTION, TOWERS, encoder_of, lit, mean_target, reading_the_lit_patch, shrink

from visprobe.attribution.methods.by_name import METHODS, maps
from visprobe.attribution.targets.subject import TowerSubject


@pytest.fixture(params=TOWERS)
def name(request, monkeypatch):
    shrink(monkeypatch)
    return request.param


def peak(values):
    return divmod(int(values.abs().argmax()), values.shape[1])


def test_the_map_answers_at_the_place_of_the_patch(tmp_path, name):
    encoder, grid = encoder_of(name, tmp_path), TOWERS[name][2]
    places = [(0, 1), (grid[0] - 1, 2), (2, grid[1] - 1)][: 3 if grid == (4, 4) else 2]
    grey, images = lit(name, places)
    subject = reading_the_lit_patch(encoder, grey, images, places, grid)
    left_out = {"gradcam", "rollout", *(["gradient-attention"] if name in NO_ATTENTION else [])}
    side = 1 if grid[0] * grid[1] < 50 else 2  # of the squares that occlusion hides: hundreds take long
    methods = [method for method in METHODS if method not in left_out]
    for (method, _), some in maps(subject, images, methods, batch=2, steps=4, side=side).items():
        for one, place in zip(some, places, strict=True):
            assert one.grid == grid
            cell = side if method == "occlusion" else 1
            assert [n // cell for n in peak(one.values)] == [n // cell for n in place], method
    # Grad-CAM's weights of channels are the same for all patches: what the light has changed most answers.
    lights, darks = (maps(subject, seen, ["gradcam"]) for seen in (images, [grey] * len(images)))
    for one, dark, place in zip(*(next(iter(found.values())) for found in (lights, darks)), places, strict=True):
        assert peak(one.values - dark.values) == place


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", sorted(TOWERS.keys() - NO_ATTENTION), indirect=True)
def test_attention_of_the_first_block_moves_at_the_place_of_the_patch(tmp_path, name):
    rows, columns = TOWERS[name][2]
    places = [divmod(int(n), columns) for n in torch.linspace(0, rows * columns - 1, 12)]
    grey, images = lit(name, places)
    subject = TowerSubject(encoder_of(name, tmp_path), mean_target(32))
    dark, *light = maps(subject, [grey, *images], ["rollout"], ["block_01"])["rollout", "block_01"]
    found = sum(peak(one.values - dark.values) == place for one, place in zip(light, places, strict=True))
    # Changes of several heads and queries may cancel; four of twelve by chance, at 1 in 16 each: less than 1 in 100.
    assert found >= 4
