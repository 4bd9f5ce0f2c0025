"""Log-probabilities of the answers under the reference, computed once before DPO begins.

The reference is the model that training starts from. Running it once over the rows spares its copy in memory and
one forward pass per batch from the second epoch on; trl itself refuses to do this for images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from visprobe.mllm.batches import PreferenceCollator, RowEncoder

Progress = Callable[[str, int, int], None]


def reference_log_probabilities(
    model: Any,
    encoder: RowEncoder,
    rows: list[int],
    *,
    batch_size: int,
    precision: str = "float32",
    progress: Progress | None = None,
) -> dict[int, tuple[float, float]]:
    """Summed log-probability of the chosen and of the rejected answer of each row.

    Several processes share the rows among themselves, and each gets the numbers of all.

    Args:
        model: The model that training starts from; it is moved to the process's own device.
        encoder: The rows.
        rows: Which rows.
        batch_size: Rows per forward pass.
        precision: What the policy will be computed in: "float32", "bfloat16" or "float16".
        progress: Called with (stage, rows done, rows of this process).

    Returns:
        Row number to (chosen, rejected), natural logarithms.
    """
    processes = PartialState(cpu=not torch.cuda.is_available())
    device = processes.device
    model.to(device)
    mine = rows[processes.process_index :: processes.num_processes]
    collate = PreferenceCollator(encoder)
    found: dict[int, tuple[float, float]] = {}
    was_training = model.training
    model.eval()
    autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    with torch.inference_mode(), autocast:
        for start in range(0, len(mine), batch_size):
            numbers = mine[start : start + batch_size]
            batch = {k: v.to(device) for k, v in collate([{"row": number} for number in numbers]).items()}
            chosen, rejected = answer_log_probabilities(model, batch).chunk(2)
            found.update(zip(numbers, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True))
            if progress:
                progress("reference", start + len(numbers), len(mine))
    model.train(was_training)
    return dict(gather_object(list(found.items())))


def answer_log_probabilities(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed log-probability of each answer in a batch of `PreferenceCollator`, shape (2 batch,)."""
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    scores = logits[:, :-1].float().log_softmax(-1)
    tokens = scores.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (tokens * batch["completion_mask"][:, 1:]).sum(1)
