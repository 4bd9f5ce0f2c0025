"""All methods through one entry: batches change nothing, overflow is repaired and said, faults are one message."""

import pytest
import torch
from towers import encoder_of, images, mean_target, siglip

from visprobe.attribution.methods.by_name import METHODS, maps
from visprobe.attribution.targets.subject import TowerSubject
from visprobe.errors import UsageError


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["siglip", "clip", "qwen2_5_vl", "siglip2", "internvl tiles"])
def test_batches_change_nothing(tmp_path, name):
    encoder = encoder_of(name, tmp_path)

    def target(tokens, first):
        return mean_target(32)(tokens, first) * torch.arange(first + 1, first + 1 + len(tokens))

    subject = TowerSubject(encoder, target)
    pictures = [*images(2), *images(1, seed=1, size=(40, 30))]
    options = {"sites": ["block_01", "consumed"], "steps": 3, "side": 4}
    together, alone = (maps(subject, pictures, METHODS, batch=batch, **options) for batch in (3, 1))
    assert {site for _, site in together} == {"block_01", encoder.consumed, "pixels"}
    assert {method for method, _ in together} == set(METHODS)
    for key, some in together.items():
        assert [one.grid for one in some] == list(encoder.preprocess(pictures).grids)
        for one, other in zip(some, alone[key], strict=True):
            assert (one.method, one.site) == key
            assert one.values.dtype == torch.float32
            scale = max(1.0, float(one.values.abs().max()))
            assert (one.values - other.values).abs().max() <= 1e-5 * scale  # float32; sums in another order
            assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("occlusion", "rollout")])
def test_what_overflows_is_run_again_in_float32(tmp_path, method):
    def target(tokens, first):
        return 1e8 * mean_target(32)(tokens, first)

    half, rounded = siglip(tmp_path / "half", dtype=torch.float16), siglip(tmp_path / "full").rounded(torch.float16)
    (found,) = maps(TowerSubject(half, target), images(1), [method], steps=2).values()
    (expected,) = maps(TowerSubject(rounded, target), images(1), [method], steps=2).values()
    assert torch.equal(found[0].values, expected[0].values)
    assert "is not finite in float16" in found[0].note
    assert "float16" not in expected[0].note
    assert half.dtype == torch.float16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ["gradcam", "saliency"]}, "no attribution method 'saliency'"),
        ({"sites": ["block_09"]}, "no site 'block_09'"),
        ({"baseline": "white"}, "no baseline 'white'"),
    ],
)
def test_unknown_names_are_one_message(tmp_path, wrong, message):
    subject = TowerSubject(siglip(tmp_path), mean_target(32))
    with pytest.raises(UsageError, match=message):
        maps(subject, images(1), **{"methods": ["gradcam"], **wrong})
