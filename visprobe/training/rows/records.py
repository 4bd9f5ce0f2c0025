"""Conversion of one record of a published format, as parsed JSON, to a `Row`.

`FORMATS` lists the formats. Fields that say the same thing twice (a prompt, and an answer that begins with it) have
to agree: a contradictory record is a bad row.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from visprobe.data.rows import IMAGE, BadRow, Role, Row, Turn

CONVERSATIONS = ("conversations", "messages")
PROMPTS = ("prompt", "question", "problem", "query")
ANSWERS = ("answer", "solution")
GROUPS = ("group", "data_source")
IMAGES = ("images", "image")
OTHER_MEDIA = ("videos", "video", "audios", "audio")
KNOWN = frozenset({
    *CONVERSATIONS, *PROMPTS, *ANSWERS, *GROUPS, *IMAGES, *OTHER_MEDIA, "id", "system", "chosen", "rejected",
    "rejected_response", "rejected_messages", "rejected_images", "query", "response", "instruction", "input", "output",
    "history", "completion",
})  # fmt: skip
"""Fields of a record that are read, or are names of it."""

FORMATS = {
    "LLaVA": ("image", "conversations"),
    "Hugging Face messages": ("images", "messages"),
    "MMPR and trl preferences": ("images", "prompt", "chosen", "rejected"),
    "trl's implicit prompt": ("images", "chosen", "rejected"),
    "ms-swift preferences": ("images", "messages", "rejected_response"),
    "trl's prompts and completions": ("images", "prompt", "completion"),
    "ms-swift queries": ("images", "query", "response"),
    "LLaMA-Factory's Alpaca": ("images", "instruction", "output"),
    "questions with a reference answer (R1)": ("image", "problem", "solution"),
}
_ALIKE = {"image": "images", "question": "prompt", "problem": "prompt", "answer": "solution"}  # synonyms
ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_OF_MESSAGE = ("from", "role", "value", "content", "loss", "weight")
_PICTURES = ("image", "image_url", "path", "url")  # fields of a message part that may hold its image


def image_cells(record: Any) -> list[Any]:
    """Return the images of a record as stored: paths, or the file format's own cells (bytes and path).

    They come from the fields beside the conversation, or from the messages themselves.

    Raises:
        BadRow: If the record is not a JSON object, or has different images in both places.
    """
    if not isinstance(record, Mapping):
        raise BadRow(f"not an object: {str(record)[:40]}")
    beside = _cells(_first(record, IMAGES))
    inside = [cell for message in _messages(record) for cell in _pictures(message)]
    if inside and beside and inside != beside:
        raise BadRow("images both in the messages and beside them")
    return inside or beside


def to_row(record: Mapping[str, Any], *, row_id: str, images: tuple[str, ...], apart: bool = False) -> Row:
    """Convert one record to a training row.

    Args:
        record: Parsed record.
        row_id: Id of the row.
        images: Keys of the record's images, in order.
        apart: Whether the format keeps images apart from the text, so that a row without any `<image>` mark gets
            one mark per image. Otherwise only a row with one image gets its missing mark, as in LLaVA.

    Returns:
        The row, with as many `<image>` marks as images.

    Raises:
        BadRow: If the record is no conversation, contradicts itself, has an unknown role, an answer that is empty or
            holds an `<image>` mark, or marks that do not match the images.
    """
    if media := [name for name in OTHER_MEDIA if not _absent(record.get(name))]:
        raise BadRow(f"holds {media[0]}, which no stage trains on")
    if _cells(record.get("rejected_images")) not in ([], image_cells(record)):
        raise BadRow("rejected_images: other pictures for the rejected answer cannot be trained on")
    turns, chosen, rejected = _paired((*_turns_of(record), *_side(record.get("completion"))), record)
    if not any(turn.role == "user" for turn in turns):
        raise BadRow("no user turn")
    turns = _with_system(turns, record.get("system"))
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
        unused=_unused(record),
    )


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _absent(value: Any) -> bool:
    """Return whether a field is null, an empty text or list, or parquet's struct without a value."""
    if isinstance(value, Mapping):
        return all(inner is None for inner in value.values())
    return value is None or (isinstance(value, str | list | tuple) and not value)


def _cells(value: Any) -> list[Any]:
    cells = value if isinstance(value, list | tuple) else [value]
    return [cell for cell in cells if not _absent(cell)]


def _messages(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages whose images belong to the record, those of a shared prompt once."""
    talk = _first(record, CONVERSATIONS + PROMPTS)
    # Without a prompt both answers repeat the conversation, so one is enough; with one, only its images count.
    sides = [] if talk is not None else [record.get("chosen")]
    return [m for each in (talk, *sides) if isinstance(each, list | tuple) for m in each if isinstance(m, Mapping)]


def _pictures(message: Mapping[str, Any]) -> list[Any]:
    content = _first(message, ("value", "content"))
    parts = content if isinstance(content, list | tuple) else []
    cells = [_first(part, _PICTURES) for part in parts if isinstance(part, Mapping) and _kind(part) == "image"]
    return [_named(cell) for cell in cells if not _absent(cell)]


def _named(cell: Any) -> Any:
    """Return the image of a message part, unwrapping OpenAI's image_url objects."""
    return cell["url"] if isinstance(cell, Mapping) and isinstance(cell.get("url"), str) else cell


def _kind(part: Mapping[str, Any]) -> str:
    """Return the type of a message part: "image", "text" or another word; Qwen leaves `type` out."""
    told = (name for name in ("image", "image_url", "text") if not _absent(part.get(name)))
    kind = part.get("type") or next(told, "")
    return "image" if kind == "image_url" else str(kind)


def _turns_of(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Return the conversation of a record; empty if it stands in `chosen` and `rejected` alone."""
    talk = _first(record, CONVERSATIONS + PROMPTS)
    if isinstance(talk, list | tuple):
        return tuple(_turn(message) for message in talk)
    if talk is None and isinstance(record.get("instruction"), str):
        talk = "\n".join(text for text in (record["instruction"], record.get("input")) if text)
    if isinstance(talk, str):
        answer = record.get("response" if "query" in record else "output" if "instruction" in record else "")
        return (
            *_history(record.get("history")),
            Turn("user", talk),
            *([Turn("assistant", answer)] if isinstance(answer, str) else []),
        )
    if isinstance(record.get("chosen"), list | tuple) and isinstance(record.get("rejected"), list | tuple):
        return ()
    raise BadRow(f"no conversation: the fields are {', '.join(map(str, record))[:200]}; {nearest_format(list(record))}")


def _history(pairs: Any) -> tuple[Turn, ...]:
    """Return earlier turns from question-answer pairs, the form of LLaMA-Factory and ms-swift."""
    if _absent(pairs):
        return ()
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_text, pair)) for pair in pairs):
        raise BadRow("history is not pairs of question and answer")
    return tuple(turn for asked, told in pairs for turn in (Turn("user", asked), Turn("assistant", told)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _turn(message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise BadRow("a turn is not an object")
    role = _first(message, ("from", "role"))
    if role not in ROLES:
        raise BadRow(f"unknown role: {role!r}")
    learned = 0 not in (message.get("loss"), message.get("weight"))  # False == 0
    return Turn(ROLES[role], _text(_first(message, ("value", "content"))), learned)


def _text(content: Any) -> str:
    if isinstance(content, list | tuple):
        return "".join(_part(part) for part in content)
    return content if isinstance(content, str) else ""


def _part(part: Any) -> str:
    kind = _kind(part) if isinstance(part, Mapping) else ""
    if kind == "image":
        return f"{IMAGE}\n"
    if kind == "text":
        return str(part.get("text") or "")
    raise BadRow("content is neither text nor image")


def _paired(turns: tuple[Turn, ...], record: Mapping[str, Any]) -> tuple[tuple[Turn, ...], str | None, str | None]:
    """Return the conversation before the two answers, and the answers, which may bring turns of their own."""
    rejected = _side(_first(record, ("rejected", "rejected_response", "rejected_messages")))
    chosen = _side(record.get("chosen"))
    if rejected and not chosen and turns and turns[-1].role == "assistant":  # ms-swift: the conversation is chosen
        chosen = turns[-1:]
        if rejected[0].role != "assistant":  # `rejected` repeats the whole conversation
            turns, chosen = (), turns
        else:
            turns = turns[:-1]
    if not chosen or not rejected:
        return turns, chosen[-1].text if chosen else None, rejected[-1].text if rejected else None
    before = chosen[:-1]
    if [*map(_bare, before)] != [*map(_bare, rejected[:-1])]:
        raise BadRow("chosen and rejected differ before their last turn: only the last answer may be another")
    if before and before[0].role != "assistant" and turns:
        if [*map(_bare, turns)] != [*map(_bare, before)]:
            raise BadRow("the prompt is not what chosen and rejected begin with")
        before = ()
    last = chosen[-1]
    if turns and turns[-1] == last:  # the conversation already ends with the chosen answer
        turns = turns[:-1]
    if not last.learned:
        raise BadRow("the chosen answer is marked as not to be learned")
    return (*turns, *before), last.text, rejected[-1].text


def _side(value: Any) -> tuple[Turn, ...]:
    """Return the turns of a `chosen` or `rejected` field: a string, one message, or messages ending with the answer."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (Turn("assistant", value),)
    turns = tuple(_turn(message) for message in (value if isinstance(value, list | tuple) else [value]))
    if not turns or turns[-1].role != "assistant":
        raise BadRow("empty answer")
    return turns


def _bare(turn: Turn) -> tuple[Role, str]:
    return turn.role, turn.text.replace(IMAGE, "").strip()


def _with_system(turns: tuple[Turn, ...], system: Any) -> tuple[Turn, ...]:
    """Prepend the system prompt of the field `system`, if there is one."""
    if not isinstance(system, str) or not system.strip():
        return turns
    if turns[0].role == "system":
        if turns[0].text != system:
            raise BadRow("two system prompts")
        return turns
    return (Turn("system", system), *turns)


def _unused(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return names of fields with a value that are not read, of the record and of its messages."""
    elsewhere = {"query": ("response",), "instruction": ("input", "output")}  # read only beside the key field
    idle = {name for beside, names in elsewhere.items() if beside not in record for name in names}
    fields = [str(name) for name, value in record.items() if name not in KNOWN - idle and not _absent(value)]
    inner = {
        str(name)
        for message in _messages(record)
        for name, value in message.items()
        if name not in _OF_MESSAGE and not _absent(value)
    }
    return (*sorted(fields), *(f"{name} of messages" for name in sorted(inner)))


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


def nearest_format(fields: Sequence[str]) -> str:
    """Return a clause about the known format closest to `fields`, with guesses for misspelt names."""
    names = {_ALIKE.get(field, field): field for field in fields}

    def close(wanted: str) -> str | None:
        found = difflib.get_close_matches(wanted, names, n=1, cutoff=0.75)
        return names[found[0]] if found else None

    def share(wanted: Sequence[str]) -> float:
        return sum(close(_ALIKE.get(name, name)) is not None for name in wanted) / len(wanted)

    best = max(FORMATS, key=lambda name: share(FORMATS[name]))
    missing = {name: close(name) for name in FORMATS[best] if _ALIKE.get(name, name) not in names}
    meant = "".join(f"; is {field} its {name}?" for name, field in missing.items() if field)
    return f"the nearest known format, {best}, has {', '.join(FORMATS[best])}{meant}"
