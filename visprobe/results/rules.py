"""Rules for what an analysis states in a verdict, and the findings that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from visprobe.results.result import Result
from visprobe.results.statement import Statement

MANY = 5  # descendants from which on statements are grouped
LAST = 1000


@dataclass(frozen=True)
class Findings:
    """All results of a comparison; `findings["drift"]` has no rows if drift was not measured.

    Attributes:
        results: Results by name of the analysis.
        base: Name of the base.
        descendants: Names of the other checkpoints.
        identical: Descendants whose tower equals the base's to the bit.
    """

    results: Mapping[str, Result]
    base: str
    descendants: Sequence[str]
    identical: Sequence[str]

    def __getitem__(self, analysis: str) -> Result:
        return self.results.get(analysis, Result(analysis, "", ()))

    @property
    def trained(self) -> list[str]:
        """Descendants whose tower is not the base's."""
        return [name for name in self.descendants if name not in self.identical]


def _silent(findings: Findings, *names: str) -> Iterable[Statement]:
    return ()


@dataclass(frozen=True)
class Rule:
    """Functions that state results in a verdict; each may be left out, and is silent without its numbers.

    Attributes:
        place: Position among the others, ascending.
        each: States how a descendant differs from the base.
        pair: States how a descendant (the first name) differs from an earlier one.
        many: Replaces `each` and `pair` where there are `MANY` descendants or more.
        whole: Closing statements, made once.
        clause: A few words for the first sentence of the verdict, without a full stop; "" for nothing.
    """

    place: int = LAST
    each: Callable[[Findings, str], Iterable[Statement]] = _silent
    pair: Callable[[Findings, str, str], Iterable[Statement]] = _silent
    many: Callable[[Findings], Iterable[Statement]] = _silent
    whole: Callable[[Findings], Iterable[Statement]] = _silent
    clause: Callable[[Findings], Statement] = lambda findings: Statement("", ())
