"""`visprobe families`: table of the model families that can be read."""

from __future__ import annotations

from visprobe.cli import options as o


def command(json: o.Json = False) -> None:
    """Every family of multimodal models and towers that is read, and what is known about each.

    Example: visprobe families

    Example: visprobe families --json
    """
    from visprobe.cli.output import print_table
    from visprobe.encoders.listing.table import MODEL_COLUMNS, TOWER_COLUMNS, model_rows, tower_rows
    from visprobe.io.atomic import to_json

    models, towers = model_rows(), tower_rows()
    if json:
        print(to_json({"models": models, "towers": towers}))
        return
    for title, columns, rows in (("multimodal models", MODEL_COLUMNS, models), ("towers", TOWER_COLUMNS, towers)):
        print_table(title, columns, [[row[column] for column in columns] for row in rows])
