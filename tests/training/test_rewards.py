"""Rewards on the answers that models really give, the odd ones first."""

import math
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visprobe.errors import TrainingError, UsageError
from visprobe.training.trainers.rewards import REWARDS, as_trl, choice, exact, find_reward, numeric


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("yes", "yes", 1),
        ("Yes.", "yes", 1),
        ("  **YES**\n", "yes", 1),
        ("ＹＥＳ！", "yes", 1),
        ("3  7", "3 7", 1),
        ("yes, it is", "Yes it is", 1),
        ("–5", "−5", 1),  # en dash, minus sign
        ("cafe\u0301", "café", 1),
        ("", "yes", 0),
        ("yes no", "yes", 0),
        ("yesterday", "yes", 0),
        ("37", "3 7", 0),
        ("-5", "5", 0),
        ("35", "3.5", 0),
        (".5", "5", 0),
        ("5%", "5", 0),
        ("10²", "102", 0),
        ("C++", "C", 0),
        ("C#", "C", 0),
        ("", "?", 0),  # nothing but punctuation is compared as it stands
        ("?", "?", 1),
    ],
)
def test_exact(completion, answer, reward):
    assert exact(completion, answer) == reward


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("3", "3.0", 1),
        ("3.0", "3", 1),
        ("1,000", "1000", 1),
        ("3", "3.5", 0),
        ("3 7", "3.0 7", 0),  # words, not a number
        ("yes", "<answer> yes </answer>", 1),
        ("<think>a cat? no</think><answer>Yes</answer>", "yes", 1),
        ("<answer>no</answer> or rather <answer>yes</answer>", "<answer>yes</answer>", 1),
        ("<think>yes</think> no", "yes", 0),
        ("<think>it goes on", "it goes on", 0),  # a thought that was cut off says nothing
        ("so \\boxed{yes}", "yes", 1),
        ("\\boxed{\\text{a} {b}}", "\\text{a} {b}", 1),
        ("<answer>\\boxed{3.0}</answer>", "3", 1),
        ("<answer></answer>", "yes", 0),
    ],
)
def test_exact_reads_what_is_said_at_last(completion, answer, reward):
    assert exact(completion, answer) == reward


@pytest.mark.parametrize(("reward", "answer"), [(numeric, "12"), (choice, "B"), (exact, "12")])
def test_all_read_inside_the_tags(reward, answer):
    assert reward(f"<think>7 or A</think>\n<answer> {answer} </answer>", f"<answer>{answer}</answer>") == 1
    assert reward("<think>12, B</think><answer>7 A</answer>", answer) == 0


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("94.9", "100", 0),
        ("-100", "100", 0),
        ("−100", "-102", 1),  # unicode minus
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("between 3 and 40, so 12.", "12", 1),  # the last number counts
        ("12 or 15", "12", 0),
        ("1,234,567", "1234567", 1),
        ("1,2,3", "3", 1),
        ("$1,200.50", "1200.5", 1),
        ("-$5", "-5", 1),
        ("3/4", "0.75", 1),
        ("1 1/2", "1.5", 1),
        ("1½", "1.5", 1),
        ("-½", "-0.5", 1),
        ("1/0", "1", 0),
        ("on 9/10/2020", "2020", 1),  # a date is no fraction
        ("pages 3-5", "5", 1),  # a range is no minus
        ("H2O", "2", 0),
        ("5kg", "5", 1),
        ("1.5e3", "1500", 1),
        (".5", "0.5", 1),
        ("5%", "5", 1),
        ("5 percent", "0.05", 1),
        ("0.05", "5%", 1),
        ("5%", "5%", 1),
        ("5%", "500", 0),
        ("5", "0.05", 0),  # no sign on either side: a hundredfold is a hundredfold
        ("٥", "5", 1),  # digits of another script
        ("1e999", "1", 0),
        ("9" * 400, "1", 0),
        ("", "3", 0),
        ("none", "3", 0),
        ("Red.", "red", 1),  # an answer without a number
    ],
)
def test_numeric(completion, answer, reward):
    assert numeric(completion, answer) == reward


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("B", "B", 1),
        ("b.", "B", 1),
        ("(B)", "B.", 1),
        ("**B**", "(B)", 1),
        ("Ｂ", "B", 1),
        ("B. a cat", "B", 1),
        ("(b) a cat", "B", 1),
        ("The answer is B", "B", 1),
        ("Answer: (b)", "B", 1),
        ("A looks right, but the answer is B because it is red.", "B", 1),
        ("The answer is A. Wait, the answer is B.", "B", 1),
        ("I think it is B", "B", 1),  # I is no option here
        ("A cat, so option B", "B", 1),  # A is an article here
        (r"\boxed{B}", "B", 1),
        ("B. Because A is wrong", "B", 1),
        ("yes", "yes", 1),  # an answer without a letter
        ("a cat", "A cat", 1),
        ("", "B", 0),
        ("Bananas", "B", 0),
        ("a big cab", "B", 0),
        ("В", "B", 0),  # Cyrillic
        ("A", "B", 0),
        ("B or C", "B", 0),
        ("(A) or (B)", "B", 0),
        ("The answer is B or C", "B", 0),
        ("A, B, C, D", "B", 0),
        ("The answer is not B", "B", 0),
        ("It isn't B", "B", 0),
        ("the answer is a cat", "A", 0),
    ],
)
def test_choice(completion, answer, reward):
    assert choice(completion, answer) == reward


@pytest.mark.thorough
@given(completion=st.text(max_size=60), answer=st.text(min_size=1, max_size=20))
def test_any_two_texts_have_a_reward(completion, answer):
    for reward in REWARDS.values():
        assert 0 <= reward(completion, answer) <= 1
        assert reward(answer, answer) == 1 or reward is numeric  # "1e999" is no number that can be met


@given(value=st.floats(-1e9, 1e9).filter(lambda v: abs(v) > 1e-3), factor=st.floats(0.9, 1.1))
def test_numeric_draws_the_line_at_five_percent(value, factor):
    margin = abs(abs(factor - 1) - 0.05)
    if margin > 1e-6:  # on the line itself rounding decides
        assert numeric(f"about {value * factor!r}", repr(value)) == (abs(factor - 1) < 0.05)


def test_trl_calls_them_over_a_batch_of_texts_or_conversations():
    functions = as_trl(["exact", "numeric"])
    assert [function.__name__ for function in functions] == ["exact", "numeric"]
    said, answers = ["yes", "4.1"], ["Yes", "4"]
    conversations = [[{"role": "assistant", "content": text}] for text in said]
    in_parts = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in said]
    for completions in (said, conversations, in_parts):
        rewards = [f(completions=completions, answer=answers, prompts=said, trainer_state=None) for f in functions]
        assert rewards == [[1.0, 0.0], [1.0, 1.0]]


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])
    (tmp_path / "my_rewards.py").write_text(
        textwrap.dedent("""
            def short(completion, answer): return 1 / (1 + len(completion))
            def three(completion, answer, question): return 1.0
            def loud(completion, answer): return 2.0
            def nothing(completion, answer): return float("nan")
            def fails(completion, answer): return completion[0] == answer
            constant = 1.0
        """)
    )


def test_ones_own_reward_is_imported_from_the_working_folder(own):
    assert as_trl(["my_rewards:short"])[0](["", "abc"], ["", ""]) == [1.0, 0.25]
    assert as_trl(["my_rewards:short"])[0].__name__ == "short"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exakt", r"no such reward: exakt \(did you mean exact\?\)"),
        ("nosuchmodule:f", "cannot import the reward nosuchmodule:f: ModuleNotFoundError"),
        ("my_rewards:nosuch", "AttributeError"),
        ("my_rewards:three", "cannot be called with a completion and an answer: missing .*question"),
        ("my_rewards:constant", "cannot be called .* not a callable"),
    ],
)
def test_rewards_that_cannot_be_used_are_refused_at_once(own, name, message):
    with pytest.raises(UsageError, match=message):
        find_reward(name)


@pytest.mark.parametrize(("name", "message"), [("loud", "gave 2.0"), ("nothing", "gave nan"), ("fails", "IndexError")])
def test_a_reward_outside_its_range_stops_the_run(own, name, message):
    with pytest.raises(TrainingError, match=message):
        as_trl([f"my_rewards:{name}"])[0](completions=[""], answer=["x"])
    assert math.isnan(find_reward("my_rewards:nothing")("", ""))
