"""Targets of a tower: against the formulas on numpy arrays, invariances, the embedding, and what is refused."""

import numpy as np
import pytest
import torch
from towers import images, siglip, two_tower

from visprobe.analyses.accuracy.zeroshot import Reader, class_embeddings
from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.targets.classes import class_logit, class_similarity, text_similarity
from visprobe.attribution.targets.subject import TowerSubject
from visprobe.encoders import load_encoder
from visprobe.encoders.text.text_tower import load_text_tower
from visprobe.errors import DataError

LABELS = (2, 0, 1, 2)
RNG = np.random.default_rng(0)
CLASSES, SHIFTS = RNG.standard_normal((3, 6)), np.array([0.5, -1.0, 2.0])
TOKENS = [torch.from_numpy(RNG.standard_normal((1, count, 6))).float() for count in (4, 9, 4, 6)]
POOLED = np.stack([one[0].mean(0).numpy() for one in TOKENS]).astype(np.float64)
CLOSE = {"rtol": 0, "atol": 1e-5}  # float32, values of order one


def similarity(rows, classes):
    cosines = (rows @ classes.T) / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(classes, axis=1)
    own = [float(row[label]) for row, label in zip(cosines, LABELS, strict=False)]
    return [one - (row.sum() - one) / 2 for one, row in zip(own, cosines, strict=True)]


def test_similarity_is_the_cosine_with_the_own_class_above_the_others():
    scores = class_similarity(CLASSES, LABELS)(TOKENS, 0)
    np.testing.assert_allclose(scores, similarity(POOLED, CLASSES), **CLOSE)
    longer = class_similarity(CLASSES * [[3], [0.1], [7]], LABELS)([100 * one for one in TOKENS], 0)
    np.testing.assert_allclose(longer, scores, **CLOSE)


def test_logit_is_the_log_odds_of_the_probe():
    scores = class_logit(CLASSES, SHIFTS, LABELS)(TOKENS, 0)
    logits = POOLED @ CLASSES.T + SHIFTS
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[range(4), LABELS]
    np.testing.assert_allclose(scores, np.log(p / (1 - p)), **CLOSE)
    shifted = class_logit(CLASSES + RNG.standard_normal(6), SHIFTS + 3, LABELS)(TOKENS, 0)
    np.testing.assert_allclose(shifted, scores, **CLOSE)  # a softmax does not see what all classes share


@pytest.mark.parametrize("target", [class_similarity(CLASSES, LABELS), class_logit(CLASSES, SHIFTS, LABELS)])
def test_each_image_keeps_its_label_in_any_batch(target):
    whole, parts = target(TOKENS, 0), [target([one], n) for n, one in enumerate(TOKENS)]
    torch.testing.assert_close(torch.cat(parts), whole)
    with pytest.raises(DataError, match="5 images or more, and 4 labels"):
        target(TOKENS[:2], 3)
    with pytest.raises(DataError, match="given in 6 numbers, the tokens have 5"):
        target([torch.ones(1, 4, 5)], 0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_text_similarity_reads_the_embedding_of_the_tower_itself(tmp_path, kind):
    model = two_tower(tmp_path / kind, kind)
    encoder, text = load_encoder(tmp_path / kind), load_text_tower(tmp_path / kind)
    reader = Reader(text, text.visual_projection is not None and encoder.projection_hash is None)
    names, templates = ("cat", "dog", "three"), ("a {}.", "one {}")
    subject = TowerSubject(encoder, text_similarity(reader, names, LABELS, templates), read="embedding")
    found = maps(subject, images(4), ["gradcam"], ["block_01"])["gradcam", "block_01"]
    pixels = encoder.preprocess(images(4))
    with torch.no_grad():
        given = model.get_image_features(**pixels.inputs)
    seen = getattr(given, "pooler_output", given).double().numpy()
    expected = similarity(seen, class_embeddings(text, names, templates))
    # A batch and a single image add float32 numbers in another order.
    np.testing.assert_allclose([one.score for one in found], expected, **CLOSE)
    assert all(bool(one.values.any()) for one in found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: class_similarity(CLASSES[:1], (0,)), "not one finite row for each of two classes"),
        (lambda: class_similarity(CLASSES[0], (0,)), "not one finite row"),
        (lambda: class_similarity(CLASSES * np.nan, LABELS), "not one finite row"),
        (lambda: class_similarity(CLASSES * [[1], [0], [1]], LABELS), "a class prototype is zero"),
        (lambda: class_similarity(CLASSES, (0, 3)), "label 3 is none of 3 classes"),
        (lambda: class_logit(CLASSES, SHIFTS[:2], LABELS), r"3 classes, and intercepts of shape \(2,\)"),
    ],
)
def test_what_is_no_target_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_map_of_the_log_odds_peaks_where_the_class_is(tmp_path):
    """Of the mean token's linear score, Grad-CAM is the score's own share of each patch."""
    encoder = siglip(tmp_path)
    coefficients = np.random.default_rng(1).standard_normal((2, 32))
    subject = TowerSubject(encoder, class_logit(coefficients, np.zeros(2), (0, 0)))
    found = maps(subject, images(2), ["gradcam"])["gradcam", encoder.consumed]
    tokens = encoder(images(2))["consumed"].double().numpy()
    shares = (tokens @ (coefficients[0] - coefficients[1]) / 16).reshape(2, 4, 4)
    for one, expected in zip(found, shares, strict=True):
        # Grad-CAM averages the gradient, a sixteenth of the coefficients, over the patches: a sum of float32.
        np.testing.assert_allclose(one.values, expected, rtol=0, atol=1e-5 * abs(expected).max())
        assert one.score == pytest.approx(expected.sum(), abs=1e-4)
