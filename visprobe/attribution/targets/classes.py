"""Targets of a tower by itself: how well it separates an image's class from the others.

Every target subtracts the other classes. Without that, most of a map shows what all classes have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from numpy.typing import ArrayLike
from torch.nn.functional import normalize, one_hot

from visprobe.analyses.accuracy.zeroshot import Reader, class_embeddings
from visprobe.attribution.targets.subject import Target
from visprobe.data.templates import TEMPLATES
from visprobe.errors import DataError

_NO_CLASSES = "Give the classes that the labels count, two or more of them."


def class_similarity(prototypes: ArrayLike, labels: Sequence[int]) -> Target:
    """Return a target: cosine of the mean token with the prototype of its class, minus the mean cosine with the others.

    Args:
        prototypes: Mean feature of each class at the site that is read, shape (classes, D), from other images.
        labels: Class index of each image.

    Returns:
        A target whose scores lie in [-2, 2].

    Raises:
        DataError: If there are fewer than two classes, a label is out of range, or a prototype is zero or not finite;
            when the target is called, if prototypes and tokens differ in width.
    """
    rows = _rows(prototypes, labels, "prototypes")
    if not rows.any(dim=1).all():
        raise DataError("a class prototype is zero: it has no direction", hint="Leave this class out.")
    return _against_the_mean(normalize(rows, dim=1), labels)


def class_logit(coefficients: ArrayLike, intercepts: ArrayLike, labels: Sequence[int]) -> Target:
    """Return a target: log odds of the image's class under a linear probe of its mean token.

    The log odds are the logit of the class minus the logsumexp of the other logits.

    Args:
        coefficients: Weights of the probe, shape (classes, D), for features that are not standardised.
        intercepts: Biases of the probe, shape (classes,).
        labels: Class index of each image.

    Returns:
        A target whose scores are in nats: above 0 where the probe gives the class a probability above one half.

    Raises:
        DataError: If there are fewer than two classes or not one intercept for each, a label is out of range, or a
            coefficient is not finite; when the target is called, if coefficients and tokens differ in width.
    """
    rows = _rows(coefficients, labels, "coefficients")
    shifts = torch.as_tensor(intercepts, dtype=torch.float32).detach()
    if shifts.shape != (len(rows),):
        raise DataError(f"{len(rows)} classes, and intercepts of shape {tuple(shifts.shape)}", hint=_NO_CLASSES)

    def odds(pooled: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        logits = pooled @ rows.to(pooled).T + shifts.to(pooled)
        return logits[own] - logits[~own].reshape(len(pooled), -1).logsumexp(dim=1)

    return _of_pooled(odds, labels, len(rows), rows.shape[1])


def text_similarity(
    reader: Reader, names: Sequence[str], labels: Sequence[int], templates: Sequence[str] = TEMPLATES
) -> Target:
    """Return a target: cosine of the embedding with its class's sentences, minus the mean cosine with the others.

    It needs a subject that reads "embedding", the output of the tower's own head.

    Args:
        reader: Text tower, with a flag for its visual projection.
        names: Name of each class.
        labels: Class index of each image.
        templates: Sentences with {} where the name goes.

    Returns:
        A target whose scores lie in [-2, 2].

    Raises:
        DataError: If there are fewer than two classes, or a label is out of range; when the target is called, if names
            and tokens differ in width.

    Source:
        CLIP (2103.00020), section 3.1.4, for the sentences.
    """
    rows = _rows(class_embeddings(reader.tower, names, templates), labels, "names")
    projection = reader.tower.visual_projection if reader.project else None
    return _against_the_mean(rows, labels, projection)


def _against_the_mean(rows: torch.Tensor, labels: Sequence[int], projection: torch.Tensor | None = None) -> Target:
    """Return a target from unit vectors of the classes, shape (classes, D)."""

    def above(pooled: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        read = pooled if projection is None else pooled @ projection.to(pooled).T
        cosines = normalize(read, dim=1) @ rows.to(pooled).T
        return cosines[own] - cosines[~own].reshape(len(pooled), -1).mean(dim=1)

    width = rows.shape[1] if projection is None else projection.shape[1]
    return _of_pooled(above, labels, len(rows), width)


def _of_pooled(
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], labels: Sequence[int], classes: int, width: int
) -> Target:
    """Return a target from a score of mean tokens (images, D) and the one-hot mask of their classes."""
    own = one_hot(torch.as_tensor(labels, dtype=torch.int64), classes).bool()

    def target(tokens: list[torch.Tensor], first: int) -> torch.Tensor:
        if first + len(tokens) > len(own):
            raise DataError(
                f"{first + len(tokens)} images or more, and {len(own)} labels", hint="Give each image its label."
            )
        pooled = torch.cat([one.mean(dim=1) for one in tokens])
        if pooled.shape[1] != width:
            raise DataError(
                f"the classes are given in {width} numbers, the tokens have {pooled.shape[1]}",
                hint="Make them from features of the site that is read.",
            )
        return score(pooled, own[first : first + len(tokens)].to(pooled.device))

    return target


def _rows(values: ArrayLike, labels: Sequence[int], what: str) -> torch.Tensor:
    """Return one row per class, float32; refuse other shapes, values that are not finite, and labels out of range."""
    rows = torch.as_tensor(values, dtype=torch.float32).detach()
    if rows.ndim != 2 or len(rows) < 2 or not torch.isfinite(rows).all():
        raise DataError(
            f"{what} of shape {tuple(rows.shape)} are not one finite row for each of two classes or more",
            hint=_NO_CLASSES,
        )
    if strange := sorted(label for label in set(labels) if not 0 <= label < len(rows)):
        raise DataError(f"label {strange[0]} is none of {len(rows)} classes", hint=_NO_CLASSES)
    return rows
