"""Vision encoder of a checkpoint: tower, projector and image processor, with sites counted from the input."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image

from visprobe.encoders import EMBEDDING, HEADS
from visprobe.encoders.baseline import Baseline
from visprobe.encoders.checkpoint.hashing import tensors_hash
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import processor_hash
from visprobe.encoders.settings import Provenance, tower_settings
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, Tiled, View, side
from visprobe.encoders.structure.layout import Layout
from visprobe.encoders.text.borrowed_head import BorrowedHead
from visprobe.encoders.tower import check_patches, watched
from visprobe.errors import CheckpointError, UsageError

Reduce = Callable[[torch.Tensor], torch.Tensor]
_PROJECTOR = "projector."
_CLS = ":cls"
# Fields of a tower's configuration that its inputs must fit.
_INPUT_SIZES = (
    "image_size", "patch_size", "temporal_patch_size", "spatial_merge_size", "pooling_kernel_size", "max_num_tiles",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """Place in the encoder where tokens can be read.

    Attributes:
        name: "block_00" (the input of the first block) to "block_NN", "final_norm", "projected".
        dim: Width of its tokens.
        norm: "pre" if the tokens come before the tower's last norm, "post" if after it.
        on_path: True if the MLLM's loss reaches this site.
    """

    name: str
    dim: int
    norm: Literal["pre", "post"]
    on_path: bool


class VisionEncoder:
    """Tower, connector and processor of one checkpoint, without its language model.

    Args:
        name: Name for tables; `load_encoder` takes it from the folder.
        layout: Tensors and settings found in the checkpoint.
        tower: Tower of transformers.
        projector: Module of the connector, if there is one.
        stored: Weights by canonical name, in stored dtype; those of the connector begin with "projector.".
        provenance: Files that the encoder was read from.
        head: Pooling head of another checkpoint, if `tower` was given one.
        baseline: Mark of a baseline; None for a checkpoint.

    Attributes:
        name: Name for tables.
        baseline: Mark of a baseline; None for a checkpoint.
        sites: All sites, from the input on.
        consumed: Name of the site that the MLLM reads.
        grid: Rows and columns of patch tokens, or None where they depend on the image.
        prefix_tokens: Tokens before the patch tokens (class token and registers).
        has_projector: True if there is a projector.
        embeds: True if "embedding" can be requested: the tower's class pools images, and the checkpoint holds every
            weight of its pooling head.
        head: Borrowed pooling head, with which "embedding" can be requested even if `embeds` is false; or None.
        processor: Image processor of transformers, Pillow backend.
        provenance: Files that the encoder was read from.
    """

    def __init__(
        self,
        *,
        name: str,
        layout: Layout,
        tower: torch.nn.Module,
        projector: torch.nn.Module | None,
        stored: Mapping[str, torch.Tensor],
        provenance: Provenance,
        head: BorrowedHead | None = None,
        baseline: Baseline | None = None,
    ) -> None:
        self.name = name
        self.baseline = baseline
        self.processor = layout.processor
        self.provenance = provenance
        self.consumed = layout.consumed
        self.prefix_tokens = layout.family.prefix_tokens(layout.config)
        self.has_projector = projector is not None
        self.embeds = head is None and _holds_pooling(layout, tower)
        self.head = head
        self._layout, self._family, self._config = layout, layout.family, layout.config
        self._geometry = layout.geometry
        self._tower, self._projector = tower, projector
        self._stored = dict(stored)
        self._taps = {tap.name: tap for tap in layout.connector.taps} if layout.connector else {}
        self.grid = self._find_grid()
        self.sites = tuple(self._list_sites())

    def __repr__(self) -> str:
        patches = "{}x{} patches".format(*self.grid) if self.grid else "patches of any number"
        return f"VisionEncoder({self.name!r}, {self.provenance.tower}, {patches}, reads {self.consumed})"

    @property
    def device(self) -> torch.device:
        """Device of the tower."""
        return next(self._tower.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the tower runs."""
        return next(self._tower.parameters()).dtype

    @property
    def tower(self) -> torch.nn.Module:
        """Tower, frozen and in evaluation mode."""
        return self._tower

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """Tower, and projector if there is one."""
        return (self._tower,) if self._projector is None else (self._tower, self._projector)

    @property
    def family(self) -> Family:
        """Family of the tower."""
        return self._family

    @property
    def geometry(self) -> Geometry:
        """Geometry: turns images into inputs and hidden states into tokens."""
        return self._geometry

    @property
    def has_class_token(self) -> bool:
        """True if ":cls" can be requested; an image in tiles has a class token per tile and none of its own."""
        return self._family.has_cls and not isinstance(self._geometry, Tiled)

    @property
    def config(self) -> Any:
        """Copy of the tower's transformers configuration."""
        return copy.deepcopy(self._config)

    @cached_property
    def processor_hash(self) -> str:
        """SHA-256 of the processor's fields that change pixels."""
        return processor_hash(self.processor)

    @property
    def pixel_kind(self) -> tuple[Any, ...]:
        """Key that is equal for two encoders if pixels made for one can be given to the other."""
        sizes = tuple(str(getattr(self._config, name, None)) for name in _INPUT_SIZES)
        cell = getattr(self._geometry, "merge", 1)
        return self._family.name, type(self._geometry).__name__, self.grid, cell, *sizes

    @cached_property
    def tower_hash(self) -> str:
        """SHA-256 of the tower's stored weights, the same for every on-disk layout and with or without a text tower."""
        beside = {k for k in self._stored if k.startswith(_PROJECTOR) or self._family.is_projection(k)}
        return tensors_hash({k: v for k, v in self._stored.items() if k not in beside})

    @cached_property
    def projector_hash(self) -> str | None:
        """SHA-256 of the projector's stored weights, or None without a projector."""
        return self._hash_of(lambda name: name.startswith(_PROJECTOR))

    @cached_property
    def projection_hash(self) -> str | None:
        """SHA-256 of the projection to the space shared with a text tower, or None without one."""
        return self._hash_of(self._family.is_projection)

    def _hash_of(self, belongs: Callable[[str], bool]) -> str | None:
        weights = {name: weight for name, weight in self._stored.items() if belongs(name)}
        return tensors_hash(weights) if weights else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings that tokens depend on: fields of the tower's configuration and those that the projector reads."""
        connector, width = self._layout.connector, int(getattr(self._config, self._family.width))
        projector = connector.depends_on(width, self.grid) if connector else {}
        return {**tower_settings(self._config), **{_PROJECTOR + name: value for name, value in projector.items()}}

    @cached_property
    def settings_hash(self) -> str:
        """SHA-256 of architecture, settings, consumed site and connector outputs; weights and pixels are left out."""
        taps = [(tap.name, tap.reads) for tap in self._taps.values()]
        geometry = type(self._geometry).__name__
        text = json.dumps([self._family.name, self.settings, self.consumed, taps, geometry], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all weights by canonical name, in stored dtype; those of the projector begin with "projector."."""
        return dict(self._stored)

    def weight_group(self, name: str) -> str:
        """Return the group of weight `name`: "embeddings", "block_01", …, "final_norm", "head" or "projector"."""
        return "projector" if name.startswith(_PROJECTOR) else self._family.weight_group(name, self._config)

    def preprocess(self, images: Sequence[Image.Image]) -> Pixels:
        """Turn images into inputs of the tower.

        Args:
            images: RGB images of any sizes.

        Returns:
            The tower's inputs, float32, on the CPU, and the grid of patch tokens of each image.
        """
        shown = [image if image.mode == "RGB" else image.convert("RGB") for image in images]  # no copy: some are large
        return self._geometry.preprocess(self.processor, self._config, shown)

    @cached_property
    def head_sites(self) -> tuple[str, ...]:
        """Sites "heads_01", …: outputs of a block's `heads` attention heads side by side, before their projection."""
        depth = self._family.depth(self._config) if self._family.attention_output else 0
        return tuple(f"{HEADS}_{number:02d}" for number in range(1, depth + 1))

    @property
    def heads(self) -> int:
        """Number of attention heads per block."""
        return int(self._config.num_attention_heads)

    def forward(self, pixels: Pixels, sites: Sequence[str], reduce: Reduce | None = None) -> dict[str, torch.Tensor]:
        """Compute the tokens of the requested sites in one pass; nothing else is kept.

        Args:
            pixels: Output of `preprocess`, of B images.
            sites: Site names, or "consumed". A name gives the patch tokens in raster order, shape (B, T, D);
                with ":cls" appended ("block_12:cls") it gives the class token alone, shape (B, 1, D). "embedding" gives
                the pooled embedding of the whole image, shape (B, 1, D), if `embeds` or with a borrowed `head`.
            reduce: Applied to the tokens of each site, as float32, as soon as they exist.

        Returns:
            Request to tokens on the tower's device, in its dtype, or to what `reduce` returned.

        Raises:
            UsageError: If a site does not exist, a tower without class token is asked for one, or images of different
                grids are to be given back unreduced.
        """
        if reduce is None and len(set(pixels.grids)) > 1:
            raise UsageError(
                f"{self.name} gives each image its own number of tokens", hint="Forward the images one by one."
            )
        return self.reduced(pixels, {site: (site, reduce) for site in sites})

    def reduced(self, pixels: Pixels, wanted: Mapping[str, tuple[str, Reduce | None]]) -> dict[str, torch.Tensor]:
        """Compute tokens as `forward` does, each result with a name and a reduction of its own.

        Args:
            pixels: Output of `preprocess`, of B images.
            wanted: Name of the result to site and reduction.

        Returns:
            Name to tokens, or to what its reduction returned, joined along dimension 0.

        Raises:
            UsageError: If a site does not exist, or a tower without class token is asked for one.
        """
        places = {name: self._place(site) for name, (site, _) in wanted.items()}
        taken: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}

        def take(name: str, tokens: torch.Tensor) -> None:
            reduce = wanted[name][1]
            taken[name].append(reduce(tokens.float()) if reduce else tokens.contiguous())

        with torch.inference_mode():
            for piece in self._geometry.pieces(pixels):
                self._forward_piece(piece.to(self.device, self.dtype), places, take)
        return {name: torch.cat(parts) for name, parts in taken.items()}

    def _forward_piece(
        self, pixels: Pixels, places: Mapping[str, tuple[str, bool]], take: Callable[[str, torch.Tensor], None]
    ) -> None:
        waiting = {name: list(self.reads(site)) for name, (site, _) in places.items()}
        held: dict[str, list[View]] = {}

        def keep(site: str, state: torch.Tensor) -> None:
            held[site] = self._geometry.views(state, pixels, self._tower)
            # A result is taken once all states it reads exist; a state is dropped once no pending result needs it.
            for name in [name for name, reads in waiting.items() if set(reads) <= held.keys()]:
                del waiting[name]
                for tokens, _ in self.tokens(*places[name], held, pixels):
                    take(name, tokens)
            needed = {site for reads in waiting.values() for site in reads}
            for name in held.keys() - needed:
                del held[name]

        needed = {site for reads in waiting.values() for site in reads}
        with watched(self._tower, self._family, needed, keep):
            self._geometry.run(self._tower, pixels)

    def tokens(self, site: str, cls: bool, held: Mapping[str, list[View]], pixels: Pixels) -> list[View]:
        """Return patch tokens (or the class token) at `site`, given the views of all states that it reads."""
        if cls:
            return [(tokens[:, :1], grid) for tokens, grid in held[site]]
        sources = [[(t[:, self.prefix_tokens :], grid) for t, grid in held[name]] for name in self.reads(site)]
        check_patches(sources[0], self.name, self.prefix_tokens)
        if site not in self._taps:
            return self._geometry.images(sources[0], pixels)
        tap, views = self._taps[site], []
        for parts in zip(*sources, strict=True):
            grid = parts[0][1]
            projected = tap.project(self._projector_module(), [tokens for tokens, _ in parts], grid)
            views.append((projected, shrunk(grid, parts[0][0].shape[1], projected.shape[1])))
        return self._geometry.images(views, pixels)

    def _projector_module(self) -> torch.nn.Module:
        assert self._projector is not None  # taps come from the connector, which was built with its module
        return self._projector

    def reads(self, site: str) -> tuple[str, ...]:
        """Return the tower sites whose states the tokens at `site` are computed from."""
        return self._taps[site].reads if site in self._taps else (site,)

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Return the patch tokens of `images` at every site, and at "consumed", each of shape (B, T, D)."""
        tokens = self.forward(self.preprocess(images), [site.name for site in self.sites])
        return {"consumed": tokens[self.consumed], **tokens}

    def untrained(self, seed: int) -> VisionEncoder:
        """Return this encoder with fresh weights as transformers initialises them, named "untrained"."""
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            tower = self._family.build(copy.deepcopy(self._config), set(self._stored))
            fresh = dict(tower.state_dict())
            if self._layout.connector is not None:
                fresh |= {_PROJECTOR + k: v for k, v in self._layout.connector.fresh().state_dict().items()}
        weights = {name: fresh[name].to(tensor.dtype) for name, tensor in self._stored.items()}
        provenance = replace(self.provenance, layout=f"fresh weights, seed {seed}")
        return self.with_weights("untrained", weights, provenance, Baseline("untrained", self.name))

    def rounded(self, dtype: torch.dtype) -> VisionEncoder:
        """Return this encoder with every weight rounded to `dtype` and back."""
        short = str(dtype).removeprefix("torch.")
        weights = {name: tensor.to(dtype).to(tensor.dtype) for name, tensor in self._stored.items()}
        provenance = replace(self.provenance, layout=f"{self.provenance.layout}, rounded to {short}")
        return self.with_weights(f"{self.name} ({short})", weights, provenance, Baseline("rounding", self.name))

    def with_weights(
        self,
        name: str,
        weights: Mapping[str, torch.Tensor],
        provenance: Provenance,
        baseline: Baseline | None = None,
    ) -> VisionEncoder:
        """Return this encoder with other weights; tensors of `weights()` that stay are shared, not copied.

        Args:
            name: Name of the new encoder.
            weights: All weights by canonical name, in the shapes of `weights()`.
            provenance: Origin of the weights.
            baseline: Mark of a baseline; None for a checkpoint.
        """
        changed = {key: weight for key, weight in weights.items() if weight is not self._stored[key]}
        inner = {key.removeprefix(_PROJECTOR): w for key, w in changed.items() if key.startswith(_PROJECTOR)}
        outer = {key: weight for key, weight in changed.items() if not key.startswith(_PROJECTOR)}
        return self._like(
            name=name,
            tower=_with_changed(self._tower, outer),
            projector=_with_changed(self._projector, inner) if self._projector is not None else None,
            stored=weights,
            provenance=provenance,
            baseline=baseline,
        )

    def with_head(self, head: BorrowedHead) -> VisionEncoder:
        """Return this encoder with the parts of pooling head `head` that its own checkpoint lacks.

        `weights()` does not change.
        """
        held = set(self._layout.tower)
        lacking = {p: m for p, m in head.modules.items() if not {f"{p}.{name}" for name in m.state_dict()} <= held}
        head = replace(head, modules=lacking)
        return self._like(tower=head.on(_with_changed(self._tower, {}), self.device, self.dtype), head=head)

    def inside(self, tower: torch.nn.Module) -> VisionEncoder:
        """Return this encoder around `tower`, a module of the same class and settings inside a whole model."""
        return self._like(tower=tower, head=None)

    def _like(self, **changes: Any) -> VisionEncoder:
        own = {
            "name": self.name,
            "layout": self._layout,
            "projector": self._projector,
            "stored": self._stored,
            "provenance": self.provenance,
            "head": self.head,
            "baseline": self.baseline,
        }
        return VisionEncoder(**{**own, **changes})

    def _find_grid(self) -> Grid | None:
        grid = self._geometry.grid(self.processor, self._config)
        size = getattr(self._config, "image_size", None)
        if size is None or self._family.any_size(self._config):
            return grid
        if isinstance(self._geometry, Tiled):
            self._geometry.check_tile(self.processor, self._config)
        if grid is None:
            return grid
        patch = side(self._config.patch_size)
        if grid != (side(size) // patch,) * 2:
            raise CheckpointError(
                f"the image processor gives {grid[0] * patch}x{grid[1] * patch} pixels, the tower reads "
                f"{side(size)}x{side(size)}",
                hint="Give the checkpoint the preprocessor_config.json of its base model.",
            )
        return grid

    def _list_sites(self) -> Iterator[Site]:
        width, count = int(getattr(self._config, self._family.width)), self._family.depth(self._config)
        last = count if self.consumed == "final_norm" else int(self.consumed.removeprefix("block_"))
        for number in range(count + 1):
            yield Site(f"block_{number:02d}", width, "pre", number <= last)
        if self._family.norm_on_tokens and f"{self._family.norm}.weight" in self._stored:
            yield Site("final_norm", width, "post", self.consumed == "final_norm")
        for tap in self._taps.values():
            yield Site(tap.name, tap.width, "post" if "final_norm" in tap.reads else "pre", True)

    def _place(self, request: str) -> tuple[str, bool]:
        name = request.removesuffix(_CLS)
        name = self.consumed if name == "consumed" else name
        if request == EMBEDDING and (self.embeds or self.head):
            return EMBEDDING, True  # one token, as the class token
        if name not in {site.name for site in self.sites} | set(self.head_sites):
            raise UsageError(
                f"{self.name} has no site {request!r}",
                hint=f"Its sites: {', '.join(site.name for site in self.sites)}, and consumed for {self.consumed}.",
            )
        if not request.endswith(_CLS):
            return name, False
        if not self.has_class_token or name in self._taps:
            raise UsageError(f"{self.name} has no class token at {name}", hint="Pool its patch tokens instead.")
        return name, True


def _holds_pooling(layout: Layout, tower: torch.nn.Module) -> bool:
    family, given = layout.family, set(layout.tower)
    parts = tuple(f"{part}." for part in (family.norm, family.head) if part)
    needed = {name for name in tower.state_dict() if name.startswith(parts)}
    whole = needed <= given and all(any(name.startswith(part) for name in needed) for part in parts)
    return family.pools and whole and not isinstance(layout.geometry, Tiled)


def _with_changed(module: torch.nn.Module, changed: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Copy `module` with the weights `changed`; all other weights are shared with it."""
    # deepcopy takes tensors that its memo holds as already copied, so `kept` is shared, not duplicated
    kept = {id(tensor): tensor for key, tensor in module.state_dict(keep_vars=True).items() if key not in changed}
    copied = copy.deepcopy(module, kept)
    copied.load_state_dict(dict(changed), strict=False)
    return copied


def shrunk(grid: Grid, before: int, after: int) -> Grid:
    """Return the grid after a connector that merges squares of tokens or resamples the grid.

    `before` and `after` are numbers of tokens; the ratio of rows to columns is kept.
    """
    rows = max(1, round(grid[0] * (after / before) ** 0.5))
    return rows, after // rows
