"""Study files: base, rows, arms, seeds and comparison of a study in YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visprobe.data.rows import Rows
from visprobe.errors import UsageError
from visprobe.pipelines.study import Study, run_name
from visprobe.training.job import Sources, check_sources, make_sources, open_job_rows, start
from visprobe.training.recipe import Recipe, make_recipe, nearest, read_yaml


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


def read_study(path: Path, output_dir: Path, *, overwrite: bool = False) -> Study:
    """Read a study from a YAML file.

    Its keys: those of a job's sources (base, data, rows …), `common` (settings of every arm), `arms` (name to
    settings, `stage` among them), `seeds` (a list), `compare` (data, limit, scenes).

    Raises:
        UsageError: If anything in it is wrong; the faults of all arms are named at once. Also if another model is in
            the folder where the base is to be built, unless `overwrite`.
    """
    values = read_yaml(path)
    faults: list[str] = []
    known = [*_OWN, *Sources.model_fields]
    faults += [f"unknown key {key}{nearest(key, known)}" for key in values if key not in known]
    for key in ("common", "compare"):
        if not isinstance(values.get(key) or {}, dict):
            faults.append(f"{key}: write one `key: value` per line below it")
            values[key] = {}
    given = {key: value for key, value in values.items() if key in Sources.model_fields}
    sources = _try(faults, lambda: check_sources(make_sources(given)))
    compared = _try(faults, lambda: Comparison(**(values.get("compare") or {})))
    arms = _arms(values, faults)
    seeds = values.get("seeds", [0])
    if not _are_seeds(seeds):
        faults.append("seeds: write a list of different whole numbers from 0 to 2**32 - 1, [0, 1, 2]")
    elif sources is not None:
        faults += _name_faults(arms, seeds, sources.base)
    if faults or sources is None or compared is None:
        raise UsageError(f"{path}: " + "; ".join(faults), hint="training/study.yaml in the clone is an example.")
    return Study(
        base=start(sources, seeds[0], output_dir / "base", overwrite=overwrite),
        arms=arms,
        seeds=tuple(seeds),
        rows=_rows(sources, arms, seeds, output_dir, overwrite),
        images=compared.data,
        limit=compared.limit,
        scenes=compared.scenes,
    )


def _are_seeds(seeds: Any) -> bool:
    """Return whether these are seeds, each once: a seed given twice would count one run as two."""
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    return whole and 0 < len(seeds) == len(set(seeds))


def _name_faults(arms: Mapping[str, Recipe], seeds: list[int], base: str | None) -> list[str]:
    """Return a fault for each arm that has no valid folder name, or one that is taken."""
    taken = {"report", "base", "base-start", Path(base).name if base else "base-start"}
    names = {arm: {run_name(arm, seed, seeds) for seed in seeds} for arm in arms}
    return [
        f"arm {arm}: give it another name, of letters, digits, - and _, that is not the base's"
        for arm in arms
        if not re.fullmatch(r"[\w-]+", arm) or names[arm] & taken
    ]


def _arms(values: Mapping[str, Any], faults: list[str]) -> dict[str, Recipe]:
    arms: dict[str, Recipe] = {}
    given = values.get("arms")
    if not isinstance(given, dict) or not given:
        faults.append("arms: write a name and its settings for each arm")
        return arms
    for name, settings in given.items():
        if not isinstance(settings or {}, dict):
            faults.append(f"arm {name}: write one `key: value` per line below it")
            continue
        merged = {**(values.get("common") or {}), **(settings or {})}
        if "seed" in merged:
            faults.append(f"arm {name}: seed has no meaning here; write `seeds: [{merged['seed']}]` for all arms")
        recipe = _try(faults, lambda merged=merged, name=name: make_recipe(merged, f"arm {name}"))  # type: ignore[misc]
        if recipe is not None:
            arms[str(name)] = recipe
    return arms


def _rows(
    sources: Sources, arms: Mapping[str, Recipe], seeds: Sequence[int], output_dir: Path, overwrite: bool
) -> Callable[[int], Rows]:
    """Return a function that opens the rows for a seed, shared by all arms and read as the first arm reads them."""
    arm, recipe = next(iter(arms.items()))

    def rows(seed: int) -> Rows:
        folder = output_dir / run_name(arm, seed, seeds)
        return open_job_rows(sources, recipe.model_copy(update={"seed": seed}), folder, overwrite=overwrite)

    return rows


def _try(faults: list[str], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except UsageError as error:
        faults.append(error.message)
    except ValidationError as error:
        faults += [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return None
