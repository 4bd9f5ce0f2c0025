"""Tables of all models and towers that can be read, for `visprobe families`."""

from __future__ import annotations

import transformers

from visprobe.encoders.families import MODELS, TOWERS
from visprobe.encoders.layouts.sam import SAM
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model

MODEL_COLUMNS = ("family", "model_type", "class", "layouts", "towers", "images", "status")
TOWER_COLUMNS = ("tower", "model_type", "class", "blocks", "last norm", "before patches", "images", "status")
# Not in MODELS: their configurations describe no tower that transformers could build, so each has its own function.
_OTHERS = (
    ("LLaVA (original)", "mm_vision_tower in config.json", "", "L", "named by the checkpoint"),
    ("InternVL (original)", "internvl_chat", "", "I", "internvl"),
)
# Towers that original LLaVA checkpoints can name and that are refused with a message.
NOT_YET = {
    "eva02_large_patch14_clip_336": "not yet: transformers has no class of EVA-02 CLIP",
    "open_clip_hub:…": "not yet: open_clip's models differ from transformers' classes and between its versions",
    "imagebind_huge": "not yet: transformers has no class of ImageBind",
}


def model_rows() -> list[dict[str, str]]:
    """Return one row per family of multimodal models, by the names in `MODEL_COLUMNS`."""
    rows = [_model_row(model) for model in MODELS]
    tiles = "fixed, tiles on request"
    return rows + [dict(zip(MODEL_COLUMNS, (*other, tiles, "read"), strict=True)) for other in _OTHERS]


def tower_rows() -> list[dict[str, str]]:
    """Return one row per family of towers, by the names in `TOWER_COLUMNS`; those that cannot be read yet come last."""
    rows = [_tower_row(family) for family in (*TOWERS, SAM)]
    return rows + [dict.fromkeys(TOWER_COLUMNS, "") | {"tower": name, "status": why} for name, why in NOT_YET.items()]


def _model_row(model: Model) -> dict[str, str]:
    own = {family.geometry.resolution for family in TOWERS if family.name in model.towers}
    images = " or ".join(sorted(own)) or "as the tower"
    values = (
        model.name,
        ", ".join(model.model_types),
        model.cls,
        ", ".join(sorted(spelling.name for spelling in model.spellings)),
        ", ".join(model.towers) or "any",
        f"{images}, tiles on request" if model.tiles else images,
        _status(model.cls),
    )
    return dict(zip(MODEL_COLUMNS, values, strict=True))


def _tower_row(family: Family) -> dict[str, str]:
    norm = f"{family.norm}{'' if family.norm_on_tokens else ' (class token only)'}" if family.norm else "none"
    values = (
        family.name,
        ", ".join(family.model_types),
        family.tower_class.split(":")[-1],
        " + ".join(path for path, _ in family.blocks),
        norm,
        "class token" if family.has_cls else "",
        family.geometry.resolution,
        "read",
    )
    return dict(zip(TOWER_COLUMNS, values, strict=True))


def _status(cls: str) -> str:
    found = hasattr(transformers, cls)
    return "read" if found else f"not yet: transformers {transformers.__version__} has no {cls}"
