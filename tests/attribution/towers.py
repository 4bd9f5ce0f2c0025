"""A tiny encoder of every family, targets that read one of its tokens, and images of which one patch is bright."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))

import test_bare
import test_dinov3
import test_siglip2
import test_tiles
import tiny_checkpoints
import tiny_original
import tiny_two_tower
import torch
from PIL import Image
from tiny_checkpoints import llava, write_llava
from tiny_qwen import KINDS as QWEN
from whole_models import bright_patch, write_model
from zoo import ZOO

from visprobe.attribution.targets.subject import TowerSubject
from visprobe.encoders import load_encoder
from visprobe.encoders.processor import Resolution

images, shrink, two_tower = tiny_checkpoints.images, tiny_original.shrink, tiny_two_tower.two_tower


def _of_zoo(name):
    return lambda folder: ZOO[name][0](folder)


def _original(kind):
    def written(folder):
        folder.mkdir(parents=True)
        _, named, weights = tiny_original.tower(kind, folder)
        return tiny_original.write_tower(folder / "whole", weights, named)

    return written


def _tiles(kind):
    def written(folder):
        model, processor = test_tiles.KINDS[kind]
        whole = model()
        if kind.startswith("llava"):
            whole.config.image_grid_pinpoints = test_tiles.PINPOINTS
        return write_model(folder, whole, processor=processor())

    return written


def _bare(case):
    def written(folder):
        test_bare.saved(folder, case)
        return folder

    return written


def _square(written):
    return written, (32, 32), (4, 4), 8, Resolution()


# Name -> how it is written, height and width of an image that is not resized, its grid, side of a patch, resolution.
TOWERS = {
    **{name: _square(_of_zoo(name)) for name in (
        "llava-C", "llava-bin", "onevision", "gemma3", "paligemma", "idefics3", "smolvlm", "internvl",
        "internvl-original", "mllama", "clip", "siglip", "aimv2", "aya-vision",
    )},
    **{case: _square(_bare(case)) for case in ("Dinov2Model", "Dinov2WithRegistersModel", "ViTModel")},
    **{f"original {kind}": _square(_original(kind)) for kind in ("mlcd", "sam")},
    "original timm": (_original("timm"), (224, 224), (16, 16), 14, Resolution()),
    "dinov3": _square(lambda folder: test_dinov3.saved(folder, test_dinov3.tower())),
    "siglip2": (lambda folder: test_siglip2.saved(folder, test_siglip2.tower()), (32, 72), (4, 9), 8,
                Resolution(pixels=39 * 64)),
    "pixtral": (_of_zoo("pixtral"), (32, 56), (4, 7), 8, Resolution(pixels=32 * 56)),
    "mistral3": (_of_zoo("mistral3"), (32, 64), (4, 8), 8, Resolution(pixels=32 * 64)),
    "gemma4": (_of_zoo("gemma4"), (112, 160), (14, 20), 8, Resolution(pixels=112 * 160)),
    **{kind: (_of_zoo(kind), (32, 56), (8, 14), 4, Resolution(pixels=32 * 56)) for kind in QWEN},
    **{f"{kind} tiles": (_tiles(kind), *test_tiles.WHOLE[kind], 8, test_tiles.TILES) for kind in test_tiles.KINDS},
}  # fmt: skip
NO_ATTENTION = {"original sam"}  # towers that compute attention by themselves


def encoder_of(name, folder, dtype=torch.float32):
    written, _, _, _, resolution = TOWERS[name]
    return load_encoder(written(folder / "checkpoint"), resolution=resolution, dtype=dtype)


def siglip(folder, **options):
    """The encoder of a LLaVA with a SigLIP tower."""
    return load_encoder(write_llava(folder, llava("siglip")), **options)


def mean_target(width, power=1):
    """A linear function of the mean token, to a power."""
    weights = torch.linspace(-1, 1, width)
    return lambda tokens, first: torch.stack([(one.mean(dim=(0, 1)) @ weights) ** power for one in tokens])


def lit(name, places):
    """A grey image, and for each place one that is white there."""
    _, size, _, patch, _ = TOWERS[name]
    grey = Image.new("RGB", size[::-1], (128,) * 3)
    return grey, [bright_patch(size, patch, row, column) for row, column in places]


def reading_the_lit_patch(encoder, grey, images, places, grid):
    """A subject whose score of each image is the share, in thousandths, that the token at its own place has of the
    change that light makes of it: so small a gradient leaves gradient-weighted attention near the identity."""
    at = [row * grid[1] + column for row, column in places]
    plain = encoder([grey])["consumed"][0]
    changes = [encoder([image])["consumed"][0, place] - plain[place] for image, place in zip(images, at, strict=True)]

    def target(tokens, first):
        own = changes[first : first + len(tokens)]
        shares = [one[0, at[first + n]] @ own[n] / own[n].square().sum() for n, one in enumerate(tokens)]
        return torch.stack(shares) / 1000

    return TowerSubject(encoder, target)
