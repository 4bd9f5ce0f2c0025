"""Resuming from the weights that were saved, whatever names they were saved under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import TrainingError

TRAINED = "trained.safetensors"  # what was trainable, by its name in memory; written where there are adapters


class ResumeByName:
    """Mixin for a transformers Trainer: a checkpoint's weights are loaded as `from_pretrained` loads them.

    The Trainer reads the file and matches names itself, with `strict=False`. A LLaVA is saved under other names
    ("vision_tower.") than it has in memory ("model.vision_tower."), so nothing matches, a warning is logged, and
    training goes on from the base with the optimizer's old state (transformers 5.23).

    It also takes one step too many from a checkpoint of the last step, and the first step of a run that is extended at
    the rate with which the shorter schedule had ended, mostly 0.
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
        if checkpoint is None or not isinstance(schedule, LambdaLR):  # DeepSpeed has one of its own
            return
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        schedule._last_lr = [peak * share for peak, share in zip(schedule.base_lrs, shares, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate

    def _run_epoch(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]
