"""The parts of an MLLM, which of them are trained, and each part's own learning rate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from visprobe.errors import TrainingError, UsageError

PREFIXES: Mapping[str, tuple[str, ...]] = {
    "vision_tower": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.", "model.image_newline"),
    "language_model": ("model.language_model.", "lm_head."),
}
PARTS = tuple(PREFIXES)


def part_of(parameter: str) -> str:
    """The part that a parameter of an MLLM belongs to, by its name in memory.

    Raises:
        TrainingError: If the name belongs to no known part.
    """
    name = parameter.removeprefix("module.").removeprefix("_orig_mod.")
    for part, prefixes in PREFIXES.items():
        if name.startswith(prefixes):
            return part
    raise TrainingError(
        f"the parameter {parameter} belongs to no known part",
        hint="visprobe trains LlavaForConditionalGeneration and models with the same part names.",
    )


def train_only(model: nn.Module, parts: Collection[str]) -> None:
    """Make exactly the named parts trainable.

    Raises:
        UsageError: If a part does not exist.
    """
    if unknown := set(parts) - set(PARTS):
        raise UsageError(f"no such part: {', '.join(sorted(unknown))}", hint=f"The parts are {', '.join(PARTS)}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)


def without_gradient(model: nn.Module) -> Iterator[str]:
    """Names of trainable parameters that the last backward pass did not reach."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.any())):
            yield name


def check_gradients(model: nn.Module) -> list[str]:
    """Refuse a part that is meant to train and gets no gradient at all.

    Returns:
        Trainable parameters without gradient inside parts that do train (a post_layernorm that the MLLM
        never reads, for example), sorted.

    Raises:
        TrainingError: If a whole part gets no gradient; the message names its parameters.
    """
    unreached = sorted(without_gradient(model))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part in PARTS:
        names = [name for name in trainable if part_of(name) == part]
        if names and set(names) <= set(unreached):
            raise TrainingError(
                f"{part} is meant to train but none of its {len(names)} parameters gets a gradient: "
                + ", ".join(names[:3]) + (", …" if len(names) > 3 else ""),
                hint=f"Leave {part} out of the trained parts, or find what detaches it (no_grad in its forward?).",
            )
    return unreached


class PartLearningRates:
    """Mixin for a transformers Trainer: each part may have its own learning rate.

    Set `part_learning_rates` before training; parts without an entry use `args.learning_rate`.
    """

    part_learning_rates: Mapping[str, float] = {}

    def create_optimizer(self: Any, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of the training arguments over one parameter group per part and decay."""
        if self.optimizer is None:
            model = model or self.model
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((part_of(name), name in decayed), []).append(parameter)
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = kind(
                [
                    {
                        "params": parameters,
                        "lr": self.part_learning_rates.get(part, self.args.learning_rate),
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                    }
                    for (part, decay), parameters in groups.items()
                ],
                **settings,
            )
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer
