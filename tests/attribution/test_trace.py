"""Activations and gradients: against autograd on the tower itself, for one image among others, and what is refused."""

import pytest
import torch
from towers import images, mean_target, siglip

from visprobe.attribution.methods.trace import NotFinite, trace
from visprobe.attribution.targets.subject import TowerSubject, in_float32
from visprobe.errors import DataError


def test_gradients_are_those_of_the_tower_itself(tmp_path):
    encoder = siglip(tmp_path)
    target = mean_target(32, power=2)
    traces = trace(TowerSubject(encoder, target), images(3), ["block_01", "block_03"])
    states = []
    hook = encoder.tower.encoder.layers[0].register_forward_hook(lambda *call: states.append(call[2]))
    with torch.enable_grad():
        values = encoder.preprocess(images(3)).inputs["pixel_values"].requires_grad_()
        last = encoder.tower(values, output_hidden_states=True).hidden_states[-1]
        scores = target(list(last.split(1)), 0)
    hook.remove()
    (early,) = torch.autograd.grad(scores.sum(), states[:1], retain_graph=True)
    (late,) = torch.autograd.grad(scores.sum(), last)
    for n, (first, second) in enumerate(zip(traces["block_01"], traces["block_03"], strict=True)):
        assert torch.equal(first.activations, states[0][n].detach())
        assert torch.equal(first.gradients, early[n])
        assert torch.equal(second.gradients, late[n])
        assert first.grid == (4, 4)
        assert first.score == second.score == float(scores[n].detach())


def test_each_image_has_its_own_target_and_is_alone(tmp_path):
    encoder = siglip(tmp_path)

    def target(tokens, first):
        return torch.stack([one.mean() * (first + n + 1) for n, one in enumerate(tokens)])

    subject = TowerSubject(encoder, target, read="projected")
    together = trace(subject, images(3), ["projected"])["projected"]
    for n, image in enumerate(images(3)):
        (alone,) = trace(subject, [image], ["projected"], first=n)["projected"]
        # Sums over a batch may run in another order: float32, values of order one.
        torch.testing.assert_close(together[n].gradients, alone.gradients, rtol=0, atol=1e-6)
        assert torch.allclose(alone.gradients, torch.full((16, 24), (n + 1) / (16 * 24)), rtol=1e-6)


@pytest.mark.parametrize("site", ["final_norm", "projected"])
def test_a_site_after_the_score_is_refused(tmp_path, site):
    subject = TowerSubject(siglip(tmp_path), mean_target(32), read="block_01")
    if site == "final_norm":  # this tower's last norm is not in the checkpoint
        site = "block_03"
    with pytest.raises(DataError, match=f"does not depend on {site}"):
        trace(subject, images(1), [site])


def test_a_gradient_that_overflows_is_named(tmp_path):
    encoder = siglip(tmp_path, dtype=torch.float16)
    subject = TowerSubject(encoder, lambda tokens, first: 1e8 * mean_target(32)(tokens, first))
    with pytest.raises(NotFinite, match="the gradient at block_02 is not finite in float16"):
        trace(subject, images(1), ["block_02"])


def test_float32_is_for_the_time_of_the_block_only(tmp_path):
    encoder = siglip(tmp_path, dtype=torch.float16)
    before = {name: tensor.clone() for name, tensor in encoder.tower.state_dict().items()}
    with pytest.raises(ZeroDivisionError), in_float32(encoder.modules):
        assert encoder.dtype == torch.float32
        raise ZeroDivisionError
    after = encoder.tower.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
