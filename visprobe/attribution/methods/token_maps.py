"""Maps over patches from activations and gradients: Grad-CAM, gradient norm, gradient times input."""

from __future__ import annotations

from collections.abc import Callable

import torch

from visprobe.attribution.methods.trace import Trace


def gradcam(trace: Trace) -> torch.Tensor:
    """Grad-CAM of patch tokens: activations weighted by each channel's mean gradient over the patches.

    Returns:
        Signed map, float32 of shape (rows, columns). The paper keeps the positive part only, which is left to figures
        and scores: a negative value says that a patch speaks against the target.

    Source:
        Selvaraju et al. 2017 (1610.02391), equations 1 and 2, with patches for positions.
    """
    weights = trace.gradients.mean(dim=0)
    return (trace.activations @ weights).reshape(trace.grid)


def gradient_norm(trace: Trace) -> torch.Tensor:
    """Gradient norm: sum over channels of the gradient's absolute value, as in "RL makes MLLMs see better than SFT".

    Returns:
        Non-negative map, float32 of shape (rows, columns).

    Source:
        2510.16333, appendix E.4. Its code also replaces the outermost patches by random neighbours; this does not.
    """
    return trace.gradients.abs().sum(dim=1).reshape(trace.grid)


def gradient_times_input(trace: Trace) -> torch.Tensor:
    """Gradient times input, summed over channels: to first order, the fall of the score without each token.

    Returns:
        Signed map, float32 of shape (rows, columns).

    Source:
        Shrikumar et al. 2016 (1605.01713).
    """
    return (trace.gradients * trace.activations).sum(dim=1).reshape(trace.grid)


TOKEN_MAPS: dict[str, Callable[[Trace], torch.Tensor]] = {
    "gradcam": gradcam,
    "gradient-norm": gradient_norm,
    "gradient-times-input": gradient_times_input,
}
