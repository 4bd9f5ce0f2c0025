"""Trainer of stage "orpo"."""

from torch import expm1
from torch.nn.functional import logsigmoid
from transformers import Trainer, TrainingArguments

from visprobe.mllm.batches import PreferenceCollator
from visprobe.training.trainers.common import make_trainer, trainer_settings
from visprobe.training.trainers.mixins import OrderBySeed, PartLearningRates, ResumeByName


def orpo_loss(chosen, rejected, weight):
    """The loss of a batch.

    Args:
        chosen: Mean log-probability of a token of each chosen answer, of shape (batch,).
        rejected: The same of the rejected answers.
        weight: Weight of the odds ratio.
    """
    log_odds = [scores - (-expm1(scores)).log() for scores in (chosen, rejected)]
    return (-chosen - weight * logsigmoid(log_odds[0] - log_odds[1])).mean()


class ORPOTrainer(OrderBySeed, PartLearningRates, ResumeByName, Trainer):
    """transformers' Trainer with the loss of ORPO."""

    weight = 0.0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a batch of `PreferenceCollator`: all chosen answers, then all rejected ones."""
        answered = inputs.pop("completion_mask")[:, 1:]
        outputs = model(**inputs, use_cache=False)
        scores = outputs.logits[:, :-1].float().log_softmax(-1)
        tokens = scores.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
        means = (tokens * answered).sum(1) / answered.sum(1)
        loss = orpo_loss(*means.chunk(2), self.weight)
        return (loss, outputs) if return_outputs else loss


def orpo_trainer(inputs):
    """The trainer, from what a run gives."""
    arguments = TrainingArguments(**trainer_settings(inputs.recipe, inputs.folder))
    trainer = make_trainer(ORPOTrainer, arguments, inputs, PreferenceCollator(inputs.encoder))
    trainer.weight = inputs.recipe.odds_weight
    trainer.model_accepts_loss_kwargs = False  # else accumulated batches are summed instead of averaged
    return trainer
