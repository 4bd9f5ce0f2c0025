"""Mixins for transformers' Trainer, used by every trainer here.

They add a learning rate per part, a row order that depends on seed and epoch alone, and resuming from weights
whatever names they were saved under.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import TrainingError
from visprobe.mllm.parts import part_of

TRAINED = "trained.safetensors"  # trainable weights by their names in memory; written if there are adapters


class LengthGrouped(LengthGroupedSampler):  # type: ignore[misc]
    """Sampler of batches of similar length, in an order that depends on seed and epoch alone.

    The Trainer's own sampler draws from the global random state, so a resumed run would see other batches.

    Args:
        like: Sampler made by the Trainer.
        seed_now: Returns the seed of the pass that begins.
    """

    def __init__(self, like: LengthGroupedSampler, seed_now: Callable[[], int]) -> None:
        super().__init__(like.batch_size, lengths=like.lengths)
        self._seed_now = seed_now

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed_now())
        yield from super().__iter__()


class WholeSteps(Sampler[int]):
    """Sampler without the rows at the end of a pass that fill no optimizer step.

    Args:
        sampler: Sampler of the rows of a pass.
        per_step: Rows per optimizer step, over all processes.
    """

    def __init__(self, sampler: Sampler[int], per_step: int) -> None:
        self._sampler, self._per_step = sampler, per_step

    def __len__(self) -> int:
        rows = len(self._sampler)  # type: ignore[arg-type]
        return rows - rows % self._per_step

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self._sampler), len(self))


class OrderBySeed:
    """Mixin for a transformers Trainer: length-grouped batches come in the order of `LengthGrouped`.

    With `drop_last` a pass is whole optimizer steps; transformers itself drops only incomplete batches.
    """

    drop_last = False

    def _get_train_sampler(self: Any, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        if isinstance(sampler, LengthGroupedSampler):
            # Not through `set_epoch`: accelerate does not pass it on when several processes resume within an epoch.
            sampler = LengthGrouped(sampler, lambda: self.args.seed + int(self.state.epoch or 0))
        if not self.drop_last:
            return sampler
        args = self.args
        return WholeSteps(sampler, args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


class PartLearningRates:
    """Mixin for a transformers Trainer: each part may have its own learning rate.

    Set `part_learning_rates` before training; parts without an entry use `args.learning_rate`.
    """

    part_learning_rates: Mapping[Any, float] = {}

    def create_optimizer(self: Any, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer of the training arguments, with one parameter group per part and decay."""
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


class ResumeByName:
    """Mixin for a transformers Trainer: a checkpoint's weights are loaded by `from_pretrained`.

    The Trainer matches names itself, with `strict=False`. A LLaVA is saved under other names ("vision_tower.") than it
    has in memory ("model.vision_tower."), so nothing matches, only a warning is logged, and training goes on from the
    base with the optimizer's old state (transformers 5.23).

    The Trainer also takes one step too many from a checkpoint of the last step, and takes the first step of an
    extended run at the rate at the end of the shorter schedule, mostly 0.
    """

    def _save(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if any(isinstance(module, BaseTunerLayer) for module in self.model.modules()):
            trained = {n: p.detach().contiguous() for n, p in self.model.named_parameters() if p.requires_grad}
            save_file(trained, Path(output_dir or self.args.output_dir) / TRAINED)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model if model is not None else self.model
        trained = Path(resume_from_checkpoint) / TRAINED
        if trained.is_file():
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for name, value in load_file(trained).items():
                    parameters[name].copy_(value)
            return
        if self.is_fsdp_enabled or not hasattr(type(model), "from_pretrained") or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        with quiet():
            saved, loading = type(model).from_pretrained(
                resume_from_checkpoint, dtype=torch.float32, output_loading_info=True
            )
        if loading["missing_keys"] or loading["unexpected_keys"]:
            raise TrainingError(
                f"the checkpoint {resume_from_checkpoint} does not fit the model: "
                f"{len(loading['missing_keys'])} weights missing, {len(loading['unexpected_keys'])} unknown",
                hint="Delete that folder: the same command goes on from the checkpoint before it, or begins anew.",
            )
        model.load_state_dict(saved.state_dict())

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        schedule = self.lr_scheduler
        if checkpoint is None or not isinstance(schedule, LambdaLR):  # DeepSpeed has its own schedule
            return
        # The restored rates belong to the schedule of the earlier plan; recompute them from this run's schedule.
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        schedule._last_lr = [peak * share for peak, share in zip(schedule.base_lrs, shares, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate

    def _run_epoch(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]
