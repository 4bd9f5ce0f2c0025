"""Survey of training rows before training begins: those a stage can train on, and the others, counted by reason.

A row found unusable during a run could only be dropped or replaced, so that the arms of a study would train on other
rows than they name.
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

from visprobe.data.allowed_bad import allowed_bad
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
_THREADS = 16  # PIL releases the GIL while it decodes


@dataclass(frozen=True)
class Survey:
    """Usable and unusable rows, found by `survey`.

    Attributes:
        prompts: SHA-256 of the prompt of each usable row, by row index, in order.
        skipped: Reason why a row is unusable, by row index.
        examples: One "id: details" per reason.
        unused: Fields with a value that are not read, by name of the source.
    """

    prompts: Mapping[int, bytes]
    skipped: Mapping[int, str]
    examples: Mapping[str, str]
    unused: Mapping[str, tuple[str, ...]]

    @property
    def usable(self) -> list[int]:
        """Indices of the rows that can be trained on."""
        return list(self.prompts)

    @property
    def reasons(self) -> dict[str, int]:
        """Number of unusable rows by reason, most frequent first."""
        return dict(Counter(self.skipped.values()).most_common())

    @property
    def prompts_hash(self) -> str:
        """SHA-256 over all prompts in row order; runs with the same hash saw the same prompts."""
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
    """Check rows and their images, decoding each image once, and find those that can be trained on.

    Args:
        rows: The rows.
        need: Shape of row that the stage trains on; see `fit`.
        check: Returns the prompt of a row, or raises BadRow.
        image_required: Whether rows without images are unusable.
        indices: Rows to check; all by default.
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
    """Merge the surveys of several processes, each of its own share of the rows."""
    all_parts = list(parts)
    prompts = {index: each for part in all_parts for index, each in part.prompts.items()}
    skipped = {index: each for part in all_parts for index, each in part.skipped.items()}
    examples = {reason: each for part in reversed(all_parts) for reason, each in part.examples.items()}
    names = sorted({name for part in all_parts for name in part.unused})
    unused = {name: tuple(sorted({f for part in all_parts for f in part.unused.get(name, ())})) for name in names}
    return Survey(dict(sorted(prompts.items())), dict(sorted(skipped.items())), examples, unused)


def refuse_bad(found: Survey, name: str, stage: str, most: str) -> None:
    """Refuse rows if too many of them are unusable.

    Rows without images count only if no row is usable: leaving them out is a setting.

    Args:
        found: Survey of the rows.
        name: Name of the rows.
        stage: Name of the training stage.
        most: Most unusable rows, as a number ("20") or a share ("1%"), rounded up.

    Raises:
        UsageError: If more are unusable, or no row is left.
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
    """Return height and width of an image, or the reason why it is unreadable."""
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
    """Make the `Conversations` of a model, with room for the tokens that the recipe generates."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        positions -= stage_of(recipe).new_tokens(recipe)
    return Conversations(processor, end_turns=recipe.end_of_turn == "auto", positions=positions)


def look_through(rows: Rows, recipe: Recipe, told: Conversations, progress: Progress | None = None) -> Survey:
    """Survey all rows; several processes share the work, and each gets the whole survey."""
    processes = PartialState(cpu=not torch.cuda.is_available())
    mine = range(processes.process_index, len(rows), processes.num_processes)
    need, image_required = stage_of(recipe).need, recipe.image_required
    found = survey(rows, need, told.check, image_required=image_required, indices=mine, progress=progress)
    return found if processes.num_processes == 1 else merged(gather_object([found]))


def in_manifest(found: Survey) -> dict[str, Any]:
    """Return the survey's entries of the manifest, beside the number of rows."""
    return {
        "skipped": found.reasons,
        "examples": dict(found.examples),
        "fields_not_used": {name: list(fields) for name, fields in found.unused.items()},
        "prompts": found.prompts_hash,
    }


def notes(found: Survey, told: Conversations, name: str) -> Iterator[str]:
    """Yield one sentence for each thing that is left out of the rows or added to them."""
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
