"""Results of real runs on the demo's checkpoints, under any names: robustness, segmentation, attributes."""

import json
from pathlib import Path

from visprobe.results.result import Result

FILE = Path(__file__).with_suffix(".json")


def measured_sight(checkpoints):
    names = dict(zip(("base", "sft", "dpo"), checkpoints, strict=False))

    def named(value):
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, list):
            return [named(one) for one in value]
        return {named(key): named(one) for key, one in value.items()} if isinstance(value, dict) else value

    return {result["analysis"]: Result.from_json(named(result)) for result in json.loads(FILE.read_text())}
