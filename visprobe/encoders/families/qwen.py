"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: images in their own proportions, tokens in merge order.

The processor writes patches cell by cell: each cell is the square of patches that the merger joins into one token, and
cells follow each other in raster order. Qwen2.5-VL also sorts the cells by attention window before its first block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from PIL import Image

from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.connector import Connector, ConnectorOutput
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, View, side
from visprobe.encoders.structure.model import Model, SingleView, Spelling
from visprobe.errors import CheckpointError, DataError

ORDER = 4

_MAX_ASPECT = 200  # the processor's own limit
_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # the second was written by early checkpoints


class MergeOrder(Geometry):
    """Geometry of images at one pixel budget in their own proportions; states are (patches of all images, D)."""

    resolution = "native"
    plain = False
    normalisation: ClassVar[Mapping[str, Any]] = {}  # set where the model's differs from that of the processor's class

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields with `resolution.pixels` as smallest and largest size.

        Raises:
            CheckpointError: If the stored processor cuts other patches than the tower reads.
        """
        cut = {
            "patch_size": side(config.patch_size),
            "temporal_patch_size": side(config.temporal_patch_size),
            "merge_size": int(config.spatial_merge_size),
        }
        for name, value in cut.items():
            if stored.get(name, value) != value:
                raise CheckpointError(
                    f"the image processor has {name} {stored[name]}, the tower {value}",
                    hint="Give the checkpoint the preprocessor_config.json of its base model.",
                )
        size = {"shortest_edge": resolution.pixels, "longest_edge": resolution.pixels}
        return {**self.normalisation, **plain_fields(stored), **cut, "do_resize": True, "size": size}

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn `images` into patches, cell by cell.

        Raises:
            DataError: If an image is too long and narrow.
        """
        for image in images:
            if max(image.size) > _MAX_ASPECT * min(image.size):
                raise DataError(
                    "an image of {}x{} pixels is more than {} times as long as wide".format(*image.size, _MAX_ASPECT),
                    hint="The model's own image processor refuses such images; crop them or leave them out.",
                )
        made = processor(list(images), return_tensors="pt")
        patches = torch.as_tensor(made["pixel_values"], dtype=torch.float32)
        sizes = torch.as_tensor(made["image_grid_thw"])
        return Pixels(
            {"hidden_states": patches, "grid_thw": sizes}, tuple((rows, columns) for _, rows, columns in sizes.tolist())
        )

    def grid(self, processor: Any, config: Any) -> Grid | None:
        """Return None: the grid depends on the image."""
        return None

    def views(self, state: torch.Tensor, pixels: Pixels, tower: torch.nn.Module) -> list[View]:
        """Return one view per image, patches in raster order."""
        parts = torch.split(state, [rows * columns for rows, columns in pixels.grids])
        return [
            (self.raster(part, grid, tower.config)[None], grid) for part, grid in zip(parts, pixels.grids, strict=True)
        ]

    def raster(self, tokens: torch.Tensor, grid: Grid, config: Any) -> torch.Tensor:
        """Reorder tokens (T, D) of one image from merge order to raster order."""
        merge = int(config.spatial_merge_size)
        cells = tokens.reshape(grid[0] // merge, grid[1] // merge, merge, merge, -1)
        # (cell rows, cell columns, merge, merge, D): swapping 1 and 2 puts patches of a row beside each other
        return cells.transpose(1, 2).reshape(tokens.shape)


class WindowOrder(MergeOrder):
    """Geometry with cells in merge order, grouped by attention window."""

    def raster(self, tokens: torch.Tensor, grid: Grid, config: Any) -> torch.Tensor:
        """Reorder tokens (T, D) of one image from window order to raster order."""
        merge = int(config.spatial_merge_size)
        window = int(config.window_size) // merge // side(config.patch_size)
        rows, columns = torch.meshgrid(*(torch.arange(size // merge) for size in grid), indexing="ij")
        across = -(-grid[1] // merge // window)
        order = (rows // window * across + columns // window).flatten().argsort(stable=True)
        # `order` maps the blocks' order to raster order of cells; its argsort is the inverse permutation
        cells = tokens.reshape(len(order), merge * merge, -1)[order.argsort().to(tokens.device)]
        return super().raster(cells.reshape(tokens.shape), grid, config)


class HalfMergeOrder(MergeOrder):
    """Geometry in merge order with pixels scaled to -1 … 1 unless the checkpoint says otherwise."""

    normalisation: ClassVar[Mapping[str, Any]] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def connector(config: Any) -> Connector:
    """Make the mergers that the tower's class contains: of the last block, and of each block that DeepStack reads.

    Args:
        config: Configuration of the tower.
    """
    depth = int(config.depth)
    indexes = list(getattr(config, "deepstack_visual_indexes", ()))
    read = [number for number in range(depth) if number in indexes]  # the order in which the blocks run
    width = int(getattr(config, "out_hidden_size", config.hidden_size))
    merge = int(config.spatial_merge_size)

    def tap(name: str, block: int, part: str) -> ConnectorOutput:
        return ConnectorOutput(name, (f"block_{block:02d}",), width, _project(part, merge))

    deep = [
        tap(f"deepstack_{count}", number + 1, f"deepstack_merger_list.{indexes.index(number)}")
        for count, number in enumerate(read, start=1)
    ]
    kind = "patch merger" if not deep else f"patch merger and {len(deep)} of DeepStack"
    return Connector(kind, partial(_mergers, config), (tap("projected", depth, "merger"), *deep))


def _mergers(config: Any) -> torch.nn.Module:
    """Make the tower's class without blocks, and keep its mergers alone."""
    shallow = copy.deepcopy(config)
    shallow.depth = 0
    family = next(row for row in TOWERS if config.model_type in row.model_types)
    whole = family.cls(shallow)
    return torch.nn.ModuleDict({part: getattr(whole, part) for part in family.detached})


def _project(part: str, merge: int) -> Callable[[torch.nn.Module, Sequence[torch.Tensor], Grid], torch.Tensor]:
    def project(mergers: torch.nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
        (raster,) = tokens
        count, width = len(raster), raster.shape[-1]
        cells = raster.reshape(count, grid[0] // merge, merge, grid[1] // merge, merge, width).transpose(2, 3)
        merged: torch.Tensor = mergers.get_submodule(part)(cells.reshape(-1, width))
        return merged.reshape(count, -1, merged.shape[-1])

    return project


def _reads(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    taps = connector(config.vision_config).taps
    sites = tuple(tap.reads[0] for tap in (*taps[1:], taps[0]))
    deep = f"; DeepStack also reads {', '.join(sites[:-1])}" if len(sites) > 1 else ""
    return sites, f"the merger reads the last of {family.depth(config.vision_config)} blocks{deep}"


def _family(
    name: str, tower_class: str, geometry: Geometry, *, width: str = "hidden_size", deep: bool = False
) -> Family:
    return Family(
        name=name,
        model_types=(f"{name}_vision",),
        tower_class=tower_class,
        blocks=(("blocks", "depth"),),
        geometry=geometry,
        width=width,
        attention_output="attn.proj",
        tensor_classes={r"\.linear_fc1\.": "mlp_in", r"\.linear_fc2\.": "mlp_out"},
        detached=("merger", "deepstack_merger_list") if deep else ("merger",),
        contained=connector,
        processor="Qwen2VLImageProcessorPil",
        processors=dict.fromkeys(_PROCESSORS, "Qwen2VLImageProcessorPil"),
    )


def _model(name: str, family: Family, cls: str) -> Model:
    def spelling(letters: str, prefix: str) -> Spelling:
        return Spelling(letters, prefix, {f"{part}.": f"{prefix}{part}." for part in family.detached})

    return Model(
        name=name,
        model_types=(family.name,),
        cls=f"{cls}ForConditionalGeneration",
        spellings=(spelling("Q-D", "model.visual."), spelling("Q-A", "visual."), spelling("Q-M", "vision_tower.")),
        reads=_reads,
        connect=lambda config, entries, reads: connector(config.vision_config),
        towers=(family.name,),
        single_view=SingleView(sized=True) if family.name in _MAPPED else None,
    )


_MAPPED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # models whose maps of answers are tested
_QWEN2 = "qwen2_vl.modeling_qwen2_vl:Qwen2VisionTransformerPretrainedModel"
TOWERS = (
    _family("qwen2_vl", _QWEN2, MergeOrder(), width="embed_dim"),
    _family("qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel", WindowOrder()),
    _family("qwen3_vl", "Qwen3VLVisionModel", HalfMergeOrder(), deep=True),
    _family("qwen3_vl_moe", "Qwen3VLMoeVisionModel", HalfMergeOrder(), deep=True),
    _family("qwen3_5", "Qwen3_5VisionModel", HalfMergeOrder()),
    _family("qwen3_5_moe", "Qwen3_5MoeVisionModel", HalfMergeOrder()),
)
_NAMES = {
    "Qwen2-VL": "Qwen2VL",
    "Qwen2.5-VL": "Qwen2_5_VL",
    "Qwen3-VL": "Qwen3VL",
    "Qwen3-VL-MoE": "Qwen3VLMoe",
    "Qwen3.5": "Qwen3_5",
    "Qwen3.5-MoE": "Qwen3_5Moe",
}
MODELS = tuple(_model(name, family, cls) for (name, cls), family in zip(_NAMES.items(), TOWERS, strict=True))
