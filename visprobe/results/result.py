"""Results of analyses: numbers with their interval, their n and what they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from visprobe.metrics.intervals.estimate import Estimate as Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

Role = Literal["value", "floor", "difference"]


@dataclass(frozen=True)
class Row:
    """Estimate and what it is about.

    Attributes:
        checkpoint: Name of the checkpoint measured, or of the baseline ("untrained").
        site: Place in the encoder ("block_03", "consumed", "projected", "embeddings").
        measure: Measure ("top1", "cka", "relative_change").
        estimate: The number.
        reference: Name of the checkpoint it is measured against, for drift and differences.
        role: "value" for a measurement, "floor" for a baseline to compare it with, "difference" for a
            paired difference `checkpoint - reference`.
    """

    checkpoint: str
    site: str
    measure: str
    estimate: Estimate
    reference: str | None = None
    role: Role = "value"


@dataclass(frozen=True)
class Result:
    """Rows of one analysis, with what a reader needs to trust them.

    Attributes:
        analysis: Name of the analysis ("imagenet", "drift", "weights", "answers").
        question: Question it answers, in one sentence.
        rows: Estimates, each with its interval.
        settings: Everything the numbers depend on beside checkpoints and images, as plain JSON.
        warnings: Caveats that a reader must know before believing the numbers.
        shown_as: Renders a result as HTML for notebooks; set by `visprobe.report.notebook`, which imports this module.
    """

    analysis: str
    question: str
    rows: tuple[Row, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    shown_as: ClassVar[Callable[[Result], str] | None] = None

    @property
    def base(self) -> str:
        """Name of the base checkpoint."""
        return str(self.settings["base"])

    @property
    def consumed(self) -> str | None:
        """Site that the language model reads; None where nothing was measured at sites of the tower."""
        return self.settings.get("consumed")

    @property
    def sites(self) -> list[str]:
        """Sites that were measured, from the input on; empty where all that rows have is meant."""
        return list(self.settings.get("sites", ()))

    @property
    def identical(self) -> list[str]:
        """Descendants whose tower equals the base's to the bit: they have no rows."""
        return list(self.settings.get("identical", ()))

    def __repr__(self) -> str:
        """Return name and number of rows, without the numbers."""
        return f"<Result {self.analysis!r}: {len(self.rows)} numbers>"

    def _repr_html_(self) -> str | None:
        """Return its tables for notebooks; None, and so `repr`, where nothing of visprobe.report was used."""
        return Result.shown_as(self) if Result.shown_as else None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    def to_table(self) -> list[dict[str, str | int | float | None]]:
        """Return the rows as flat records of plain values, one column per field: for pandas, parquet or CSV."""
        rows = ({**asdict(row), **asdict(row.estimate)} for row in self.rows)
        return [{"analysis": self.analysis, **{k: v for k, v in row.items() if k != "estimate"}} for row in rows]

    def to_pandas(self) -> DataFrame:
        """Return the rows as a pandas table.

        Returns:
            A DataFrame with a line for each row and the columns of results.csv: analysis, checkpoint, site, measure,
            reference, role, value, low, high, n, unit, method. Shares are fractions of 1.
        """
        import pandas as pd

        names = [*(name for name in Row.__dataclass_fields__ if name != "estimate"), *Estimate.__dataclass_fields__]
        return pd.DataFrame.from_records(self.to_table(), columns=["analysis", *names])

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """Return the result of which `to_json` made `value`."""
        rows = tuple(Row(**{**row, "estimate": Estimate(**row["estimate"])}) for row in value["rows"])
        return cls(**{**value, "rows": rows, "warnings": tuple(value["warnings"])})

    def select(self, **wanted: str | None) -> list[Row]:
        """Return the rows whose fields equal `wanted`, in order: `result.select(measure="cka", checkpoint="sft")`."""
        return [row for row in self.rows if all(getattr(row, key) == value for key, value in wanted.items())]
