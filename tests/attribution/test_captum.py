"""Grad-CAM of tokens is Captum's once they are a grid of channels; of bare tokens Captum's is something else."""

import torch
from captum.attr import LayerGradCam
from towers import encoder_of, images, mean_target

from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.targets.subject import TowerSubject


class OnGrid(torch.nn.Module):
    """A tower whose last tokens pass through a layer as (B, channels, rows, columns)."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.grid = tower, torch.nn.Identity()

    def forward(self, values):
        tokens = self.tower(values).last_hidden_state
        grid = self.grid(tokens.transpose(1, 2).reshape(len(tokens), -1, 4, 4))
        return mean_target(32, power=2)(list(grid.flatten(2).transpose(1, 2).split(1)), 0)


def test_gradcam_is_captums_on_a_grid(tmp_path):
    encoder = encoder_of("siglip", tmp_path)
    found = maps(TowerSubject(encoder, mean_target(32, power=2)), images(2), ["gradcam"])["gradcam", "final_norm"]
    model = OnGrid(encoder.tower)
    values = encoder.preprocess(images(2)).inputs["pixel_values"].requires_grad_()
    with torch.enable_grad():
        expected = LayerGradCam(model, model.grid).attribute(values)
        naive = LayerGradCam(model, encoder.tower.encoder.layers[0]).attribute(values)
    # Float32: 32 products of order one.
    torch.testing.assert_close(torch.stack([one.values for one in found]), expected[:, 0].detach(), rtol=0, atol=1e-6)
    assert naive.shape == (2, 1, 32)  # one number per channel, none per patch
