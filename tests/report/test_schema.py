"""The JSON Schema that is shipped is that of the types, and says what a report may lack."""

import json
from importlib.resources import files

from pydantic import TypeAdapter

from visprobe.report.schema import Report, json_schema


def test_the_schema_that_is_shipped_is_current() -> None:
    shipped = json.loads(files("visprobe.report").joinpath("report.schema.json").read_text("utf-8"))
    # To renew: json.dumps(json_schema(), indent=2, ensure_ascii=False) and a line's end.
    assert shipped == json_schema()
    report = shipped["$defs"]["Report"]
    assert set(report["properties"]) - set(report["required"]) == {"options", "gates"}


def test_a_report_conforms_with_and_without_its_newer_keys(documented) -> None:
    document = documented()
    for key in ("options", "gates"):
        document.pop(key, None)
    adapter = TypeAdapter(Report)
    plain = adapter.validate_json(json.dumps(document), strict=True)
    assert (plain.options, plain.gates) == ({}, []) and len(plain.results) == len(document["results"])
    option = {"data": {"value": ["a"], "origin": "command line"}}
    assert adapter.validate_json(json.dumps({**document, "options": option}), strict=True).options["data"].value == [
        "a"
    ]
