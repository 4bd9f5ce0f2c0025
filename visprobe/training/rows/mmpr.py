"""MMPR preference pairs, read through meta.json, and the random subset of the PIVOT paper.

The subset gives the same rows to supervised fine-tuning and to DPO.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visprobe.data.progress import Progress
from visprobe.data.rows import IMAGE, BadRow
from visprobe.errors import DataError, UsageError
from visprobe.io.atomic import write_json, write_text
from visprobe.io.regular import read_text
from visprobe.training.rows.combine import Concatenated
from visprobe.training.rows.json_index import JsonIndex
from visprobe.training.rows.llava import LlavaRows

META = "meta.json"
SUFFIXES = (".jpg", ".jpeg", ".png")
NO_LIMIT = "off: no tokenizer was given"
_THOUGHT = re.compile("</?think>")
_IMAGE_LIST = re.compile(r'"image"\s*:\s*\[')  # cheap test for several images; the parsed row decides
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Source:
    """Annotation file of MMPR.

    Attributes:
        name: Its name in meta.json.
        annotation: Path of the JSON Lines file, relative to the folder of MMPR.
        root: Folder of its images, relative to the folder of MMPR.
    """

    name: str
    annotation: str
    root: str


def sources(folder: Path) -> tuple[Source, ...]:
    """List the annotation files in the order of meta.json.

    Paths in meta.json start from the folder or from its parent ("MMPR-v1.2/annotations/…"); both are found.

    Raises:
        DataError: If meta.json is missing or malformed, or an annotation file is missing.
    """
    try:
        meta = json.loads(read_text(folder / META))
        found = tuple(
            Source(name, _inside(folder, info["annotation"]), _inside(folder, info["root"]))
            for name, info in meta.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"cannot read {folder / META} ({type(error).__name__}: {error})",
            hint='Name the folder of MMPR; its meta.json maps names to {"root", "annotation"}.',
        ) from error
    missing = [source.annotation for source in found if not (folder / source.annotation).is_file()]
    if missing or not found:
        raise DataError(
            f"{len(missing)} of {len(found)} annotation files are missing in {folder}: {', '.join(missing[:3])}",
            hint="Unpack annotations.zip of MMPR in that folder.",
        )
    return found


def _inside(folder: Path, path: Any) -> str:
    text = str(path).rstrip("/")
    shorter = text.partition("/")[2]
    return shorter if shorter and not (folder / text).exists() and (folder / shorter).exists() else text


def mmpr(folder: Path) -> Concatenated:
    """Open all rows of MMPR as published, each once: images, question, chosen and rejected answer.

    Args:
        folder: Folder that holds meta.json.

    Returns:
        The rows file by file; the group of a row is the name of its file in meta.json.

    Raises:
        DataError: If meta.json or an annotation file is missing.
    """
    parts = [LlavaRows(folder / s.annotation, folder / s.root, group=s.name) for s in sources(folder)]
    return Concatenated(folder.name, parts)


@dataclass(frozen=True)
class MmprSubset:
    """Rows of a drawn subset, and counts of the rows left out.

    Attributes:
        records: One mapping per row: id, image (path below the folder of MMPR), prompt, chosen, rejected, data_source.
        manifest: Size, seed, limits, and counts per reason and per annotation file.
    """

    records: tuple[Mapping[str, str], ...]
    manifest: Mapping[str, Any]

    def supervised(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as LLaVA conversations that end with the chosen answer."""
        for record in self.records:
            turns = [{"from": "human", "value": record["prompt"]}, {"from": "gpt", "value": record["chosen"]}]
            kept = {name: record[name] for name in ("id", "image", "data_source")}
            yield {**kept, "conversations": turns}

    def write(self, folder: Path) -> dict[str, Path]:
        """Write `sft_….jsonl`, `dpo_….jsonl` and the manifest with their hashes, `mmpr_….json`, to `folder`.

        Returns:
            Paths of the three files, by "sft", "dpo" and "manifest".
        """
        name = f"mmpr_{self.manifest['size']}_{self.manifest['seed']}"
        paths = {kind: folder / f"{kind}_{name}.jsonl" for kind in ("sft", "dpo")}
        texts = {"sft": _json_lines(self.supervised()), "dpo": _json_lines(self.records)}
        for kind, path in paths.items():
            write_text(path, texts[kind])
        files = {path.name: hashlib.sha256(texts[kind].encode()).hexdigest() for kind, path in paths.items()}
        manifest = folder / f"{name}.json"
        write_json(manifest, {**self.manifest, "sha256": files})
        return {**paths, "manifest": manifest}


def _json_lines(records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def mmpr_subset(
    folder: Path,
    *,
    size: int = 20_000,
    seed: int = 777,
    max_tokens: int = 1500,
    tokenizer: Path | None = None,
    max_words: int | None = None,
    no_thought: bool = False,
    progress: Progress | None = None,
) -> MmprSubset:
    """Draw a random subset of MMPR's single-image rows.

    Each annotation file counts up to its first row with a list of images. The rows of all files are shuffled, then
    taken in turn until `size` are kept. A row is kept if its image is an existing .jpg, .jpeg or .png (.gif is read as
    .jpg), neither answer holds `<image>`, and prompt and chosen answer together are at most `max_tokens` tokens. A
    prompt without `<image>` gets one in front. The limits on words and thoughts hold for both answers, so that both
    arms see the same rows.

    Args:
        folder: Folder that holds MMPR's meta.json.
        size: Number of rows; fewer are kept if MMPR has no more.
        seed: Seed of the shuffle.
        max_tokens: Largest number of tokens of "prompt chosen", without special tokens.
        tokenizer: Folder of the tokenizer that counts them; None for no limit on tokens.
        max_words: Largest number of space-separated words of an answer; None for any.
        no_thought: Whether rows with `<think>` or `</think>` in an answer are left out.
        progress: Called with (stage, done, total).

    Returns:
        The subset; the same for the same files, seed and tokenizer.

    Raises:
        DataError: If MMPR is incomplete or no row can be kept.
        UsageError: If `size` or `max_words` is not positive, or the tokenizer cannot be read.

    Source: "RL makes MLLMs see better than SFT" (arXiv 2510.16333) and its published mpo-make_jsons.py; a seed
        gives the script's shuffle and its row ids.

    Differs from source: where the script stops with an error (other image types, rows without an image), the row is
    left out and counted. The script has no limit on words or thoughts; those are of the paper's appendix (table E).
    """
    if size < 1:
        raise UsageError(f"a subset of {size} rows", hint="Give a size from 1 up.")
    if max_words is not None and max_words < 1:
        raise UsageError(f"answers of at most {max_words} words", hint="Give a number of words from 1 up.")
    show = progress or (lambda stage, done, total: None)
    limits = _Limits(max_tokens, _token_counter(tokenizer), max_words, no_thought)
    draw = _Draw(folder, random.Random(seed), limits, show)
    records = draw.walk(size)
    manifest = {
        "size": size,
        "kept": len(records),
        "seed": seed,
        "max_tokens": max_tokens if tokenizer else NO_LIMIT,
        "tokenizer": tokenizer.name if tokenizer else None,
        "max_words": max_words,
        "no_thought": no_thought,
        "left_out": dict(draw.left_out.most_common()),
        "looked_at": len(records) + sum(draw.left_out.values()),
        "single_image_rows": int(draw.ends[-1]),
        "annotations": draw.annotations(),
    }
    if not records:
        hint = "Unpack images.zip of MMPR in that folder, or lift the limit that left out most."
        raise DataError(f"no row of {folder} can be kept: {manifest['left_out']}", hint=hint)
    return MmprSubset(tuple(records), manifest)


def _token_counter(tokenizer: Path | None) -> CountTokens | None:
    if tokenizer is None:
        return None
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # `transformers` raises many unrelated types
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UsageError(
            f"cannot read a tokenizer in {tokenizer}: {reason}",
            hint="Name a folder with tokenizer.json, such as that of Qwen2.5-1.5B-Instruct.",
        ) from error
    return lambda text: len(loaded.encode(text, add_special_tokens=False))


@dataclass(frozen=True)
class _Limits:
    """Limits on the texts of a row."""

    max_tokens: int
    count_tokens: CountTokens | None
    max_words: int | None
    no_thought: bool

    def check(self, prompt: str, chosen: str, rejected: str) -> None:
        """Raise BadRow with the first reason to leave the row out."""
        answers = (chosen, rejected)
        if self.no_thought and any(map(_THOUGHT.search, answers)):
            raise BadRow("a thought in an answer")
        if self.max_words and any(len(answer.split()) > self.max_words for answer in answers):
            raise BadRow(f"an answer of more than {self.max_words} words")
        if self.count_tokens and self.count_tokens(f"{prompt} {chosen}".strip()) > self.max_tokens:
            raise BadRow(f"more than {self.max_tokens} tokens")


class _Draw:
    """Shuffled walk over the single-image rows of all annotation files."""

    def __init__(self, folder: Path, rng: random.Random, limits: _Limits, progress: Progress) -> None:
        self._folder, self._rng, self._limits, self._progress = folder, rng, limits, progress
        self._sources = sources(folder)
        self._indices: list[JsonIndex] = []
        self._counts: list[int] = []
        for number, source in enumerate(self._sources, start=1):
            self._indices.append(JsonIndex(folder / source.annotation))
            self._counts.append(_single_image_rows(self._indices[-1]))
            progress("read MMPR annotations", number, len(self._sources))
        self.ends = np.cumsum(self._counts)
        self.left_out: Counter[str] = Counter()

    def walk(self, size: int) -> list[dict[str, str]]:
        order = array("I", range(int(self.ends[-1])))  # 4 bytes a row; a list of three million ints takes 100 MB
        self._rng.shuffle(order)
        records: list[dict[str, str]] = []
        for position in order:
            try:
                records.append(self._record(position))
            except BadRow as error:
                self.left_out[str(error)] += 1
            if len(records) == size:
                break
            if len(records) % 100 == 0:
                self._progress("draw MMPR rows", len(records), size)
        self._progress("draw MMPR rows", len(records), len(records))
        return records

    def annotations(self) -> list[dict[str, Any]]:
        return [
            {"annotation": source.annotation, "sha256": index.sha256, "rows": len(index), "before_image_lists": count}
            for source, index, count in zip(self._sources, self._indices, self._counts, strict=True)
        ]

    def _record(self, position: int) -> dict[str, str]:
        number = int(np.searchsorted(self.ends, position, side="right"))
        index, source = self._indices[number], self._sources[number]
        try:
            row = index.record(position - int(self.ends[number]) + self._counts[number])
            question, chosen, rejected = (str(row[name]) for name in ("question", "chosen", "rejected"))
        except (ValueError, KeyError, TypeError) as error:
            raise BadRow("damaged record") from error
        image = self._image(row.get("image"), source)
        row_id = self._id(image)  # drawn before the other filters, as in the script, to keep its random sequence
        if IMAGE in chosen or IMAGE in rejected:
            raise BadRow(f"{IMAGE} in an answer")
        prompt = question if IMAGE in question else f"{IMAGE}\n{question}"
        self._limits.check(prompt, chosen, rejected)
        answers = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return {"id": row_id, "image": image, **answers, "data_source": source.root}

    def _image(self, image: Any, source: Source) -> str:
        if not isinstance(image, str) or not image:
            raise BadRow("no image")
        name = image.removesuffix(".gif") + ".jpg" if image.endswith(".gif") else image
        if not name.endswith(SUFFIXES):
            raise BadRow("image type other than jpg, jpeg, png")
        path = Path(source.root, name).as_posix()
        if not (self._folder / path).exists():
            raise BadRow("missing image")
        return path

    def _id(self, image: str) -> str:
        path, number = Path(image), self._rng.randint(10**4, 10**5 - 1)
        return f"{path.parent.name}-{path.stem}-{number}" if path.parent.name else path.stem


def _single_image_rows(index: JsonIndex) -> int:
    """Count the rows before the first whose `image` is a list."""
    for number in range(len(index)):
        try:
            if _IMAGE_LIST.search(index.text(number)) and isinstance(index.record(number)["image"], list):
                return number
        except (ValueError, KeyError, TypeError):  # damaged, or no list after all; the walk counts it
            continue
    return len(index)
