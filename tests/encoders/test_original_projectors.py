"""Every projector of original LLaVA against plain operations on the weights as its checkpoints spell them."""

import pytest
import torch
from tiny_checkpoints import images
from tiny_original import TEXT, WIDTH, mlp, through_mlp, tower, write_tower
from torch.nn.functional import conv2d, gelu, layer_norm

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

# float32, sums of at most 128 products in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def random(**shapes):
    """Weights under `model.mm_projector.`; "__" stands for a dot."""
    generator = torch.Generator().manual_seed(1)
    return {f"model.mm_projector.{name.replace('__', '.').lstrip('n')}": torch.randn(shape, generator=generator) * 0.1
            for name, shape in shapes.items()}  # fmt: skip


def residual_blocks(first, count):
    """`SimpleResBlock`s in an `nn.Sequential`, from entry `first` on."""
    shapes = {}
    for number in range(first, first + count):
        for place in ("pre_norm", "proj__0", "proj__2"):
            shapes[f"n{number}__{place}__weight"] = (TEXT,) if place == "pre_norm" else (TEXT, TEXT)
            shapes[f"n{number}__{place}__bias"] = (TEXT,)
    return random(**shapes)


def through_residual(tokens, saved, first, count):
    def weight(name):
        return saved[f"model.mm_projector.{name}"]

    for n in range(first, first + count):
        tokens = layer_norm(tokens, (TEXT,), weight(f"{n}.pre_norm.weight"), weight(f"{n}.pre_norm.bias"))
        hidden = gelu(tokens @ weight(f"{n}.proj.0.weight").T + weight(f"{n}.proj.0.bias"))
        tokens = tokens + hidden @ weight(f"{n}.proj.2.weight").T + weight(f"{n}.proj.2.bias")
    return tokens


def loaded(tmp_path, projector, **fields):
    _, named, saved = tower("clip", tmp_path)
    return load_encoder(write_tower(tmp_path / "l", saved, named, projector, **fields))


@pytest.mark.parametrize(("linears", "blocks"), [(1, 1), (2, 2), (3, 1)])
def test_residual_blocks(tmp_path, linears, blocks):
    chain, rest = mlp(layers=linears), residual_blocks(2 * linears - 1, blocks)
    encoder = loaded(tmp_path, chain | rest, mm_projector_type=f"mlp{linears}x_res{blocks}x_gelu")
    tokens = encoder(images())
    expected = through_residual(through_mlp(tokens["consumed"], chain), rest, 2 * linears - 1, blocks)
    torch.testing.assert_close(tokens["projected"], expected, **CLOSE)
    weights = encoder.weights()
    assert torch.equal(
        weights["projector.block_1.linear_2.bias"], rest[f"model.mm_projector.{2 * linears - 1}.proj.2.bias"]
    )
    assert sum(name.startswith("projector.") for name in weights) == len(chain | rest)


def test_pooler_joins_squares(tmp_path):
    saved = random(conv_pool__weight=(TEXT, WIDTH, 2, 2), conv_pool__bias=(TEXT,), proj__1__weight=(TEXT, TEXT),
                   proj__1__bias=(TEXT,))  # fmt: skip
    encoder = loaded(tmp_path, saved, mm_projector_type="pooler")
    tokens = encoder(images())
    weights = [saved[f"model.mm_projector.{name}"] for name in ("conv_pool.weight", "conv_pool.bias", "proj.1.weight")]
    pooled = conv2d(tokens["consumed"].mT.reshape(2, WIDTH, 4, 4), *weights[:2], stride=2)
    expected = gelu(pooled.flatten(2).mT) @ weights[2].T + saved["model.mm_projector.proj.1.bias"]
    assert tokens["projected"].shape == (2, 4, TEXT)
    torch.testing.assert_close(tokens["projected"], expected, **CLOSE)
    assert encoder.untrained(0)(images())["projected"].shape == (2, 4, TEXT)


def test_a_bridge_of_other_widths(tmp_path):
    bridge = mlp(layers=2) | random(n4__weight=(TEXT, TEXT), n4__bias=(TEXT,), n6__weight=(40, TEXT), n6__bias=(40,))
    encoder = loaded(tmp_path, bridge, mm_projector_type=f"mlp2x_gelu_{WIDTH}_{TEXT}+2")
    tokens = encoder(images())
    assert tokens["projected"].shape[-1] == 40
    torch.testing.assert_close(tokens["projected"], through_mlp(tokens["consumed"], bridge), **CLOSE)


@pytest.mark.parametrize(
    ("kind", "projector", "message"),
    [
        ("mlp3x_gelu", mlp(layers=2), "4 tensors, and mlp3x_gelu after this tower means 3 linear layers"),
        (f"mlp2x_gelu_{WIDTH}_{TEXT}+2", mlp(layers=3), "means 4 linear layers"),
        ("mlp2x_gelu", {**mlp(), **random(n4__gate=(3,))}, "is not a chain of linear layers"),
        ("mlp2x_res1x_gelu", mlp(), "do not make a mlp2x_res1x_gelu: Missing key.*block_1"),
        ("mlp2x_res1x_gelu", mlp(7) | residual_blocks(3, 1), "tokens of width 32"),
        ("pooler", mlp(), r"holds conv\.weight of shape \[\]"),
        ("mlp2x_gelu", {}, "there is no projector"),
    ],
)
def test_weights_of_another_type_are_refused(tmp_path, kind, projector, message):
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path, projector, mm_projector_type=kind)
