"""The moments of a training run under one language model, whose answers can then be explained at each of them.

Copies of a run hold tower and projector alone. They are put, one after the other, into one whole model.
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
    """Makes subjects of the moments of a run: one model's language model, each moment's tower and projector.

    There is one model in memory, so a subject is that of its moment until the next one is asked for.

    Args:
        subjects: Makes the subject of a whole checkpoint.
        run: The run.
        start: The base that it started from.

    Attributes:
        model: Folder of the checkpoint whose language model it is: the finished run's, or the base's until then.
    """

    def __init__(self, subjects: Subjects, run: Run, start: Path) -> None:
        self._subjects, self._start = subjects, start
        self.model = run.folder if run.manifest else start
        self._subject: Subject | None = None
        self._whole: dict[Path, Weights] = {}

    def __call__(self, checkpoint: str, encoder: VisionEncoder) -> Subject:
        """The subject of a moment.

        Args:
            checkpoint: Folder of the base, of a copy, or of the finished run.
            encoder: Its encoder.

        Raises:
            CheckpointError: If its weights are not those of a tower and projector like the model's.
        """
        if self._subject is None:
            if self._start != self.model:  # before the other model is there, so that one is in memory at a time
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
    """Tower and projector of a model of transformers: its own tensors by name."""
    return {name: weight for name, weight in model.state_dict().items() if part_of(name) != "language_model"}


def load_vision_weights(model: Any, weights: Weights, where: str) -> None:
    """Give `model` the tower and projector `weights`, in place, in its own dtype.

    Args:
        model: Model of transformers.
        weights: Tensors by name, as `vision_weights` names them.
        where: Where they come from, for messages.

    Raises:
        CheckpointError: If they are not the same tensors in the same shapes; nothing is changed then.
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
