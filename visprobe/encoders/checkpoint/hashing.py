"""Content hashes of weights that do not depend on the layout of a checkpoint on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names (sorted), dtypes, shapes and bytes of `tensors`."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
