"""A study written down: one YAML file for base, rows, arms, seeds and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visprobe.errors import UsageError
from visprobe.report.study import Study
from visprobe.training.job import Sources, check_sources, open_job_rows, start
from visprobe.training.recipe import Recipe, make_recipe, nearest, read_yaml
from visprobe.training.rows import Rows


class Comparison(BaseModel):
    """What the encoders of a study are compared on.

    Attributes:
        data: Images, as `visprobe compare --data` takes them.
        limit: At most so many images of each split.
        scenes: Built-in scenes whose questions every checkpoint answers; only for models of the digit scenes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "digits"
    limit: int | None = Field(default=None, ge=1)
    scenes: int = Field(default=0, ge=0)


T = TypeVar("T")
_OWN = ("seeds", "common", "arms", "compare")


def read_study(path: Path, output_dir: Path) -> Study:
    """The study in a YAML file.

    Its keys: those of a job's sources (base, data, rows …), `common` (settings of every arm), `arms` (name to
    settings, `stage` among them), `seeds` (a list), `compare` (data, limit, scenes).

    Raises:
        UsageError: If anything in it is wrong; the faults of all arms are named at once.
    """
    values = read_yaml(path)
    faults: list[str] = []
    known = [*_OWN, *Sources.model_fields]
    faults += [f"unknown key {key}{nearest(key, known)}" for key in values if key not in known]
    sources = _try(
        faults, lambda: check_sources(Sources(**{k: v for k, v in values.items() if k in Sources.model_fields}))
    )
    compared = _try(faults, lambda: Comparison(**(values.get("compare") or {})))
    arms = _arms(values, faults)
    seeds = values.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        faults.append("seeds: write a list of whole numbers, [0, 1, 2]")
    if faults or sources is None or compared is None:
        raise UsageError(f"{path}: " + "; ".join(faults), hint="training/study.yaml in the clone is an example.")
    return Study(
        base=start(sources, seeds[0], output_dir / "base"),
        arms=arms,
        seeds=tuple(seeds),
        rows=_rows(sources, next(iter(arms.values()))),
        images=compared.data,
        limit=compared.limit,
        scenes=compared.scenes,
    )


def _arms(values: Mapping[str, Any], faults: list[str]) -> dict[str, Recipe]:
    arms: dict[str, Recipe] = {}
    given = values.get("arms")
    if not isinstance(given, dict) or not given:
        faults.append("arms: write a name and its settings for each arm")
        return arms
    for name, settings in given.items():
        merged = {**(values.get("common") or {}), **(settings or {})}
        recipe = _try(faults, lambda merged=merged, name=name: make_recipe(merged, f"arm {name}"))  # type: ignore[misc]
        if recipe is not None:
            arms[str(name)] = recipe
    return arms


def _rows(sources: Sources, recipe: Recipe) -> Callable[[int], Rows]:
    return lambda seed: open_job_rows(sources, recipe.model_copy(update={"seed": seed}))


def _try(faults: list[str], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except UsageError as error:
        faults.append(error.message)
    except ValidationError as error:
        faults += [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return None
