"""How fast attribution maps are, in batches, against calling Captum image by image on the same tower.

The tower is a SigLIP B/16 at 224 pixels with random weights; images are noise; the score is a linear function of the
mean token after the last norm. Captum has no attention maps and no gradient norm. Its Grad-CAM needs the tokens as a
grid of channels, so the model that is given to it has a layer where they are one. Integrated gradients and occlusion
are Captum's on both sides: what differs is that images go through together.

`batching` is the largest difference between maps made in batches and one by one, by the largest value.

Run: python benchmarks/attribution.py [--images 8] [--batch 8] [--blocks 12] [--steps 4] [--side 7] [--device cpu]
    [--threads 1]
"""

import argparse
import json
import os
import tempfile
import time

from ratios import ratio


def encoder(options):
    import torch
    import transformers

    from visprobe.encoders import load_encoder

    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(image_size=224, patch_size=16, num_hidden_layers=options.blocks)
    with tempfile.TemporaryDirectory() as folder:
        transformers.SiglipVisionModel(config).save_pretrained(folder)
        transformers.SiglipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
        return load_encoder(folder, device=options.device)


def noise(count):
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(count)]


def target(tokens, first):
    import torch

    weights = torch.linspace(-1, 1, tokens[0].shape[-1], device=tokens[0].device)
    return torch.stack([one.mean(dim=(0, 1)) @ weights for one in tokens])


def on_grid(tower):
    """The tower and its score, with a layer where the last tokens are a grid of channels."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.grid = tower, torch.nn.Identity()

        def forward(self, values):
            tokens = self.tower(values).last_hidden_state
            grid = self.grid(tokens.transpose(1, 2).unflatten(2, (14, 14)))
            return target(list(grid.flatten(2).transpose(1, 2).split(1)), 0)

    return Model()


def captum_calls(loaded, options):
    import torch
    from captum import attr

    model = on_grid(loaded.tower)
    blocks = list(loaded.tower.encoder.layers)
    cells = torch.arange(14) // options.side
    mask = (cells[:, None] * 14 + cells).repeat_interleave(16, 0).repeat_interleave(16, 1).to(loaded.device)
    activation = {block: attr.LayerGradientXActivation(model, block) for block in blocks}
    return {
        "gradcam": lambda x: attr.LayerGradCam(model, model.grid).attribute(x),
        "gradient-times-input": lambda x: activation[blocks[-1]].attribute(x),
        "gradient-times-input, every block": lambda x: [one.attribute(x) for one in activation.values()],
        "integrated-gradients": lambda x: attr.IntegratedGradients(model).attribute(
            x, baselines=x.mean(dim=(2, 3), keepdim=True).expand_as(x), n_steps=options.steps
        ),
        "occlusion": lambda x: attr.FeatureAblation(model).attribute(
            x, baselines=x.mean(dim=(2, 3), keepdim=True).expand_as(x), feature_mask=mask
        ),
    }


def seconds(call, device):
    import torch

    start = time.perf_counter()
    found = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def difference(found, alone):
    pairs = [pair for key in found for pair in zip(found[key], alone[key], strict=True)]
    return max(float((one.values - two.values).abs().max() / one.values.abs().max()) for one, two in pairs)


def run(options):
    from visprobe.attribution.methods.by_name import METHODS, maps
    from visprobe.attribution.targets.subject import TowerSubject

    loaded, pictures = encoder(options), noise(options.images)
    subject, captum = TowerSubject(loaded, target), captum_calls(loaded, options)
    maps(subject, pictures[:1], ["gradcam"])  # memory and kernels
    rows = {method: ([method], ["consumed"]) for method in METHODS}
    sites = [f"block_{number:02d}" for number in range(1, options.blocks + 1)]
    rows["gradient-times-input, every block"] = (["gradient-times-input"], sites)
    result = {}
    for name, (methods, sites) in rows.items():

        def ours(batch, methods=methods, sites=sites):
            return maps(subject, pictures, methods, sites, batch=batch, steps=options.steps, side=options.side)

        def theirs(name=name):
            inputs = [loaded.preprocess([image]).inputs["pixel_values"].to(loaded.device) for image in pictures]
            return [captum[name](x.requires_grad_()) for x in inputs]

        batched, found = seconds(lambda: ours(options.batch), options.device)
        single, alone = seconds(lambda: ours(1), options.device)
        other = seconds(theirs, options.device)[0] if name in captum else None
        result[name] = {"batched": batched, "single": single, "captum": other, "batching": difference(found, alone)}
        print(row(name, result[name], options.images), flush=True)
    return result


def row(name, one, count):
    captum = f"{count / one['captum']:10.2f}{one['captum'] / one['batched']:9.1f}x" if one["captum"] else f"{'-':>10}"
    return f"{name:32}{count / one['batched']:10.2f}{count / one['single']:12.2f}{one['batching']:11.0e}{captum}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4, help="of integrated gradients")
    parser.add_argument("--side", type=int, default=7, help="in patches of the squares that occlusion hides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read when torch is imported
    print(f"{'images per second':32}{'batched':>10}{'one by one':>12}{'batching':>11}{'Captum':>10}{'faster':>10}")
    result = run(options)
    print(json.dumps(result))
    for name, one in result.items():
        if one["captum"]:
            ratio(f"{name} by Captum / by visprobe", one["captum"] / one["batched"])


if __name__ == "__main__":
    main()
