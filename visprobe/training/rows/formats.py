"""The formats of training rows that people publish, by the fields of their records."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

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
_ALIKE = {"image": "images", "question": "prompt", "problem": "prompt", "answer": "solution"}  # either is read


def nearest_format(fields: Sequence[str]) -> str:
    """A clause about the known format that records with `fields` come closest to, misspelt names among them."""
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
