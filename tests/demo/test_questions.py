"""The questions: true of their scene, with a wrong answer that is wrong, and not to be guessed without the image."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from visprobe.demo.questions import ANSWERS, GROUPS, Question, blind_guess, questions_about, region_of, vocabulary
from visprobe.demo.scenes import DigitScenes


@pytest.fixture(scope="module")
def asked():
    """(scene, question) of 400 unseen scenes."""
    data = DigitScenes("val", 400)
    return [(data.scene(i), q) for i in range(400) for q in questions_about(data, i)]


@pytest.fixture(scope="module")
def train_questions():
    data = DigitScenes("train", 4000)
    return [q for i in range(4000) for q in questions_about(data, i)]


def answer_by_looking(scene, text):
    """An independent reading of the question: parses the English, looks at the scene."""
    by_colour = {d.colour: d for d in scene.digits}
    by_digit = {str(d.digit): d for d in scene.digits}
    words = re.findall(r"[\w-]+", text.lower())
    named = [by_colour[w] for w in words if w in by_colour]
    if words[:3] == ["is", "there", "a"]:
        return "yes" if words[3] in by_colour or words[3] in by_digit else "no"
    if "even" in words:
        return "even" if named[0].digit in (0, 2, 4, 6, 8) else "odd"
    if "plus" in words:
        return str(sum(d.digit for d in named))
    if words[0] == "read":
        row = [d for d in scene.digits if (d.box[1] < 32 and d.box[3] <= 32) == (words[2] == "top")]
        return " ".join(str(d.digit) for d in sorted(row, key=lambda d: d.box[0]))
    if "colour" in words:
        return by_digit[words[-1]].colour
    if words[0] == "where":
        left, top, right, bottom = named[0].box
        return f"{'top' if top + bottom < 64 else 'bottom'}-{'left' if left + right < 64 else 'right'}"
    if "many" in words:
        return str(int(scene.masks.max()))
    if "larger" in words:
        return max(named, key=lambda d: d.size).colour
    return str(named[0].digit)


@pytest.mark.thorough
def test_every_answer_is_true_and_every_wrong_answer_is_false(asked):
    for scene, question in asked:
        assert answer_by_looking(scene, question.text) == question.answer != question.wrong


def test_wrong_answers_hold_for_something_else_in_the_image_where_they_can(asked):
    for scene, question in asked:
        if len(scene.digits) > 1 and question.kind in ("read", "colour", "where"):
            assert question.wrong in {w for d in scene.digits for w in (str(d.digit), d.colour, d.cell)}


def test_all_groups_and_kinds_are_asked_and_compared_sizes_differ_clearly(asked):
    assert {question.group for _, question in asked} == set(GROUPS)
    assert {question.kind for _, question in asked} == set(ANSWERS)
    for scene, question in asked:
        if question.kind == "compare":
            sizes = {d.colour: d.size for d in scene.digits}
            assert sizes[question.answer] - sizes[question.wrong] >= 3


def test_answers_have_one_or_two_known_words_and_texts_are_in_the_vocabulary(asked):
    known = set(vocabulary())
    for _, question in asked:
        assert 1 <= len(question.answer.split()) <= 2
        words = re.sub(r"([?.,])", r" \1 ", f"{question.text} {question.answer} {question.wrong}").lower().split()
        assert set(words) <= known
    assert {word for _, q in asked for word in re.findall(r"[\w-]+|[?.,]", f"{q.text} {q.answer}".lower())} == known


@pytest.mark.thorough
def test_no_kind_can_be_guessed_from_its_text(asked, train_questions):
    guess = blind_guess(train_questions)
    hits = defaultdict(list)
    for _, question in asked:
        hits[question.kind].append(guess.get(question.text) == question.answer)
    for kind, correct in hits.items():
        chance, n = 1 / ANSWERS[kind], len(correct)
        # four standard errors of a share at chance: 0.05 for the yes/no kinds, less for the others
        assert abs(np.mean(correct) - chance) < 4 * np.sqrt(chance * (1 - chance) / n), kind


def test_sums_are_flat_although_their_pairs_are_not(train_questions):
    counts = Counter(q.answer for q in train_questions if q.kind == "sum")
    assert set(counts) == {str(total) for total in range(1, 18)}
    # pairs of digits alone would give 5 to 1; what is left comes from scenes in which several sums were kept
    assert max(counts.values()) / min(counts.values()) < 1.6


def test_blind_guess_takes_the_majority_and_breaks_ties_by_the_alphabet():
    rows = [("a?", "yes"), ("a?", "no"), ("a?", "yes"), ("b?", "no"), ("b?", "even")]
    asked = [Question(text, answer, "-", "general", "colour present") for text, answer in rows]
    assert blind_guess(asked) == {"a?": "yes", "b?": "even"}


def test_the_same_scene_always_gets_the_same_questions():
    assert questions_about(DigitScenes("val", 50), 42) == questions_about(DigitScenes("val", 900), 42)
    assert questions_about(DigitScenes("val", 50), 42) != questions_about(DigitScenes("train", 50), 42)


@pytest.mark.thorough
def test_the_region_is_what_the_question_names(asked):
    digits_of = {"parity": 1, "read": 1, "colour": 1, "where": 1, "sum": 2, "row": 2, "compare": 2}
    seen = Counter()
    for scene, question in asked:
        region = region_of(question, scene)
        if region is None:
            assert question.kind in ("colour present", "digit present") and question.answer == "no"
            continue
        inside = [d for i, d in enumerate(scene.digits, 1) if region[scene.masks == i].any()]
        assert (region == np.isin(scene.masks, [scene.digits.index(d) + 1 for d in inside])).all()
        assert len(inside) == digits_of.get(question.kind, len(scene.digits) if question.kind == "count" else 1)
        words = re.findall(r"[\w-]+", question.text)
        named = {w for d in inside for w in (d.colour, str(d.digit), *d.cell.split("-")[:1])}
        assert question.kind == "count" or named & set(words)
        seen[question.kind] += 1
    assert set(seen) == set(ANSWERS)
