"""Heads on patch features: what is planted is found, noise is not, and a converged one is the known optimum."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from visprobe.metrics.segmentation import patch_head
from visprobe.metrics.segmentation.head_stack import Kind, Stack
from visprobe.metrics.segmentation.patch_head import HIDDEN, head_logits, select_heads, step_count, train_heads


def planted(images=40, patches=16, classes=4, noise=0.0, seed=0):
    """Patches of one class each, whose features are that class, one-hot, and `noise`; 9 pixels per patch."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (images, patches))
    features = np.eye(classes)[labels] + noise * rng.standard_normal((images, patches, classes))
    counts = 9 * np.eye(classes)[labels]
    return features.astype(np.float32), counts.astype(np.float32), labels


def batch_of(features, counts):
    return lambda images: (features[images], counts[images])


@pytest.mark.sample(1)
@pytest.mark.parametrize("hidden", [0, HIDDEN])
def test_planted_classes_are_found(hidden):
    features, counts, labels = planted()
    kinds = [Kind(hidden, target, 1e-2) for target in ("pixels", "classes")]
    best = select_heads(batch_of(features, counts), np.arange(8), np.arange(8, 10), kinds)
    for head in (one.head for one in best.values()):
        logits = head_logits(head, features)
        assert np.array_equal(logits.argmax(-1), labels)
    assert np.array_equal(head_logits(best[hidden, "classes"].head, features) > 0, counts > 0)


def test_the_linear_head_agrees_with_logistic_regression():
    """Noise of the size of the signal; 2,560 patches to learn from and 6,400 to be tried on."""
    features, counts, labels = planted(600, noise=0.7)
    kinds = [Kind(0, "pixels", rate) for rate in (1e-2, 1e-1)]
    best = select_heads(batch_of(features, counts), np.arange(160), np.arange(160, 200), kinds)
    ours = (head_logits(best[0, "pixels"].head, features[200:]).argmax(-1) == labels[200:]).mean()
    known = LogisticRegression(C=1e4).fit(features[:160].reshape(-1, 4), labels[:160].ravel())
    theirs = known.score(features[200:].reshape(-1, 4), labels[200:].ravel())
    assert 0.6 < theirs < 0.8
    assert abs(ours - theirs) < 0.005  # as good as the optimum that another solver finds, to half a point


def test_soft_labels_are_matched_by_the_shares_that_are_predicted():
    """Without features that vary, the optimum predicts the shares of the pixels, of counted pixels alone."""
    counts = np.tile(np.array([[6, 3, 0], [0, 0, 0]], np.float32), (8, 1, 1))  # the second patch is ignored
    features = np.ones((8, 2, 5), np.float32)
    *_, [pixels, classes] = train_heads(
        batch_of(features, counts), np.arange(8), [Kind(0, "pixels", 0.1), Kind(0, "classes", 0.1)]
    )
    shares = torch.softmax(torch.from_numpy(head_logits(pixels, features[0, 0])), -1).numpy()
    # 300 steps of AdamW: the share of an absent class falls towards 0 without reaching it
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 0], atol=0.01)
    assert (head_logits(classes, features[0, 0]) > 0).tolist() == [True, True, False]


def test_the_background_is_held_only_where_nothing_else_is():
    counts = np.tile(np.array([[5, 4, 0], [9, 0, 0]], np.float32), (8, 1, 1))
    features = np.tile(np.eye(2, dtype=np.float32), (8, 1, 1))
    for background, expected in ((None, [[1, 1, 0], [1, 0, 0]]), (0, [[0, 1, 0], [1, 0, 0]])):
        *_, [head] = train_heads(
            batch_of(features, counts), np.arange(8), [Kind(0, "classes", 0.1)], background=background
        )
        assert (head_logits(head, features[0]) > 0).astype(int).tolist() == expected


def test_the_same_seed_gives_the_same_bits_and_another_one_others(monkeypatch):
    monkeypatch.setattr(patch_head, "LEAST_STEPS", 10)
    features, counts, _ = planted(noise=1.0)

    def last(seed, own=features):
        *_, [head] = train_heads(batch_of(own, counts), np.arange(20), [Kind(8, "pixels", 1e-2)], seed=seed)
        return head_logits(head, own)

    assert np.array_equal(last(0), last(0))
    assert not np.array_equal(last(0), last(1))
    # Features are standardised: their scale and their offset do not matter, but for rounding in float32 (1e-7 of 100).
    np.testing.assert_allclose(last(0), last(0, 1e-3 * features + 1), atol=1e-2)


@pytest.mark.thorough
def test_rate_and_round_are_those_of_least_loss_on_the_images_kept_back():
    features, counts, _ = planted(noise=3.0)
    kinds = [Kind(64, "pixels", rate) for rate in (1e-2, 3e-2)]
    fit, held = np.arange(6), np.arange(6, 30)
    best = select_heads(batch_of(features, counts), fit, held, kinds)[64, "pixels"]
    losses = {}
    for number, heads in enumerate(train_heads(batch_of(features, counts), fit, kinds), 1):
        for head in heads:
            shares = torch.log_softmax(torch.from_numpy(head_logits(head, features[held])), -1)
            losses[head.kind.rate, number] = (
                -float((torch.from_numpy(counts[held]) * shares).sum()) / counts[held].sum()
            )
    assert len(losses) == 10
    assert (best.head.kind.rate, best.round) == min(losses, key=losses.__getitem__)
    assert best.loss == pytest.approx(min(losses.values()), rel=1e-5)
    assert best.round < 5  # few images and much noise: more training makes it worse


def test_heads_side_by_side_are_heads_by_themselves():
    """Each head of a stack is what torch's AdamW makes of a linear layer alone at its rate."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((20, 6)).astype(np.float32))
    counts = torch.from_numpy(draw.integers(0, 5, (20, 3)).astype(np.float32))
    for target in ("pixels", "classes"):
        kinds = [Kind(0, target, rate) for rate in (1e-3, 1e-1)]
        stack = Stack(kinds, 6, 3, torch.Generator().manual_seed(0), torch.device("cpu"))
        start = stack.each()[kinds[0]]
        for kind in kinds:
            alone = torch.nn.Linear(6, 3)
            alone.weight.data, alone.bias.data = start[0][0].T.clone(), start[0][1].clone()
            own = Stack(kinds, 6, 3, torch.Generator().manual_seed(0), torch.device("cpu"))
            optimiser = torch.optim.AdamW(alone.parameters(), weight_decay=0.01)
            for schedule in (0.5, 1.0, 0.3):
                own.step(x, counts, counts > 0, schedule)
                optimiser.param_groups[0]["lr"] = kind.rate * schedule
                optimiser.zero_grad()
                logits, of = alone(x), (counts > 0).any(-1)
                soft = -(counts * logits.log_softmax(-1)).sum() / counts.sum()
                hard = torch.nn.functional.binary_cross_entropy_with_logits(logits[of], (counts > 0)[of].float())
                (soft if target == "pixels" else hard).backward()
                optimiser.step()
            # Three steps in float32 of sums in another order: the last digits of weights below 1.
            torch.testing.assert_close(own.each()[kind][0][0], alone.weight.data.T, atol=1e-5, rtol=0)
            torch.testing.assert_close(own.each()[kind][0][1], alone.bias.data, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rates", "noise", "images", "steps", "edge"),
    [
        ((1e-4, 1e-3), 0.3, 8, 100, "largest rate"),  # both far too small
        ((1e1, 1e2), 3.0, 8, 20, "smallest rate"),  # both far too large
        ((3e-2,), 0.3, 8, 20, "last round"),  # still learning
        ((1e-1,), 30.0, 1, 400, "first round"),  # hardly anything to learn, so every round makes it worse
    ],
)
def test_a_choice_on_the_edge_of_what_was_tried_is_said(rates, noise, images, steps, edge):
    features, counts, _ = planted(noise=noise)
    kinds = [Kind(0, "pixels", rate) for rate in rates]
    fit, held = np.arange(images), np.arange(8, 40)
    [best] = select_heads(batch_of(features, counts), fit, held, kinds, least_steps=steps).values()
    assert edge in best.edges


def test_a_choice_inside_has_no_edge():
    features, counts, _ = planted(600, noise=0.7)
    kinds = [Kind(0, "pixels", rate) for rate in (1e-3, 1e-1, 1e1)]
    [best] = select_heads(batch_of(features, counts), np.arange(160), np.arange(160, 200), kinds).values()
    assert best.head.kind.rate == 1e-1
    assert best.edges == ()


def test_how_many_steps():
    assert step_count(20_000) == 3125  # 5 epochs of batches of 32, as published
    assert step_count(60) == 300
