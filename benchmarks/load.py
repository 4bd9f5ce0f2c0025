"""How fast and with how little reading the vision encoder comes out of a LLaVA checkpoint.

Writes a LLaVA checkpoint with a language model of 4.3 GB and a SigLIP base tower, both in bfloat16; the tower is 4 % of
the bytes, as in LLaVA-1.5-7B. Then loads it in fresh processes with the page cache dropped:

- visprobe: `load_encoder`, tower and projector in memory
- transformers: `from_pretrained` of the whole model, every page of its weights in memory
- transformers, mapped: the same without touching the weights, most of which transformers leaves on disk

Bytes are those that the kernel fetched from disk (`read_bytes` of /proc/self/io), so readahead counts against whoever
causes it. Peak RSS is VmHWM, Python and torch themselves included.

With --remote the same checkpoint is read by its hub id from a hub on this machine (the one of tests/io), which counts
the bytes that it sends:

- by the byte: tensors of tower and projector through visprobe, nothing cached
- again: the same with the ranges of the run before
- whole: `snapshot_download` of the checkpoint, then the same tensors

Seconds are those of a server in Python on the same machine, not of a network.

Run: python benchmarks/load.py [--remote] [--repeats 3] [--layers 30] [--folder DIR]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ratios import ratio

SHARD_BYTES = 1_000_000_000
HOW = ("visprobe", "transformers", "transformers, mapped")
PROBE = """
import json, sys, time
import torch, transformers
from visprobe.encoders import load_encoder
transformers.utils.logging.disable_progress_bar()
transformers.LlavaForConditionalGeneration
def field(file, name):
    return int(dict(line.split(":") for line in open(f"/proc/self/{file}"))[name].split()[0])
how, path = sys.argv[1:]
before, start = field("io", "read_bytes"), time.perf_counter()
if how == "visprobe":
    model = load_encoder(path, dtype=torch.bfloat16)
else:
    model = transformers.LlavaForConditionalGeneration.from_pretrained(path, dtype="auto")
    for weight in model.parameters() if how == "transformers" else ():
        weight.data.view(-1).view(torch.uint8)[::4096].sum()
seconds, read = time.perf_counter() - start, field("io", "read_bytes") - before
needed = sum(w.nbytes for w in model.weights().values()) if how == "visprobe" else None
print(json.dumps({"seconds": seconds, "read": read, "needed": needed, "peak": field("status", "VmHWM") * 1024}))
"""

REMOTE = ("by the byte", "again", "whole")
REMOTE_PROBE = """
import json, sys, time
import torch, huggingface_hub
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.hub.repository import open_folder
def peak():
    return int(dict(line.split(":") for line in open("/proc/self/status"))["VmHWM"].split()[0]) * 1024
before, start = peak(), time.perf_counter()
if sys.argv[1] == "whole":
    huggingface_hub.snapshot_download("org/llava")
tensors = open_tensors(open_folder("org/llava"))
read = tensors.read_many(name for name in tensors if "vision_tower" in name or "projector" in name)
seconds, needed = time.perf_counter() - start, sum(tensor.nbytes for tensor in read.values())
print(json.dumps({"seconds": seconds, "needed": needed, "peak": peak(), "peak_over_import": peak() - before}))
"""


def llava_config(layers):
    import transformers

    vision = transformers.SiglipVisionConfig(image_size=384, patch_size=16, vision_use_head=False)
    text = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": layers,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000,
    }  # fmt: skip
    return transformers.LlavaConfig(
        vision_config=vision.to_dict(), text_config=text, vision_feature_layer=-1, vision_feature_select_strategy="full"
    )


def write_checkpoint(folder, layers):
    """Random weights under the names that transformers expects, written shard by shard."""
    import torch
    import transformers
    from safetensors.torch import save_file

    config = llava_config(layers)
    config.dtype = "bfloat16"
    config.architectures = ["LlavaForConditionalGeneration"]
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in transformers.LlavaForConditionalGeneration(config).state_dict().items()}
    config.save_pretrained(folder)
    processor = transformers.SiglipImageProcessorPil(size={"height": 384, "width": 384})
    processor.save_pretrained(folder)
    noise = (torch.randn(max(shape.numel() for shape in shapes.values())) * 0.02).bfloat16()
    shards, size = [{}], 0
    for name, shape in shapes.items():
        if size > SHARD_BYTES:
            shards, size = [*shards, {}], 0
        shards[-1][name] = shape
        size += 2 * shape.numel()
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: noise[: shape.numel()].reshape(shape).clone() for name, shape in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def drop_page_cache(folder):
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(how, folder):
    drop_page_cache(folder)
    command = [sys.executable, "-W", "ignore", "-c", PROBE, how, str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def run(folder, repeats):
    runs = {how: [] for how in HOW}
    for _ in range(repeats):
        for how, taken in runs.items():
            taken.append(measure(how, folder))
    medians = {
        how: {key: statistics.median(r[key] for r in taken) for key in ("seconds", "read", "peak")}
        for how, taken in runs.items()
    }
    needed = runs["visprobe"][0]["needed"]
    return {
        "runs": runs,
        "median": medians,
        "needed": needed,
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "times_faster": medians["transformers"]["seconds"] / medians["visprobe"]["seconds"],
        "times_faster_than_mapped": medians["transformers, mapped"]["seconds"] / medians["visprobe"]["seconds"],
        "read_over_needed": medians["visprobe"]["read"] / needed,
    }


def table(result):
    yield f"checkpoint {result['checkpoint_bytes'] / 1e9:.2f} GB, tower and projector {result['needed'] / 1e6:.1f} MB"
    yield f"{'median':22}{'seconds':>10}{'read MB':>10}{'peak RSS MB':>13}"
    for how, row in result["median"].items():
        yield f"{how:22}{row['seconds']:10.2f}{row['read'] / 1e6:10.1f}{row['peak'] / 1e6:13.0f}"
    yield (
        f"{result['times_faster']:.1f} times faster ({result['times_faster_than_mapped']:.1f} times against mapped); "
        f"bytes read / bytes needed {result['read_over_needed']:.4f}"
    )


def serve(folder):
    """A hub on this machine that has the files of `folder` as `org/llava`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "io"))
    from hub_server import Blob, HubServer

    class FileBlob(Blob):
        def __init__(self, path):
            super().__init__(str(path).encode(), lfs=path.suffix == ".safetensors")
            self.size, self.descriptor = path.stat().st_size, os.open(path, os.O_RDONLY)

        def read(self, start, count):
            return os.pread(self.descriptor, count, start)

    hub = HubServer()
    hub.add("org/llava", {path.name: FileBlob(path) for path in folder.iterdir()})
    return hub


def measure_remote(how, hub, cache):
    hub.forget()
    places = {"VISPROBE_CACHE": str(cache / "visprobe"), "HF_HOME": str(cache / "huggingface")}
    environment = os.environ | places | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", REMOTE_PROBE, how]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    counted = {"sent": sum(hub.served.values()), "requests": len(hub.requests)}
    return json.loads(done.stdout.splitlines()[-1]) | counted


def run_remote(folder, repeats):
    hub = serve(folder)
    runs = {how: [] for how in REMOTE}
    for _ in range(repeats):
        with (
            tempfile.TemporaryDirectory(dir=folder.parent) as one,
            tempfile.TemporaryDirectory(dir=folder.parent) as two,
        ):
            for how, taken in runs.items():
                taken.append(measure_remote(how, hub, Path(two if how == "whole" else one)))
    keys = ("seconds", "sent", "requests", "needed", "peak", "peak_over_import")
    medians = {how: {key: statistics.median(r[key] for r in taken) for key in keys} for how, taken in runs.items()}
    return {
        "runs": runs,
        "median": medians,
        "sent_over_needed": medians["by the byte"]["sent"] / medians["by the byte"]["needed"],
    }


def remote_table(result):
    yield f"tower and projector {result['median']['by the byte']['needed'] / 1e6:.1f} MB"
    yield f"{'median':22}{'seconds':>10}{'sent MB':>10}{'requests':>10}{'peak RSS MB':>13}{'over import':>13}"
    for how, row in result["median"].items():
        yield (
            f"{how:22}{row['seconds']:10.2f}{row['sent'] / 1e6:10.1f}{row['requests']:10.0f}{row['peak'] / 1e6:13.0f}"
            f"{row['peak_over_import'] / 1e6:13.0f}"
        )
    yield f"bytes sent / bytes needed {result['sent_over_needed']:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30, help="of the language model, 134 MB each")
    parser.add_argument("--folder", type=Path, help="where to write the checkpoint (a temporary folder by default)")
    parser.add_argument("--remote", action="store_true", help="by hub id from a hub on this machine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch) / "checkpoint"
        folder.mkdir()
        write_checkpoint(folder, options.layers)
        result = run_remote(folder, options.repeats) if options.remote else run(folder, options.repeats)
    print(*(remote_table(result) if options.remote else table(result)), sep="\n")
    print(json.dumps(result))
    if options.remote:
        ratio("bytes sent by the hub / bytes needed", result["sent_over_needed"])
        return
    ratio("loading by transformers, weights in memory / by visprobe", result["times_faster"])
    ratio("loading by transformers, weights mapped / by visprobe", result["times_faster_than_mapped"])
    ratio("bytes read / bytes needed", result["read_over_needed"])


if __name__ == "__main__":
    main()
