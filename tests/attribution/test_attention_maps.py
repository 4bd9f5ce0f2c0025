"""Attention that is really computed; rollout and gradient-weighted attention by hand and against whole matrices."""

from types import SimpleNamespace

import pytest
import torch
from towers import NO_ATTENTION, TOWERS, encoder_of, images, lit, mean_target, shrink
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from visprobe.attribution.methods.attention_maps import attention_maps, recorded
from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.targets.subject import TowerSubject
from visprobe.encoders.pixels import Pixels
from visprobe.encoders.structure.geometry import SQUARE
from visprobe.errors import DataError, UsageError


class Block(torch.nn.Module):
    """Two tokens of one channel, mixed by fixed attention."""

    def __init__(self, config, attention):
        super().__init__()
        self.config, self.logits = config, torch.nn.Parameter(torch.tensor(attention).log()[None, None])

    def forward(self, states):
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
        return attend(self, self.logits, torch.eye(2)[None, None], states[:, None], None, scaling=1.0)[0][:, :, 0]


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        config = PreTrainedConfig(attn_implementation="sdpa")
        self.blocks = torch.nn.ModuleList(
            [Block(config, [[0.5, 0.5], [0.25, 0.75]]), Block(config, [[0.9, 0.1], [0.2, 0.8]])]
        )

    def forward(self, states):
        for block in self.blocks:
            states = block(states)
        return states


def by_hand():
    """An encoder of two blocks and two patches, whose "pixels" are the tokens 3 and -1."""
    family = SimpleNamespace(
        blocks=(("blocks", "depth"),), has_cls=False, depth=lambda config: 2, tower_blocks=lambda tower: [*tower.blocks]
    )
    encoder = SimpleNamespace(
        name="two", tower=Two(), family=family, config=None, geometry=SQUARE, prefix_tokens=0, consumed="block_02",
        device=torch.device("cpu"), dtype=torch.float32, modules=(), reads=lambda site: (site,),
        preprocess=lambda some: Pixels({"states": torch.tensor([[[3.0], [-1.0]]])}, ((1, 2),)),
        tokens=lambda site, cls, held, pixels: held[site],
    )  # fmt: skip
    return TowerSubject(encoder, lambda tokens, first: torch.stack([one.mean() for one in tokens]))


def test_two_tokens_by_hand():
    found = attention_maps(by_hand(), [None], ["rollout", "gradient-attention"], ["block_01", "block_02"])
    values = {key: some[0].values for key, some in found.items()}
    for key, expected in {
        # (I + A1) / 2 has the rows (0.75, 0.25) and (0.125, 0.875)
        ("rollout", "block_01"): [0.4375, 0.5625],
        # (I + A2) / 2 times it has the rows (0.71875, 0.28125) and (0.1875, 0.8125)
        ("rollout", "block_02"): [0.453125, 0.546875],
        # the gradient by A1 is (0.55, 0.45) x (3, -1); times A1, positive part: (0.825, 0) and (0.3375, 0)
        ("gradient-attention", "block_01"): [(1.825 + 0.3375) / 2, 0.5],
        # the gradient by A2 is 0.5 x (1, 0) in both rows; times A2: (0.45, 0) and (0.1, 0)
        ("gradient-attention", "block_02"): [(1.825 * 1.45 + 1.825 * 0.1 + 0.3375) / 2, 0.5],
    }.items():
        torch.testing.assert_close(values[key], torch.tensor([expected]), rtol=1e-6, atol=1e-6)  # float32, few sums


@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_maps_equal_products_of_whole_matrices_from_the_librarys_own_attention(tmp_path, name):
    encoder = encoder_of(name, tmp_path)
    subject = TowerSubject(encoder, mean_target(32))
    found = maps(subject, images(1), ["rollout", "gradient-attention"], ["consumed"])
    encoder.tower.config._attn_implementation = "eager"
    with torch.enable_grad():
        values = encoder.preprocess(images(1)).inputs["pixel_values"].requires_grad_()
        out = encoder.tower(values, output_attentions=True)
        patches = out.last_hidden_state[:, encoder.prefix_tokens :]
        gradients = torch.autograd.grad(mean_target(32)([patches], 0).sum(), out.attentions)
    unit = torch.eye(16 + encoder.prefix_tokens)
    rolled, relevance = unit, unit
    for attention, gradient in zip(out.attentions, gradients, strict=True):
        rolled = (attention[0].mean(0).detach() / 2 + unit / 2) @ rolled
        relevance = relevance + (attention[0].detach() * gradient[0]).clamp(min=0).mean(0) @ relevance
    prefix = encoder.prefix_tokens
    read = rolled[0] if prefix else rolled.mean(0)
    # Float32; the same sums in another order.
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(found["rollout", encoder.consumed][0].values.flatten(), read[prefix:], **close)
    expected = relevance[prefix:, prefix:].mean(0)
    torch.testing.assert_close(found["gradient-attention", encoder.consumed][0].values.flatten(), expected, **close)


def test_a_score_of_the_class_token_is_read_in_its_row(tmp_path):
    encoder = encoder_of("ViTModel", tmp_path)
    held = {}
    encoder.tower.layers[-1].register_forward_hook(lambda *call: held.update(last=call[2]))
    subject = TowerSubject(encoder, lambda tokens, first: held["last"][:, 0, 0])
    (found,) = maps(subject, images(1), ["gradient-attention"], ["block_03"])["gradient-attention", "block_03"]
    with recorded(encoder) as runs:
        (graph,) = subject.forward(images(1), [])
    every = [block[0] for block in runs[0]]
    relevance = unit = torch.eye(17)
    for attention, gradient in zip(every, torch.autograd.grad(graph.scores.sum(), every), strict=True):
        relevance = relevance + (attention[0].detach() * gradient[0]).clamp(min=0).mean(0) @ relevance
    assert not torch.equal(relevance, unit)
    torch.testing.assert_close(found.values.flatten(), relevance[0, 1:], rtol=0, atol=1e-6)  # as above


@pytest.mark.parametrize("name", sorted(TOWERS.keys() - NO_ATTENTION))
def test_recorded_attention_gives_the_towers_own_states(tmp_path, monkeypatch, name):
    shrink(monkeypatch)
    encoder = encoder_of(name, tmp_path)
    _, (image,) = lit(name, [(1, 1)])
    pixels = encoder.preprocess([image])
    before = encoder.tower.config._attn_implementation
    plain = encoder.forward(pixels, ["consumed"])["consumed"]
    with recorded(encoder) as runs:
        seen = encoder.forward(pixels, ["consumed"])["consumed"]
    # Another kernel of the same sums in float32, relative to values of up to some tens.
    assert (seen - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert encoder.tower.config._attn_implementation == before == "sdpa"
    (run,) = runs
    assert len(run) == encoder.family.depth(encoder.config)
    for block in run:
        assert all(torch.allclose(part.sum(-1), torch.ones(()), atol=1e-5) for part in block)  # sums of <= 280 numbers
    assert torch.equal(encoder.forward(pixels, ["consumed"])["consumed"], plain)


def test_filling_gets_no_attention(tmp_path):
    encoder = encoder_of("siglip2", tmp_path)
    (found,) = maps(
        TowerSubject(encoder, mean_target(32)), images(1, size=(32, 72)), ["rollout"], ["block_03"]
    ).values()
    assert abs(float(found[0].values.sum()) - 1) < 1e-5  # rows of probabilities, of which none goes to the filling


def test_what_has_no_attention_is_one_message(tmp_path, monkeypatch):
    shrink(monkeypatch)
    subject = TowerSubject(encoder_of("original sam", tmp_path / "sam"), mean_target(32))
    with pytest.raises(UsageError, match="SamVisionEncoder does not compute its attention where it can be recorded"):
        maps(subject, images(1), ["rollout"])
    subject = TowerSubject(encoder_of("siglip", tmp_path / "siglip"), mean_target(32), read="block_02")
    with pytest.raises(UsageError, match="no attention before block_00"):
        maps(subject, images(1), ["rollout"], ["block_00"])
    with pytest.raises(DataError, match="does not depend on the attention before block_03"):
        maps(subject, images(1), ["gradient-attention"], ["block_03"])
