"""One record of a published format, as parsed JSON, into a `Row`.

Read are `conversations` (LLaVA: from/value) and `messages` (Hugging Face: role/content), `prompt`, `question` or
`problem` with `chosen` and `rejected` (MMPR, trl), and `answer` or `solution` where a reward compares with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from visprobe.training.rows import IMAGE, BadRow, Role, Row, Turn

CONVERSATIONS = ("conversations", "messages")
PROMPTS = ("prompt", "question", "problem")
ANSWERS = ("answer", "solution")
GROUPS = ("group", "data_source")
IMAGES = ("images", "image")
ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def image_cells(record: Any) -> list[Any]:
    """The images of a record as they are stored: paths, or what the file format has in their place.

    Raises:
        BadRow: If the record is not a JSON object.
    """
    if not isinstance(record, Mapping):
        raise BadRow(f"not an object: {str(record)[:40]}")
    cell = _first(record, IMAGES)
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return [image for image in cells if not _absent(image)]


def _absent(image: Any) -> bool:
    """Whether a cell stands for no image: nothing, an empty path, or parquet's struct without a value."""
    if isinstance(image, Mapping):
        return all(value is None for value in image.values())
    return image is None or image == ""


def to_row(record: Mapping[str, Any], *, row_id: str, images: tuple[str, ...], apart: bool = False) -> Row:
    """A training row from one record.

    Args:
        record: The record.
        row_id: Name of the row.
        images: Keys of the record's images, in order.
        apart: Whether the format keeps images apart from the text, so that a row without any `<image>` mark gets
            one mark per image. Otherwise only a row with one image gets its missing mark, as in LLaVA.

    Returns:
        The row; its marks are as many as its images.

    Raises:
        BadRow: If the record is no conversation, a role is unknown, an answer is empty or holds an `<image>`
            mark, or the marks do not match the images.
    """
    turns = _turns_of(record)
    chosen, rejected = (_answer(record.get(side)) for side in ("chosen", "rejected"))
    _check_answers([turn.text for turn in turns if turn.role == "assistant"])
    _check_answers([text for text in (chosen, rejected) if text is not None])
    answer, group = _first(record, ANSWERS), _first(record, GROUPS)
    return Row(
        id=row_id,
        turns=_marked(turns, len(images), apart),
        images=images,
        chosen=chosen,
        rejected=rejected,
        answer=str(answer) if isinstance(answer, str | int | float) else None,
        group=group if isinstance(group, str) else None,
    )


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _turns_of(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    talk = _first(record, CONVERSATIONS + PROMPTS)
    if isinstance(talk, str):
        return (Turn("user", talk),)
    if not isinstance(talk, list | tuple):
        raise BadRow(f"no conversation: the fields are {', '.join(map(str, record))}"[:200])
    turns = tuple(_turn(message) for message in talk)
    if not any(turn.role == "user" for turn in turns):
        raise BadRow("no user turn")
    return turns


def _turn(message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise BadRow("a turn is not an object")
    role = _first(message, ("from", "role"))
    if role not in ROLES:
        raise BadRow(f"unknown role: {role!r}")
    return Turn(ROLES[role], _text(_first(message, ("value", "content"))))


def _text(content: Any) -> str:
    if isinstance(content, list | tuple):
        return "".join(_part(part) for part in content)
    return content if isinstance(content, str) else ""


def _part(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "image":
        return f"{IMAGE}\n"
    if isinstance(part, Mapping) and part.get("type") == "text":
        return str(part.get("text") or "")
    raise BadRow("content is neither text nor image")


def _answer(value: Any) -> str | None:
    """The answer in a `chosen` or `rejected` field: a string, one message, or messages that end with it."""
    if value is None or isinstance(value, str):
        return value
    last = value[-1] if isinstance(value, list | tuple) and value else value
    turn = _turn(last)
    if turn.role != "assistant":
        raise BadRow("empty answer")
    return turn.text


def _check_answers(texts: list[str]) -> None:
    if any(not text.strip() for text in texts):
        raise BadRow("empty answer")
    if any(IMAGE in text for text in texts):
        raise BadRow(f"{IMAGE} in an answer")


def _marked(turns: tuple[Turn, ...], images: int, apart: bool) -> tuple[Turn, ...]:
    marks = sum(turn.text.count(IMAGE) for turn in turns)
    if marks == images:
        return turns
    if marks or not (images == 1 or apart):
        raise BadRow(f"{IMAGE} marks do not match the images: {marks} and {images}")
    first = next(i for i, turn in enumerate(turns) if turn.role == "user")
    marked = replace(turns[first], text=f"{IMAGE}\n" * images + turns[first].text)
    return (*turns[:first], marked, *turns[first + 1 :])
