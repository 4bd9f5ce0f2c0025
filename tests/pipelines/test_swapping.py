"""Parts exchanged between two towers: a planted block is found, rounding names none, ends meet."""

import numpy as np
import pytest
import torch
import transformers

from visprobe.analyses.swap.sentences import carrying, listed, swap_verdict
from visprobe.analyses.swap.swap import TESTED, Hybrid, Pair, column, layer_swap
from visprobe.cli.app import main
from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.exchange.swap import Swap, swapped
from visprobe.encoders.pixels import Pixels
from visprobe.errors import UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.swap import parts_of, plan, swap

N = 60
LOUD = "encoder.layers.1.mlp.fc2.weight"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Towers of three blocks: base, a copy, and one whose block 2 reads louder."""
    root = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(**SMALL, image_size=32, patch_size=8, vision_use_head=False)
    model = transformers.SiglipVisionModel(config)
    with quiet():
        for name in ("base", "equal", "moved"):
            if name == "moved":
                with torch.no_grad():
                    dict(model.named_parameters())[LOUD].mul_(1.5)
            model.save_pretrained(root / name)
    return root


def noisy(encoder, seed, block=None):
    """Every weight moved within its bfloat16 spacing, as if rounded another way; one block by a fifth of its size."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in encoder.weights().items():
        spacing = torch.exp2(torch.floor(torch.log2(weight.abs().clamp_min(1e-30))) - 7)
        rounding = (torch.rand(weight.shape, generator=generator) - 0.5) * spacing
        noise = 0.2 * torch.randn(weight.shape, generator=generator) if encoder.weight_group(name) == block else 0
        weights[name] = weight * (1 + noise) + rounding
    return encoder.with_weights("other", weights, encoder.provenance)


def features(encoder, pixels, labels):
    tokens = encoder.forward(pixels, [encoder.consumed], lambda t: t.mean(1))
    ids = tuple(map(str, range(N)))
    return FeatureSet(encoder.name, "val", ids, labels, None, {encoder.consumed: tokens[encoder.consumed].numpy()},
                      encoder.consumed, baseline=encoder.baseline)  # fmt: skip


def exchanged(base, other, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % 4
    pixels = Pixels(
        {"pixel_values": torch.tensor(rng.standard_normal((N, 3, 32, 32)) + 0.3 * labels[:, None, None, None]).float()},
        ((4, 4),) * N,
    )
    hybrids = []
    for exchange in plan(parts_of(base, "blocks", 0), TESTED):
        ends = (other, base) if exchange.direction == "necessary" else (base, other)
        encoder = swapped(Swap("a", exchange.spec, "b"), *ends)
        encoder.name = f"{exchange.direction} {exchange.part}"
        hybrids.append(Hybrid(exchange.direction, exchange.part, features(encoder, pixels, labels)))
    *whole, baseline = [features(encoder, pixels, labels) for encoder in (base, other, base.rounded(torch.bfloat16))]
    return layer_swap(Pair(*whole, [baseline]), hybrids)


def named(result):
    """Parts that carry any measure either way."""
    ways = {(test["measure"], test["direction"]) for test in result.settings["tests"] if test["direction"] != "all"}
    return {part for measure, way in ways for part in carrying(result, measure, way)}


@pytest.mark.thorough
def test_a_planted_block_is_found_and_no_other_in_each_of_20_seeds(folder):
    base = load_encoder(folder / "base")
    base.name = "base"
    for seed in range(20):
        result = exchanged(base, noisy(base, seed, "block_02"), seed)
        for way in ("sufficient", "necessary"):
            assert carrying(result, "cka_consumed", way) == ["block_02"], seed
        assert named(result) == {"block_02"}


@pytest.mark.thorough
def test_rounding_is_no_difference_in_at_least_19_of_20_seeds(folder):
    """Two roundings of the same weights differ by more than intervals over images know."""
    base = load_encoder(folder / "base")
    base.name = "base"
    results = [exchanged(base, noisy(base, seed), seed) for seed in range(20)]
    [alike] = {len(swap_verdict(result)) for result in results}
    placed = [
        text for r in results for text in map(str, swap_verdict(r)) if "there is no difference to place" not in text
    ]
    assert alike == 2 and len(placed) <= 1
    assert sum(not named(result) for result in results) >= 19


def test_ends_meet_and_only_what_changed_is_exchanged(folder, tmp_path):
    options = Options(limit=40, store=tmp_path / "store")
    measured = swap(folder / "base", folder / "moved", "digits", options)
    [result] = measured.results
    assert result.settings["parts"] == ["block_02"]
    assert [warning.split(":")[0] for warning in result.warnings] == [
        f"weights are equal in {part}" for part in ("embeddings", "block_01", "block_03", "final_norm")
    ]
    value = {(row.checkpoint, row.measure): row.estimate.value for row in result.rows if row.role == "value"}
    into, out, up_to = (column(way, "base", "moved") for way in ("sufficient", "necessary", "cumulative"))
    for name in (into, up_to):  # all that differs is exchanged: the hybrid is the other checkpoint
        assert value[name, "cka_consumed"] == pytest.approx(1, abs=1e-12)  # float64 sums of 40 images
        assert value[name, "top1_consumed"] == value["moved", "top1_consumed"]
    assert value[out, "cka_consumed"] == value["base", "cka_consumed"] < 1
    assert value[out, "top1_consumed"] == value["base", "top1_consumed"]
    assert carrying(result, "cka_consumed", "sufficient") == ["block_02"]
    assert "block 2 carries it measurably (100 % of the distance)" in measured.verdict[0].text
    for statement in measured.verdict:
        for reference in statement.evidence:
            assert result.select(**{key: text for key, text in reference.items() if key != "analysis"})


def test_equal_checkpoints_are_refused(folder):
    with pytest.raises(UsageError, match="have equal weights"):
        swap(folder / "base", folder / "equal", "digits", Options(limit=20))


def test_groups_cover_every_block_once(folder):
    encoder = load_encoder(folder / "base")
    assert [part.spec for part in parts_of(encoder, "groups", 2)] == [
        "embeddings",
        "block 1",
        "blocks 2-3",
        "final_norm",
    ]
    assert [e.spec for e in plan(parts_of(encoder, "groups", 1))][-2:] == [
        "embeddings, blocks 1-3",
        "embeddings, blocks 1-3, final_norm",
    ]
    with pytest.raises(UsageError, match="3 blocks cannot be cut into 4"):
        parts_of(encoder, "groups", 4)


@pytest.mark.thorough
def test_hybrids_are_made_a_few_at_a_time_with_one_answer(folder, tmp_path, monkeypatch):
    whole = swap(folder / "base", folder / "moved", "digits", Options(limit=40, store=tmp_path / "a"))
    monkeypatch.setattr("visprobe.pipelines.swap.MEMORY", 1)
    parts = swap(folder / "base", folder / "moved", "digits", Options(limit=40, store=tmp_path / "b"))
    assert whole.results == parts.results
    assert whole.data == parts.data


def test_parts_in_words():
    parts = ["embeddings", "block_01", "block_02", "block_05", "final_norm"]
    assert listed(parts) == "the embeddings, blocks 1-2, block 5 and the final norm"
    assert listed(["blocks 1-4"]) == "blocks 1-4"


@pytest.mark.thorough
def test_the_command_writes_table_verdict_and_figure(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    where = [str(folder / "base"), str(folder / "moved"), "--data", "digits", "-o", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["visprobe", "swap", *where, "--limit", "40", "--quiet"])
    with pytest.raises(SystemExit) as left:
        main()
    shown = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    assert "put in alone − base" in shown and "block_02" in shown and "block 2 carries it measurably" in shown
    assert (tmp_path / "out" / "figures" / "swap.svg").is_file()
