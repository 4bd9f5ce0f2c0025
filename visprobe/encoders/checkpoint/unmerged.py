"""Models saved with unmerged adapters: merged where their scale is known, read where they change nothing."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping

from visprobe.encoders.checkpoint.adapter import CONFIG, Adapted, adapter_config
from visprobe.encoders.checkpoint.lora import LoraSettings, lora_settings
from visprobe.encoders.checkpoint.module_names import ModuleNames
from visprobe.encoders.checkpoint.wrappers import LORA, Renamed, of_language_model
from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.tensors import TensorEntry, Tensors
from visprobe.io.regular import read_object


def with_own_adapter(folder: Folder, tensors: Tensors) -> Tensors:
    """Merge adapters that were saved in a model, as its `tensors` are read.

    If their scale is unknown, the weights that they change cannot be read, and all others can.

    Returns:
        A view, or `tensors` itself if it holds no adapter.

    Raises:
        CheckpointError: If the adapter's configuration is damaged.
    """
    own = {name: name for name in tensors if LORA.fullmatch(name)}
    if not own:
        return tensors
    base = {name: name for name in tensors if name not in own}
    settings = _own_settings(folder)
    if settings is None:
        return Unmerged(tensors, base, own)
    part = Renamed(tensors, own)
    part.bytes_read = 0
    return Adapted(Renamed(tensors, base), [part], settings)


def _own_settings(folder: Folder) -> LoraSettings | None:
    """Return the scaling of the adapters left in a model, if a file gives it."""
    names = folder.names()
    if CONFIG in names:
        return lora_settings(adapter_config(folder), f"{folder}/{CONFIG}")
    config = read_object(folder.fetch("config.json")) if "config.json" in names else {}
    rank = config.get("use_backbone_lora")
    if config.get("model_type") == "internvl_chat" and isinstance(rank, int) and rank > 0:
        # InternVL's code wraps the tower with an alpha of twice the rank, whenever this field is set.
        return lora_settings({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}, f"{folder}/config.json")
    return None


class Unmerged(Renamed):
    """Tensors of a model saved with adapters whose scale is unknown.

    Args:
        tensors: All tensors.
        names: Names of those that are no adapter's.
        adapters: Names of those that are.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str], adapters: Iterable[str]) -> None:
        super().__init__(tensors, names)
        model = ModuleNames(names)
        matches = [match for match in map(LORA.fullmatch, adapters) if match]
        places = {match["module"]: model.find(f"{match['module']}.weight") for match in matches}
        self._ranks = {
            place.tensor: tensors[match[0]].shape[0]
            for match in matches
            if match["kind"] in ("lora_A", "lora_embedding_A") and (place := places[match["module"]])
        }
        self.notes = [
            *tensors.notes,
            f"LoRA of {len(places)} modules is left unmerged in these files; the weights read here have none",
        ]

    def _readable(self, name: str) -> TensorEntry:
        if name in self._ranks:
            raise CheckpointError(
                f"{self.where} holds adapters that are not merged, of {name} among others, and nothing that says how "
                "they are scaled",
                hint="Merge them before saving, with model.merge_and_unload() of PEFT for each wrapped part (InternVL: "
                "python tools/merge_lora.py IN OUT); or put the lora_alpha of the training for ALPHA, and they are "
                f"merged here: echo {shlex.quote(self._settings())} > {shlex.quote(f'{self.where}/{CONFIG}')}",
            )
        return super()._readable(name)

    def _settings(self) -> str:
        """Return the adapter's configuration as far as its matrices determine it."""
        ranks = {name.removesuffix(".weight"): r for name, r in self._ranks.items() if not of_language_model(name)}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        others = {module: r for module, r in ranks.items() if r != rank}
        fields = {"peft_type": "LORA", "r": rank, **({"rank_pattern": others} if others else {}), "lora_alpha": 0}
        return json.dumps(fields).replace(": 0}", ": ALPHA}")
