"""Controls: the Gaussian by its formula, and random weights that come and go without a trace."""

import math

import pytest
import torch
from towers import images, mean_target, siglip

from visprobe.attribution.evidence.controls import centre_map, randomised
from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.targets.subject import TowerSubject


def test_the_centre_map_is_the_gaussian_of_its_source():
    found = centre_map((3, 4))
    assert found.dtype == torch.float32
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    # Patches have the side 1/2 where the picture is 2 wide: the corner lies 3/4 to the left and 1/2 up.
    ratio = math.exp(-((0.75**2 - 0.25**2) / 0.22 + 0.5**2 / (0.22 * 0.45)) / 2)
    assert float(found[0, 0] / found[1, 1]) == pytest.approx(ratio, rel=1e-5)  # float32
    for turned in (found.flip(0), found.flip(1)):
        torch.testing.assert_close(turned, found, rtol=1e-6, atol=0)
    assert centre_map((1, 1)).tolist() == [[1]]


def weights(encoder):
    return [parameter for module in encoder.modules for parameter in module.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_changes_and_comes_back(tmp_path, dtype):
    encoder = siglip(tmp_path, dtype=dtype)
    before, pointers = [w.clone() for w in weights(encoder)], [w.data_ptr() for w in weights(encoder)]
    stored = {name: tensor.clone() for name, tensor in encoder.weights().items()}
    drawn = []
    for seed in (3, 3, 4):
        with randomised(encoder, seed):
            drawn.append([w.clone() for w in weights(encoder)])
            for name, tensor in encoder.weights().items():
                assert torch.equal(tensor, stored[name])
        assert all(torch.equal(w, old) for w, old in zip(weights(encoder), before, strict=True))
        assert [w.data_ptr() for w in weights(encoder)] == pointers
    first, again, other = drawn
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for new, different, old in zip(first, other, before, strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert old.std(correction=0) > 0  # else there is nothing to draw
        assert not torch.equal(new, old)
        assert not torch.equal(new, different)
    largest = max(range(len(before)), key=lambda n: before[n].numel())
    old, new = before[largest].float(), first[largest].float()
    sigma = old.std()  # standard errors of a mean and a standard deviation of n normal draws; four of them
    assert abs(float(new.mean() - old.mean())) < 4 * sigma / old.numel() ** 0.5
    assert abs(float(new.std() / sigma) - 1) < 4 / (2 * old.numel()) ** 0.5


def test_a_parameter_of_two_modules_is_drawn_once_and_constants_stay():
    inner = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(inner.bias)
    whole = torch.nn.ModuleDict({"tower": inner, "numbers": torch.nn.BatchNorm1d(3)})

    class Subject:
        modules = (inner, whole)

    alone = torch.nn.Linear(3, 3)
    alone.load_state_dict(inner.state_dict())
    Subject.alone = alone
    with randomised(Subject, 0):
        drawn = inner.weight.clone()
        assert inner.bias.eq(0).all()
        assert whole["numbers"].running_var.eq(1).all()
    Subject.modules = (alone,)
    with randomised(Subject, 0):
        assert torch.equal(alone.weight, drawn)


def test_weights_come_back_after_an_error_and_maps_differ_inside(tmp_path):
    encoder = siglip(tmp_path)
    subject, pictures = TowerSubject(encoder, mean_target(32)), images(2)
    before = maps(subject, pictures, ["gradcam", "rollout"])
    with pytest.raises(ZeroDivisionError), randomised(subject, 0):
        inside = maps(subject, pictures, ["gradcam", "rollout"])
        raise ZeroDivisionError
    after = maps(subject, pictures, ["gradcam", "rollout"])
    for key, found in before.items():
        for one, again, random in zip(found, after[key], inside[key], strict=True):
            assert torch.equal(one.values, again.values)
            assert not torch.allclose(one.values, random.values, rtol=1e-3)
