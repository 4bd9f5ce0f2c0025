"""The spectrum of random weights' changes, each descendant's half of the one before."""

import torch

from visprobe.analyses.weights.spectrum import weight_spectrum
from visprobe.results.result import Result

BLOCKS = 4


def planted_spectrum(checkpoints: tuple[str, ...]) -> Result:
    base, *others = checkpoints
    generator = torch.Generator().manual_seed(0)
    names = [f"layers.{n}.{part}.weight" for n in range(BLOCKS) for part in ("attn.q_proj", "mlp.fc1", "mlp.fc2")]
    weights = {name: torch.randn(16, 12, generator=generator) for name in names}
    changed = {
        other: {name: w + 0.1 / 2**place * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
        for place, other in enumerate(others)
    }
    return weight_spectrum(base, weights, changed, lambda name: f"block_{int(name.split('.')[1]) + 1:02d}")
