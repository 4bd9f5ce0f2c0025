"""A folder in which the documented commands run as they are written: small checkpoints and data under their names."""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from documented import ROOT, files
from PIL import Image

from visprobe.cli.app import main

sys.path.insert(0, str(ROOT / "tests" / "training"))
sys.path.insert(0, str(ROOT / "tests" / "encoders"))
from tiny_families import qwen
from tiny_pieces import write_language_model, write_tower
from tiny_two_tower import two_tower

WNIDS = ("n01440764", "n02084071", "n02123045")
STREET = 12  # classes of CamVid
QUESTIONS = (("is there a red digit ?", "yes", "no"), ("what digit is there ?", "1", "2"), ("how many ?", "3", "4"))
WHOLE_STEP = 4  # rows; training/study.yaml accumulates the gradients of 32
TRAINED = ("--data", "digits", "--rows", "8", "--steps", "2", "--batch-size", "2", "--snapshot-tower-every", "1")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(folder, words, **variables):
    """What `words` give in `folder`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, here = signal.getsignal(signal.SIGTERM), Path.cwd()
    environment = {"COLUMNS": "160", "VISPROBE_CACHE": str(folder / ".cache"), **variables}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", list(words)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        os.chdir(folder)
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
        finally:
            os.chdir(here)
            signal.signal(signal.SIGTERM, before)
    return Ran(code, out.getvalue(), err.getvalue())


def build(root):
    """Put everything that the documents name under `root`."""
    root.mkdir(parents=True)
    _pictures(root)
    _masks(root)
    _rows(root)
    _models(root)
    _recipes(root)
    for arm in ("sft", "dpo"):
        _made(root, "train", arm, "--base", "checkpoints/base", *TRAINED, "-o", f"checkpoints/{arm}")
    for stage in ("1b-full", "2-sft", "2-dpo"):
        shutil.copytree(
            root / "checkpoints" / stage.removeprefix("2-").replace("1b-full", "base"), root / "checkpoints" / stage
        )
    pair = ("checkpoints/base", "checkpoints/sft")
    for out, data in (("visprobe-compare", "ILSVRC2012"), ("runs/lr1e-5", "ILSVRC2012"), ("runs/lr1e-6", "ILSVRC2012")):
        _made(root, "compare", *pair, "--data", data, "-o", out)
    _made(root, "gradcam", "digits", "--ckpt", pair[0], "--ckpt", pair[1], "--limit", "2")


def copy(world, folder):
    """The world again, of links to its files: what is written there stays there."""
    shutil.copytree(world, folder, copy_function=os.link, symlinks=True, ignore=shutil.ignore_patterns(".cache"))


def _made(root, *words):
    ran = run(root, ("visprobe", *words, "--quiet"))
    assert ran.code == 0, ran.err


def _picture(path, key, size=(48, 48)):
    """Eight by eight blocks of colour: no two pictures are equal, and those of a class share a tint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, number = key
    blocks = np.random.default_rng((kind, number)).integers(0, 150, (8, 8, 3))
    blocks[:, :, kind % 3] += 100
    Image.fromarray(blocks.astype(np.uint8)).resize(size, Image.Resampling.NEAREST).save(path)


def _pictures(root):
    for kind, wnid in enumerate(WNIDS):
        for number in range(12):
            split = "train" if number < 7 else "val"
            _picture(root / "ILSVRC2012" / split / wnid / f"{wnid}_{number}.JPEG", (kind, number))
    for name in ("cifar10-2500", "data/ILSVRC2012"):
        shutil.copytree(root / "ILSVRC2012", root / name)
    for number in range(4):
        _picture(root / "photos" / f"{number}.jpg", (5, number))
    for number, name in enumerate(("a.jpg", "b.jpg", "dog.jpg")):
        _picture(root / name, (6, number))
    captions = ["file_name,caption"]
    for number in range(60):
        _picture(root / "wit_1024" / f"{number}.jpg", (7, number))
        captions.append(
            f"{number}.jpg,{' '.join(np.random.default_rng(number).choice(['one', 'two', 'three', 'yes', 'no'], 4))}"
        )
    (root / "wit_1024" / "metadata.csv").write_text("\n".join(captions))


def _masks(root):
    sets = {
        "CamVid": (("train", "val"), "masks", STREET),
        "ADEChallengeData2016": (("training", "validation"), "annotations", 5),
    }
    for name, (splits, masks, classes) in sets.items():
        for split in splits:
            for number in range(10):
                _picture(root / name / "images" / split / f"{number}.jpg", (len(split), number))
                mask = np.random.default_rng((len(split), number)).integers(0, classes, (4, 4)).astype(np.uint8)
                path = root / name / masks / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.kron(mask, np.ones((12, 12), np.uint8))).save(path)


def _rows(root):
    """Rows with both answers, captions, and MMPR, under every name that a recipe or a command gives them."""
    both = [
        {"id": str(i), "image": f"{i}.jpg", "prompt": f"<image>\n{question}", "chosen": good, "rejected": bad}
        for i, (question, good, bad) in enumerate(QUESTIONS)
    ]
    captions = [
        {"id": row["id"], "image": row["image"],
         "conversations": [{"from": "human", "value": row["prompt"]}, {"from": "gpt", "value": row["chosen"]}]}
        for row in both
    ]  # fmt: skip
    pictures = {
        "data/LLaVA-Pretrain/images",
        "data/onevision",
        "data/cambrian",
        "data/MMPR-v1.2",
        "data/MMPR-v1.2/images/a",
    }
    for folder in pictures:
        shutil.copytree(root / "photos", root / folder, dirs_exist_ok=True)
    _write(root / "rows.json", json.dumps(both))
    _write(root / "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", json.dumps(captions))
    for mix in ("data/onevision-single-image.yaml", "data/cambrian-737k.yaml"):
        _write(
            root / mix, "datasets:\n- {json_path: LLaVA-Pretrain/blip_laion_cc_sbu_558k.json, sampling_strategy: all}\n"
        )
    whole_step = [{**both[number % len(both)], "id": str(number)} for number in range(WHOLE_STEP)]
    _write(root / "data/mmpr20k/dpo_mmpr_20000_777.jsonl", "\n".join(map(json.dumps, whole_step)))
    mmpr = [
        {"image": row["image"], "question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in both
    ]
    _write(root / "data/MMPR-v1.2/a.jsonl", "\n".join(map(json.dumps, mmpr)))
    _write(root / "data/MMPR-v1.2/meta.json", json.dumps({"a": {"root": "images/a", "annotation": "a.jsonl"}}))


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _models(root):
    from visprobe.demo.small_llava import build_model, build_processor

    processor = build_processor()
    processor.tokenizer.add_tokens(["dog", "cat", "describe", "image"])
    for name in ("checkpoints/base", "checkpoints/1a-projector"):
        build_model(processor, seed=0).save_pretrained(root / name)
        processor.save_pretrained(root / name)
    for seed, name in enumerate(("Qwen/Qwen2.5-VL-3B-Instruct", "my-org/my-grpo-run")):
        model, processor = qwen("qwen2_5_vl")
        # Large patches: images are shown to these towers with 448 x 448 pixels.
        model.config.vision_config.patch_size = processor.image_processor.patch_size = 28
        model.config.vision_config.window_size = 112
        torch.manual_seed(seed)
        for part in (type(model)(model.config), processor.image_processor, processor.tokenizer):
            part.save_pretrained(root / name)
    two_tower(root / "google/siglip2-base-patch16-224", "siglip")
    write_tower(root / "checkpoints/siglip2-so400m-patch16-384", "siglip")
    for name in ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct", "checkpoints/Qwen2.5-1.5B-Instruct"):
        write_language_model(root / name)


def _recipes(root):
    for path in ROOT.glob("training/*"):
        _write(root / "training" / path.name, path.read_text())
    study = (root / "training" / "study.yaml").read_text()
    fewer = study.replace("gradient_accumulation: 32\n", f"gradient_accumulation: {WHOLE_STEP}\n")
    assert fewer != study
    _write(root / "training" / "study.yaml", fewer)
    for name, text in files():
        _write(root / name, text)
