"""Subject of a whole multimodal LLM: the log-probability that it gives to an answer about an image.

The tower runs once per image even if two answers are compared: both read the same image features.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from visprobe.attribution.targets.subject import Graph, captured, not_reached, requiring_gradients
from visprobe.encoders import load_encoder
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution
from visprobe.encoders.tower import watched
from visprobe.errors import UsageError
from visprobe.mllm.answers import answer_score, check_answers, check_target
from visprobe.mllm.image_features import image_features, on_device, projected, tower_of
from visprobe.mllm.load import load_for_training
from visprobe.mllm.one_view import check_one_view, newlines, one_view
from visprobe.mllm.question import Answer, Question, TokenizedPrompt, tokenized

_PROJECTED = "projected"
_TRIED = (4, 4)  # patch grid that questions are checked with where the grid depends on the image
Reference = Sequence[tuple[float, float]]


class MllmSubject:
    """Subject of a multimodal LLM with one question about each image; satisfies `Subject`.

    The model sees one view of the image, that of `encoder`; see `one_view`.

    Args:
        model: Transformers model; it is put into evaluation mode and its weights are frozen.
        processor: Processor of the model, with image token and chat template.
        encoder: Encoder of the same checkpoint, for its sites, geometry and image processor; its weights are not used.
        questions: One for each image, in the order of the images.
        target: One of `TARGETS`, or "token:N". "answer" and "rejected" are log p(answer | image, prompt), summed over
            the tokens of the answer's text; "contrast" is the first minus the second; "token:N" is the term of the
            text's N-th token, from 0. "sft-loss" and "dpo-loss" are the losses of training, of which the end of turn
            is a part: minus the mean of log p over tokens, and -log sigmoid(beta (margin - margin of the reference)).
            Natural logarithms.
        reference: For "dpo-loss" what `log_probabilities` gives for the model that training starts from.
        beta: For "dpo-loss" the factor of the margin.

    Attributes:
        name: Name of the checkpoint.
        encoder: The encoder, whose tower is the model's own.

    Raises:
        CheckpointError: If the model is of a kind that is not known here, or does not fit encoder or processor.
        UsageError: If the target does not exist, or a question cannot be asked.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        encoder: VisionEncoder,
        questions: Sequence[Question],
        target: str = "answer",
        *,
        reference: Reference | None = None,
        beta: float = 0.1,
    ) -> None:
        check_target(target)
        self.name, self._questions, self._target = encoder.name, tuple(questions), target
        self._model, self._processor = model.eval().requires_grad_(False), processor
        self._kind = str(model.config.model_type)
        check_one_view(encoder, processor, self._kind)
        self.encoder = encoder.inside(tower_of(model, encoder))
        self._asked: dict[tuple[int, Grid], TokenizedPrompt] = {}
        for number in range(self.count):
            check_answers(target, self._question(number, encoder.grid or _TRIED).answers, self._where(number))
        self._reference, self._beta = self._checked(reference), beta

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """Modules whose weights take part: the whole model."""
        return (self._model,)

    @property
    def count(self) -> int:
        """Number of questions, one per image."""
        return len(self._questions)

    def forward(self, images: Sequence[Image.Image], sites: Collection[str], first: int = 0) -> list[Graph]:
        """Forward images, with one graph per image; see `Subject.forward`.

        Raises:
            UsageError: If there are more images than questions.
            DataError: If a site is an output of the connector other than "projected".
        """
        graphs = []
        for number, pixels in self._numbered(self.encoder.preprocess(images), first):
            with torch.enable_grad():
                graphs.append(self._run(requiring_gradients(pixels), sites, number))
        return graphs

    def score(self, pixels: Pixels, first: int = 0) -> torch.Tensor:
        """Score preprocessed images; see `Subject.score`.

        Raises:
            UsageError: If there are more images than questions.
        """
        return torch.cat([self._run(one, (), number).scores for number, one in self._numbered(pixels, first)])

    @torch.no_grad()
    def log_probabilities(self, images: Sequence[Image.Image]) -> list[tuple[float, float]]:
        """Return log p of answer and rejected answer to each question, in nats, with the end of turn as in DPO.

        Args:
            images: RGB images, one for each question.

        Raises:
            UsageError: If a question has only one answer, or the numbers of images and questions differ.
        """
        if len(images) != self.count:
            raise self._not_as_many(len(images))
        found = []
        for number, pixels in self._numbered(self.encoder.preprocess(images), 0):
            question = self._question(number, pixels.grids[0])
            check_answers("dpo-loss", question.answers, self._where(number))
            features = image_features(self._model, question, pixels)
            chosen, rejected = (float(self._terms(question, features, one).sum()) for one in question.answers)
            found.append((chosen, rejected))
        return found

    def _run(self, pixels: Pixels, sites: Collection[str], number: int) -> Graph:
        states, encoder = dict[str, torch.Tensor](), self.encoder
        in_tower = {site for site in sites if encoder.reads(site) == (site,)}
        if beyond := set(sites) - in_tower - {_PROJECTED}:
            raise not_reached(self, min(beyond))
        question = self._question(number, pixels.grids[0])
        with watched(encoder.tower, encoder.family, in_tower, states.__setitem__):
            features = image_features(self._model, question, pixels)
        reference = self._reference[number] if self._reference else None
        terms = partial(self._terms, question, features)
        score = answer_score(self._target, question.answers, terms, reference, self._beta)
        found = {site: captured(encoder, pixels, state) for site, state in states.items()}
        if _PROJECTED in sites:
            found[_PROJECTED] = projected(self.encoder, features, pixels.grids[0], newlines(self._kind))
        return Graph(score[None], found, pixels)

    def _terms(self, question: TokenizedPrompt, features: Any, answer: Answer) -> torch.Tensor:
        """Return log p of each token of an answer given those before it, float32 of shape (tokens,)."""
        ids = torch.tensor([[*question.prompt, *answer.ids]])
        beside = {name: tensor for name, tensor in question.images.items() if name != "pixel_values"}
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **question.token_types(ids)}
        logits = self._model(
            **on_device(self.encoder.device, {**text, **beside}),
            mm_encoder_outputs={"image": features},
            logits_to_keep=len(answer.ids) + 1,
            use_cache=False,
        ).logits
        # Logits at a position predict the next token: the kept ones begin at the last token of the prompt.
        terms: torch.Tensor = logits[0, :-1].float().log_softmax(-1)
        return terms.gather(-1, torch.tensor(answer.ids, device=terms.device)[:, None])[:, 0]

    def _numbered(self, pixels: Pixels, first: int) -> Iterator[tuple[int, Pixels]]:
        """Yield each image by itself with its index, on the encoder's device and in its dtype."""
        if first + len(pixels) > self.count:
            raise self._not_as_many(first + len(pixels))
        pixels = pixels.to(self.encoder.device, self.encoder.dtype)
        # Inputs have one row per image, or are packed: one row per patch, images one after the other.
        tokens = [rows * columns for rows, columns in pixels.grids]
        parts = {
            name: torch.split(tensor, 1 if len(tensor) == len(pixels) else tokens)
            for name, tensor in pixels.inputs.items()
        }
        for place, grid in enumerate(pixels.grids):
            yield first + place, Pixels({name: part[place] for name, part in parts.items()}, (grid,))

    def _question(self, number: int, grid: Grid) -> TokenizedPrompt:
        """Tokenize question `number` about an image of `grid` patches."""
        if (number, grid) not in self._asked:
            processor, blank = one_view(self.encoder, self._processor, self._kind, grid)
            self._asked[number, grid] = tokenized(self._questions[number], processor, blank, self._where(number))
        return self._asked[number, grid]

    def _not_as_many(self, images: int) -> UsageError:
        return UsageError(
            f"{self.name}: {images} images and {self.count} questions", hint="Give one question for each image."
        )

    def _where(self, number: int) -> str:
        return f"{self.name}, question {number + 1}"

    def _checked(self, reference: Reference | None) -> Reference | None:
        if self._target == "dpo-loss" and len(reference or ()) != self.count:
            raise UsageError(
                f"{self.name}: dpo-loss needs the reference's log-probabilities for each of {self.count} questions",
                hint="Give reference=base.log_probabilities(images) of the model that training starts from.",
            )
        return reference


def open_mllm(
    path: str | Path,
    questions: Sequence[Question],
    target: str = "answer",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    name: str | None = None,
    resolution: Resolution | None = None,
    reference: Reference | None = None,
    beta: float = 0.1,
) -> MllmSubject:
    """Load the checkpoint in `path` as a subject with one question about each image.

    Args:
        path: Folder, or id of a model on the Hugging Face hub.
        questions: One for each image, in the order of the images.
        target: Name of the target; see `MllmSubject`.
        device: Device of the model.
        dtype: Dtype of the model.
        name: Name of the checkpoint; by default that of the folder.
        resolution: Pixels per image for towers of native resolution.
        reference: For "dpo-loss", the log-probabilities of the reference model.
        beta: For "dpo-loss", the factor of the margin.

    Raises:
        CheckpointError: If the checkpoint does not load, is of an unknown kind, or does not fit encoder or processor.
        PrerequisiteError: If its processor needs a library that is not installed.
        UsageError: If the target does not exist, or a question cannot be asked.
    """
    model, processor = load_for_training(path, str(dtype).removeprefix("torch."))
    encoder = load_encoder(path, dtype=dtype, resolution=resolution)
    encoder.name = name or encoder.name
    return MllmSubject(model.to(device), processor, encoder, questions, target, reference=reference, beta=beta)
