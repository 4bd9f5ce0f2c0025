"""What became of a descendant's representation, in words: moved, moved where nothing reads it, rotated, or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from visprobe.analyses.drift.moved import furthest_floor, has_moved, noise_floors
from visprobe.features.feature_set import of_tower
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result, Row
from visprobe.results.statement import Statement, cka_interval, cka_text, evidence, listed

Kind = Literal["moved", "partly", "unread", "still"]
_CONNECTOR = "projected"


@dataclass(frozen=True)
class Movement:
    """CKA of one descendant's tower with the base, summed up.

    Attributes:
        name: The descendant.
        kind: "moved": what the language model reads has moved, or nobody knows what it reads; "partly": only other
            sites have, some before it; "unread": only sites after it; "still": none.
        sites: Rows of all measured sites of the tower.
        moved: Those that have moved.
        lowest: Of those, or of all if none has, the one with the lowest CKA.
    """

    name: str
    kind: Kind
    sites: tuple[Row, ...]
    moved: tuple[Row, ...]
    lowest: Row

    @property
    def where(self) -> str:
        """How many of the sites have moved."""
        whole = len(self.moved) == len(self.sites)
        return "every site" if whole else f"{len(self.moved)} of {len(self.sites)} sites"


def movements(drift: Result, names: Sequence[str]) -> list[Movement]:
    """The movement of each descendant whose tower has CKA rows."""
    found = []
    for name in names:
        rows = [row for row in drift.select(checkpoint=name, measure="cka", role="value") if of_tower(row.site)]
        if rows:
            moved = [row for row in rows if has_moved(drift, row)]
            lowest = min(moved or rows, key=lambda row: row.estimate.value)
            found.append(Movement(name, _kind(drift, rows, moved), tuple(rows), tuple(moved), lowest))
    return found


def _kind(drift: Result, rows: Sequence[Row], moved: Sequence[Row]) -> Kind:
    sites, consumed = [row.site for row in rows], drift.settings.get("consumed")
    if not moved:
        return "still"
    if consumed not in sites or consumed in {row.site for row in moved}:
        return "moved"
    return "unread" if all(sites.index(row.site) > sites.index(consumed) for row in moved) else "partly"


def movement_statement(drift: Result, movement: Movement, base: str) -> Statement:
    """One sentence on one descendant's tower."""
    numbers, floor = against_rounding(drift, movement.lowest, base)
    at, consumed = f"at {movement.lowest.site}: {numbers}", drift.settings.get("consumed")
    text = {
        "moved": f"the tower moved at {movement.where}; most {at}.",
        "partly": f"the tower moved at {movement.where}, {what_is_read(drift)} ({consumed}) not measurably; most {at}.",
        "unread": "the tower moved only where the language model does not read "
        f"({listed([row.site for row in movement.moved])}); most {at}.",
        "still": f"the tower did not measurably move; least like {base} {at}.",
    }[movement.kind]
    return Statement(f"{movement.name}: {text}", evidence(drift, [movement.lowest, *floor]))


def projector_statement(drift: Result, row: Row, base: str) -> Statement:
    """One sentence on what comes out of one descendant's projector."""
    numbers, floor = against_rounding(drift, row, base)
    verb = "moved" if has_moved(drift, row) else "did not measurably move"
    return Statement(f"{row.checkpoint}: the projector's output {verb}: {numbers}.", evidence(drift, [row, *floor]))


def against_rounding(drift: Result, row: Row, base: str) -> tuple[str, list[Row]]:
    """A CKA beside that of the furthest floor that number formats make, and the latter's row if there is one."""
    found = furthest_floor(drift, base, site=row.site, measure="cka")
    if found is None:
        return f"CKA {cka_interval(row.estimate)}", []
    floor, words = found
    return f"CKA {cka_interval(row.estimate)} against {cka_text(floor.estimate.value)} for {words}", [floor]


def unseen_by_cka(drift: Result, similarity: Result, name: str, base: str) -> Iterator[tuple[Row, Row, Row]]:
    """Where units changed although CKA did not: rows of relative error, of its floor, and of CKA.

    At the site the language model reads and after the projector: CKA has not moved, and the relative error, which sees
    rotations, is larger than that of rounding times the root of the margin of CKA
    (`visprobe.analyses.similarity.similarity`).
    """
    for site in (drift.settings.get("consumed"), _CONNECTOR):
        wanted = {"site": site, "measure": "relative_error"}
        for row in similarity.select(**wanted, checkpoint=name, role="value"):
            ckas = drift.select(checkpoint=name, site=site, measure="cka", role="value")
            floors = [floor for noise in noise_floors(base)
                      for floor in similarity.select(**wanted, checkpoint=noise, role="floor")]  # fmt: skip
            floor = max(floors, key=lambda floor: floor.estimate.high, default=None)
            if ckas and floor and not has_moved(drift, ckas[0]) and has_moved(similarity, row):
                yield row, floor, ckas[0]


def rotation_statements(drift: Result, similarity: Result, name: str, base: str) -> Iterator[Statement]:
    """A sentence for each site where units changed although CKA did not."""
    for row, floor, cka in unseen_by_cka(drift, similarity, name, base):
        error, rounding = row.estimate, floor.estimate
        text = (
            f"{name}: at {row.site} units were permuted, rotated, scaled or shifted, which CKA does not see: relative "
            f"error {error.value:.3g} [{error.low:.3g}, {error.high:.3g}] against {rounding.value:.2g} of the "
            f"number format, CKA {cka_text(cka.estimate.value)}."
        )
        refs = (*evidence(similarity, [row, floor]), *evidence(drift, [cka]))
        yield Statement(text, refs)
