"""Truncated Newton minimisation of penalised linear classifiers over a path of penalties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from visprobe.metrics.arrays import Array

_CHUNK = 2048  # rows at once: the float64 logits of 2048 x 1000 classes are 16 MB
_STEPS = 50  # Newton steps for one penalty; three to eight are usual
_PRODUCTS = 500  # Hessian products for one Newton step
_NEAR = 0.1  # length of a gradient below which the curvature has settled
_AIM = 0.7  # share of the tolerance that the last step may leave of the gradient
_ROUGH, _EXACT = 1e-6, 1e-14  # relative rounding of summed losses in float32 and float64


class Link(Protocol):
    """Loss as a function of logits, for one set of targets."""

    outputs: int
    shared: bool  # True if adding a constant to all logits of a row changes nothing

    def residual(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss, its gradient by the logits, and the state for `hessian_vector_product`."""

    def hessian_vector_product(self, state: Tensor, tangent: Tensor, rows: slice) -> Tensor:
        """Multiply the loss's second derivative by the logits with a change of the logits."""

    def curvature(self, state: Tensor) -> Tensor:
        """Return the diagonal of that second derivative, shape (rows, outputs)."""


class Minimum(NamedTuple):
    """Minimum of the mean loss plus `penalty` / 2 times the squared weights.

    Attributes:
        weights: float64, shape (d, outputs), for the features as given.
        intercept: float64, shape (outputs,).
        penalty: Strength of the penalty.
        loss: Penalised mean loss, in nats.
        gradient: Norm of its gradient, each coordinate divided by the square root of its curvature: half the square
            is about the distance of the loss from its minimum, in nats.
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


class BlockHessian(NamedTuple):
    """Second derivatives of the mean loss by the weights of each output, in the axes of the covariance, unpenalised."""

    # Rows weigh by the curvature of their own loss, so their weighted mean is far from zero: it is the mean of the rows
    # that a class is confused with. Diagonal, mean and weight neglect only correlations between axes about that mean.
    squares: Tensor  # diagonal, (d, outputs)
    means: Tensor  # weighted means of the rows, (d, outputs)
    weights: Tensor  # of the intercept, (outputs,)

    def diagonal(self, penalty: float) -> Tensor:
        """Return the penalised diagonal, (d + 1, outputs)."""
        return torch.vstack([self.squares + penalty, self.weights])

    def inverse(self, penalty: float) -> Callable[[Tensor], Tensor]:
        """Return a preconditioner: the inverse if the axes were uncorrelated about the weighted means."""
        spread = (self.squares - self.weights * self.means**2).clamp_(min=0).add_(penalty)
        means, weights = self.means, self.weights

        def solve(right: Tensor) -> Tensor:
            # Block elimination of the intercept: the Schur complement of its weight is `spread`.
            turn = (right[:-1] - means * right[-1]) / spread
            return torch.vstack([turn, right[-1] / weights - (means * turn).sum(0)])

        return solve


class Path:
    """Features prepared for fits of several sets of targets at several penalties.

    Beside the features it holds one float32 copy, rotated into the axes of the covariance, where the
    preconditioner is diagonal, and during a fit one or two float32 arrays of shape (n, outputs). A fit begins with
    losses and gradients of that copy and ends with those of the features as given, in float64.

    Attributes:
        axes: float64, shape (d, min(n, d)), orthonormal columns.
        rotated: The rotated copy, float32, shape (n, min(n, d)).
    """

    def __init__(self, features: Tensor) -> None:
        """Rotate the features, floating point of shape (n, d); fits run on their device."""
        self._features, self._n = features, len(features)
        starts = range(0, self._n, _CHUNK)
        self._mean = torch.stack([features[at : at + _CHUNK].double().sum(0) for at in starts]).sum(0) / self._n
        self._scale = 1.0
        values, self.axes = self._principal_axes()
        # The largest standard deviation as the unit: float32 then holds the squares of features of any scale.
        self._scale = math.sqrt(max(float(values[-1]), 0.0) / self._n) or 1.0
        self._variance = max(float(values.sum()), 0.0) / features.numel()
        shape = self._n, self.axes.shape[1]
        self.rotated = torch.empty(shape, dtype=torch.float32, device=features.device)
        axes = self.axes.float()
        for rows, part in self._chunks():
            self.rotated[rows] = part.float() @ axes

    def first(self, n: int) -> Path:
        """Return the path of the first `n` rows alone, which shares the memory of this one."""
        part = copy(self)
        part._features, part.rotated, part._n = self._features[:n], self.rotated[:n], n
        return part

    @property
    def variance(self) -> float:
        """Mean variance of a dimension."""
        return self._variance

    @property
    def features(self) -> Tensor:
        """Features as given, shape (n, d)."""
        return self._features

    def _principal_axes(self) -> tuple[Tensor, Tensor]:
        """Return variances times n, rising, and the axes as columns, shape (d, min(n, d))."""
        width = self._features.shape[1]
        if self._n >= width:
            # Summed over chunks, so that no float64 copy of all features is made.
            covariance = torch.zeros_like(self._mean).expand(width, -1).clone()
            for _, part in self._chunks():
                covariance.addmm_(part.T, part)
            values, axes = torch.linalg.eigh(covariance)
            return values, axes
        # With fewer rows than dimensions the weights of least loss lie in the span of the rows.
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
        """Return the rotated rows in chunks, float32, and the weights for them."""
        starts = range(0, self._n, _CHUNK)
        return ((slice(s, s + _CHUNK), self.rotated[s : s + _CHUNK]) for s in starts), at[:-1].float()

    def exact(self, at: Tensor) -> tuple[Iterator[tuple[slice, Tensor]], Tensor]:
        """Return the rows as given, centred, in chunks, float64, and the weights for them."""
        return self._chunks(), self.axes @ at[:-1]

    def fit(
        self, link: Link, penalties: Sequence[float], tolerance: float, start: tuple[Array, Array] | None = None
    ) -> Iterator[Minimum]:
        """Yield minima at falling penalties, each begun where the last three extrapolate to.

        Args:
            link: Loss with the targets of all rows.
            penalties: Positive, falling.
            tolerance: Bound on `Minimum.gradient`; a minimum that misses it is yielded all the same.
            start: Weights (d, outputs) and intercept (outputs,) to begin at instead of zero.
        """
        at = self._mean.new_zeros(self.axes.shape[1] + 1, link.outputs)
        if start is not None:
            weights, intercept = (torch.tensor(part, device=at.device) for part in start)
            # Given weights are turned into the axes and unit of the path; the intercept moves by the mean.
            at = torch.vstack([self._scale * self.axes.T @ weights, intercept + self._mean @ weights])
        passed: list[tuple[float, Tensor]] = []
        hessian = None
        for penalty in penalties:
            begin = _ahead(passed, math.log(penalty), at)
            descent = _Descent(self, link, penalty / self._scale**2, hessian)
            point, length, steps = descent.run(begin, tolerance)
            at, hessian = point.at, descent.hessian
            passed = [*passed[-2:], (math.log(penalty), at)]
            weights = self.axes @ at[:-1] / self._scale
            yield Minimum(weights, at[-1] - self._mean @ weights, penalty, point.loss, length, steps)


class _Descent:
    # Newton's method at one penalty: losses and gradients in float32 while that makes progress, then in float64.
    def __init__(self, path: Path, link: Link, penalty: float, hessian: BlockHessian | None) -> None:
        self._path, self._link, self._penalty, self._steps = path, link, penalty, 0
        self.hessian = hessian  # of a nearby point, if any

    def run(self, begin: Tensor, tolerance: float) -> tuple[_Point, float, int]:
        """Return the last point, the norm of its gradient and the number of steps."""
        near = self._approached(begin, tolerance)
        point = self._evaluate(near, _EXACT)
        length = self._length(point, _EXACT)
        while length > tolerance and self._steps < _STEPS:
            further = self._step(point, length, tolerance, _EXACT)
            if further is None:
                break
            point = further
            length = self._length(point, _EXACT)
        return point, length, self._steps

    def _approached(self, begin: Tensor, tolerance: float) -> Tensor:
        """Descend in float32; the last step, small and sure, is not evaluated."""
        point, last = self._evaluate(begin, _ROUGH), math.inf
        while True:
            length = self._length(point, _ROUGH)
            # Where a step no longer halves the gradient, float32 has given all it can.
            if length <= tolerance or length > last / 2 or self._steps >= _STEPS:
                return point.at
            if _in_sight(length, tolerance):
                self._steps += 1
                return point.at + self._solve(point, _AIM * tolerance)
            further = self._step(point, length, tolerance, _ROUGH)
            if further is None:
                return point.at
            point, last = further, length

    def _step(self, point: _Point, length: float, tolerance: float, rounding: float) -> _Point | None:
        self._steps += 1
        # Inexact Newton: far from the minimum a direction good to a tenth of the gradient is enough.
        enough = _AIM * tolerance if _in_sight(length, tolerance) else max(0.1 * length, _AIM * tolerance)
        return self._search(point, self._solve(point, enough), rounding)

    def _length(self, point: _Point, rounding: float) -> float:
        """Return the norm of the gradient; far from the minimum and in float64, by the curvature at the point."""
        length = math.inf
        if self.hessian is not None:
            length = self._measure(point.gradient)
        if rounding == _EXACT or length > _NEAR:
            self.hessian = self._block_hessian(point)
            length = self._measure(point.gradient)
        return length

    def _measure(self, gradient: Tensor) -> float:
        assert self.hessian is not None  # _length sees to it
        return math.sqrt(float((gradient**2 / self.hessian.diagonal(self._penalty)).sum()))

    def _evaluate(self, at: Tensor, rounding: float) -> _Point:
        path, n = self._path, len(self._path.rotated)
        chunks, weights = path.rough(at) if rounding == _ROUGH else path.exact(at)
        slope, loss = torch.zeros_like(weights), 0.0
        shift, curvature = torch.zeros_like(at[-1]), torch.zeros_like(at[-1])
        # float32 also in exact evaluations: it enters curvatures only, which need no more digits.
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
        turned, n, single = self._path.rotated, len(self._path.rotated), direction.float()
        slope, shift = torch.zeros_like(single[:-1]), torch.zeros_like(single[-1])
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            part = turned[rows]
            bent = self._link.hessian_vector_product(point.state[rows], (part @ single[:-1]).add_(single[-1]), rows)
            slope.addmm_(part.T, bent)
            shift += bent.sum(0)
        return torch.vstack([slope.double() / n + self._penalty * direction[:-1], self._free(shift.double()) / n])

    def _free(self, shift: Tensor) -> Tensor:
        """Remove the direction that neither loss nor penalty determines: a constant added to all intercepts."""
        return shift - shift.mean() if self._link.shared else shift

    def _block_hessian(self, point: _Point) -> BlockHessian:
        turned, link = self._path.rotated, self._link
        squares = torch.zeros(turned.shape[1], link.outputs, device=point.at.device)
        sums = torch.zeros_like(squares)
        for start in range(0, len(turned), _CHUNK):
            part, weights = turned[start : start + _CHUNK], link.curvature(point.state[start : start + _CHUNK])
            squares.addmm_((part**2).T, weights)
            sums.addmm_(part.T, weights)
        # Outputs that are sure of every row have no curvature left to divide by.
        weights = point.curvature.double().clamp(min=1e-12)
        return BlockHessian(squares.double() / len(turned), sums.double() / len(turned) / weights, weights)

    def _solve(self, point: _Point, enough: float) -> Tensor:
        """Return the Newton direction by preconditioned conjugate gradients, to a residual of norm `enough`."""
        assert self.hessian is not None  # _length sees to it
        precondition = self.hessian.inverse(self._penalty)
        direction, residual = torch.zeros_like(point.at), -point.gradient
        search = precondition(residual)
        square = float((residual * search).sum())
        for _ in range(_PRODUCTS):
            product = self._product(point, search)
            curvature = float((search * product).sum())
            if not curvature > 0:  # rounding: the loss is convex
                break
            direction = direction + square / curvature * search
            residual = residual - square / curvature * product
            if self._measure(residual) <= enough:
                break
            scaled = precondition(residual)
            before, square = square, float((residual * scaled).sum())
            search = scaled + square / before * search
        return direction

    def _search(self, point: _Point, direction: Tensor, rounding: float) -> _Point | None:
        """Backtrack: return the first halved step that satisfies Armijo's condition up to rounding."""
        slope, step = float((point.gradient * direction).sum()), 1.0
        while step > 1e-6:
            further = self._evaluate(point.at + step * direction, rounding)
            if further.loss <= point.loss + 1e-4 * step * slope + rounding * abs(point.loss):
                return further
            step /= 2
        return None


def _in_sight(length: float, tolerance: float) -> bool:
    # Newton converges quadratically: a step squares the norm of the gradient, up to a factor.
    return length**2 <= 0.1 * tolerance


def _ahead(passed: list[tuple[float, Tensor]], place: float, last: Tensor) -> Tensor:
    """Extrapolate the last minima, three at most, by their Lagrange polynomial in log penalty."""
    if len(passed) < 2:
        return last
    ahead = torch.zeros_like(last)
    for own, at in passed:
        ahead += math.prod((place - other) / (own - other) for other, _ in passed if other != own) * at
    return ahead
