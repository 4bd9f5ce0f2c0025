"""Families of multimodal models as transformers saves them: one row says where tower and connector are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.processor import Resolution, find_processor
from visprobe.encoders.structure.connector import Connect, configured
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, Tiled
from visprobe.encoders.structure.layout import (
    Layout,
    Source,
    apart,
    beside,
    hidden_state,
    no_projector,
    no_tower,
    notes_on_places,
    places,
    twins,
    under,
)
from visprobe.errors import CheckpointError

Reads = Callable[[Any, Family], tuple[tuple[str, ...], str]]


def _none(config: Any, family: Family) -> list[str]:
    return []


def _as_it_is(names: Mapping[str, str], config: Any) -> Mapping[str, Source]:
    return dict(names)


@dataclass(frozen=True)
class Spelling:
    """Naming scheme of a family's tensors on disk.

    Attributes:
        name: "A", "B", …
        tower: Prefix of the tower's names.
        connector: Prefix of the names of each part of the connector, by the canonical prefix of that part.
    """

    name: str
    tower: str
    connector: Mapping[str, str]

    def at(self, place: str, names: Sequence[str]) -> Spelling:
        """Move this scheme to a tower at `place`; the connector is looked for beside it, then anywhere."""
        outer = place.removesuffix(_inner(self.tower))
        return Spelling(self.name, place, {c: beside(outer, _inner(p), names) for c, p in self.connector.items()})


def _inner(prefix: str) -> str:
    return prefix.removeprefix("model.")


_INSIDE, _OUTSIDE = {"": "multi_modal_projector."}, {"": "model.multi_modal_projector."}
SPELLINGS = (  # of models with `vision_tower` beside `multi_modal_projector`, such as LLaVA
    Spelling("B", "model.vision_tower.vision_model.", _OUTSIDE),
    Spelling("D", "model.vision_tower.", _OUTSIDE),
    Spelling("A", "vision_tower.vision_model.", _INSIDE),
    Spelling("C", "vision_tower.", _INSIDE),
)


def selected(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    """Return the sites of `vision_feature_layer`, one number or several, and the reason for them."""
    layers, depth = config.vision_feature_layer, family.depth(config.vision_config)
    numbers = [layers] if isinstance(layers, int) else list(layers)
    return tuple(hidden_state(n, depth) for n in numbers), f"vision_feature_layer is {layers} of {depth} blocks"


def one_selected(name: str) -> Reads:
    """Return `selected` for the model `name`, whose projector reads one site; it refuses several."""

    def reads(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
        sites, why = selected(config, family)
        if len(sites) > 1:
            raise CheckpointError(
                f"vision_feature_layer selects {len(sites)} layers; the projector of {name} reads one",
                hint="Check that config.json belongs to these weights.",
            )
        return sites, why

    return reads


def last_state(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    """Return the site of the tower's `last_hidden_state`, and the reason for it."""
    return (family.last_site(config.vision_config),), "the model reads the tower's last_hidden_state"


@dataclass(frozen=True)
class SingleView:
    """Options that make a model's own processor give one view of an image, as maps of answers need it.

    Attributes:
        options: Options of its image processor that turn tiles off.
        sized: True if it is also given a number of pixels, for towers of native resolution.
        in_pairs: True if it has no such option but reads each of several images as one view with a line break after it,
            so that the image has to be given as one of two.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = False
    in_pairs: bool = False

    def told(self, area: int) -> dict[str, Any]:
        """Return all options of the image processor for a view of `area` pixels."""
        sized = {"size": {"shortest_edge": area, "longest_edge": area}} if self.sized else {}
        return {**self.options, **sized}


@dataclass(frozen=True)
class Model:
    """Family of multimodal models.

    Attributes:
        name: "Qwen2.5-VL", for people.
        model_types: `model_type` of its configuration.
        cls: Name of its class in transformers.
        connect: Maps the model's configuration, the connector's tensors by canonical name, and the sites read, to the
            connector.
        reads: Maps the model's configuration and the tower's family to the sites that the connector reads, and why.
        spellings: Naming schemes on disk, tried in order: longer prefixes before their own beginnings.
        towers: Names of tower families that it may have; empty for any.
        notes: Maps configuration and family to warnings for the reader.
        untiled: Warning for the reader where tiles are not asked for.
        renamed: Maps the tower's names (relative to the tower to full) and the tower's configuration to its sources,
            where disk and class differ in more than transformers itself can rename.
        geometry: Maps the model's configuration to a geometry, where that is not the one of the tower alone.
        tiles: Maps the model's configuration to the geometry of its tiles, if it cuts images into tiles.
        processors: Classes to use for stored kinds of processor where only the base view is read.
        processor: Class of the image processor where a checkpoint names none, if it is not that of the tower.
        single_view: Options that give one view of an image; None where answers cannot be mapped.
        encoded_once: True if one encoding of an image can serve both answers of a preference pair: its
            `get_image_features` gives a list of images.
        language: Prefixes of the language model's parameters in memory.
        beside: Prefixes of parameters in memory that are trained with the connector, though it does not hold them.
        image_token: Attribute of its processor that holds the token which stands for a piece of an image.
    """

    name: str
    model_types: tuple[str, ...]
    cls: str
    connect: Connect
    reads: Reads = selected
    spellings: tuple[Spelling, ...] = SPELLINGS
    towers: tuple[str, ...] = ()
    notes: Callable[[Any, Family], list[str]] = _none
    renamed: Callable[[Mapping[str, str], Any], Mapping[str, Source]] = _as_it_is
    geometry: Callable[[Any], Geometry] | None = None
    untiled: str = ""
    tiles: Callable[[Any], Tiled] | None = None
    processors: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""
    single_view: SingleView | None = None
    encoded_once: bool = False
    language: tuple[str, ...] = ("model.language_model.", "lm_head.")
    beside: tuple[str, ...] = ()
    image_token: str = "image_token"

    @property
    def in_memory(self) -> Spelling:
        """Naming scheme of its parameters in memory: below "model.", with no outer class around the tower."""
        return min((s for s in self.spellings if s.tower.startswith("model.")), key=lambda s: len(s.tower))


def model_layout(model: Model, checkpoint: Checkpoint, towers: Mapping[str, Family], resolution: Resolution) -> Layout:
    """Find the layout of a checkpoint of the family `model`.

    Args:
        model: Row of the family.
        checkpoint: Open checkpoint.
        towers: All families of towers by `model_type`.
        resolution: Pixels per image, and whether tiles are read.

    Raises:
        CheckpointError: If tower or connector are absent or unknown.
    """
    checkpoint.check_described()
    config = checkpoint.config
    vision = config.vision_config
    family = towers.get(vision.model_type)
    if family is None or (model.towers and family.name not in model.towers):
        known = model.towers or sorted({row.name for row in towers.values()})
        raise CheckpointError(
            f"{checkpoint.spec} is a {config.model_type} with a tower of type {vision.model_type}",
            hint=f"Supported towers in {model.name}: {', '.join(known)}.",
        )
    names = list(checkpoint.tensors)
    spelling, found, named = _spelling(model, checkpoint.spec, names)
    projector = _connector_names(spelling, names)
    if not projector:
        raise no_projector(checkpoint.spec, names)
    tower = _own(under(spelling.tower, names), set(projector.values()), family)
    reads, why = model.reads(config, family)
    entries = {name: checkpoint.tensors[key] for name, key in projector.items()}
    tiles = model.tiles(config) if resolution.tiles and model.tiles else None
    geometry = tiles or (model.geometry(config) if model.geometry else family.geometry)
    processor, assumed = find_processor(
        checkpoint.folder,
        replace(family, processor=(tiles and tiles.processor) or model.processor or family.processor),
        vision,
        geometry,
        resolution,
        {**model.processors, **(tiles.processors if tiles else {})},
    )
    family.say_head(vision, tower)
    untiled = tiles.notes if tiles else filter(None, [model.untiled])
    return Layout(
        name=spelling.name,
        family=family,
        config=vision,
        tower_name=vision.model_type,
        tower=model.renamed(tower, vision),
        projector=projector,
        connector=configured(lambda config: model.connect(config, entries, reads), config),
        consumed=max(reads),
        why=why,
        processor=processor,
        geometry=geometry,
        warnings=(*named, *model.notes(config, family), *untiled, *assumed),
        twins=twins(found, names),
    )


def _spelling(model: Model, spec: str, names: Sequence[str]) -> tuple[Spelling, list[str], list[str]]:
    """Return the naming scheme of a checkpoint, the places of its towers, and notes on them."""
    # names that the family is known by come first, then the same names below any prefix
    known = [spelling for spelling in model.spellings if any(name.startswith(spelling.tower) for name in names)]
    stems = {_inner(spelling.tower): spelling for spelling in reversed(model.spellings)}
    spelled = [spelling.at(place, names) for stem, spelling in stems.items() for place in places(stem, names)]
    found: dict[str, Spelling] = {}
    for one in (*known, *sorted(spelled, key=lambda one: one.tower.count("."))):
        found.setdefault(one.tower, one)
    if not found:
        raise no_tower(spec, names)
    towers = apart(found)
    return found[towers[0]], towers, notes_on_places(towers, [spelling.tower for spelling in known])


def _connector_names(spelling: Spelling, names: list[str]) -> dict[str, str]:
    parts = [(canonical, under(prefix, names)) for canonical, prefix in spelling.connector.items()]
    return {canonical + name: key for canonical, found in parts for name, key in found.items()}


def _own(tower: Mapping[str, str], taken: set[str], family: Family) -> dict[str, str]:
    """Return names of the tower alone: some classes hold the connector too."""
    return {name: key for name, key in tower.items() if key not in taken and name.split(".")[0] not in family.detached}
