"""Answers of whole models: scores and gradients beside those of the model called directly, in every family."""

import pytest
import torch
from tiny_mllms import ASKED, MLLMS, lit, picture, plain, written

from visprobe.attribution.methods.attention_maps import recorded
from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.methods.trace import trace
from visprobe.attribution.targets.answers import MllmSubject
from visprobe.attribution.targets.subject import TowerSubject
from visprobe.errors import CheckpointError
from visprobe.mllm.image_features import projected
from visprobe.mllm.one_view import newlines

REFERENCE, BETA = (-3.0, -2.5), 0.3


@pytest.fixture(scope="module", params=MLLMS)
def family(request, tmp_path_factory):
    return request.param, *written(request.param, tmp_path_factory.mktemp("checkpoint"))


def by_hand(name, model, processor, answer, block):
    """Log p of each token of the answer and its end, and the state of a block, from the model called as users do."""
    states = []
    hook = block.register_forward_hook(lambda *call: states.append(call[2]))
    inputs = plain(name, processor, picture(name), f"<|im_start|>assistant {answer}<|im_end|>")
    with torch.enable_grad():
        values = inputs.pop("pixel_values").requires_grad_()  # frozen weights alone would make no graph
        logits = model(**inputs, pixel_values=values).logits[0]
    hook.remove()
    ids, count = inputs["input_ids"][0], len(answer.split()) + 1
    terms = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[-count:, 0]
    (state,) = states
    return terms, state[0] if isinstance(state, tuple) else state


def test_scores_and_gradients_are_those_of_the_model_itself(family):
    name, model, processor, encoder = family
    subject = MllmSubject(model, processor, encoder, [ASKED], "contrast")
    block = subject.encoder.tower.get_submodule(encoder.family.blocks[0][0])[1]
    (chosen, state), (rejected, other) = (
        by_hand(name, model, processor, answer, block) for answer in (ASKED.answer, ASKED.rejected)
    )
    runs = []
    counter = subject.encoder.tower.register_forward_hook(lambda *call: runs.append(call))
    (graph,) = subject.forward([picture(name)], ["block_02"])
    counter.remove()
    assert len(runs) == 1
    (gradient,) = torch.autograd.grad(graph.scores.sum(), graph.sites["block_02"].leaves)
    (first,) = torch.autograd.grad(chosen[:-1].sum(), state)
    (second,) = torch.autograd.grad(rejected[:-1].sum(), other)
    # Float32 sums in another order, through a language model; gradients are up to a few hundredths.
    torch.testing.assert_close(gradient, first - second, rtol=1e-3, atol=1e-5)
    margin = chosen.sum() - rejected.sum() - (REFERENCE[0] - REFERENCE[1])
    pixels = encoder.preprocess([picture(name)])
    for target, expected in {
        "answer": chosen[:-1].sum(),
        "rejected": rejected[:-1].sum(),
        "contrast": chosen[:-1].sum() - rejected[:-1].sum(),
        "token:1": chosen[1],
        "sft-loss": -chosen.mean(),
        "dpo-loss": (1 + (-BETA * margin).exp()).log(),
    }.items():
        subject = MllmSubject(model, processor, encoder, [ASKED], target, reference=[REFERENCE], beta=BETA)
        with torch.no_grad():
            torch.testing.assert_close(subject.score(pixels)[0], expected.detach(), rtol=0, atol=1e-4)  # as above
    sums = subject.log_probabilities([picture(name)])[0]
    assert sums == pytest.approx((chosen.sum().item(), rejected.sum().item()), abs=1e-4)


def test_states_are_those_that_other_analyses_read(family):
    name, model, processor, encoder = family
    image = picture(name, size=(40, 70))  # squashed by some, in tiles for others
    found = trace(MllmSubject(model, processor, encoder, [ASKED]), [image], [encoder.consumed, "projected"])
    pixels = encoder.preprocess([image])
    for site, (one,) in found.items():
        expected = encoder.forward(pixels, [site])[site][0]
        assert one.grid[0] * one.grid[1] == len(expected)
        # The whole model computes with other shapes: float32, values of up to some tens.
        torch.testing.assert_close(one.activations, expected, rtol=1e-4, atol=1e-5)
        assert one.gradients.abs().max() > 0


class Reading(MllmSubject):
    """Its score is how far one image token lies in a direction."""

    grid, token, direction = None, None, None

    def _terms(self, question, features, answer):
        seen = projected(self.encoder, features, self.grid, newlines(self._kind))
        ((tokens, _),) = seen.views(seen.leaves)
        return (tokens[0, self.token] @ self.direction).expand(len(answer.ids))


def test_maps_answer_at_the_place_of_a_bright_patch(family):
    name, model, processor, encoder = family
    grey, bright, place = lit(name)
    subject = Reading(model, processor, encoder, [ASKED, ASKED])
    subject.grid = encoder.preprocess([bright]).grids[0]
    pixels = encoder.preprocess([bright, grey])
    light, dark = encoder.forward(pixels, ["projected"])["projected"]
    cell = round((subject.grid[0] * subject.grid[1] / len(light)) ** 0.5)
    columns = subject.grid[1] // cell
    subject.token = place[0] // cell * columns + place[1] // cell
    subject.direction = (light - dark)[subject.token]
    methods = ["gradient-norm", "gradient-times-input", "integrated-gradients", "occlusion"]
    found = maps(subject, [bright], methods, ["consumed", "projected"], steps=2, side=2 * cell)
    for (method, site), (one,) in found.items():
        hidden = 2 if method == "occlusion" else 1  # image tokens along a side of what is hidden at a time
        size = hidden if site == "projected" else hidden * cell
        row, column = divmod(int(one.values.abs().argmax()), one.grid[1])
        assert [row // size, column // size] == [n // cell // hidden for n in place], (method, site)


def test_attention_is_that_of_the_tower_alone(family):
    name, model, processor, encoder = family
    language = model.config.text_config._attn_implementation
    subject = MllmSubject(model, processor, encoder, [ASKED])
    (found,) = maps(subject, [picture(name)], ["rollout"]).values()
    with recorded(subject.encoder) as runs:
        subject.forward([picture(name)], [])
        assert model.config.text_config._attn_implementation == language == "sdpa"
    assert len(runs) == 1
    tower = TowerSubject(encoder, lambda tokens, first: torch.stack([one.mean() for one in tokens]))
    (expected,) = maps(tower, [picture(name)], ["rollout"]).values()
    torch.testing.assert_close(found[0].values, expected[0].values, rtol=1e-4, atol=1e-6)  # float32, other shapes


def test_a_class_token_beside_the_patches_is_left_out_of_the_map(tmp_path):
    model, processor, encoder = written("llava-clip", tmp_path)
    model.config.vision_feature_select_strategy = processor.vision_feature_select_strategy = "full"
    processor.num_additional_image_tokens = 1
    subject = MllmSubject(model, processor, encoder, [ASKED])
    (one,) = trace(subject, [picture("llava-clip")], ["projected"])["projected"]
    expected = encoder.forward(encoder.preprocess([picture("llava-clip")]), ["projected"])["projected"][0]
    torch.testing.assert_close(one.activations, expected, rtol=1e-4, atol=1e-5)  # as above


def test_a_patch_that_the_model_drops_leaves_no_grid(tmp_path):
    model, processor, encoder = written("llava", tmp_path)
    model.config.vision_feature_select_strategy = processor.vision_feature_select_strategy = "default"
    subject = MllmSubject(model, processor, encoder, [ASKED])
    with pytest.raises(CheckpointError, match="the 15 image tokens that the language model reads are no whole grid"):
        subject.forward([picture("llava")], ["projected"])
    assert trace(subject, [picture("llava")], [encoder.consumed])
