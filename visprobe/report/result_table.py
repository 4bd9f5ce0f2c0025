"""Table of all numbers of a report for pandas, R and spreadsheets: results.parquet and results.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from visprobe.io import atomic
from visprobe.io.inert import csv_safe
from visprobe.results.result import Estimate

COLUMNS = (
    *("run", "analysis", "checkpoint", "site", "measure", "reference", "role", "baseline"),
    *(field.name for field in fields(Estimate)),
)
Record = Mapping[str, str | int | float | None]


def write_result_table(folder: Path, records: Sequence[Record]) -> None:
    """Write `records` as results.parquet and results.csv, each atomically.

    Args:
        folder: Output folder, made if missing.
        records: One record of `Result.to_table` per number; with the name of its "run" where several are merged. In
            the CSV file alone, control characters are spelled out and formulas get an apostrophe.
    """
    columns = [name for name in COLUMNS if name != "run" or any("run" in record for record in records)]
    atomic.write_bytes(folder / "results.parquet", _parquet(columns, records))
    atomic.write_text(folder / "results.csv", _csv(columns, records))


def _parquet(columns: Sequence[str], records: Sequence[Record]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    types = {"value": pa.float64(), "low": pa.float64(), "high": pa.float64(), "n": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(records), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _csv(columns: Sequence[str], records: Sequence[Record]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([csv_safe(record.get(name)) for name in columns])
    return text.getvalue()
