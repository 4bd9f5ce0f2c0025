"""Questions about digit scenes whose answers cannot be guessed from the question alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visprobe.demo.scenes import CELLS, COLOURS, DigitScenes, PlacedDigit, Scene

Group = Literal["general", "knowledge", "ocr", "vision"]
GROUPS: tuple[Group, ...] = ("general", "knowledge", "ocr", "vision")

_DIGITS = tuple(str(digit) for digit in range(10))
_WORDS = """yes no is there a digit what plus the even or odd which larger read top bottom row colour where
how many digits are ? . ,"""
_ABOUT_ONE_DIGIT = ("colour", "where", "read", "parity")  # kinds with an answer about a single digit
_LEVEL_GAP = 3  # pixels; a smaller difference may be jitter of one size level
_PAIRS_WITH_SUM = Counter(a + b for a, b in combinations(range(10), 2))


@dataclass(frozen=True)
class Question:
    """Question about a scene, with its right and a wrong answer.

    Attributes:
        text: Text of the question.
        answer: Right answer, one or two words.
        wrong: Plausible wrong answer, true of something else in the image if possible.
        group: Benchmark group, one of `GROUPS`.
        kind: Kind of question, a key of `ANSWERS`.
    """

    text: str
    answer: str
    wrong: str
    group: Group
    kind: str


# Number of possible answers of each kind. All are equally likely for any text, so the best guess from the text alone is
# right once in that many.
ANSWERS = {
    "colour present": 2,
    "digit present": 2,
    "parity": 2,
    "sum": 17,
    "read": 10,
    "row": 90,
    "colour": 6,
    "where": 4,
    "count": 4,
    "compare": 2,
}


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Draw one question of each kind that the scene allows.

    Args:
        scene: Scene to ask about.
        rng: Random number generator; chooses the digit, colour or row of each question.

    Returns:
        7 to 10 questions, in the order of `ANSWERS`.
    """
    asked = (ask(scene, rng) for ask in _KINDS)
    return [question for question in asked if question is not None]


def questions_about(scenes: DigitScenes, index: int) -> list[Question]:
    """Return the questions about scene `index`, the same on every call."""
    rng = np.random.default_rng((ord(scenes.split[0]), scenes.seed, index))
    return questions(scenes.scene(index), rng)


def about_different_digits(scenes: DigitScenes, index: int) -> list[tuple[Question, NDArray[np.bool_]]]:
    """Return one question for each different digit of scene `index`, with its pixels; kinds rotate with the index."""
    scene = scenes.scene(index)
    by_kind = {question.kind: question for question in questions_about(scenes, index)}
    turn = index % len(_ABOUT_ONE_DIGIT)
    found: dict[bytes, tuple[Question, NDArray[np.bool_]]] = {}
    for kind in _ABOUT_ONE_DIGIT[turn:] + _ABOUT_ONE_DIGIT[:turn]:
        region = region_of(by_kind[kind], scene)
        if region is not None:
            found.setdefault(region.tobytes(), (by_kind[kind], region))
    return list(found.values())


def region_of(question: Question, scene: Scene) -> NDArray[np.bool_] | None:
    """Return the region of the answer: the pixels of the digits that the question names.

    Args:
        question: A question about `scene`.
        scene: Scene with its masks.

    Returns:
        bool of shape (64, 64): one digit for most kinds, two for "sum", "row" and "compare", all for "count". None if
        the image does not show what the question names.
    """
    words = set(question.text.strip("?.").replace(",", "").split())
    row = next((word for word in ("top", "bottom") if word in words), None)
    asked = [
        number
        for number, placed in enumerate(scene.digits, start=1)
        if question.kind == "count"
        or {str(placed.digit), placed.colour} & words
        or placed.cell.partition("-")[0] == row
    ]
    return np.isin(scene.masks, asked) if asked else None


def vocabulary() -> list[str]:
    """Return every word and punctuation mark of questions and answers, lower case, in a fixed order."""
    words = [*_WORDS.split(), *COLOURS, *CELLS, *(str(number) for number in range(18))]
    return list(dict.fromkeys(words))


def blind_guess(train_questions: Iterable[Question]) -> dict[str, str]:
    """Find the most frequent answer to each question text, the best guess without the image.

    Args:
        train_questions: Questions about training scenes.

    Returns:
        Answer by question text; among equally frequent answers the first in alphabetical order.
    """
    answers: dict[str, Counter[str]] = {}
    for question in train_questions:
        answers.setdefault(question.text, Counter())[question.answer] += 1
    return {text: min(counts, key=lambda answer: (-counts[answer], answer)) for text, counts in answers.items()}


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _other(answer: str, in_image: Iterable[str], all_answers: Iterable[str], rng: np.random.Generator) -> str:
    """Draw another answer that holds for something in the image, or else any other answer."""
    near = [option for option in in_image if option != answer]
    return _pick(near or [option for option in all_answers if option != answer], rng)


def _some(scene: Scene, rng: np.random.Generator) -> PlacedDigit:
    return scene.digits[rng.integers(len(scene.digits))]


def _present(text: str, present: list[str], everything: Iterable[str], kind: str, rng: np.random.Generator) -> Question:
    """Make a yes/no question; the answer is drawn first, so that neither is likelier for any text."""
    absent = [option for option in everything if option not in present]
    answer, wrong, named = ("yes", "no", present) if rng.integers(2) else ("no", "yes", absent)
    return Question(text.format(_pick(named, rng)), answer, wrong, "general", kind)


def _colour_present(scene: Scene, rng: np.random.Generator) -> Question:
    return _present("Is there a {} digit?", [d.colour for d in scene.digits], COLOURS, "colour present", rng)


def _digit_present(scene: Scene, rng: np.random.Generator) -> Question:
    return _present("Is there a {}?", [str(d.digit) for d in scene.digits], _DIGITS, "digit present", rng)


def _parity(scene: Scene, rng: np.random.Generator) -> Question:
    digit = _some(scene, rng)
    answer, wrong = ("odd", "even") if digit.digit % 2 else ("even", "odd")
    return Question(f"Is the {digit.colour} digit even or odd?", answer, wrong, "knowledge", "parity")


def _sum(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Make a sum, with a probability that makes all sums equally frequent: 1 has one pair of digits, 9 has five."""
    pairs = list(combinations(rng.permutation(len(scene.digits)), 2))
    kept = []
    for i, j in pairs:
        total = scene.digits[i].digit + scene.digits[j].digit
        if rng.random() * _PAIRS_WITH_SUM[total] < 1:
            kept.append((i, j, total))
    if not kept:
        return None
    i, j, total = kept[0]
    text = f"What is {scene.digits[i].colour} plus {scene.digits[j].colour}?"
    in_image = [str(scene.digits[a].digit + scene.digits[b].digit) for a, b in pairs]
    nearby = [str(number) for number in (total - 1, total + 1) if number in _PAIRS_WITH_SUM]
    return Question(text, str(total), _other(str(total), in_image, nearby, rng), "knowledge", "sum")


def _read(scene: Scene, rng: np.random.Generator) -> Question:
    digit = _some(scene, rng)
    wrong = _other(str(digit.digit), (str(d.digit) for d in scene.digits), _DIGITS, rng)
    return Question(f"Which digit is {digit.colour}?", str(digit.digit), wrong, "ocr", "read")


def _row(scene: Scene, rng: np.random.Generator) -> Question | None:
    at = {d.cell: str(d.digit) for d in scene.digits}
    rows = [row for row in ("top", "bottom") if f"{row}-left" in at and f"{row}-right" in at]
    if not rows:
        return None
    row = _pick(rows, rng)
    left, right = at[f"{row}-left"], at[f"{row}-right"]
    elsewhere = [digit for digit in at.values() if digit not in (left, right)]
    wrong = f"{left} {_pick(elsewhere, rng)}" if elsewhere else f"{right} {left}"
    return Question(f"Read the {row} row.", f"{left} {right}", wrong, "ocr", "row")


def _colour(scene: Scene, rng: np.random.Generator) -> Question:
    digit = _some(scene, rng)
    wrong = _other(digit.colour, (d.colour for d in scene.digits), COLOURS, rng)
    return Question(f"What colour is the {digit.digit}?", digit.colour, wrong, "vision", "colour")


def _where(scene: Scene, rng: np.random.Generator) -> Question:
    digit = _some(scene, rng)
    wrong = _other(digit.cell, (d.cell for d in scene.digits), CELLS, rng)
    return Question(f"Where is the {digit.colour} digit?", digit.cell, wrong, "vision", "where")


def _count(scene: Scene, rng: np.random.Generator) -> Question:
    count = len(scene.digits)
    wrong = _pick([str(number) for number in (count - 1, count + 1) if 1 <= number <= 4], rng)
    return Question("How many digits are there?", str(count), wrong, "vision", "count")


def _compare(scene: Scene, rng: np.random.Generator) -> Question | None:
    pairs = [pair for pair in combinations(scene.digits, 2) if abs(pair[0].size - pair[1].size) >= _LEVEL_GAP]
    if not pairs:
        return None
    smaller, larger = (d.colour for d in sorted(pairs[int(rng.integers(len(pairs)))], key=lambda d: d.size))
    first, second = (larger, smaller) if rng.integers(2) else (smaller, larger)
    text = f"Which is larger, the {first} or the {second} digit?"
    return Question(text, larger, smaller, "vision", "compare")


_KINDS: tuple[Callable[[Scene, np.random.Generator], Question | None], ...] = (
    _colour_present,
    _digit_present,
    _parity,
    _sum,
    _read,
    _row,
    _colour,
    _where,
    _count,
    _compare,
)
