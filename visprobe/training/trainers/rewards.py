"""Verifiable rewards: functions that compare a model's answer with the reference answer.

A reward is `reward(completion, answer) -> float` in [0, 1]. Built-in rewards and those of installed packages (entry
point `visprobe.rewards`) have names; any other is "module:function", imported only on demand.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from visprobe.errors import TrainingError, UsageError
from visprobe.training.recipe import nearest

Reward = Callable[[str, str], float]

RELATIVE_TOLERANCE = 0.05
ZERO_TOLERANCE = 1e-6  # an answer of 0 needs an absolute tolerance: any share of 0 is 0

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_ONE_DASH_AND_SLASH = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212\u2044", "------/")
_VULGAR_FRACTION = re.compile(r"(\d?)([¼-¾⅐-⅞])")
_FRACTION = re.compile(r"(?<![\w./,])(?:(\d+) +)?(\d+) ?/ ?(\d+)(?![\d/]|[.,]\d)")
_NUMBER = re.compile(
    r"""(?<![\w.]) ([-+]?) [$€£¥]?
    ((?:\d{1,3}(?:,\d{3})+(?!\d) | \d+) (?:\.\d+)? | \.\d+) (e[-+]?\d+)?
    \s? (%|percent\b)?""",
    re.VERBOSE | re.IGNORECASE,
)

_HEDGED = r"(?!\W*(?:or|and|,|/)\W*[A-J]\b)"  # "B or C" names no option
_ALONE = re.compile(r"[\W_]*([A-Ja-j])[\W_]*")
_STATED = re.compile(rf"(?i:\banswer(?:\s+is|\s*:)+)[\s*\"'`]*(?:\(([A-Ja-j])\)|([A-J])(?![\w'])){_HEDGED}")
_LEADING = re.compile(rf"[\W_]*([A-Ja-j])\s*[.):]+(?=[\s*]|$){_HEDGED}")
# "A" before a lower-case word is the article, "I" is the pronoun.
_NAMED = re.compile(r"(?<!not )(?<!n't )(?:\(([A-Ja-j])\)|(?<![\w'-])(A(?!\s+[a-z])|[B-HJ])(?![\w'-]))")


def exact(completion: str, answer: str) -> float:
    """Return 1 if both are the same words, ignoring case, spacing and punctuation around words; else 0.

    Only the final answer of each text counts (`said`). If both are one number, numbers are compared: 3 equals 3.0.
    """
    completion, answer = said(completion), said(answer)
    given, wanted = _words(completion), _words(answer)
    numbers = [_number(words) for words in (given, wanted)]
    if None not in numbers:
        return float(numbers[0] == numbers[1])
    return float(given == wanted if wanted else completion.strip() == answer.strip())


def said(text: str) -> str:
    r"""Extract the final answer of a text, by the rules of public code for R1-style training.

    It is what follows "</think>", then the content of the last <answer> tag, then that of the last \boxed{}, each
    where present; otherwise the text itself.
    """
    text = text.rpartition("</think>")[2]
    if tagged := _TAGGED.findall(text):
        text = tagged[-1]
    box = text.rpartition("\\boxed{")[2] if "\\boxed{" in text else None
    return text.strip() if box is None else _until_closed(box).strip()


def _until_closed(text: str) -> str:
    """Cut `text` at the brace that closes one opened before it."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:place]
    return text


def _number(words: Sequence[str]) -> tuple[float, bool] | None:
    """Return the number, and whether it is a percentage, if the only word is one."""
    if len(words) != 1 or not _NUMBER.fullmatch(words[0]):
        return None
    return _last_number(words[0])


def numeric(completion: str, answer: str) -> float:
    """Return 1 if the last number of the completion is within 5 % of the answer's; else 0.

    Thousands separators, currency signs, exponents and fractions ("3/4", "1 1/2", "½") are read. A per cent sign
    on one side only fits either reading: "5%" fits 5 and 0.05. An answer of zero allows 1e-6; an answer without
    a number is compared by `exact`. Years differ by less than 5 %: use `exact` for them.

    Source: relaxed accuracy of ChartQA (arXiv 2203.10244, section 5.1).
    Differs from source: the number may stand inside a sentence; the source reads "5%" as 0.05 only.
    """
    completion, answer = said(completion), said(answer)
    given, wanted = _last_number(completion), _last_number(answer)
    if wanted is None:
        return exact(completion, answer)
    if given is None:
        return 0.0
    scales = [(1.0, 1.0)]
    if given[1] != wanted[1]:
        scales.append((0.01, 1.0) if given[1] else (1.0, 0.01))
    return float(any(_close(given[0] * left, wanted[0] * right) for left, right in scales))


def choice(completion: str, answer: str) -> float:
    """Return 1 if the completion settles on the answer's option letter, A to J; else 0.

    An option is, in this order: the letter alone ("b", "(B).", "**B**"); the last "the answer is B"; a letter that
    begins a list item ("B. cat"); the only letter named at all. A completion that names several gets 0. An answer
    without a letter is compared by `exact`.
    """
    completion, answer = said(completion), said(answer)
    wanted = _option(answer)
    return exact(completion, answer) if wanted is None else float(_option(completion) == wanted)


REWARDS: Mapping[str, Reward] = {"exact": exact, "numeric": numeric, "choice": choice}
ENTRY_POINTS = "visprobe.rewards"


def find_reward(name: str) -> Reward:
    """Find a reward by its name, built in or from an installed package, or as "module:function".

    The working directory is searched too, after all other places.

    Raises:
        UsageError: If there is no such reward, its module cannot be imported, or it does not take two texts.
    """
    if name in REWARDS:
        return REWARDS[name]
    installed = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    module, _, function = installed.get(name, name).partition(":")
    if not function:
        known = [*REWARDS, *installed]
        raise UsageError(
            f"no such reward: {name}{nearest(name, known)}",
            hint=f"Use {', '.join(known)}, or module:function for your own.",
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        reward = getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's module may fail in any way
        raise UsageError(
            f"cannot import the reward {name}: {type(error).__name__}: {error}",
            hint="Write module:function as Python would import it, from the folder that holds the module.",
        ) from error
    try:
        inspect.signature(reward).bind("completion", "answer")
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the reward {name} cannot be called with a completion and an answer: {error}",
            hint="Define it as: def reward(completion: str, answer: str) -> float",
        ) from error
    found: Reward = reward
    return found


def as_trl(names: Sequence[str]) -> list[Callable[..., list[float]]]:
    """Wrap the named rewards for trl, which calls them on a batch with the dataset's columns by name.

    Returns:
        One function per name, from `completions` (texts, or conversations whose last message is the completion) and
        `answer` (texts) to rewards in [0, 1]. It raises TrainingError if a reward fails or is out of range.

    Raises:
        UsageError: If a reward cannot be found.
    """
    return [_over_batch(name, find_reward(name)) for name in names]


def _over_batch(name: str, reward: Reward) -> Callable[..., list[float]]:
    def rewards(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        return [_checked(name, reward, _text(c), a) for c, a in zip(completions, answer, strict=True)]

    rewards.__name__ = name.rpartition(":")[2]  # trl logs it under this name
    return rewards


def _checked(name: str, reward: Reward, completion: str, answer: str) -> float:
    hint = "A reward returns a number from 0 to 1 for every text, the empty one included."
    try:
        value = float(reward(completion, answer))
    except Exception as error:  # a user's reward may fail in any way
        message = f"the reward {name} failed on {completion[:80]!r}: {type(error).__name__}: {error}"
        raise TrainingError(message, hint=hint) from error
    if not 0 <= value <= 1:
        raise TrainingError(f"the reward {name} gave {value} for {completion[:80]!r}", hint=hint)
    return value


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _folded(text: str) -> str:
    """Normalise dashes, slashes and full-width characters."""
    plain = (unicodedata.normalize("NFKC", c) if unicodedata.east_asian_width(c) in "FH" else c for c in text)
    return unicodedata.normalize("NFC", "".join(plain)).translate(_ONE_DASH_AND_SLASH)


def _words(text: str) -> list[str]:
    return [word for word in map(_bare, _folded(text).casefold().split()) if word]


def _bare(word: str) -> str:
    """Strip punctuation around a word; a sign or point before a digit belongs to the number."""
    while word and _is_loose(word[0]) and not re.match(r"-?\.?\d", word):
        word = word[1:]
    while word and _is_loose(word[-1]):
        word = word[:-1]
    return word


def _is_loose(character: str) -> bool:
    return unicodedata.category(character).startswith("P") and character not in "#%&@"


def _last_number(text: str) -> tuple[float, bool] | None:
    """Return the last number of a text, and whether it is a percentage."""
    decimal = _FRACTION.sub(_quotient, _folded(_VULGAR_FRACTION.sub(_spelled, text)))
    last = None
    for sign, digits, power, percent in _NUMBER.findall(decimal):
        value = float(sign + digits.replace(",", "") + power)
        last = (value, bool(percent)) if math.isfinite(value) else None
    return last


def _spelled(found: re.Match[str]) -> str:
    whole, fraction = found.groups()
    return (whole and whole + " ") + unicodedata.normalize("NFKC", fraction)


def _quotient(found: re.Match[str]) -> str:
    whole, over, under = (float(part or 0) for part in found.groups())
    return repr(whole + over / under) if under else ""


def _close(given: float, wanted: float) -> bool:
    return abs(given - wanted) <= (RELATIVE_TOLERANCE * abs(wanted) if wanted else ZERO_TOLERANCE)


def _option(text: str) -> str | None:
    text = _folded(text)
    if found := _ALONE.fullmatch(text):
        return str(found[1]).upper()
    if stated := ["".join(letters).upper() for letters in _STATED.findall(text)]:
        return stated[-1]
    if found := _LEADING.match(text):
        return str(found[1]).upper()
    named = {"".join(letters).upper() for letters in _NAMED.findall(text)}
    return named.pop() if len(named) == 1 else None
