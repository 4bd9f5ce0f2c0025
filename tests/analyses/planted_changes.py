"""Changes of a checkpoint's tensors whose mark on the features is known."""

import torch
from planted_towers import WIDTH, Tensors, block, of_tower

# Where the residual stream is an input of a tensor, and where it is its output.
READ = (".q_proj.weight", ".k_proj.weight", ".v_proj.weight", ".fc1.weight")
WRITTEN = (
    "patch_embedding.weight", "patch_embedding.bias", "out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias",
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layernorm.weight", "layernorm.bias",
)  # fmt: skip


def units_permuted(tensors: Tensors, draw: torch.Generator) -> None:
    """The same tower with the units of its residual stream in another order, and a projector that expects it."""
    order = torch.randperm(WIDTH, generator=draw)
    for name in of_tower(tensors):
        if name.endswith((*READ, "position_embedding.weight")):
            tensors[name] = tensors[name][:, order]
        elif name.endswith(WRITTEN):
            tensors[name] = tensors[name][order]
    first = next(name for name in tensors if name.endswith("linear_1.weight"))
    tensors[first] = tensors[first][:, order]


def output_rotated(tensors: Tensors, draw: torch.Generator) -> None:
    """A rotation after the projector."""
    for name in [name for name in tensors if "linear_2." in name]:
        generator = torch.Generator().manual_seed(draw.initial_seed())  # the same rotation for weight and bias
        rotation = torch.linalg.qr(torch.randn(len(tensors[name]), len(tensors[name]), generator=generator))[0]
        tensors[name] = rotation @ tensors[name]


def blocks_swapped(tensors: Tensors, draw: torch.Generator) -> None:
    """Blocks 2 and 3 in each other's place."""
    for name in of_tower(tensors, block(2)):
        other = name.replace(block(2), block(3))
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()


def one_in_twenty(tensors: Tensors, draw: torch.Generator) -> None:
    """The first twentieth of every tower tensor, rounded down, made a tenth larger."""
    for name in of_tower(tensors):
        flat = tensors[name].flatten().clone()
        flat[: len(flat) // 20] *= 1.1
        tensors[name] = flat.view(tensors[name].shape)


def rounded(tensors: Tensors, draw: torch.Generator) -> None:
    """Stored in bfloat16 once."""
    for name in list(tensors):
        tensors[name] = tensors[name].bfloat16().float()


def collapsed(tensors: Tensors, draw: torch.Generator) -> None:
    """A tower that does not look at the image."""
    for name in of_tower(tensors, "patch_embedding"):
        tensors[name] = torch.zeros_like(tensors[name])
