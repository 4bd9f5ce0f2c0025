"""Planted results: numbers as a real comparison gives them, for the tests of figures and report."""

from __future__ import annotations

import gc
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from baseline_marks import kind
from filelock import FileLock
from forked import Forked
from measured_sight import measured_sight
from planted_language import planted_language
from planted_looks import planted_looks
from planted_maps import planted_maps
from planted_similarity import planted_similarity
from planted_spectrum import planted_spectrum
from planted_swap import planted_swap

from visprobe.analyses.runs.runs import across_runs
from visprobe.results.result import Estimate, Result, Role, Row

os.environ["HF_HUB_OFFLINE"] = "1"  # tests reach no network; read when huggingface_hub is imported

Planted = Callable[..., dict[str, Result]]
Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Mark what `sample` leaves over before -m is heeded; then fast tests first, so that a fault is seen early."""
    seen: Counter[str] = Counter()
    for item in items:
        if sample := item.get_closest_marker("sample"):
            function = item.nodeid.partition("[")[0]
            seen[function] += 1
            if seen[function] > sample.args[0]:
                item.add_marker("thorough")
    yield
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_collection_finish() -> None:
    """What is imported by now stays: a million objects that no collection of garbage need look at again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """A function `forked(script, *arguments)`: its exit code as a process of its own, which may kill itself."""
    process = Forked()
    yield process
    process.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A function `shared(name, make)`: the folder that `make(folder)` filled, once for all processes of a test run."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose folder lies in that of the whole run
        root = root.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def planted() -> Planted:
    """A function `planted(checkpoints=("base", "sft", "dpo", "grpo"), blocks=6, identical=())`."""
    return planted_results


def planted_results(
    checkpoints: tuple[str, ...] = ("base", "sft", "dpo", "grpo"), blocks: int = 6, identical: tuple[str, ...] = ()
) -> dict[str, Result]:
    return {
        "imagenet": _imagenet(checkpoints, blocks),
        "knn": _knn(checkpoints, blocks),
        "zeroshot": _zeroshot(checkpoints),
        "probe": _probe(checkpoints, blocks),
        "drift": _drift(checkpoints, blocks, identical),
        "weights": _weights(checkpoints, blocks, identical),
        "answers": _answers(checkpoints),
        "runs": _runs(checkpoints, f"block_{blocks:02d}"),
        "trajectory": planted_trajectory(checkpoints),
        "swap": planted_swap(checkpoints),
        "spectrum": planted_spectrum(checkpoints),
        **planted_maps(checkpoints),
        **planted_similarity(checkpoints),
        **planted_language(checkpoints),
        **planted_looks(checkpoints),
        **measured_sight(checkpoints),
    }


def _share(value: float, n: int) -> Estimate:
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return Estimate(value, value - half, value + half, n, "fraction", "Wilson 95 %")


def _difference(value: float, half: float, n: int) -> Estimate:
    return Estimate(value, value - half, value + half, n, "fraction", "Newcombe paired 95 %")


def _imagenet(checkpoints: tuple[str, ...], blocks: int) -> Result:
    rows = []
    consumed = f"block_{blocks:02d}"
    for site, best, baseline in ((consumed, 0.612, 0.181), ("projected", 0.587, 0.172)):
        for i, name in enumerate(checkpoints):
            rows.append(Row(name, site, "top1", _share(best + 0.012 * i - 0.001 * i * i, 1000)))
            rows.append(Row(name, site, "top5", _share(best + 0.3 + 0.001 * i, 1000)))
        rows.append(Row("untrained", site, "top1", _share(baseline, 1000), role="baseline", baseline="untrained"))
        for i, name in enumerate(checkpoints[1:], start=1):
            difference = _difference(0.012 * i - 0.001 * i * i, 0.011, 1000)
            rows.append(Row(name, site, "top1", difference, checkpoints[0], "difference"))
        if len(checkpoints) > 2:
            pair = _difference(0.003, 0.012, 1000)
            rows.append(Row(checkpoints[2], site, "top1", pair, checkpoints[1], "difference"))
    settings = {"base": checkpoints[0], "chance": 0.1, "consumed": consumed, "protocol": "disjoint prototypes"}
    return Result("imagenet", "Do the features separate the classes better?", tuple(rows), settings)


def _probe(checkpoints: tuple[str, ...], blocks: int) -> Result:
    """Probes of all and of few training images, with control labels, where the language model reads."""
    sites, rows = [f"block_{blocks:02d}", "projected"], []
    heights = {"probe_of_1": 0.2, "probe_of_5": 0.4, "probe_top1": 0.6, "probe_control": 0.1}
    for place, name in enumerate([*checkpoints, "untrained"]):
        role: Role = "baseline" if name == "untrained" else "value"
        for site in sites:
            for measure, height in heights.items():
                value = height + 0.01 * place
                shown = Estimate(value, value - 0.02, value + 0.02, 1000, "fraction", "Wilson 95 %")
                rows.append(Row(name, site, measure, shown, role=role, baseline=kind(name, role)))
    settings = {"base": checkpoints[0], "consumed": sites[0], "sites": sites, "chance": 0.1, "classes": 10,
                "n_support": 200}  # fmt: skip
    return Result("probe", "What can a linear probe read?", tuple(rows), settings)


def _zeroshot(checkpoints: tuple[str, ...]) -> Result:
    """The base pools images with its own head, the others with one that they were lent."""
    sites = {name: "embedding" if name == checkpoints[0] else "embedding (head of so400m)" for name in checkpoints}
    rows = []
    for i, (name, site) in enumerate(sites.items()):
        rows.append(Row(name, site, "zeroshot_top1", _share(0.8 - 0.05 * i, 1000)))
        rows.append(Row(name, site, "zeroshot_top5", _share(0.95 - 0.01 * i, 1000)))
        if i:
            difference = _difference(-0.1 * i, 0.02, 1000)
            rows.append(Row(name, site, "zeroshot_top1", difference, checkpoints[0], "difference"))
    rows += [
        Row("untrained", site, "zeroshot_top1", _share(0.1, 1000), role="baseline", baseline="untrained")
        for site in dict.fromkeys(sites.values())
    ]
    settings = {"base": checkpoints[0], "chance": 0.1, "n": 1000, "head_of_text_tower": list(checkpoints[1:])}
    return Result("zeroshot", "Do images lie beside their sentences?", tuple(rows), settings)


def _knn(checkpoints: tuple[str, ...], blocks: int) -> Result:
    consumed = f"block_{blocks:02d}"
    sites = [*(f"block_{i:02d}" for i in range(blocks + 1)), "projected"]
    rows = []
    for depth, site in enumerate(sites):
        for i, name in enumerate(checkpoints):
            rows.append(Row(name, site, "knn_20", _share(0.2 + 0.3 * depth / len(sites) + 0.01 * i, 1000)))
            if i:
                difference = _difference(0.01 * i, 0.011, 1000)
                rows.append(Row(name, site, "knn_20", difference, checkpoints[0], "difference"))
        rows.append(Row("untrained", site, "knn_20", _share(0.15, 1000), role="baseline", baseline="untrained"))
    settings = {"base": checkpoints[0], "chance": 0.1, "consumed": consumed, "sites": sites}
    return Result("knn", "Do similar images show the same class?", tuple(rows), settings)


def _drift(checkpoints: tuple[str, ...], blocks: int, identical: tuple[str, ...]) -> Result:
    sites = [*(f"block_{i:02d}" for i in range(blocks + 1)), "final_norm", "projected"]
    rows = []

    def add(name: str, distances: list[float], role: Role = "value", only: list[str] = sites) -> None:
        for site, d in zip(sites, distances, strict=True):
            if site not in only:
                continue
            cka = Estimate(1 - d, 1 - 1.18 * d, 1 - 0.84 * d, 1000, "CKA", "delete-one jackknife 95 %")
            rows.append(Row(name, site, "cka", cka, checkpoints[0], role, kind(name, role)))

    for i, name in enumerate(checkpoints[1:], start=1):
        grown = [0.02 / i**1.5 * (k / len(sites)) ** 2 * (1 + 0.3 * math.sin(k)) for k in range(len(sites))]
        add(name, grown, only=["projected"] if name in identical else sites)
    add("untrained", [0.35 + 0.4 * k / len(sites) for k in range(len(sites))], "baseline")
    add(f"{checkpoints[0]} (bfloat16)", [2e-6 * (1 + k) for k in range(len(sites))], "baseline")
    settings = {"base": checkpoints[0], "sites": sites, "consumed": sites[blocks], "identical": list(identical)}
    return Result("drift", "Where did the representation move?", tuple(rows), settings, ("Only 1,000 images.",))


def _weights(checkpoints: tuple[str, ...], blocks: int, identical: tuple[str, ...]) -> Result:
    groups = [
        "embeddings",
        *(f"block_{i:02d}" for i in range(1, blocks + 1)),
        "final_norm",
        "head",
        "projector",
        "tower",
    ]
    rows = []
    for i, name in enumerate(checkpoints[1:], start=1):
        for k, group in enumerate(groups):
            frozen = group == "head" or (name in identical and group != "projector")
            change = 0.0 if frozen else 0.03 / 3**i * (1 + 0.5 * math.cos(k))
            equal = 1.0 if frozen else min(0.95, 0.12 * i + 0.02 * k)
            weights = 7_087_872 + 1000 * k
            for measure, value, n, unit in (
                ("matrices_changed", float(not frozen), 6, "fraction"),
                ("matrix_change", change, 6, "ratio"),
                ("relative_change", change / 3, weights, "ratio"),
                ("share_equal", equal, weights, "fraction"),
            ):
                exact = Estimate(value, value, value, n, unit, "exact")
                rows.append(Row(name, group, measure, exact, checkpoints[0]))
    settings = {"base": checkpoints[0], "groups": groups, "identical": list(identical)}
    return Result("weights", "Where did the weights move, and how much?", tuple(rows), settings)


def _answers(checkpoints: tuple[str, ...]) -> Result:
    rows = []
    for group, n, right, blind in (("all", 600, 0.62, 0.31), ("count", 200, 0.55, 0.3), ("where", 200, 0.71, 0.25)):
        for i, name in enumerate(checkpoints):
            rows.append(Row(name, "consumed", f"accuracy/{group}", _share(right + 0.02 * i, n)))
        rows.append(Row("blind", "consumed", f"accuracy/{group}", _share(blind, n), role="baseline", baseline="blind"))
    return Result("answers", "Does the whole model answer better?", tuple(rows))


def planted_trajectory(checkpoints: tuple[str, ...], steps: tuple[int, ...] = (10, 20, 30)) -> Result:
    """Every descendant as a run: a tenth of rounding at its first moment, ten times more at each next."""
    base, *runs = checkpoints
    consumed, baseline = "block_06", 2e-4
    rows, moments, p_moved = [], {}, {}

    def cka(name: str, site: str, distance: float, role: Role = "value") -> Row:
        estimate = Estimate(1 - distance, 1 - 1.18 * distance, 1 - 0.84 * distance, 1000, "CKA", "jackknife 95 %")
        return Row(name, site, "cka", estimate, base, role, kind(name, role))

    for site in (consumed, "projected"):
        rows.append(cka(f"{base} (bfloat16)", site, baseline, "baseline"))
        rows.append(Row(base, site, "top1", _share(0.6, 1000)))
        rows.append(Row("untrained", site, "top1", _share(0.2, 1000), role="baseline", baseline="untrained"))
    for i, run in enumerate(runs):
        moments[run] = [{"step": step, "checkpoint": f"{run} step {step}"} for step in steps]
        for k, step in enumerate(steps):
            name, gain = f"{run} step {step}", 0.01 * k * (-1) ** i
            for site in (consumed, "projected"):
                rows.append(cka(name, site, baseline * 10 ** (k - 1)))
                rows.append(Row(name, site, "top1", _share(0.6 + gain, 1000)))
                rows.append(Row(name, site, "top1", _difference(gain, 0.012, 1000), base, "difference"))
            change = Estimate(0.004 * k, 0.004 * k, 0.004 * k, 7_087_872, "ratio", "exact")
            rows.append(Row(name, "tower", "relative_change", change, base))
            p_moved[name] = dict.fromkeys((consumed, "projected"), 0.001 if k == 2 else 1.0)
    settings = {"base": base, "consumed": consumed, "chance": 0.1, "runs": moments, "p_moved": p_moved}
    return Result("trajectory", "When did the encoder move?", tuple(rows), settings)


def _runs(checkpoints: tuple[str, ...], site: str) -> Result:
    arms = {name: [f"{name}-seed{seed}" for seed in range(3)] for name in checkpoints[1:]}
    names = [checkpoints[0], *(run for runs in arms.values() for run in runs)]
    rows = [Row(name, site, "top1", _share(0.6 + 0.004 * i, 1000)) for i, name in enumerate(names)]
    return across_runs([Result("imagenet", "?", tuple(rows), {"consumed": site})], arms, checkpoints[0])
