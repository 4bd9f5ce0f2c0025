"""A LLaVA put together from pieces gives what the pieces give by themselves."""

import pytest
import torch
import transformers
from tiny_families import ASKED, PATCH, SIDE
from tiny_families import llava as tiny_llava
from tiny_pieces import BLOCKS, CHAT, WORD_COUNT, write_language_model, write_pair, write_tower

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError, UsageError
from visprobe.mllm.batches import RowEncoder, SupervisedCollator
from visprobe.mllm.language import with_images
from visprobe.mllm.load import load_for_training
from visprobe.training.models.assemble import assemble

READ = {"siglip": BLOCKS - 1, "clip": BLOCKS - 1, "dinov2": BLOCKS, "vit": BLOCKS}
TURNS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "one two"}]},
    {"role": "user", "content": "is this two ?"},
]
PLAIN = ["<image>\nwhat is this ?", "one two", "is this two ?"]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    return folder, write_language_model(folder)


@pytest.fixture
def tower(tmp_path):
    write_tower(tmp_path / "tower", "siglip")
    return tmp_path / "tower"


def read_by(model, pixels):
    """What the projector of `model` is given."""
    taken = []
    with (
        torch.inference_mode(),
        model.model.multi_modal_projector.register_forward_pre_hook(lambda _, arguments: taken.append(arguments[0])),
    ):
        model.model.get_image_features(pixels)
    return taken[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("write", "family"), [(write_tower, family) for family in READ] + [(write_pair, "siglip"), (write_pair, "clip")]
)
def test_the_language_model_reads_the_right_block_of_the_right_tower(write, family, language, tmp_path):
    original = write(tmp_path / "tower", family)
    model, processor = assemble(tmp_path / "tower", language[0])
    pixels = processor.image_processor([ASKED.image("40x40")], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = original(pixels, output_hidden_states=True).hidden_states
    patches = states[READ[family]][:, 0 if family == "siglip" else 1 :]
    assert patches.shape[1] == (SIDE // PATCH) ** 2
    assert torch.equal(read_by(model, pixels), patches)


@pytest.mark.sample(1)
@pytest.mark.parametrize("family", READ)
def test_it_is_saved_loaded_trained_and_measured_like_any_llava(family, language, tmp_path):
    write_tower(tmp_path / "tower", family)
    model, processor = assemble(tmp_path / "tower", language[0])
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    again, its_processor = load_for_training(tmp_path / "llava")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert its_processor.apply_chat_template(TURNS) == processor.apply_chat_template(TURNS)
    batch = SupervisedCollator(RowEncoder(its_processor, ASKED))([{"row": number} for number in range(3)])
    again(**batch).loss.backward()
    assert again.model.multi_modal_projector.linear_1.weight.grad.any()
    encoder, source = load_encoder(tmp_path / "llava"), load_encoder(tmp_path / "tower")
    assert encoder.consumed == f"block_{READ[family]:02d}"
    pixels = source.preprocess([ASKED.image("40x40")])
    assert torch.equal(encoder.preprocess([ASKED.image("40x40")]).inputs["pixel_values"], pixels.inputs["pixel_values"])
    wanted = source.forward(pixels, [encoder.consumed])[encoder.consumed]
    assert torch.equal(encoder.forward(pixels, ["consumed"])["consumed"], wanted)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [None, 64])
def test_text_gets_the_scores_of_the_language_model(tower, tmp_path, kind, tied, rows):
    original = write_language_model(tmp_path / "llm", kind, rows=rows, tie_word_embeddings=tied)
    model, _ = assemble(tower, tmp_path / "llm")
    ids = torch.arange(5, 20)[None]
    with torch.inference_mode():
        known = original(ids).logits
        assert torch.equal(model(ids).logits[..., : known.shape[-1]], known)


def test_the_image_token_gets_a_row_and_the_matrix_is_filled_up(tower, language):
    folder, original = language
    model, processor = assemble(tower, folder)
    rows = model.get_input_embeddings().weight
    assert (WORD_COUNT, len(processor.tokenizer), len(rows)) == (30, 31, 32)
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>") == 30
    old = original.get_input_embeddings().weight
    assert torch.equal(rows[:30], old)
    assert torch.equal(rows[30], old.mean(0)) and torch.equal(rows[31], old.mean(0))
    assert model.lm_head.weight.shape == rows.shape


@pytest.mark.thorough
def test_a_matrix_with_room_for_the_token_keeps_its_size(tower, tmp_path):
    write_language_model(tmp_path / "llm", rows=50)
    model, _ = assemble(tower, tmp_path / "llm")
    assert len(model.get_input_embeddings().weight) == 50
    assert model.generation_config.suppress_tokens == list(range(30, 50))


def test_rows_without_a_token_are_never_written(tower, language):
    model, processor = assemble(tower, language[0])
    inputs = processor(text=[processor.apply_chat_template(TURNS[2:], add_generation_prompt=True)], return_tensors="pt")
    with torch.no_grad():
        last = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        model.lm_head.weight[30:] = 10 * last  # these are now by far the likeliest
        assert model(**inputs).logits[0, -1].argmax() >= 30
    answer = model.generate(**inputs, max_new_tokens=1)[0, -1]
    assert answer < 30


def test_the_template_is_the_language_models_own(tower, language):
    _, processor = assemble(tower, language[0])
    plain = [{**turn, "content": text} for turn, text in zip(TURNS, PLAIN, strict=True)]
    words = transformers.AutoTokenizer.from_pretrained(language[0])
    for ask in (True, False):
        wanted = words.apply_chat_template(plain, tokenize=False, add_generation_prompt=ask)
        assert processor.apply_chat_template(TURNS, add_generation_prompt=ask) == wanted
        assert "<|im_start|>system three<|im_end|>" in wanted


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{% set content = '<' + message['role'] + '>' + message['content'] | trim %}"
        "{% if loop.index0 == 0 %}{% set content = 'begin ' + content %}{% endif %}{{ content }}{% endfor %}",
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% else %}{% set turns = messages %}"
        "{% endif %}{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles') }}{% endif %}{{ '[' + message.content + ']' }}{% endfor %}",
        "{%- macro said(message) %}{{ message.content }}{% endmacro %}{% for message in messages %}"
        "{{ said(message) }}{% if not loop.last %}|{% endif %}{% endfor %}",
    ],
    ids=["trimmed", "alternating", "macro"],
)
def test_templates_in_the_styles_that_exist_take_images(language, template):
    words = transformers.AutoTokenizer.from_pretrained(language[0])
    plain = [{**turn, "content": text} for turn, text in zip(TURNS, PLAIN, strict=True)]
    wanted = words.apply_chat_template(plain, chat_template=template, tokenize=False)
    extended = with_images(template, "<image>")
    assert words.apply_chat_template(TURNS, chat_template=extended, tokenize=False) == wanted
    assert "<image>\nwhat is this ?" in wanted


def test_a_template_that_knows_images_is_left_alone():
    own = "{% for part in messages[0]['content'] %}{{ '<img>' if part['type'] == 'image' }}{% endfor %}"
    assert with_images(own, "<image>") == own


def test_a_template_can_be_given(tower, tmp_path):
    write_language_model(tmp_path / "llm", template=None)
    with pytest.raises(CheckpointError, match="has no chat template") as error:
        assemble(tower, tmp_path / "llm")
    assert "--set chat_template=FILE" in error.value.hint
    (tmp_path / "chat.jinja").write_text(CHAT)
    _, processor = assemble(tower, tmp_path / "llm", chat_template=tmp_path / "chat.jinja")
    assert "<image>\nwhat is this ?" in processor.apply_chat_template(TURNS)
    with pytest.raises(CheckpointError, match="cannot read"):
        assemble(tower, tmp_path / "llm", chat_template=tmp_path / "absent.jinja")


@pytest.mark.thorough
def test_the_seed_fixes_the_projector_and_nothing_else(tower, language):
    state = torch.random.get_rng_state()
    one, again, other = (assemble(tower, language[0], seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    different = {name for name in one if not torch.equal(one[name], other[name])}
    assert different == {f"model.multi_modal_projector.linear_{n}.weight" for n in (1, 2)}


def test_a_feature_layer_can_be_chosen(tower, language):
    model, _ = assemble(tower, language[0], feature_layer=1)
    assert len(model.model.vision_tower.encoder.layers) == 1
    with pytest.raises(UsageError, match="no feature layer 4"):
        assemble(tower, language[0], feature_layer=4)


@pytest.mark.sample(1)
@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_the_tower_of_an_mllm_is_read_where_that_mllm_reads_it(family, language, tmp_path):
    layer = -1 if family == "siglip" else -2
    source, processor = tiny_llava(layer, family)
    source.save_pretrained(tmp_path / "mllm")
    processor.save_pretrained(tmp_path / "mllm")
    model, _ = assemble(tmp_path / "mllm", language[0])
    pixels = torch.randn(1, 3, SIDE, SIDE)
    assert torch.equal(read_by(model, pixels), read_by(source.eval(), pixels))


def positions(tower):
    """Position embeddings of a tower, (tokens, width)."""
    [found] = (value for name, value in tower.named_parameters() if name.startswith("embeddings.position_embedding"))
    return found.reshape(-1, found.shape[-1])


@pytest.mark.sample(2)
@pytest.mark.parametrize("family", READ)
def test_another_image_size_stretches_the_positions(family, language, tmp_path):
    original = write_tower(tmp_path / "tower", family)
    small, _ = assemble(tmp_path / "tower", language[0], image_size=SIDE)
    model, processor = assemble(tmp_path / "tower", language[0], image_size=2 * SIDE)
    before, same, after = (positions(tower) for tower in (original, small.model.vision_tower, model.model.vision_tower))
    assert torch.equal(same, before)
    first = 0 if family == "siglip" else 1
    assert torch.equal(after[:first], before[:first])
    grid, wide = before[first:].reshape(4, 4, -1), after[first:].reshape(8, 8, -1)
    # Away from the border, two by two new positions lie around an old one: their mean is near it.
    mean = wide.reshape(4, 2, 4, 2, -1).mean((1, 3))
    assert torch.corrcoef(torch.stack([mean.flatten(), grid.flatten()]))[0, 1] > 0.98
    batch = SupervisedCollator(RowEncoder(processor, ASKED))([{"row": 0}])
    assert batch["pixel_values"].shape[-2:] == (2 * SIDE, 2 * SIDE)
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == 64
    assert torch.isfinite(model(**batch).loss)
    with pytest.raises(UsageError, match="no image size 33"):
        assemble(tmp_path / "tower", language[0], image_size=33)


def test_what_does_not_fit_is_refused(tower, language, tmp_path):
    with pytest.raises(UsageError, match="no projector mlp3x_gelu"):
        assemble(tower, language[0], projector="mlp3x_gelu")
    with pytest.raises(CheckpointError, match="cannot load the language model"):
        assemble(tower, tmp_path / "absent")
    write_tower(tmp_path / "registers", "dinov2_with_registers")
    with pytest.raises(CheckpointError, match="register tokens"):
        assemble(tmp_path / "registers", language[0])


def test_a_language_model_that_caps_its_logits_is_refused(tower, tmp_path):
    write_language_model(tmp_path / "llm", "gemma2", final_logit_softcapping=0.01, sliding_window=16)
    with pytest.raises(CheckpointError, match="Gemma2ForCausalLM gives other scores"):
        assemble(tower, tmp_path / "llm")


def test_a_gguf_file_is_read_and_leaves_no_trace_of_quantization(tower, language, tmp_path, monkeypatch):
    """The file itself is read by transformers; here its loader is replaced, and what it leaves behind planted."""
    folder, asked = tmp_path / "gguf", []
    folder.mkdir()
    (folder / "model.Q8_0.gguf").touch()
    load_model = transformers.AutoModelForCausalLM.from_pretrained
    load_tokenizer = transformers.AutoTokenizer.from_pretrained

    def model_of(path, gguf_file=None, **options):
        asked.append((path, gguf_file))
        model = load_model(language[0], **options)
        model.config.quantization_config = {"quant_method": "gguf"}
        return model

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", model_of)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda path, gguf_file=None, **_: load_tokenizer(language[0])
    )
    model, _ = assemble(tower, folder)
    assert asked == [(folder, "model.Q8_0.gguf")]
    model.save_pretrained(tmp_path / "out")
    assert "quantization" not in (tmp_path / "out" / "config.json").read_text()
    (folder / "other.gguf").touch()
    with pytest.raises(CheckpointError, match="holds 2 GGUF files"):
        assemble(tower, folder)
