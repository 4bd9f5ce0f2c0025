"""The vision encoder of a checkpoint: tower, projector and image processor, with sites counted from the input."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image

from visprobe.encoders.family import Family
from visprobe.encoders.hashing import tensors_hash
from visprobe.encoders.processor import output_size, processor_hash
from visprobe.encoders.projector import Projector
from visprobe.encoders.provenance import Provenance
from visprobe.encoders.quiet import quiet
from visprobe.errors import CheckpointError, UsageError

Reduce = Callable[[torch.Tensor], torch.Tensor]
_PROJECTOR = "projector."
_CLS = ":cls"
_SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "image_size", "patch_size")


@dataclass(frozen=True)
class Site:
    """A place in the encoder where tokens can be read.

    Attributes:
        name: "block_00" (the input of the first block) to "block_NN", "final_norm", "projected".
        dim: Width of its tokens.
        norm: Whether the tokens come before or after the tower's last norm.
        on_path: Whether the MLLM's loss reaches this site.
    """

    name: str
    dim: int
    norm: Literal["pre", "post"]
    on_path: bool


class VisionEncoder:
    """Tower, projector and processor of one checkpoint, without its language model.

    Attributes:
        name: Name for tables; `load_encoder` takes it from the folder.
        sites: All sites, from the input on.
        consumed: Name of the site that the MLLM reads.
        grid: Rows and columns of patch tokens.
        prefix_tokens: Tokens before the patch tokens (class token and registers).
        has_projector: Whether there is a projector.
        processor: Image processor of transformers, Pillow backend.
        provenance: Where all this comes from.
    """

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        config: Any,
        tower: torch.nn.Module,
        projector: Projector | None,
        stored: Mapping[str, torch.Tensor],
        processor: Any,
        provenance: Provenance,
    ) -> None:
        self.name = name
        self.processor = processor
        self.provenance = provenance
        self.consumed = provenance.consumed
        self.prefix_tokens = family.prefix_tokens(config)
        self.has_projector = projector is not None
        self._family, self._config = family, config
        self._tower, self._projector = tower, projector
        self._stored = dict(stored)
        self._blocks: Any = tower.get_submodule(family.blocks)
        self.grid = self._find_grid()
        self.sites = tuple(self._list_sites())

    def __repr__(self) -> str:
        rows, columns = self.grid
        return f"VisionEncoder({self.name!r}, {self.provenance.tower}, {rows}x{columns} patches, reads {self.consumed})"

    @property
    def device(self) -> torch.device:
        """Where the tower lies."""
        return next(self._tower.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the tower runs."""
        return next(self._tower.parameters()).dtype

    @property
    def config(self) -> Any:
        """Configuration of the tower in transformers, a copy."""
        return copy.deepcopy(self._config)

    @cached_property
    def processor_hash(self) -> str:
        """SHA-256 of what the processor does to pixels."""
        return processor_hash(self.processor)

    @cached_property
    def tower_hash(self) -> str:
        """SHA-256 of the tower's stored weights, the same for every on-disk layout."""
        return tensors_hash({k: v for k, v in self._stored.items() if not k.startswith(_PROJECTOR)})

    @cached_property
    def projector_hash(self) -> str | None:
        """SHA-256 of the projector's stored weights, or None without a projector."""
        weights = {k: v for k, v in self._stored.items() if k.startswith(_PROJECTOR)}
        return tensors_hash(weights) if weights else None

    @cached_property
    def settings_hash(self) -> str:
        """SHA-256 of what tokens depend on beside weights and pixels: architecture, consumed site, activation."""
        values = {field: getattr(self._config, field, None) for field in _SETTINGS}
        activation = self._projector.activation if self._projector else None
        text = json.dumps([self._family.name, values, self.consumed, activation], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights by canonical name, as stored; those of the projector begin with "projector."."""
        return dict(self._stored)

    def weight_group(self, name: str) -> str:
        """The group of weight `name`: "embeddings", "block_01", …, "final_norm", "head" or "projector"."""
        return "projector" if name.startswith(_PROJECTOR) else self._family.weight_group(name)

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Pixels as the tower reads them.

        Args:
            images: RGB images of any sizes.

        Returns:
            Tensor of shape (B, 3, H, W), float32, on the CPU.
        """
        pixels = self.processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        return torch.as_tensor(pixels, dtype=torch.float32)

    def forward(
        self, pixel_values: torch.Tensor, sites: Sequence[str], reduce: Reduce | None = None
    ) -> dict[str, torch.Tensor]:
        """Tokens of the requested sites, from one pass; nothing else is kept.

        Args:
            pixel_values: Output of `preprocess`, shape (B, 3, H, W).
            sites: Site names, or "consumed". A name gives the patch tokens in raster order, shape (B, T, D);
                with ":cls" appended ("block_12:cls") it gives the class token alone, shape (B, 1, D).
            reduce: Applied to the tokens of each site, as float32, as soon as they exist.

        Returns:
            For each request its tokens on the tower's device, in its dtype, or what `reduce` made of them.

        Raises:
            UsageError: If a site does not exist, or a tower without class token is asked for one.
        """
        taken: dict[str, torch.Tensor] = {}
        places = {request: self._place(request) for request in sites}

        def keep(site: str, tokens: torch.Tensor) -> None:
            for request, (place, start, stop) in places.items():
                if self._source(place) == site:
                    part = tokens[:, start:stop]
                    part = self._projector(part) if place == "projected" and self._projector else part
                    taken[request] = reduce(part.float()) if reduce else part.contiguous()

        with torch.inference_mode(), self._watched({self._source(place) for place, _, _ in places.values()}, keep):
            self._tower(pixel_values.to(self.device, self.dtype))
        return {request: taken[request] for request in sites}

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Patch tokens of `images` at every site, and at "consumed", each of shape (B, T, D)."""
        tokens = self.forward(self.preprocess(images), [site.name for site in self.sites])
        return {"consumed": tokens[self.consumed], **tokens}

    def untrained(self, seed: int) -> VisionEncoder:
        """The same encoder with fresh weights as transformers initialises them, named "untrained"."""
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            tower = self._family.build(copy.deepcopy(self._config), set(self._stored))
            fresh = dict(tower.state_dict())
            if self._projector is not None:
                fresh |= {_PROJECTOR + k: v for k, v in self._projector.fresh().state_dict().items()}
        weights = {name: fresh[name].to(tensor.dtype) for name, tensor in self._stored.items()}
        return self._with_weights("untrained", weights, f"fresh weights, seed {seed}")

    def rounded(self, dtype: torch.dtype) -> VisionEncoder:
        """The same encoder with every weight rounded to `dtype` and back."""
        short = str(dtype).removeprefix("torch.")
        weights = {name: tensor.to(dtype).to(tensor.dtype) for name, tensor in self._stored.items()}
        return self._with_weights(f"{self.name} ({short})", weights, f"{self.provenance.layout}, rounded to {short}")

    def _with_weights(self, name: str, weights: Mapping[str, torch.Tensor], layout: str) -> VisionEncoder:
        tower, projector = copy.deepcopy(self._tower), copy.deepcopy(self._projector)
        tower.load_state_dict({k: v for k, v in weights.items() if not k.startswith(_PROJECTOR)})
        if projector is not None:
            own = {k.removeprefix(_PROJECTOR): v for k, v in weights.items() if k.startswith(_PROJECTOR)}
            projector.load_state_dict(own)
        return VisionEncoder(
            name=name,
            family=self._family,
            config=self._config,
            tower=tower,
            projector=projector,
            stored=weights,
            processor=self.processor,
            provenance=replace(self.provenance, layout=layout),
        )

    def _find_grid(self) -> tuple[int, int]:
        height, width = output_size(self.processor)
        image, patch = _square(self._config.image_size), _square(self._config.patch_size)
        if (height, width) != (image, image) and not self._family.name.startswith("dinov2"):
            raise CheckpointError(
                f"the image processor gives {height}x{width} pixels, the tower reads {image}x{image}",
                hint="Give the checkpoint the preprocessor_config.json of its base model.",
            )
        return height // patch, width // patch

    def _list_sites(self) -> Iterator[Site]:
        width, count = int(self._config.hidden_size), len(self._blocks)
        last = count if self.consumed == "final_norm" else int(self.consumed.removeprefix("block_"))
        for number in range(count + 1):
            yield Site(f"block_{number:02d}", width, "pre", number <= last)
        if self._family.norm_on_tokens and f"{self._family.norm}.weight" in self._stored:
            yield Site("final_norm", width, "post", self.consumed == "final_norm")
        if self._projector is not None:
            state: Literal["pre", "post"] = "post" if self.consumed == "final_norm" else "pre"
            yield Site("projected", self._projector.widths[-1], state, True)

    def _place(self, request: str) -> tuple[str, int, int | None]:
        name = request.removesuffix(_CLS)
        name = self.consumed if name == "consumed" else name
        if name not in {site.name for site in self.sites}:
            raise UsageError(
                f"{self.name} has no site {request!r}",
                hint=f"Its sites: {', '.join(site.name for site in self.sites)}, and consumed for {self.consumed}.",
            )
        if not request.endswith(_CLS):
            return name, self.prefix_tokens, None
        if not self.prefix_tokens or name == "projected":
            raise UsageError(f"{self.name} has no class token at {name}", hint="Pool its patch tokens instead.")
        return name, 0, 1

    def _source(self, site: str) -> str:
        return self.consumed if site == "projected" else site

    @contextmanager
    def _watched(self, sites: set[str], keep: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(self._hook(site, keep))
            yield

    def _hook(self, site: str, keep: Callable[[str, torch.Tensor], None]) -> Any:
        if site == "block_00":
            return self._blocks[0].register_forward_pre_hook(lambda _, args: keep(site, args[0]))
        number = site.removeprefix("block_")
        module = getattr(self._tower, self._family.norm) if site == "final_norm" else self._blocks[int(number) - 1]
        return module.register_forward_hook(lambda _, __, output: keep(site, output))


def _square(size: Any) -> int:
    return int(size) if isinstance(size, int) else int(size[0])
