"""Least penalised loss of linear classifiers by truncated Newton steps, over a whole path of penalties."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from visprobe.metrics.matrices import Array

_CHUNK = 2048  # rows at once: the float64 logits of 2048 x 1000 classes are 16 MB
_STEPS = 50  # Newton steps for one penalty; three to eight are usual
_PRODUCTS = 500  # Hessian products for one Newton step


class Link(Protocol):
    """How logits become a loss, for one set of targets."""

    outputs: int

    def residual(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss, its gradient by the logits, and what `bend` needs, of the shape of the logits."""

    def bend(self, state: Tensor, tangent: Tensor, rows: slice) -> Tensor:
        """Product of the loss's second derivative by the logits with a change of the logits."""

    def curvature(self, state: Tensor) -> Tensor:
        """Diagonal of that second derivative, shape (rows, outputs)."""


class Minimum(NamedTuple):
    """Where the mean loss plus `penalty` / 2 times the squared weights is least.

    Attributes:
        weights: Float64, shape (d, outputs), for the features as they were given.
        intercept: Float64, shape (outputs,).
        penalty: As asked for.
        loss: The penalised mean loss, in nats.
        gradient: Length of its gradient, each coordinate over the square root of its curvature: half the square
            is about how far the loss is above the least, in nats.
        steps: Newton steps taken.
    """

    weights: Tensor
    intercept: Tensor
    penalty: float
    loss: float
    gradient: float
    steps: int


class _Point(NamedTuple):
    at: Tensor  # (d + 1, outputs) in the axes of the covariance; the last row is the intercept
    loss: float
    gradient: Tensor
    state: Tensor  # float32, (n, outputs)
    curvature: Tensor  # mean over images, (outputs,)


class Path:
    """Features and targets made ready for fits at one penalty after another.

    Beside the features it holds one float32 copy, turned into the axes of the covariance, where the
    preconditioner is diagonal, and during a fit one or two float32 arrays of shape (n, outputs). Losses and
    gradients are float64 from the features as given; only the Hessian products of a step are float32.
    """

    def __init__(self, features: Tensor, link: Link) -> None:
        """Turn the features, floating point of shape (n, d); the fits run on their device."""
        self._features, self._link, self._n = features, link, len(features)
        starts = range(0, self._n, _CHUNK)
        self._mean = torch.stack([features[at : at + _CHUNK].double().sum(0) for at in starts]).sum(0) / self._n
        self._scale = 1.0
        covariance = torch.zeros_like(self._mean).expand(len(self._mean), -1).clone()
        for _, part in self._chunks():
            covariance.addmm_(part.T, part)
        values, self._axes = torch.linalg.eigh(covariance)
        # The largest standard deviation as the unit: float32 then holds the squares of features of any scale.
        self._scale = math.sqrt(max(float(values[-1]), 0.0) / self._n) or 1.0
        self._turned = torch.empty(features.shape, dtype=torch.float32, device=features.device)
        for rows, part in self._chunks():
            self._turned[rows] = part @ self._axes

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self._n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield rows, (self._features[rows].double() - self._mean) / self._scale

    def fit(
        self, penalties: Sequence[float], tolerance: float, start: tuple[Array, Array] | None = None
    ) -> Iterator[Minimum]:
        """Minima at falling penalties, each begun where the line through the two before it, in log penalty, leads.

        Args:
            penalties: Positive.
            tolerance: Bound on `Minimum.gradient`; a minimum that misses it is given all the same.
            start: Weights (d, outputs) and intercept (outputs,) to begin at instead of at zero.
        """
        at = self._mean.new_zeros(len(self._axes) + 1, self._link.outputs)
        if start is not None:
            weights, intercept = (torch.tensor(part, device=at.device) for part in start)
            at = torch.vstack([self._scale * self._axes.T @ weights, intercept + self._mean @ weights])
        passed: list[tuple[float, Tensor]] = []
        for penalty in penalties:
            begin = _ahead(passed, math.log(penalty), at)
            point, length, steps = self._descend(begin, penalty / self._scale**2, tolerance)
            at = point.at
            passed = [*passed[-1:], (math.log(penalty), at)]
            weights = self._axes @ at[:-1] / self._scale
            yield Minimum(weights, at[-1] - self._mean @ weights, penalty, point.loss, length, steps)

    def _descend(self, at: Tensor, penalty: float, tolerance: float) -> tuple[_Point, float, int]:
        point = self._evaluate(at, penalty)
        for step in range(_STEPS + 1):
            inverse = 1 / self._diagonal(point, penalty)
            length = math.sqrt(float((point.gradient**2 * inverse).sum()))
            if length <= tolerance or step == _STEPS:
                break
            direction = self._solve(point, inverse, penalty, max(min(0.25, math.sqrt(length)) * length, tolerance / 2))
            further = self._search(point, direction, penalty)
            if further is None:
                break
            point = further
        return point, length, step

    def _diagonal(self, point: _Point, penalty: float) -> Tensor:
        """Diagonal of the Hessian in the axes of the covariance, shape of `point.at`."""
        squares = torch.zeros(self._turned.shape[1], self._link.outputs, device=point.at.device)
        for start in range(0, self._n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            squares.addmm_((self._turned[rows] ** 2).T, self._link.curvature(point.state[rows]))
        return torch.vstack([squares.double() / self._n + penalty, point.curvature.clamp(min=1e-12)])

    def _evaluate(self, at: Tensor, penalty: float) -> _Point:
        weights = self._axes @ at[:-1]
        slope, shift = torch.zeros_like(weights), torch.zeros_like(at[-1])
        curvature, loss = torch.zeros_like(shift), 0.0
        state = torch.empty(self._n, self._link.outputs, dtype=torch.float32, device=at.device)
        for rows, part in self._chunks():
            own, residual, kept = self._link.residual((part @ weights).add_(at[-1]), rows)
            loss += float(own)
            slope.addmm_(part.T, residual)
            shift += residual.sum(0)
            curvature += self._link.curvature(kept).sum(0)
            state[rows] = kept
        gradient = torch.vstack([self._axes.T @ slope / self._n + penalty * at[:-1], shift / self._n])
        loss = loss / self._n + penalty / 2 * float((at[:-1] ** 2).sum())
        return _Point(at, loss, gradient, state, curvature / self._n)

    def _product(self, point: _Point, direction: Tensor, penalty: float) -> Tensor:
        single = direction.float()
        slope, shift = torch.zeros_like(single[:-1]), torch.zeros_like(single[-1])
        for start in range(0, self._n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            part = self._turned[rows]
            bent = self._link.bend(point.state[rows], (part @ single[:-1]).add_(single[-1]), rows)
            slope.addmm_(part.T, bent)
            shift += bent.sum(0)
        return torch.vstack([slope.double() / self._n + penalty * direction[:-1], shift.double() / self._n])

    def _solve(self, point: _Point, inverse: Tensor, penalty: float, enough: float) -> Tensor:
        """Newton direction by preconditioned conjugate gradients, until the residual is small enough."""
        direction, residual = torch.zeros_like(point.at), -point.gradient
        scaled = inverse * residual
        search, square = scaled, float((residual * scaled).sum())
        for _ in range(_PRODUCTS):
            product = self._product(point, search, penalty)
            bend = float((search * product).sum())
            if not bend > 0:  # rounding: the loss is convex
                break
            direction = direction + square / bend * search
            residual = residual - square / bend * product
            scaled = inverse * residual
            before, square = square, float((residual * scaled).sum())
            if math.sqrt(square) <= enough:
                break
            search = scaled + square / before * search
        return direction

    def _search(self, point: _Point, direction: Tensor, penalty: float) -> _Point | None:
        """First of the halved steps that lowers the loss enough, up to rounding."""
        slope, step = float((point.gradient * direction).sum()), 1.0
        while step > 1e-6:
            further = self._evaluate(point.at + step * direction, penalty)
            if further.loss <= point.loss + 1e-4 * step * slope + 1e-14 * abs(point.loss):
                return further
            step /= 2
        return None


def _ahead(passed: list[tuple[float, Tensor]], place: float, last: Tensor) -> Tensor:
    """Where the line through the last two minima leads, or the last where there are not two."""
    if len(passed) < 2:
        return last
    (earlier, first), (later, second) = passed
    return second + (place - later) / (later - earlier) * (second - first)
