"""Training of the demo's base model from scratch: first the vision tower on patches, then the whole on answers.

Real multimodal LLMs start from a pretrained tower. So does this one: from answers alone, a tower of this size never
learns to recognise digits. The patch task (digit and colour per patch) goes on beside the answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from visprobe.data.progress import Progress
from visprobe.demo.answers import evaluate_answers
from visprobe.demo.packing import Packer, answer_logits
from visprobe.demo.questions import questions
from visprobe.demo.scene_pool import ScenePool
from visprobe.demo.scenes import COLOURS, DigitScenes
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.io.atomic import replacing, write_json
from visprobe.results.result import Result
from visprobe.training.run_folder.manifest import NAME, Clock, environment, weights_hash

Batch = NDArray[np.int64]

BASE = Path(__file__).parent / "base_checkpoint"
"""The folder of the base that comes with the package."""

_SCENES, _SEEING_STEPS, _ANSWERING_STEPS = 12_000, 600, 700
_SEEING_BATCH, _ANSWERING_BATCH = 64, 32
# Rates of Muon. When answering starts, the rate of the first stage would destroy what the tower has learned.
_SEEING_RATE, _TOWER_RATE, _LLM_RATE = 1e-2, 2e-3, 3e-3
_ADAMW_RATE = 1e-3
_WARMUP = 0.08
_TEST_SCENES, _BLIND_SCENES, _TEST_SEED = 500, 5_000, 1


def train_base(
    output_dir: Path,
    seed: int = 0,
    *,
    scenes: int = _SCENES,
    seeing_steps: int = _SEEING_STEPS,
    answering_steps: int = _ANSWERING_STEPS,
    progress: Progress = lambda stage, step, steps: None,
) -> Result:
    """Train the base on the training half of the handwriting, test it on the other half, and save it.

    Args:
        output_dir: Folder for the checkpoint: float16 weights, processor, manifest.json.
        seed: Seed of initial weights, batches and questions.
        scenes: Number of training scenes.
        seeing_steps: Steps of 64 scenes in which the tower alone learns digit and colour per patch.
        answering_steps: Steps of 32 scenes with all their questions in which the whole model learns.
        progress: Called after every step with stage ("seeing", "answering"), step and steps.

    Returns:
        The "answers" result on 500 unseen scenes, also written to manifest.json.
    """
    clock, rng = Clock(), np.random.default_rng(seed)
    processor = build_processor()
    model = build_model(processor, seed).train()
    pool = ScenePool.of(DigitScenes("train", scenes, seed))
    head = PatchHead(model.config.vision_config.hidden_size)
    training = _Training(model, head, pool, Packer(processor, model.config.image_seq_length), rng, progress)
    training.seeing(seeing_steps)
    training.answering(answering_steps)
    with replacing(output_dir) as folder:
        _save(model, processor, folder)
        blind_from = DigitScenes("train", _BLIND_SCENES, _TEST_SEED)
        result = evaluate_answers({"base": folder}, DigitScenes("val", _TEST_SCENES, _TEST_SEED), blind_from)
        inputs = {
            "seed": seed,
            "scenes": scenes,
            "seeing_steps": seeing_steps,
            "answering_steps": answering_steps,
            "threads": torch.get_num_threads(),
        }
        _write_manifest(folder, inputs, clock, result)
    return result


class PatchHead(nn.Module):
    """Linear heads for digit and colour of each patch, discarded after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.digit, self.colour = (
            nn.LayerNorm(width),
            nn.Linear(width, 11),
            nn.Linear(width, 1 + len(COLOURS)),
        )
        # Most patches are background; at full weight they would drown the digits.
        self.weight = torch.tensor([0.1] + [1.0] * 10)

    def loss(self, hidden: torch.Tensor, digits: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
        """Return the sum of both cross-entropies, from features (n, patches, d) and labels (n, patches)."""
        normed = self.norm(hidden).flatten(0, 1)
        digit = cross_entropy(self.digit(normed), digits.flatten(), self.weight)
        return digit + cross_entropy(self.colour(normed), colours.flatten())


@dataclass(frozen=True)
class _Training:
    """State shared by the two training stages."""

    model: Any
    head: PatchHead
    pool: ScenePool
    packer: Packer
    rng: np.random.Generator
    progress: Progress

    def seeing(self, steps: int) -> None:
        """Train the tower alone, on patches."""
        self._run("seeing", self._seeing_loss, steps, _SEEING_BATCH, _SEEING_RATE)

    def answering(self, steps: int) -> None:
        """Train the whole model, on answers and patches."""
        self._run("answering", self._answering_loss, steps, _ANSWERING_BATCH, _TOWER_RATE)

    def _tower(self, rows: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of the scenes `rows`, and the patch loss on them."""
        pixels = self.pool.pixel_values(rows)
        hidden = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        return hidden, self.head.loss(hidden, self.pool.digits[rows], self.pool.colours[rows])

    def _seeing_loss(self, rows: Batch) -> torch.Tensor:
        return self._tower(rows)[1]

    def _answering_loss(self, rows: Batch) -> torch.Tensor:
        hidden, patches = self._tower(rows)
        packed = self.packer.pack([questions(self.pool.scenes[i], self.rng) for i in rows])
        features = self.model.model.multi_modal_projector(hidden)
        return cross_entropy(*answer_logits(self.model, packed, features)) + patches

    def _run(
        self, stage: str, loss: Callable[[Batch], torch.Tensor], steps: int, batch: int, tower_rate: float
    ) -> None:
        parameters = [*self.model.parameters(), *self.head.parameters()]
        optimizers = _optimizers(self.model, self.head, tower_rate)
        schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, steps)) for o in optimizers]
        for step in range(steps):
            loss(self.rng.integers(len(self.pool.scenes), size=batch)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            self.progress(stage, step + 1, steps)


def _rate(step: int, steps: int) -> float:
    """Return the share of the full rate: linear warmup over the first 8 % of the steps, then half a cosine to 0."""
    return min((step + 1) / max(1, _WARMUP * steps), 0.5 * (1 + math.cos(math.pi * step / steps)))


def _optimizers(model: Any, head: nn.Module, tower_rate: float) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices of blocks and projector, and AdamW for everything else."""
    tower: list[nn.Parameter] = []
    llm: list[nn.Parameter] = []
    rest = list(head.parameters())
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2 or "embed" in name:
            rest.append(parameter)
        else:
            (tower if "vision_tower" in name else llm).append(parameter)
    groups = [{"params": tower, "lr": tower_rate}, {"params": llm, "lr": _LLM_RATE}]
    muon = torch.optim.Muon(groups, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=_ADAMW_RATE, weight_decay=0.0)]


def _save(model: Any, processor: Any, folder: Path) -> None:
    model.generation_config.max_new_tokens = 4
    with quiet():
        model.half().save_pretrained(folder)
        processor.save_pretrained(folder)
    # float16 keeps the file small; a plain load should give float32, in which CPUs compute.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    write_json(path, config)


def _write_manifest(folder: Path, inputs: dict[str, Any], clock: Clock, result: Result) -> None:
    manifest = {
        "command": "visprobe demo --from-scratch",
        "inputs": inputs,
        "environment": environment(),
        **clock.read(),
        "weights_sha256": weights_hash(folder),
        "answers": result.to_json(),
    }
    write_json(folder / NAME, manifest)
