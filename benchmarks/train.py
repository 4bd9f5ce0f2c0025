"""What a training step costs, against a bare loop and against trl's trainers as they come.

The model is the demo's, untrained (0.9 M parameters, images of 64 pixels), in float32. One run times, in turn and
several times over, the same batches:

- bare loop: tensors collated beforehand, forward, backward, clipping, AdamW; nothing else
- visprobe sft: `run` of a recipe, rows encoded once, metrics and checks included
- trl SFTTrainer with its own collator
- visprobe dpo: each image encoded once for both answers, log-probabilities of the reference computed beforehand
- trl DPOTrainer with its own collator, a reference model, and each image twice in both models

A run is 3 epochs. The first holds the building of the trainer, the encoding of all rows and the pass of the reference.
visprobe and trl take the same rows in the same order, so their losses must agree; how far apart they are is printed.
Peak memory is that of fresh processes (VmHWM, Python and torch included) that take DPO steps with a larger language
model.

Run: python benchmarks/train.py [--repeats 3] [--steps 8] [--layers 12]
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from ratios import ratio

BATCH, EPOCHS = 16, 3
SETTINGS = {"batch_size": BATCH, "learning_rate": 1e-4, "precision": "float32"}
MEMORY = ("visprobe, precomputed reference", "visprobe, reference model", "trl DPOTrainer")
LARGE_BATCH = 2


def save_model(folder, *, layers=0):
    from visprobe.demo.small_llava import build_model, build_processor

    processor = build_processor()
    model = build_model(processor, seed=0)
    if layers:
        from transformers import LlavaForConditionalGeneration

        text = {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": layers, "num_attention_heads": 10}
        for name, value in {**text, "num_key_value_heads": 10, "layer_types": ["full_attention"] * layers}.items():
            setattr(model.config.text_config, name, value)
        model = LlavaForConditionalGeneration(model.config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def recipe_of(stage, **settings):
    from visprobe.training.recipe import Recipe

    return Recipe(stage=stage, **{**SETTINGS, **settings})


def visprobe(base, folder, stage, rows, **settings):
    """Seconds of each step, those before the first one included in it, and the losses."""
    from visprobe.demo.rows import DigitRows
    from visprobe.training.callbacks import read_metrics
    from visprobe.training.run import run

    run(base, recipe_of(stage, **settings), DigitRows(rows), folder)
    lines = read_metrics(folder)
    return [line["seconds"] for line in lines], [line["loss"] for line in lines]


def trl(base, folder, stage, rows, **settings):
    """The same with trl's trainer and collator."""
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from visprobe.mllm.load import load_for_training
    from visprobe.mllm.parts import train_only
    from visprobe.training.trainers.common import trainer_settings

    data = conversations(rows, stage)
    model, processor = load_for_training(base)
    train_only(model, ("vision_tower", "projector", "language_model"))
    clock = ticking()
    arguments = {"train_dataset": data, "processing_class": processor, "callbacks": [clock]}
    common = {**trainer_settings(recipe_of(stage, **settings), str(folder)), "max_length": None}
    clock.tick()
    if stage == "sft":
        trainer = SFTTrainer(model, SFTConfig(assistant_only_loss=True, **common), **arguments)
    else:
        reference = copy.deepcopy(model).requires_grad_(False).eval()
        trainer = DPOTrainer(model, reference, DPOConfig(beta=0.1, **common), **arguments)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds(), [line["loss"] for line in trainer.state.log_history if "loss" in line]


def conversations(count, stage):
    """The digit rows in trl's own format."""
    from datasets import Dataset

    from visprobe.demo.rows import DigitRows

    rows, columns = DigitRows(count), {"images": []}
    for row in (rows[index] for index in range(count)):
        columns["images"].append([rows.image(row.images[0])])
        question = {"role": "user", "content": row.turns[0].text.removeprefix("<image>\n")}
        chosen, rejected = ({"role": "assistant", "content": text} for text in (row.chosen, row.rejected))
        if stage == "sft":
            columns.setdefault("messages", []).append([question, chosen])
        else:
            for name, turn in (("prompt", question), ("chosen", chosen), ("rejected", rejected)):
                columns.setdefault(name, []).append([turn])
    return Dataset.from_dict(columns)


class Clock:
    """Seconds between ticks."""

    def __init__(self):
        self._ticks = []

    def tick(self):
        """Note the time."""
        self._ticks.append(time.perf_counter())

    def seconds(self):
        """From each tick to the next."""
        return [after - before for before, after in itertools.pairwise(self._ticks)]


def ticking():
    """A clock that ticks at the end of every step of a trainer."""
    from transformers import TrainerCallback

    class Ticking(TrainerCallback, Clock):
        def on_step_end(self, *_, **__):
            self.tick()

    return Ticking()


def bare_loop(base, folder, stage, rows, steps):
    """The steps of SFT with nothing around them."""
    import torch

    from visprobe.demo.rows import DigitRows
    from visprobe.mllm.batches import RowEncoder, SupervisedCollator
    from visprobe.mllm.load import load_for_training
    from visprobe.training.rows.usable import UsableRows, supervised

    model, processor = load_for_training(base)
    collate = SupervisedCollator(RowEncoder(processor, UsableRows(DigitRows(rows), supervised)))
    starts = range(0, rows, BATCH)
    batches = [collate([{"row": number} for number in range(start, start + BATCH)]) for start in starts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS["learning_rate"], weight_decay=0)
    clock, losses = Clock(), []
    clock.tick()
    for _, batch in zip(range(steps), itertools.cycle(batches), strict=False):
        loss = model.train()(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        clock.tick()
    return clock.seconds(), losses


HOW = {
    "bare loop, tensors ready": (bare_loop, "sft"),
    "visprobe sft": (visprobe, "sft"),
    "trl SFTTrainer": (trl, "sft"),
    "visprobe dpo": (visprobe, "dpo"),
    "trl DPOTrainer": (trl, "dpo"),
}


def time_steps(base, scratch, repeats, steps):
    taken = {name: [] for name in HOW}
    for repeat in range(repeats):
        for name, (train, stage) in HOW.items():
            seconds, losses = train(base, scratch / f"{name}-{repeat}", stage, rows=BATCH * steps, steps=EPOCHS * steps)
            first, later = seconds[:steps], seconds[steps:]
            taken[name].append({"first": statistics.mean(first), "later": statistics.median(later), "losses": losses})
    steps = {
        name: {
            "first_epoch": statistics.median(run["first"] for run in runs),
            "later_epochs": statistics.median(run["later"] for run in runs),
            "fastest": min(run["later"] for run in runs),
        }
        for name, runs in taken.items()
    }
    pairs = {"sft": ("visprobe sft", "trl SFTTrainer"), "dpo": ("visprobe dpo", "trl DPOTrainer")}
    losses = {stage: [taken[name][0]["losses"] for name in names] for stage, names in pairs.items()}
    apart = {stage: max(abs(a - b) for a, b in zip(*both, strict=True)) for stage, both in losses.items()}
    return {"steps": steps, "losses_apart": apart}


def dpo_steps(name, base, folder):
    settings = {"steps": 3, "batch_size": LARGE_BATCH, "rows": 3 * LARGE_BATCH}
    if name.startswith("trl"):
        trl(base, folder, "dpo", **settings)
    else:
        visprobe(base, folder, "dpo", reference="model" if "model" in name else "precomputed", **settings)


def peak_memory(name, base, scratch):
    command = [sys.executable, "-W", "ignore", __file__, "--memory-of", name, "--base", str(base)]
    command += ["--folder", str(scratch / name)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out.splitlines()[-1]) * 1024


def table(result):
    yield f"seconds per step, batches of {BATCH}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
    yield f"{'':26}{'first epoch':>13}{'later epochs':>14}{'fastest run':>13}"
    for name, row in result["steps"].items():
        yield f"{name:26}{row['first_epoch']:13.3f}{row['later_epochs']:14.3f}{row['fastest']:13.3f}"
    for stage, apart in result["losses_apart"].items():
        yield f"{stage}: losses of visprobe and trl differ by at most {apart:.1g}"
    yield ""
    yield f"peak memory of DPO, {result['large_parameters'] / 1e6:.0f} M parameters in float32, MB"
    for name, size in result["peak"].items():
        yield f"{name:34}{size / 1e6:8.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of an epoch")
    parser.add_argument("--layers", type=int, default=12, help="of the language model whose memory is taken")
    for hidden in ("--memory-of", "--base", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory_of:
        dpo_steps(options.memory_of, Path(options.base), Path(options.folder))
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(fields["VmHWM"].split()[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        save_model(scratch / "base")
        result = time_steps(scratch / "base", scratch, options.repeats, options.steps)
        result["large_parameters"] = save_model(scratch / "large", layers=options.layers)
        result["peak"] = {name: peak_memory(name, scratch / "large", scratch) for name in MEMORY}
    print(*table(result), sep="\n")
    print(json.dumps(result))
    step = {name: row["later_epochs"] for name, row in result["steps"].items()}
    ratio("a step of trl's SFTTrainer / of visprobe", step["trl SFTTrainer"] / step["visprobe sft"])
    ratio("a step of trl's DPOTrainer / of visprobe", step["trl DPOTrainer"] / step["visprobe dpo"])
    ratio("memory of trl's DPOTrainer / of visprobe", result["peak"][MEMORY[2]] / result["peak"][MEMORY[0]])


if __name__ == "__main__":
    main()
