"""Token maps by hand, and the exact decomposition of a linear score."""

import torch
from towers import images, mean_target, siglip

from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.methods.token_maps import gradcam, gradient_norm, gradient_times_input
from visprobe.attribution.methods.trace import Trace, trace
from visprobe.attribution.targets.subject import TowerSubject

# Two patches above each other, three channels: channel weights are the means (2, 0, -1).
BY_HAND = Trace(
    activations=torch.tensor([[1.0, 5.0, 2.0], [3.0, 7.0, -1.0]]),
    gradients=torch.tensor([[4.0, 1.0, -2.0], [0.0, -1.0, 0.0]]),
    grid=(2, 1),
    score=0.0,
)


def test_maps_by_hand():
    assert gradcam(BY_HAND).tolist() == [[0.0], [7.0]]
    assert gradient_norm(BY_HAND).tolist() == [[7.0], [1.0]]
    assert gradient_times_input(BY_HAND).tolist() == [[5.0], [-7.0]]


def test_of_a_linear_head_on_the_mean_token_each_token_has_its_share(tmp_path):
    subject = TowerSubject(siglip(tmp_path), mean_target(32))
    found = maps(subject, images(2), ["gradcam", "gradient-times-input"], ["consumed"])
    tokens = [one.activations for one in trace(subject, images(2), ["block_03"])["block_03"]]
    for some in found.values():
        for one, own in zip(some, tokens, strict=True):
            shares = (own @ torch.linspace(-1, 1, 32)).reshape(4, 4) / 16
            # Float32 sums of 32 products of order one.
            torch.testing.assert_close(one.values, shares, rtol=0, atol=1e-6)
            torch.testing.assert_close(float(one.values.sum()), one.score, rtol=0, atol=1e-5)
