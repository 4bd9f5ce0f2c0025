"""Encoders assembled from two checkpoints: some blocks of one, the rest of the other."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.settings import first_difference
from visprobe.errors import UsageError

_SWAP = re.compile(r"(?P<into>.+)\[(?P<parts>[^\[\]]+?)\s*<-\s*(?P<source>[^\[\]]*[^\[\]\s])\]")
_BLOCKS = re.compile(r"blocks?\s*(\d+)(?:\s*-\s*(\d+))?")
_NAMED = ("embeddings", "final_norm", "head", "projector")
_ONE_BASE = "Parts can be exchanged between checkpoints of one base model."
_SYNTAX = "Write 'A[blocks 0-11 <- B]'; parts are blocks i-j, block i, embeddings, final_norm, head, projector."


@dataclass(frozen=True)
class Swap:
    """Checkpoint expression `into[parts <- source]`.

    Attributes:
        into: Checkpoint that keeps all other parts; may itself be an expression.
        parts: Parts that are taken from the other, as written.
        source: Checkpoint that the parts come from.
    """

    into: str
    parts: str
    source: str

    def groups(self) -> set[str]:
        """Return weight groups that are taken; block 0 means the embeddings, which make site block_00.

        Raises:
            UsageError: If a part is unknown.
        """
        found: set[str] = set()
        for part in (text.strip() for text in self.parts.split(",")):
            if blocks := _BLOCKS.fullmatch(part):
                first, last = int(blocks[1]), int(blocks[2] or blocks[1])
                if last < first:
                    raise UsageError(f"{part!r} counts backwards", hint=_SYNTAX)
                found |= {f"block_{n:02d}" if n else "embeddings" for n in range(first, last + 1)}
            elif part in _NAMED:
                found.add(part)
            else:
                raise UsageError(f"{part!r} is no part of an encoder", hint=_SYNTAX)
        return found


def parse_swap(spec: str) -> Swap | None:
    """Parse `spec` as an expression; None if it names one checkpoint.

    Raises:
        UsageError: If it has an arrow and is no expression.
    """
    if "<-" not in spec or Path(spec).exists():
        return None
    found = _SWAP.fullmatch(spec.strip())
    if found is None:
        raise UsageError(f"{spec!r} is not a checkpoint expression", hint=_SYNTAX)
    swap = Swap(found["into"].strip(), found["parts"], found["source"].strip())
    swap.groups()
    return swap


def swapped(swap: Swap, into: VisionEncoder, source: VisionEncoder) -> VisionEncoder:
    """Return the encoder `into` with some weight groups of `source`.

    Args:
        swap: Names the groups.
        into: Encoder that gives everything else: the other weights, configuration, processor.
        source: Encoder of the same shape.

    Raises:
        UsageError: If the encoders differ in shape or settings, or have no such part.
    """
    mine, theirs = into.weights(), source.weights()
    refuse_other_weights(into, source)
    groups = swap.groups()
    known = {into.weight_group(name) for name in mine}
    if absent := sorted(groups - known):
        raise UsageError(f"{into.name} has no {', '.join(absent)}", hint=f"Its parts: {', '.join(sorted(known))}.")
    weights = {name: theirs[name] if into.weight_group(name) in groups else mine[name] for name in mine}
    own, other = into.provenance, source.provenance
    provenance = replace(
        own,
        path=f"{own.path}[{swap.parts} <- {other.path}]",
        bytes_read=own.bytes_read + other.bytes_read,
        warnings=(*own.warnings, *(warning for warning in other.warnings if warning not in own.warnings)),
    )
    return into.with_weights(f"{into.name}[{swap.parts} <- {source.name}]", weights, provenance)


def refuse_other_weights(into: VisionEncoder, source: VisionEncoder) -> None:
    """Refuse two encoders whose weights cannot be exchanged: other shapes, or the same weights used differently.

    Raises:
        UsageError: If weights differ in name or shape, or are used differently.
    """
    mine = {name: tuple(weight.shape) for name, weight in into.weights().items()}
    theirs = {name: tuple(weight.shape) for name, weight in source.weights().items()}
    if mine != theirs:
        raise UsageError(
            f"{source.name} and {into.name} have encoders of different shape: {_first_difference(mine, theirs)}",
            hint=_ONE_BASE,
        )
    if difference := first_difference(into.settings, source.settings):
        raise UsageError(f"{source.name} and {into.name} use their weights differently: {difference}", hint=_ONE_BASE)


def _first_difference(mine: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]]) -> str:
    differing: Set[str] = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    name = min(differing)
    return f"{name} is {list(theirs.get(name, ())) or 'absent'} against {list(mine.get(name, ())) or 'absent'}"
