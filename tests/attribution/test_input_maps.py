"""Integrated gradients and occlusion: exact where the score is linear in the pixels, complete where it is not."""

import pytest
import torch
from towers import TOWERS, encoder_of, images, mean_target, shrink, siglip

from visprobe.attribution.methods.input_maps import BASELINES, integrated_gradients, occlusion, patches_of
from visprobe.attribution.targets.subject import TowerSubject


def linear(encoder):
    """A score that is linear in the pixels: blocks that add nothing to the embedded patches."""
    with torch.no_grad():
        for layer in encoder.tower.encoder.layers:
            for last in (layer.self_attn.out_proj, layer.mlp.fc2):
                last.weight.zero_()
                last.bias.zero_()
    return TowerSubject(encoder, mean_target(32))


@pytest.mark.parametrize("baseline", BASELINES)
def test_of_a_linear_score_both_are_weight_times_difference(tmp_path, baseline):
    encoder = siglip(tmp_path)
    subject = linear(encoder)
    pictures = images(2, size=(32, 32))
    values, empty = (
        encoder.preprocess(some).inputs["pixel_values"]
        for some in (pictures, [BASELINES[baseline](image) for image in pictures])
    )
    kernel = torch.tensordot(torch.linspace(-1, 1, 32), encoder.tower.embeddings.patch_embedding.weight, 1) / 16
    weighed = (values - empty) * kernel.repeat(1, 4, 4)
    expected = weighed.reshape(2, 3, 4, 8, 4, 8).sum(dim=(1, 3, 5)).detach()
    found = integrated_gradients(subject, pictures, baseline=baseline, steps=3)
    hidden = occlusion(subject, pictures, baseline=baseline)
    wide = occlusion(subject, pictures, baseline=baseline, side=2)
    squares = expected.reshape(2, 2, 2, 2, 2).sum(dim=(2, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    for n in range(2):
        # Float32: differences of scores of order one; each is a sum of 6,144 products.
        torch.testing.assert_close(found[n].values, expected[n], rtol=0, atol=1e-5)
        torch.testing.assert_close(hidden[n].values, expected[n], rtol=0, atol=1e-5)
        torch.testing.assert_close(wide[n].values, squares[n], rtol=0, atol=1e-5)
        assert abs(found[n].delta) < 1e-5
        assert found[n].note == ""


@pytest.mark.thorough
def test_integrated_gradients_say_how_complete_they_are(tmp_path):
    encoder = siglip(tmp_path)
    subject = TowerSubject(encoder, mean_target(32, power=2))
    pictures = images(1)
    (coarse,), (fine,) = (integrated_gradients(subject, pictures, steps=steps) for steps in (1, 300))
    with torch.no_grad():
        change = subject.score(encoder.preprocess(pictures)) - subject.score(
            encoder.preprocess([BASELINES["mean"](pictures[0])])
        )
    for one in (coarse, fine):
        assert one.delta == pytest.approx(float(one.values.sum() - change), abs=1e-6)  # the same sums in float32
    assert abs(fine.delta) < 0.01 * abs(float(change)) < abs(coarse.delta)  # Captum's own tests ask for 0.01
    assert fine.note == ""
    assert "more steps are needed" in coarse.note


def test_occlusion_is_the_score_of_the_image_with_one_patch_replaced(tmp_path):
    encoder = siglip(tmp_path)
    subject = TowerSubject(encoder, mean_target(32, power=2))
    (image,) = images(1, size=(32, 32))
    (found,) = occlusion(subject, [image])
    pixels = encoder.preprocess([image])
    values, empty = pixels.inputs["pixel_values"], encoder.preprocess([BASELINES["mean"](image)]).inputs["pixel_values"]
    values[..., 8:16, 24:32] = empty[..., 8:16, 24:32]
    with torch.no_grad():
        assert float(found.values[1, 3]) == pytest.approx(found.score - float(subject.score(pixels)), abs=1e-6)


@pytest.mark.parametrize("name", TOWERS)
def test_every_element_of_the_input_belongs_to_one_patch(tmp_path, monkeypatch, name):
    shrink(monkeypatch)
    encoder = encoder_of(name, tmp_path)
    pixels = encoder.preprocess(images(1, size=TOWERS[name][1]))
    patches = patches_of(encoder, pixels)
    inside = patches[patches >= 0]
    sizes = inside.bincount()
    assert len(sizes) == pixels.grids[0][0] * pixels.grids[0][1]
    if "tiles" not in name:  # there a patch may lie across the edge of the image
        assert sizes.unique().numel() == 1
    if patches.ndim == 4 and not pixels.mosaics:
        rows, columns = pixels.grids[0]
        side = patches.shape[-1] // columns
        raster = torch.arange(rows * columns).reshape(rows, columns)
        assert torch.equal(patches[0, 1], raster.repeat_interleave(side, 0).repeat_interleave(side, 1))
