"""Which rows a stage can train on: every one is looked at before training begins, and the others are counted by reason.

A row that turned out to be unusable in the middle of a run could only be left out of its batch or filled up with
another; either way the arms of a study would train on other rows than they name.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from visprobe.data.image_set import allowed_bad
from visprobe.data.progress import Progress
from visprobe.data.rows import BadRow, Row, Rows
from visprobe.errors import UsageError
from visprobe.mllm.conversation import Conversations
from visprobe.training.recipe import Recipe
from visprobe.training.rows.usable import NO_IMAGE, Need, fit
from visprobe.training.stages import stage_of

Size = tuple[int, int]
Check = Callable[[Row, Sequence[Size]], str]
"""From a row and the sizes of its images (height, width) to its prompt as the model reads it.

Raises BadRow if the model cannot be told the row.
"""
MAX_BAD = "1%"
_AT_ONCE = 256
_THREADS = 16  # images are decoded by a library that lets go of Python's lock


@dataclass(frozen=True)
class Survey:
    """What a look at rows found.

    Attributes:
        prompts: SHA-256 of the prompt of each usable row, by its index, in order.
        skipped: Why a row is unusable, by its index.
        examples: One "id: details" per reason.
        unused: Fields that hold something and are not read, by the name of the source.
    """

    prompts: Mapping[int, bytes]
    skipped: Mapping[int, str]
    examples: Mapping[str, str]
    unused: Mapping[str, tuple[str, ...]]

    @property
    def usable(self) -> list[int]:
        """The indices of the rows that can be trained on."""
        return list(self.prompts)

    @property
    def reasons(self) -> dict[str, int]:
        """Number of unusable rows by reason, commonest first."""
        return dict(Counter(self.skipped.values()).most_common())

    @property
    def prompts_hash(self) -> str:
        """SHA-256 over all prompts in the order of the rows: two runs that share it were told the same."""
        return hashlib.sha256(b"".join(self.prompts.values())).hexdigest()


def survey(
    rows: Rows,
    need: Need,
    check: Check,
    *,
    image_required: bool = True,
    indices: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Look at rows and their images, each image decoded once, and say which can be trained on.

    Args:
        rows: The rows.
        need: What the stage trains on; see `fit`.
        check: What the model can be told.
        image_required: Whether rows without images are unusable.
        indices: Which rows; all by default.
        progress: Called with (stage, done, total).
    """
    wanted = range(len(rows)) if indices is None else indices
    prompts: dict[int, bytes] = {}
    skipped: dict[int, str] = {}
    examples: dict[str, str] = {}
    unused: dict[str, set[str]] = {}
    sizes: dict[str, Size | str] = {}

    def leave_out(index: int, row_id: str, error: BadRow) -> None:
        reason = sys.intern(str(error).partition(": ")[0])  # one string for a million rows
        skipped[index] = reason
        examples.setdefault(reason, f"{row_id}: {error}")

    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(wanted), _AT_ONCE):
            fitting: dict[int, Row] = {}
            for index in wanted[start : start + _AT_ONCE]:
                row_id = f"{rows.name}#{index}"
                try:
                    row = rows[index]
                    row_id = row.id
                    unused.setdefault(row_id.rpartition("#")[0], set()).update(row.unused)
                    fitting[index] = fit(row, need, image_required=image_required)
                except BadRow as error:
                    leave_out(index, row_id, error)
            new = [key for key in dict.fromkeys(k for row in fitting.values() for k in row.images) if key not in sizes]
            sizes.update(zip(new, threads.map(lambda key: _size(rows, key), new), strict=True))
            for index, row in fitting.items():
                try:
                    prompt = check(row, [_whole(sizes[key]) for key in row.images])
                    prompts[index] = hashlib.sha256(prompt.encode()).digest()
                except BadRow as error:
                    leave_out(index, row.id, error)
            if progress:
                progress("check rows", len(prompts) + len(skipped), len(wanted))
    return Survey(prompts, skipped, examples, {name: tuple(sorted(each)) for name, each in unused.items() if each})


def merged(parts: Iterable[Survey]) -> Survey:
    """What several processes found, each in its own share of the rows."""
    all_parts = list(parts)
    prompts = {index: each for part in all_parts for index, each in part.prompts.items()}
    skipped = {index: each for part in all_parts for index, each in part.skipped.items()}
    examples = {reason: each for part in reversed(all_parts) for reason, each in part.examples.items()}
    names = sorted({name for part in all_parts for name in part.unused})
    unused = {name: tuple(sorted({f for part in all_parts for f in part.unused.get(name, ())})) for name in names}
    return Survey(dict(sorted(prompts.items())), dict(sorted(skipped.items())), examples, unused)


def refuse_bad(found: Survey, name: str, stage: str, most: str) -> None:
    """Refuse rows of which too many are unusable.

    Rows without images count as long as there is any with one: leaving them out is a setting.

    Args:
        found: What a look at the rows found.
        name: Name of the rows.
        stage: What was to be trained.
        most: How many rows may be unusable: "20", or "1%", rounded up so that one row of a small set may be.

    Raises:
        UsageError: If more are, or none is left.
    """
    total = len(found.prompts) + len(found.skipped)
    if total == 0:
        raise UsageError(f"{name} holds no row", hint="Check the file after --data.")
    bad = {reason: count for reason, count in found.reasons.items() if reason != NO_IMAGE or not found.prompts}
    count, allowed = sum(bad.values()), allowed_bad(most, total, round_up=True)
    if found.prompts and count <= allowed:
        return
    told = "; ".join(f"{reason} ({number}), for example {found.examples[reason]}" for reason, number in bad.items())
    beyond = f"{count} of {total} rows of {name} cannot be used for {stage}, and --max-bad allows {allowed}"
    none = f"no row of {name} can be used for {stage}"
    raise UsageError(f"{beyond if found.prompts else none}: {told}", hint=_hint(next(iter(bad))))


def _size(rows: Rows, key: str) -> Size | str:
    """Height and width of an image, or why there is none."""
    try:
        width, height = rows.image(key).size
    except BadRow as error:
        return str(error)
    return height, width


def _whole(size: Size | str) -> Size:
    if isinstance(size, str):
        raise BadRow(size)
    return size


def _hint(reason: str) -> str:
    if "image" in reason and reason.startswith(("missing", "no ")):
        return "Name the folder that the image paths start from: --images."
    if "chat template" in reason:
        return "Take such rows out, or give the base a chat template that knows them."
    return "Mend such rows or take them out; the guide to training lists the formats that are read."


def conversations(processor: Any, config: Any, recipe: Recipe) -> Conversations:
    """How a model of `config` is told rows, with the room that the recipe leaves for them."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        positions -= stage_of(recipe).new_tokens(recipe)
    return Conversations(processor, end_turns=recipe.end_of_turn == "auto", positions=positions)


def look_through(rows: Rows, recipe: Recipe, told: Conversations, progress: Progress | None = None) -> Survey:
    """Look at all rows; several processes share them among themselves, and each gets what all have found."""
    processes = PartialState(cpu=not torch.cuda.is_available())
    mine = range(processes.process_index, len(rows), processes.num_processes)
    need, image_required = stage_of(recipe).need, recipe.image_required
    found = survey(rows, need, told.check, image_required=image_required, indices=mine, progress=progress)
    return found if processes.num_processes == 1 else merged(gather_object([found]))


def in_manifest(found: Survey) -> dict[str, Any]:
    """What the manifest says of rows beside their number."""
    return {
        "skipped": found.reasons,
        "examples": dict(found.examples),
        "fields_not_used": {name: list(fields) for name, fields in found.unused.items()},
        "prompts": found.prompts_hash,
    }


def notes(found: Survey, told: Conversations, name: str) -> Iterator[str]:
    """What of the rows is not used, and what is added to them, one sentence each."""
    if found.skipped:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found.reasons.items())
        total = len(found.prompts) + len(found.skipped)
        yield f"{len(found.skipped)} of {total} rows of {name} are not used: {reasons}"
    for source, fields in found.unused.items():
        yield f"{source}: not used: {', '.join(fields)}"
    if told.end_of_turn.endswith(" added"):
        end = told.end_of_turn.removesuffix(" added")
        yield (
            f"the chat template writes no end of turn: answers end with {end} (--set end_of_turn=none leaves it out)"
        )
