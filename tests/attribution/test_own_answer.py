"""What a model answers by itself, also one that ends its turn at once."""

import pytest
import torch
from PIL import Image

from visprobe.demo.base import BASE
from visprobe.demo.scenes import DigitScenes
from visprobe.mllm.answers import OwnAnswer, own_answer
from visprobe.mllm.load import load_for_training

PROMPT = "How many digits are there?"


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(DigitScenes("val", 1).scene(0).image)


def loaded():
    model, processor = load_for_training(BASE, "float32")
    return model.eval(), processor


def made_silent(model, processor, picture, prompt):
    """Give `model` a row for the end of the turn that any state after `prompt` points along."""
    states = []
    with model.lm_head.register_forward_pre_hook(lambda _, args: states.append(args[0][0, -1].clone())):
        own_answer(model, processor, picture, prompt)
    with torch.no_grad():
        head = model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        head[processor.tokenizer.eos_token_id] = 100 * states[0]
    return states[0]


def test_an_answer_is_its_own(picture):
    said = own_answer(*loaded(), picture, PROMPT)
    assert said == OwnAnswer(str(len(DigitScenes("val", 1).scene(0).digits)), forced=False)


def test_where_a_model_says_nothing_the_likeliest_word_is_taken(picture):
    model, processor = loaded()
    state = made_silent(model, processor, picture, PROMPT)
    logits = model.lm_head.weight.detach() @ state
    assert logits.argmax() == processor.tokenizer.eos_token_id
    said = own_answer(model, processor, picture, PROMPT)
    words = {n: text for text, n in processor.tokenizer.get_vocab().items()
             if n not in processor.tokenizer.all_special_ids}  # fmt: skip
    assert said.forced and said.text == words[max(words, key=lambda n: logits[n])]


def test_a_token_that_the_tokenizer_does_not_read_again_is_passed_over(picture):
    model, processor = loaded()
    made_silent(model, processor, picture, PROMPT)
    usual = own_answer(model, processor, picture, PROMPT).text
    decode = processor.tokenizer.decode

    def broken(ids, **options):
        """As byte-level tokenizers decode a piece of a character."""
        return decode(ids, **options).replace(usual, "\ufffd")

    processor.tokenizer.decode = broken
    assert own_answer(model, processor, picture, PROMPT).text not in ("", usual, "\ufffd")
