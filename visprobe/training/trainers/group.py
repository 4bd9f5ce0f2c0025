"""Group relative policy optimization (GRPO) with verifiable rewards, on trl's trainer.

For each question the model samples a group of answers; the advantage of an answer is its reward, centred and scaled
within its group, so a group of equal rewards has no gradient.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from visprobe.data.rows import Rows
from visprobe.errors import TrainingError, UsageError
from visprobe.mllm.conversation import content_parts
from visprobe.training.stages import TrainerInputs
from visprobe.training.stages.grpo import GRPORecipe
from visprobe.training.trainers.common import images_are_encoded_once, trainer_settings
from visprobe.training.trainers.mixins import PartLearningRates, ResumeByName
from visprobe.training.trainers.rewards import as_trl


class GroupTrainer(PartLearningRates, ResumeByName, GRPOTrainer):  # type: ignore[misc]
    """trl's GRPOTrainer with a learning rate per part, and questions with and without images in one batch."""

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        tokens, images, fields = super()._tokenize_prompts(prompts)
        return tokens, images and [each or [] for each in images], fields  # the processor fails on trl's None


class QuestionCollator:
    """Collator that makes batches of questions for trl's GRPOTrainer, loading each row and its images once per batch.

    Args:
        rows: Rows, all usable.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one dictionary per example: "prompt" (a conversation), "images" (a list) and "answer"."""
        numbers = [example["row"] for example in examples]
        loaded = {number: self._question(number) for number in dict.fromkeys(numbers)}
        return [loaded[number] for number in numbers]

    def _question(self, number: int) -> dict[str, Any]:
        row = self._rows[number]
        prompt = [{"role": turn.role, "content": content_parts(turn.text)} for turn in row.turns]
        return {"prompt": prompt, "images": [self._rows.image(key) for key in row.images], "answer": row.answer}


def group_trainer(inputs: TrainerInputs) -> Any:
    """Make the trainer of stage "grpo".

    A batch is `recipe.batch_size` questions times `recipe.generations` answers, per process. The loss is the
    paper's: clipped policy gradient, averaged over the tokens of an answer and then over answers, one update per
    sampled batch. Every log has "reward" and "reward_std" (over the batch), "rewards/NAME/mean" and ".../std" per
    reward, and "frac_reward_zero_std", the share of answers in groups of equal rewards. Several rewards are
    averaged.

    Args:
        inputs: Model, rows (questions with reference answers), recipe and callbacks.

    Raises:
        UsageError: If there are fewer rows than a step takes, or a reward cannot be found.
        TrainingError: If the reference of the KL penalty cannot be loaded or is another model.

    Source: DeepSeekMath (arXiv 2402.03300), equations 3 and 4.
    """
    recipe: GRPORecipe = inputs.recipe
    model, rows, rewards = inputs.model, inputs.rows, as_trl(recipe.reward)
    config = _config(recipe, inputs.folder, len(rewards))
    if len(rows) < (needed := config.generation_batch_size // config.num_generations):
        raise UsageError(
            f"{rows.name} has {len(rows)} rows, one step takes {needed} questions", hint="Lower batch_size."
        )
    # trl pads tokens on the left, but the fields beside them on the tokenizer's side; make both left.
    processor = copy.deepcopy(inputs.processor)
    processor.tokenizer.padding_side = "left"
    trainer = _construct(
        model=model,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
        processing_class=processor,
        callbacks=list(inputs.callbacks),
    )
    trainer.data_collator = QuestionCollator(rows)
    trainer.part_learning_rates = recipe.part_learning_rates
    if trainer.ref_model is not None:
        _refuse_another_reference(trainer)
    for each in (model, trainer.ref_model):
        if each is not None and images_are_encoded_once(each):
            share_encodings(each)
    return trainer


def share_encodings(model: Any) -> None:
    """Encode the copies of an image in a batch, one per answer, only once.

    The features of one encoding are given to every copy, so the gradients of all answers sum up in it, as they would
    over copies. For models whose image features are a list of images.
    """
    encode = model.model.get_image_features

    @functools.wraps(encode)  # generation inspects the signature
    def shared(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        first, copies = distinct(pixel_values)
        outputs = encode(pixel_values[first], *args, **kwargs)
        outputs.pooler_output = [outputs.pooler_output[index] for index in copies.tolist()]
        return outputs

    model.model.get_image_features = shared


def distinct(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the different images of a batch.

    Args:
        images: Of shape (n, ...), any dtype.

    Returns:
        Positions of one copy of each image, int64 of shape (k,), and the index into these for every image, int64 of
        shape (n,): `images[first][copies]` equals `images`. All n if two images agree in the sampled pixels only.
    """
    flat = images.flatten(1)
    # Comparing about 1024 values per image is enough to tell most images apart; the check below catches the rest.
    sampled = flat[:, :: max(1, flat.shape[1] // 1024)]
    _, copies = torch.unique(sampled, dim=0, return_inverse=True)
    everyone = torch.arange(len(images), device=images.device)
    first = everyone.new_zeros(int(copies.max()) + 1).scatter_(0, copies, everyone)
    return (first, copies) if torch.equal(images[first][copies], images) else (everyone, everyone)


def _config(recipe: GRPORecipe, folder: str, rewards: int) -> GRPOConfig:
    return GRPOConfig(
        **{
            **trainer_settings(recipe, folder),
            "per_device_train_batch_size": recipe.batch_size * recipe.generations,
            "steps_per_generation": 1,  # the default samples all accumulated batches at once, which costs memory
            "num_generations": recipe.generations,
            "max_completion_length": recipe.max_new_tokens,
            "temperature": recipe.temperature,
            "beta": recipe.beta,
            "loss_type": "grpo",
            "reward_weights": [1 / rewards] * rewards,
        }
    )


def _construct(**settings: Any) -> GroupTrainer:
    source = settings["model"].config._name_or_path
    try:
        return GroupTrainer(**settings)
    except OSError as error:
        if not settings["args"].beta:
            raise
        raise TrainingError(
            f"cannot load the reference of the KL penalty from {source or 'nowhere: the model was not loaded'}",
            hint="Save the model to a folder and start from there, or set beta to 0.",
        ) from error


def _refuse_another_reference(trainer: Any) -> None:
    """Refuse a reference other than the initial model; sharded weights cannot be compared."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    reference = dict(trainer.ref_model.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        if name not in reference or not torch.equal(parameter, reference[name].to(parameter.device)):
            raise TrainingError(
                f"the reference of the KL penalty, {trainer.model.config._name_or_path}, is another model than the "
                f"one that training starts from: {name} differs",
                hint="Save the model to a folder and start from there, or set beta to 0.",
            )
