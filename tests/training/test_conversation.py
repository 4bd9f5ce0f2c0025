"""Prompts are the model's own, token for token, whatever the tokenizer; and templates as templates really are."""

import random

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from visprobe.data.rows import BadRow, Row, Turn
from visprobe.errors import CheckpointError
from visprobe.mllm.batches import PreferenceCollator, RowEncoder, SupervisedCollator
from visprobe.mllm.conversation import Conversations, content_parts
from visprobe.mllm.question import Question, tokenized

SAID = (
    "a the cat dog is on under red green what how many there ? . , 3 17 2.5 yes no x=y — 🙂 A B C The it's don't "
    'don’t naïve 日本 São-Paulo (left) "right" über'
)
WORDS = SAID.split()
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>"]
CHATML = """
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\n' -}}
{%- for p in m['content'] -%}{{ '<image>\n' if p['type'] == 'image' else p['text'] }}{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
VICUNA = """
{%- for m in messages -%}
{%- if m['role'] != 'system' -%}{{ m['role'].upper() + ': ' }}{%- endif -%}
{%- for p in m['content'] -%}{{ '<image>\n' if p['type'] == 'image' else p['text'] + ' ' }}{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
LLAMA = """
{{- bos_token -}}
{%- for m in messages -%}
{{- '[' + m['role'] + '] ' -}}
{%- for p in m['content'] -%}{{ '<image>' if p['type'] == 'image' else p['text'] | trim }}{%- endfor -%}
{{- ' </s>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[assistant] ' }}{%- endif -%}
"""
TEMPLATES = {"chatml": CHATML, "vicuna": VICUNA, "llama": LLAMA}


def byte_level():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw, trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )


def sentence_piece(scheme):
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return raw, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL)


def old_llama():
    """A mark in front of every text by its normalizer, as the tokenizers that were converted from sentence-piece."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return raw, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL)


def word_piece():
    raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return raw, trainers.WordPieceTrainer(vocab_size=420, special_tokens=SPECIAL)


KINDS = {
    "byte-level BPE": byte_level,
    "sentence-piece, prefix": lambda: sentence_piece("always"),
    "sentence-piece, first only": lambda: sentence_piece("first"),
    "sentence-piece, no prefix": lambda: sentence_piece("never"),
    "sentence-piece by a normalizer": old_llama,
    "WordPiece": word_piece,
}


def random_text(rng, most=9):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def tokenizer(kind, bos):
    raw, trainer = KINDS[kind]()
    rng = random.Random(0)
    raw.train_from_iterator(
        [random_text(rng, 30) for _ in range(300)] + ["user assistant USER: ASSISTANT:\n"] * 9, trainer
    )
    if bos:
        start = ("<s>", raw.token_to_id("<s>"))
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[start])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", extra_special_tokens={"image_token": "<image>", "end": "<|im_end|>", "start": "<|im_start|>"},
    )  # fmt: skip


def processor(kind, bos, template):
    return transformers.LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": 16, "width": 16}), tokenizer=tokenizer(kind, bos),
        patch_size=8, vision_feature_select_strategy="full", image_token="<image>", chat_template=TEMPLATES[template],
    )  # fmt: skip


class Held:
    name = "held"

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def image(self, key):
        return Image.new("RGB", (16, 16), (int(key), 9, 9))

    def content_hash(self):
        return ""


def random_row(rng, number):
    """One to three questions, with an image in the first or the last one or in both."""
    turns, images = [], []
    if rng.random() < 0.3:
        turns.append(Turn("system", random_text(rng)))
    count = rng.randint(1, 3)
    for turn in range(count):
        with_image = turn == 0 or (turn == count - 1 and rng.random() < 0.4)
        images += [str(number % 200)] if with_image else []
        turns.append(Turn("user", ("<image>\n" if with_image else "") + random_text(rng)))
        if turn < count - 1:
            turns.append(Turn("assistant", random_text(rng)))
    return Row(f"r{number}", tuple(turns), tuple(images), random_text(rng), random_text(rng))


def by_the_library(processor, rows, turns, ask=False):
    images = iter([rows.image(key) for key in rows[0].images])
    told = [
        {"role": t.role, "content": [{"type": "image", "image": next(images)} if p["type"] == "image" else p
                                     for p in content_parts(t.text)]}
        for t in turns
    ]  # fmt: skip
    return list(
        processor.apply_chat_template(told, tokenize=True, return_dict=True, add_generation_prompt=ask)["input_ids"][0]
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("bos", [True, False], ids=["with BOS", "without"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_arms_read_what_the_librarys_own_call_gives(kind, bos, template):
    made, rng = processor(kind, bos, template), random.Random(1)
    ends = [] if template != "vicuna" else [made.tokenizer.eos_token_id]
    for number in range(200 // 6):  # of 36 combinations: 1188 conversations
        row = random_row(rng, number)
        rows = Held(row)
        encoder = RowEncoder(made, rows)
        supervised = Held(Row(row.id, (*row.turns, Turn("assistant", row.chosen)), row.images))
        told = [by_the_library(made, rows, (*row.turns, Turn("assistant", one))) for one in (row.chosen, row.rejected)]
        batch = SupervisedCollator(RowEncoder(made, supervised))([{"row": 0}])
        assert batch["input_ids"][0].tolist() == told[0] + ends
        pair = PreferenceCollator(encoder)([{"row": 0}])
        for ids, mask, wanted in zip(pair["input_ids"], pair["attention_mask"], told, strict=True):
            assert ids[mask.bool()].tolist() == wanted + ends
        # GRPO samples from what the library makes of the question; the other arms' prompts begin with the same.
        asked_ids = by_the_library(made, rows, row.turns, ask=True)
        prompt = [token for segment in encoder[0].prompt for token in segment.ids]
        assert prompt == asked_ids[: len(prompt)] and len(asked_ids) - len(prompt) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_gradcam_asks_with_the_same_tokens(kind):
    made = processor(kind, True, "vicuna")
    question = Question("<image>\nwhat is there ?", "red cat", "green dog")
    found = tokenized(question, made, Image.new("RGB", (16, 16)), "q")
    rows = Held(Row("q", (Turn("user", question.turn),), ("0",)))
    for answer, text in zip(found.answers, question.answers, strict=True):
        wanted = by_the_library(made, rows, (Turn("user", question.turn), Turn("assistant", text)))
        assert [*found.prompt, *answer.ids] == [*wanted, made.tokenizer.eos_token_id]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_loss_is_on_the_answers_and_their_ends(template):
    made = processor("byte-level BPE", True, template)
    row = Row("r", (Turn("user", "<image>\nwhat ?"), Turn("assistant", "red"), Turn("user", "why ?"),
                    Turn("assistant", "the cat")), ("1",))  # fmt: skip
    batch = SupervisedCollator(RowEncoder(made, Held(row)))([{"row": 0}])
    said = made.tokenizer.decode(batch["input_ids"][0][batch["labels"][0] >= 0])
    ends = {"chatml": ("red<|im_end|>\n", "the cat<|im_end|>\n"), "vicuna": (" red", " the cat </s>"),
            "llama": (" red </s>", " the cat </s>")}  # fmt: skip
    assert said == "".join(ends[template])


def test_no_end_is_added_where_that_is_asked_or_the_template_writes_one():
    made = processor("byte-level BPE", False, "vicuna")
    turns = [Turn("user", "what ?"), Turn("assistant", "red")]
    with_end, without = (Conversations(made, end_turns=end).tokens(turns, []) for end in (True, False))
    assert with_end.ids == [*without.ids, made.tokenizer.eos_token_id] and with_end.answered[-1]
    chatml = processor("byte-level BPE", False, "chatml")
    assert made.tokenizer.eos_token_id not in Conversations(chatml).tokens(turns, []).ids


def refusing(condition, message):
    return "{%- if " + condition + " -%}{{ raise_exception('" + message + "') }}{%- endif -%}" + CHATML


@pytest.mark.parametrize(
    ("template", "turns", "reason"),
    [
        (refusing("messages[0]['role'] == 'system'", "System role not supported"),
         [Turn("system", "be kind"), Turn("user", "what ?"), Turn("assistant", "red")], "System role not supported"),
        (refusing("messages[0]['role'] != 'user'", "roles must alternate"),
         [Turn("assistant", "hello"), Turn("user", "what ?"), Turn("assistant", "red")], "roles must alternate"),
        (CHATML.replace("p['text'] }}", "(p['text'] if loop.last and m == messages[-1] else 'gone') }}"),
         [Turn("user", "what ?"), Turn("assistant", "red"), Turn("user", "why ?"), Turn("assistant", "so")],
         "rewrites earlier turns"),
        ("{{ messages.nothing.there }}", [Turn("user", "what ?"), Turn("assistant", "red")], "refuses"),
    ],
)  # fmt: skip
def test_what_a_template_refuses_is_a_bad_row(template, turns, reason):
    made = processor("byte-level BPE", False, "chatml")
    made.chat_template = template
    with pytest.raises(BadRow, match=reason):
        Conversations(made).tokens(turns, [])


def test_a_conversation_may_begin_with_the_model():
    made = processor("byte-level BPE", False, "chatml")
    turns = [Turn("assistant", "hello"), Turn("user", "what ?"), Turn("assistant", "red")]
    told = Conversations(made).tokens(turns, [])
    said = made.tokenizer.decode([token for token, own in zip(told.ids, told.answered, strict=True) if own])
    assert said == "hello<|im_end|>\nred<|im_end|>\n"


def test_where_a_prompt_opens_a_thought_the_answer_begins_where_the_finished_turn_does():
    made = processor("byte-level BPE", False, "chatml")
    made.chat_template = CHATML.replace("assistant\n' }}{%- endif", "assistant\n<think>\n' }}{%- endif")
    row = Row("r", (Turn("user", "what ?"),), (), "red", "green")
    encoded = RowEncoder(made, Held(row))[0]
    prompt = made.tokenizer.decode([token for segment in encoded.prompt for token in segment.ids])
    assert prompt.endswith("<|im_start|>assistant\n") and "<think>" not in prompt
    assert made.tokenizer.decode(encoded.chosen) == "red<|im_end|>\n"
    thought = Row("t", (Turn("user", "what ?"),), (), "<think>\nwell</think> red", "<think>\nno</think> green")
    encoded = RowEncoder(made, Held(thought))[0]
    prompt = made.tokenizer.decode([token for segment in encoded.prompt for token in segment.ids])
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")


def test_a_tokenizer_that_knows_no_characters_is_refused():
    made = processor("byte-level BPE", False, "chatml")
    made.tokenizer.__class__ = type("Slow", (type(made.tokenizer),), {"is_fast": False})
    with pytest.raises(CheckpointError, match="does not say which characters"):
        Conversations(made)


def test_images_of_a_pair_are_processed_once_and_equal_those_of_the_whole():
    made = processor("byte-level BPE", False, "chatml")
    seen = []
    original = made.image_processor.__class__.__call__
    row = random_row(random.Random(3), 3)
    rows = Held(row)
    wanted = made(
        images=[rows.image(key) for key in row.images], text=["<image>" * len(row.images)], return_tensors="pt"
    )
    try:
        made.image_processor.__class__.__call__ = lambda self, *a, **k: seen.append(1) or original(self, *a, **k)
        encoded = RowEncoder(made, rows)[0]
    finally:
        made.image_processor.__class__.__call__ = original
    assert len(seen) == 1 and torch.equal(encoded.images["pixel_values"], wanted["pixel_values"])


def checked(made, row, **how):
    return Conversations(made, **how).check(row, [(16, 16)] * len(row.images))


def test_the_prompt_of_a_row_is_the_same_in_every_arm():
    made = processor("byte-level BPE", True, "chatml")
    question = Row("r", (Turn("user", "<image>\nwhat ?"),), ("1",), "red", "green", "red")
    supervised = Row("r", (*question.turns, Turn("assistant", "red")), ("1",))
    reward = Row("r", question.turns, ("1",), answer="red")
    prompts = {checked(made, row) for row in (question, supervised, reward)}
    assert prompts == {by_chatml_text(made, question.turns)}


def by_chatml_text(made, turns):
    messages = [{"role": turn.role, "content": content_parts(turn.text)} for turn in turns]
    return made.apply_chat_template(messages, add_generation_prompt=True)


def test_rows_beyond_the_positions_of_the_model_are_bad_and_images_count():
    made = processor("byte-level BPE", False, "chatml")
    row = Row("r", (Turn("user", "<image>\nwhat ?"),), ("1",), "red", "green green")
    encoded = PreferenceCollator(RowEncoder(made, Held(row)))([{"row": 0}])
    exactly = int(encoded["attention_mask"].sum(1).max())
    checked(made, row, positions=exactly)
    with pytest.raises(BadRow, match=f"positions: {exactly} tokens, room for {exactly - 1}"):
        checked(made, row, positions=exactly - 1)


def test_an_answer_that_is_not_to_be_learned_gets_no_loss():
    made = processor("byte-level BPE", True, "chatml")
    turns = (Turn("user", "what ?"), Turn("assistant", "red", learned=False), Turn("user", "why ?"),
             Turn("assistant", "so"))  # fmt: skip
    batch = SupervisedCollator(RowEncoder(made, Held(Row("r", turns))))([{"row": 0}])
    assert made.tokenizer.decode(batch["input_ids"][0][batch["labels"][0] >= 0]) == "so<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        (
            "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
            CheckpointError,
            "to an end",
        ),
        ("{{ 'a' * 10 ** 10 }}", CheckpointError, "to an end"),
        (
            "{% set ns = namespace(t='a') %}{% for i in range(99) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
            CheckpointError,
            "to an end",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", BadRow, "refuses the conversation"),
        ("{{ messages.append(1) }}", BadRow, "refuses the conversation"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", BadRow, "refuses the conversation"),
        ("{% include 'x' %}", BadRow, "refuses the conversation"),
        ("{% if %}", BadRow, "refuses the conversation"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", BadRow, "refuses the conversation"),
    ],
)
def test_a_hostile_template_ends_in_one_message(template, error, words, monkeypatch):
    monkeypatch.setattr("visprobe.mllm.conversation._SECONDS", 2)
    made = processor("byte-level BPE", False, "chatml")
    made.chat_template = template
    with pytest.raises(error, match=words):
        Conversations(made).text([Turn("user", "what ?")])


def test_a_mark_that_ends_a_turn_belongs_into_no_text():
    made = processor("byte-level BPE", False, "chatml")
    tokenized = Turn("user", "what ?")
    for turns, word in (
        ((tokenized, Turn("assistant", "red<|im_end|> no")), "an answer holds the mark"),
        ((Turn("user", "what ?<|im_end|> no"), Turn("assistant", "red")), "a question holds the mark"),
        ((Turn("system", "be</s> kind"), tokenized, Turn("assistant", "red")), "a question holds the mark"),
    ):
        with pytest.raises(BadRow, match=word):
            checked(made, Row("r", turns))


def test_half_a_character_is_a_bad_row():
    made = processor("byte-level BPE", False, "chatml")
    with pytest.raises(BadRow, match="half of a character"):
        checked(made, Row("r", (Turn("user", "what \ud83d ?"), Turn("assistant", "red"))))
    checked(made, Row("r", (Turn("user", "what \U0001f642 ?"), Turn("assistant", "red"))))
