"""Results of analyses: numbers with their interval, their n and what they are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from visprobe.metrics.intervals.estimate import Estimate as Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

Role = Literal["value", "baseline", "difference"]
BaselineKind = Literal["untrained", "rounding", "arithmetic", "recipe", "chance", "control", "blind"]


@dataclass(frozen=True)
class Row:
    """Estimate and what it is about.

    Attributes:
        checkpoint: Name of the checkpoint measured, or of the baseline ("untrained").
        site: Place in the encoder ("block_03", "consumed", "projected", "embeddings").
        measure: Measure ("top1", "cka", "relative_change").
        estimate: The number.
        reference: Name of the checkpoint it is measured against, for drift and differences.
        role: "value" for a measurement, "baseline" for a baseline to compare it with, "difference" for a
            paired difference `checkpoint - reference`.
        baseline: Kind of the baseline, for rows of that role: "untrained" (a tower of fresh weights), "rounding" (the
            base with weights rounded to bfloat16), "arithmetic" (the base run in float32), "recipe" (another run of
            the same recipe), "chance" (guessing), "control" (the same computation on what cannot hold the effect:
            shuffled, random or dense), "blind" (answers without the image).

    Raises:
        ValueError: If a baseline has no kind, or another row has one.
    """

    checkpoint: str
    site: str
    measure: str
    estimate: Estimate
    reference: str | None = None
    role: Role = "value"
    baseline: BaselineKind | None = None

    def __post_init__(self) -> None:
        if (self.role == "baseline") != (self.baseline is not None):
            raise ValueError(f"a row of role {self.role!r} with the kind of baseline {self.baseline!r}")


def role_of(baseline: BaselineKind | None) -> Role:
    """Return the role of a row that is no difference, by the kind of its baseline."""
    return "baseline" if baseline else "value"


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

    @property
    def rounded(self) -> Mapping[str, str]:
        """Dtype of each descendant whose tower is the base's rounded to it, by name."""
        found: Mapping[str, str] = self.settings.get("rounded", {})
        return found

    @property
    def chance(self) -> float | None:
        """Share that guessing gets right; None where there is no such share, or another one for each measure."""
        found = self.settings.get("chance")
        return found if isinstance(found, int | float) else None

    @property
    def tests(self) -> list[dict[str, Any]]:
        """Records of tests, each with what it is about and its p."""
        return list(self.settings.get("tests", ()))

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
            reference, role, baseline, value, low, high, n, unit, method. Shares are fractions of 1.
        """
        import pandas as pd

        names = [*(name for name in Row.__dataclass_fields__ if name != "estimate"), *Estimate.__dataclass_fields__]
        table = pd.DataFrame.from_records(self.to_table(), columns=["analysis", *names])
        # A column without any text is a column of texts all the same.
        return table.astype({name: table.role.dtype for name in ("reference", "baseline")})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """Return the result of which `to_json` made `value`."""
        rows = tuple(Row(**{**row, "estimate": Estimate(**row["estimate"])}) for row in value["rows"])
        return cls(**{**value, "rows": rows, "warnings": tuple(value["warnings"])})

    def select(self, **wanted: str | None) -> list[Row]:
        """Return the rows whose fields equal `wanted`, in order: `result.select(measure="cka", checkpoint="sft")`."""
        return [row for row in self.rows if all(getattr(row, key) == value for key, value in wanted.items())]
