"""Snapshots of a training run inside one language model, so that its answers can be explained at each step.

A snapshot holds tower and projector alone. They are loaded, one after the other, into one whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from visprobe.attribution.targets.answers import MllmSubject
from visprobe.attribution.targets.subject import Subject
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import CheckpointError
from visprobe.mllm.load import load_for_training
from visprobe.mllm.parts import part_of
from visprobe.pipelines.attribution.target import Subjects
from visprobe.pipelines.trajectory import Run

Weights = Mapping[str, torch.Tensor]


class SnapshotsInOneLLM:
    """Maker of subjects for the steps of a run: tower and projector of each step, one language model for all.

    There is one model in memory: a subject is valid only until the next one is made.

    Args:
        subjects: Makes the subject of a whole checkpoint.
        run: Training run.
        start: Folder of the base that it started from.

    Attributes:
        model: Folder of the checkpoint with the language model: the finished run, or the base until then.
    """

    def __init__(self, subjects: Subjects, run: Run, start: Path) -> None:
        self._subjects, self._start = subjects, start
        self.model = run.folder if run.manifest else start
        self._subject: Subject | None = None
        self._whole: dict[Path, Weights] = {}

    def __call__(self, checkpoint: str, encoder: VisionEncoder) -> Subject:
        """Return the subject of a step.

        Args:
            checkpoint: Folder of the base, of a snapshot, or of the finished run.
            encoder: Its encoder.

        Raises:
            CheckpointError: If names or shapes of its weights differ from the model's tower and projector.
        """
        if self._subject is None:
            if self._start != self.model:  # read before the other model is loaded: only one fits in memory
                self._whole[self._start] = _of_whole(self._start, encoder.dtype)
            self._subject = self._subjects(str(self.model), encoder)
            self._whole[self.model] = {name: own.clone() for name, own in vision_weights(self._model).items()}
        path = Path(checkpoint)
        load_vision_weights(self._model, self._whole.get(path) or load_file(path / "model.safetensors"), checkpoint)
        self._subject.name = encoder.name
        return self._subject

    @property
    def _model(self) -> Any:
        assert isinstance(self._subject, MllmSubject)
        [model] = self._subject.modules
        return model


def vision_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights of tower and projector of a transformers model by name; not copied."""
    return {name: weight for name, weight in model.state_dict().items() if part_of(name) != "language_model"}


def load_vision_weights(model: Any, weights: Weights, where: str) -> None:
    """Copy `weights` into tower and projector of `model`, in place, in the model's dtype.

    Args:
        model: Transformers model.
        weights: Tensors by name, named as in `vision_weights`.
        where: Origin of the weights, for messages.

    Raises:
        CheckpointError: If names or shapes differ; then nothing is changed.
    """
    own = vision_weights(model)
    if other := sorted(own.keys() ^ weights.keys()):
        raise CheckpointError(
            f"{where} and the run's model do not have the same tensors of tower and projector: {', '.join(other[:3])}"
            + (f" and {len(other) - 3} more" if len(other) > 3 else ""),
            hint="Name the run whose copies these are, and the base that it started from.",
        )
    for name, weight in weights.items():
        if weight.shape != own[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {list(weight.shape)}, in the run's model {list(own[name].shape)}",
                hint="Name the run whose copies these are, and the base that it started from.",
            )
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def _of_whole(folder: Path, dtype: torch.dtype) -> Weights:
    model, _ = load_for_training(folder, str(dtype).removeprefix("torch."))
    return vision_weights(model)
