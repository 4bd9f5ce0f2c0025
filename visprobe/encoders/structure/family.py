"""Family of vision towers: names of blocks, norms and prefix tokens in the transformers class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import transformers

from visprobe.encoders.structure.connector import Connector
from visprobe.encoders.structure.geometry import SQUARE, Geometry
from visprobe.encoders.structure.tensor_class import tensor_class


@dataclass(frozen=True)
class Family:
    """Structure of one family of towers in transformers.

    Attributes:
        name: "siglip", "clip", "qwen2_5_vl", …
        model_types: `model_type` values of the tower's configuration, and of the bare or two-tower models around it.
        tower_class: Name of the class in transformers, or "module:Class" below `transformers.models`.
        blocks: Attribute path of each list of blocks, in the order of the forward pass, with the field of the
            configuration that holds its length.
        norm: Attribute of the last norm, if there is one.
        norm_on_tokens: True if that norm is applied to every token; CLIP applies it to its class token only.
        head: Attribute of the pooling head, if the family has one.
        head_field: Field of the configuration that says if a tower has a head, if there is such a field.
        head_option: Argument of the class that says so, where the configuration does not.
        pools: True if the class gives an embedding of the whole image (`pooler_output`), made by norm and head.
        projection: Name of the linear map from it to the space shared with a text tower, in two-tower checkpoints.
        text_class: Class of the text tower beside it in two-tower checkpoints, if visprobe reads that.
        projection_std: Maps the configuration to the standard deviation of that map's fresh weights.
        has_cls: True if a class token comes first.
        more_prefix: Tokens between it and the patches that no `num_register_tokens` counts (DeiT's distillation token).
        outer_prefixes: Prefixes that may precede a tensor's name in a checkpoint of the bare model.
        geometry: Turns images into inputs and states into tokens in raster order.
        width: Field of the configuration that holds the width of the tokens.
        detached: Attributes of parts of the tower's class that belong to the connector.
        contained: Maps the tower's configuration to the connector made of these parts, where they are all of it.
        groups: Weight group of parts that are neither blocks, norm nor head, where it is not "embeddings".
        tensor_classes: Classes of weights with unusual names (`structure.tensor_class`): regular expressions to
            classes.
        attention_output: Path in a block of the projection whose input holds the outputs of all heads side by side;
            empty if there is none, so that heads cannot be read one by one.
        unread: Name prefixes of weights that no forward pass reads, beside the head.
        any_size: Tells from the configuration if the tower reads images of other sizes than it was built for.
        processor: transformers class of the image processor, Pillow backend, where a checkpoint names none.
        processors: Classes to use for stored kinds of processor, beside the plain ones (`encoders.processor`).
        processor_fields: Fields of that class where a checkpoint names none, if they are not the class's own.
    """

    name: str
    model_types: tuple[str, ...]
    tower_class: str
    blocks: tuple[tuple[str, str], ...] = (("encoder.layers", "num_hidden_layers"),)
    norm: str | None = None
    norm_on_tokens: bool = False
    head: str | None = None
    head_field: str = "vision_use_head"
    head_option: str = ""
    pools: bool = False
    projection: str | None = None
    text_class: str = ""
    projection_std: Callable[[Any], float] = lambda config: float(config.initializer_range)
    has_cls: bool = False
    more_prefix: int = 0
    outer_prefixes: tuple[str, ...] = ()
    geometry: Geometry = SQUARE
    width: str = "hidden_size"
    detached: tuple[str, ...] = ()
    contained: Callable[[Any], Connector] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    tensor_classes: Mapping[str, str] = field(default_factory=dict)
    attention_output: str = "self_attn.out_proj"
    unread: tuple[str, ...] = ()
    any_size: Callable[[Any], bool] = lambda config: False
    processor: str = ""
    processors: Mapping[str, str] = field(default_factory=dict)
    processor_fields: Mapping[str, Any] = field(default_factory=dict)

    def prefix_tokens(self, config: Any) -> int:
        """Return the number of tokens (class token, registers) before the patch tokens."""
        return int(self.has_cls) + int(getattr(config, "num_register_tokens", 0)) + self.more_prefix

    def depth(self, config: Any) -> int:
        """Return the number of blocks."""
        return sum(int(getattr(config, length)) for _, length in self.blocks)

    def last_site(self, config: Any) -> str:
        """Return the site of the tower's `last_hidden_state`."""
        return "final_norm" if self.norm_on_tokens else f"block_{self.depth(config):02d}"

    def build(self, config: Any, names: set[str]) -> torch.nn.Module:
        """Build a tower with fresh weights that has the parts whose tensor `names` are given."""
        return self.without_absent(self.cls(config, **self.options(names)), names)

    @property
    def cls(self) -> Any:
        """Tower class in transformers."""
        module, _, name = self.tower_class.rpartition(":")
        return getattr(import_module(f"transformers.models.{module}") if module else transformers, name)

    def say_head(self, config: Any, names: Iterable[str]) -> None:
        """Set the field of `config` for a pooling head by the names of the tensors."""
        if self.head and hasattr(config, self.head_field):
            setattr(config, self.head_field, _has(self.head, names))

    def options(self, names: set[str]) -> dict[str, bool]:
        """Return arguments of the class that depend on which tensors there are."""
        return {self.head_option: _has(self.head, names)} if self.head_option else {}

    def without_absent(self, tower: torch.nn.Module, names: set[str]) -> torch.nn.Module:
        """Give `tower` the parts that the checkpoint saved.

        Parts of the connector and a last norm that was not saved are removed, a saved projection to the space shared
        with a text tower is added.
        """
        for part in self.detached:
            _detach(tower, part)
        if self.projection and _has(self.projection, names):
            setattr(tower, self.projection, self._fresh_projection(tower.config))
        if self.norm and not _has(self.norm, names):
            setattr(tower, self.norm, torch.nn.Identity())
        return tower

    def _fresh_projection(self, config: Any) -> torch.nn.Module:
        layer = torch.nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        torch.nn.init.normal_(layer.weight, std=self.projection_std(config))
        return layer

    def is_projection(self, name: str) -> bool:
        """Return whether the tensor `name` belongs to the projection to the space shared with a text tower."""
        return self.projection is not None and name.startswith(f"{self.projection}.")

    def block_count(self, names: set[str]) -> int:
        """Return one more than the highest number of a block of the first list in `names` (0 without blocks)."""
        pattern = _numbered(self.blocks[0][0])
        return max((int(m[1]) + 1 for m in map(pattern.match, names) if m), default=0)

    def weight_group(self, name: str, config: Any) -> str:
        """Return the group of a canonical tensor name: "embeddings", "block_07", "final_norm" or "head"."""
        before = 0
        for path, length in self.blocks:
            if found := _numbered(path).match(name):
                return f"block_{before + int(found[1]) + 1:02d}"
            before += int(getattr(config, length))
        part = name.split(".")[0]
        if part in (self.norm, self.head, self.projection):
            return "final_norm" if part == self.norm else "head"
        return self.groups.get(part, "embeddings")

    def off_path(self, groups: Iterable[str], consumed: str) -> tuple[str, ...]:
        """Return those weight `groups` that no loss on the tokens of the site `consumed` reaches, sorted."""
        return tuple(group for group in sorted(set(groups)) if _beyond(group, consumed))

    def tensor_class(self, name: str, group: str) -> str:
        """Return the class of weight `name` in a group; see `structure.tensor_class`."""
        return tensor_class(name, group, self.tensor_classes)

    def tower_blocks(self, tower: torch.nn.Module) -> list[torch.nn.Module]:
        """Return the blocks of `tower` in the order of the forward pass."""
        return [block for path, _ in self.blocks for block in tower.get_submodule(path).children()]


def _beyond(group: str, consumed: str) -> bool:
    if group == "final_norm" or group.startswith("block_"):
        return consumed != "final_norm" and (group == "final_norm" or group > consumed)
    return group == "head"


def _numbered(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path) + r"\.(\d+)\.")


def _has(part: str | None, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{part}.") for name in names)


def _detach(tower: torch.nn.Module, part: str) -> None:
    module = getattr(tower, part, None)  # a part may depend on the configuration
    if isinstance(module, torch.nn.ModuleList):
        setattr(tower, part, torch.nn.ModuleList(torch.nn.Identity() for _ in module))
    else:
        setattr(tower, part, torch.nn.Identity())
