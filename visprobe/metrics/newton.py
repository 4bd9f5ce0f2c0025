"""Least penalised loss of linear classifiers by truncated Newton steps, over a whole path of penalties."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from visprobe.metrics.matrices import Array

_CHUNK = 2048  # rows at once: the float64 logits of 2048 x 1000 classes are 16 MB
_STEPS = 50  # Newton steps for one penalty; three to eight are usual
_PRODUCTS = 500  # Hessian products for one Newton step
_NEAR = 0.1  # length of a gradient below which the curvature has settled
_ROUGH, _EXACT = 1e-6, 1e-14  # what sums of losses in float32 and float64 may be off, as a share


class Link(Protocol):
    """How logits become a loss, for one set of targets."""

    outputs: int
    shared: bool  # whether a number added to all logits of a row changes nothing

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
    """Features made ready for fits: of one set of targets after another, at one penalty after another.

    Beside the features it holds one float32 copy, turned into the axes of the covariance, where the
    preconditioner is diagonal, and during a fit one or two float32 arrays of shape (n, outputs). A fit begins with
    losses and gradients of that copy and ends with those of the features as given, in float64.

    Attributes:
        axes: Float64, shape (d, min(n, d)), orthonormal columns.
        turned: The copy, float32, shape (n, min(n, d)).
    """

    def __init__(self, features: Tensor) -> None:
        """Turn the features, floating point of shape (n, d); the fits run on their device."""
        self._features, self._n = features, len(features)
        starts = range(0, self._n, _CHUNK)
        self._mean = torch.stack([features[at : at + _CHUNK].double().sum(0) for at in starts]).sum(0) / self._n
        self._scale = 1.0
        values, self.axes = self._principal_axes()
        # The largest standard deviation as the unit: float32 then holds the squares of features of any scale.
        self._scale = math.sqrt(max(float(values[-1]), 0.0) / self._n) or 1.0
        self._variance = max(float(values.sum()), 0.0) / features.numel()
        shape = self._n, self.axes.shape[1]
        self.turned = torch.empty(shape, dtype=torch.float32, device=features.device)
        axes = self.axes.float()
        for rows, part in self._chunks():
            self.turned[rows] = part.float() @ axes

    def first(self, n: int) -> Path:
        """The path of the first `n` rows alone, which shares the memory of this one."""
        part = copy(self)
        part._features, part.turned, part._n = self._features[:n], self.turned[:n], n
        return part

    @property
    def variance(self) -> float:
        """Mean variance of a dimension."""
        return self._variance

    @property
    def features(self) -> Tensor:
        """The features as given, shape (n, d)."""
        return self._features

    def _principal_axes(self) -> tuple[Tensor, Tensor]:
        """Variances times n, rising, and the axes as columns, shape (d, min(n, d)).

        Of fewer rows than dimensions only the span matters: the weights of least loss lie in it.
        """
        width = self._features.shape[1]
        if self._n >= width:
            covariance = torch.zeros_like(self._mean).expand(width, -1).clone()
            for _, part in self._chunks():
                covariance.addmm_(part.T, part)
            values, axes = torch.linalg.eigh(covariance)
            return values, axes
        centred = self._features.double() - self._mean
        span = torch.linalg.qr(centred.T).Q
        inside = centred @ span
        values, axes = torch.linalg.eigh(inside.T @ inside)
        return values, span @ axes

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self._n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield rows, (self._features[rows].double() - self._mean) / self._scale

    def rough(self, at: Tensor) -> tuple[Iterator[tuple[slice, Tensor]], Tensor]:
        """The turned rows in chunks, float32, and the weights for them."""
        starts = range(0, self._n, _CHUNK)
        return ((slice(s, s + _CHUNK), self.turned[s : s + _CHUNK]) for s in starts), at[:-1].float()

    def exact(self, at: Tensor) -> tuple[Iterator[tuple[slice, Tensor]], Tensor]:
        """The rows as given, centred, in chunks, float64, and the weights for them."""
        return self._chunks(), self.axes @ at[:-1]

    def fit(
        self, link: Link, penalties: Sequence[float], tolerance: float, start: tuple[Array, Array] | None = None
    ) -> Iterator[Minimum]:
        """Minima at falling penalties, each begun where the curve through those before it, in log penalty, leads.

        Args:
            link: Of the targets of all rows.
            penalties: Positive.
            tolerance: Bound on `Minimum.gradient`; a minimum that misses it is given all the same.
            start: Weights (d, outputs) and intercept (outputs,) to begin at instead of at zero.
        """
        at = self._mean.new_zeros(self.axes.shape[1] + 1, link.outputs)
        if start is not None:
            weights, intercept = (torch.tensor(part, device=at.device) for part in start)
            at = torch.vstack([self._scale * self.axes.T @ weights, intercept + self._mean @ weights])
        passed: list[tuple[float, Tensor]] = []
        for penalty in penalties:
            begin = _ahead(passed, math.log(penalty), at)
            point, length, steps = _Descent(self, link, penalty / self._scale**2).run(begin, tolerance)
            at = point.at
            passed = [*passed[-2:], (math.log(penalty), at)]
            weights = self.axes @ at[:-1] / self._scale
            yield Minimum(weights, at[-1] - self._mean @ weights, penalty, point.loss, length, steps)


class _Descent:
    """Newton's method at one penalty: with losses and gradients in float32 while that helps, then in float64."""

    def __init__(self, path: Path, link: Link, penalty: float) -> None:
        self._path, self._link, self._penalty, self._steps = path, link, penalty, 0

    def run(self, begin: Tensor, tolerance: float) -> tuple[_Point, float, int]:
        """The last point, the length of its gradient and the steps."""
        rough, _ = self._descend(begin, tolerance, _ROUGH)
        point, length = self._descend(rough.at, tolerance, _EXACT)
        return point, length, self._steps

    def _descend(self, begin: Tensor, tolerance: float, rounding: float) -> tuple[_Point, float]:
        point, last = self._evaluate(begin, rounding), math.inf
        while True:
            if last > _NEAR or rounding == _EXACT:
                inverse = 1 / self._diagonal(point)
            length = math.sqrt(float((point.gradient**2 * inverse).sum()))
            stuck = rounding == _ROUGH and length > last / 2
            if length <= tolerance or stuck or self._steps >= _STEPS:
                return point, length
            enough = max(0.1 * length, 0.8 * tolerance)
            further = self._search(point, self._solve(point, inverse, enough), rounding)
            if further is None:
                return point, length
            point, last = further, length
            self._steps += 1

    def _diagonal(self, point: _Point) -> Tensor:
        """Diagonal of the Hessian in the axes of the covariance, shape of `point.at`."""
        turned, link = self._path.turned, self._link
        squares = torch.zeros(turned.shape[1], link.outputs, device=point.at.device)
        for start in range(0, len(turned), _CHUNK):
            rows = slice(start, start + _CHUNK)
            squares.addmm_((turned[rows] ** 2).T, link.curvature(point.state[rows]))
        return torch.vstack([squares.double() / len(turned) + self._penalty, point.curvature.clamp(min=1e-12)])

    def _evaluate(self, at: Tensor, rounding: float) -> _Point:
        path, n = self._path, len(self._path.turned)
        chunks, weights = path.rough(at) if rounding == _ROUGH else path.exact(at)
        slope, loss = torch.zeros_like(weights), 0.0
        shift, curvature = torch.zeros_like(at[-1]), torch.zeros_like(at[-1])
        state = torch.empty(n, self._link.outputs, dtype=torch.float32, device=at.device)
        last = at[-1].to(weights.dtype)
        for rows, part in chunks:
            own, residual, kept = self._link.residual((part @ weights).add_(last), rows)
            loss += float(own)
            slope.addmm_(part.T, residual)
            shift += residual.sum(0)
            curvature += self._link.curvature(kept).sum(0)
            state[rows] = kept
        turned = slope.double() if rounding == _ROUGH else path.axes.T @ slope
        gradient = torch.vstack([turned / n + self._penalty * at[:-1], self._free(shift) / n])
        loss = loss / n + self._penalty / 2 * float((at[:-1] ** 2).sum())
        return _Point(at, loss, gradient, state, curvature / n)

    def _product(self, point: _Point, direction: Tensor) -> Tensor:
        turned, n, single = self._path.turned, len(self._path.turned), direction.float()
        slope, shift = torch.zeros_like(single[:-1]), torch.zeros_like(single[-1])
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            part = turned[rows]
            bent = self._link.bend(point.state[rows], (part @ single[:-1]).add_(single[-1]), rows)
            slope.addmm_(part.T, bent)
            shift += bent.sum(0)
        return torch.vstack([slope.double() / n + self._penalty * direction[:-1], self._free(shift.double()) / n])

    def _free(self, shift: Tensor) -> Tensor:
        """What is left of a gradient by the intercept without the direction that no loss or penalty holds."""
        return shift - shift.mean() if self._link.shared else shift

    def _solve(self, point: _Point, inverse: Tensor, enough: float) -> Tensor:
        """Newton direction by preconditioned conjugate gradients, until the residual is small enough."""
        direction, residual = torch.zeros_like(point.at), -point.gradient
        scaled = inverse * residual
        search, square = scaled, float((residual * scaled).sum())
        for _ in range(_PRODUCTS):
            product = self._product(point, search)
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

    def _search(self, point: _Point, direction: Tensor, rounding: float) -> _Point | None:
        """First of the halved steps that lowers the loss enough, up to rounding."""
        slope, step = float((point.gradient * direction).sum()), 1.0
        while step > 1e-6:
            further = self._evaluate(point.at + step * direction, rounding)
            if further.loss <= point.loss + 1e-4 * step * slope + rounding * abs(point.loss):
                return further
            step /= 2
        return None


def _ahead(passed: list[tuple[float, Tensor]], place: float, last: Tensor) -> Tensor:
    """Where the polynomial through the last minima, three at most, leads; the last where there is one or none."""
    if len(passed) < 2:
        return last
    ahead = torch.zeros_like(last)
    for own, at in passed:
        ahead += math.prod((place - other) / (own - other) for other, _ in passed if other != own) * at
    return ahead
