"""What happens to results when processes are killed, bits flip, disks fill up and files are hostile: counted.

Commands run as users run them, each in a process of its own (a fork of this one, so that imports are paid for once), on
checkpoints and images that are made here. Each part prints what it counted beside what it has to be.

kills       kill -9 at random moments of compare and of train (sft, dpo, grpo), then the same command once more
flips       one flipped bit in the feature store, in ranges kept from a hub, in maps and in snapshots
mutants     files with random bytes changed: safetensors, .bin, GGUF, config.json, recipes
canaries    pickles, YAML and chat templates that would run a command where they are trusted
full-disk   every command on a disk that fills up at another point each time (needs `unshare` and tmpfs)
processes   eight processes with one cold cache, one killed, one stopped for a while
users       a cache that may only be read; files under umask 022 and 077
memory      100 bad files of 100 MB and 8 images of 63 Mpx among others

Run: python benchmarks/reliability.py [PART ...] [--scale 1.0] [--folder DIR]
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
MARK = ".visprobe-tmp-"
ENDS = 600  # seconds after which a process hangs


_missed = []


def say(what, counted, bar, met):
    """One line of the table; `met` says whether what was counted is what it has to be."""
    _missed.extend([] if met else [what])
    print(f"{what:52} {counted:60} bar: {bar}{'' if met else '  MISSED'}", flush=True)


class World:
    """A folder with two checkpoints and images, in which commands run."""

    def __init__(self, folder, scale, commands=()):
        self.folder, self.scale, self.commands = folder, scale, commands
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        if not Path("sft/config.json").is_file():
            self._make()

    def count(self, full):
        """So many of `full` things as the scale asks for."""
        return max(1, round(full * self.scale))

    def _make(self):
        from PIL import Image

        from visprobe.demo.small_llava import build_model, build_processor

        processor = build_processor()
        for name, seed in (("base", 0), ("sft", 1)):
            with quietly():
                build_model(processor, seed=seed).save_pretrained(name)
                processor.save_pretrained(name)
        Path("longer.py").write_text("def length(completion, answer):\n    return min(1.0, len(completion) / 50)\n")
        draw = np.random.default_rng(0)
        for number in range(48):
            path = Path("images", f"class{number % 2}", f"{number:02d}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        for split in ("train", "val"):
            shutil.copytree("images", f"masked/images/{split}", dirs_exist_ok=True)
        for path in Path("masked/images").rglob("*.png"):
            mask = Path("masked/masks", *path.parts[2:])
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 3, (40, 50), dtype=np.uint8)).save(mask)


@contextlib.contextmanager
def quietly():
    """Without what libraries write to the standard error."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def start(words, *, cache="cache", prepare=lambda: None, log="log"):
    """Begin `visprobe words` in a fork of this process; returns its id."""
    child = os.fork()
    if child:
        return child
    import torch

    from visprobe.cli.app import main

    os.setsid()
    sys.path.insert(0, os.getcwd())  # for the reward
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ |= {"VISPROBE_CACHE": str(Path(cache).absolute()), "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    prepare()
    sys.argv = ["visprobe", *map(str, words)]
    code = 99
    try:
        main()
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# The command, and its peak memory in a file: what the kernel says of a child includes that of its parent.
PEAK = """
import atexit
from pathlib import Path
atexit.register(lambda: Path("status").write_text(Path("/proc/self/status").read_text()))
from visprobe.__main__ import main
main()
"""


def fresh(words, **how):
    """Begin `visprobe words` in a new interpreter: for what is decided while the program starts."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK, *words]
    environment = {**os.environ, "VISPROBE_CACHE": str(Path("cache").absolute()), "OMP_NUM_THREADS": "1"}
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=nowhere, stderr=nowhere, **how)


def end(child):
    """The exit code of a process, minus the signal that ended it; -9 for one that hangs."""
    until = time.monotonic() + ENDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(words, **how):
    """The exit code of `visprobe words`."""
    return end(start(words, **how))


def fingerprint(out):
    """What a command left: numbers of a report, values of maps, weights."""
    out, digest = Path(out), hashlib.sha256()
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    for path in files:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                digest.update(b"".join(arrays[name].tobytes() for name in sorted(arrays)))
        elif path.name == "results.csv" or path.suffix == ".safetensors":
            digest.update(f"{path.relative_to(out)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def leftovers(*places):
    """Temporary files that nobody will remove."""
    return [path for place in places for path in Path(place).rglob("*") if MARK in path.name]


def afresh(*places):
    """Remove what runs left."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
        Path(place).unlink(missing_ok=True) if Path(place).is_file() else None


COMPARE = ["compare", "base", "sft", "--data", "digits", "--limit", "150", "-o", "out"]


def train(stage, out="out"):
    """The command line of a small training run."""
    rows = ["--rows", "12", "--steps", "6"]
    if stage == "grpo":  # a model without training earns nothing for answers, but some are longer than others
        rows = ["--rows", "6", "--steps", "3", "--set", "reward=longer:length", "--set", "max_new_tokens=8"]
    return ["train", stage, "--base", "base", "--data", "digits", *rows, "--batch-size", "2", "--save-every", "1",
            "-o", out]  # fmt: skip


def kills(world):
    """Kill, run again, compare."""
    draw = random.Random(0)
    for words, count in ((COMPARE, 50), *((train(stage), 7) for stage in ("sft", "dpo", "grpo"))):
        afresh("out", "cache")
        began = time.monotonic()
        assert run(words) == 0, Path("log").read_text()
        took, whole = time.monotonic() - began, fingerprint("out")
        same = left = killed = 0
        for _ in range(world.count(count)):
            afresh("out", "cache")
            child = start(words)
            time.sleep(draw.uniform(0, took))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            killed += end(child) == -signal.SIGKILL
            code = run(words)
            same += code == 0 and fingerprint("out") == whole
            left += bool(leftovers("out", "cache"))
        of = world.count(count)
        say(f"kill -9 of {' '.join(words[:2]) if words[0] == 'train' else words[0]}",
            f"{same} of {of} identical, {killed} hit, {left} with files left", f"{of} of {of}, 0 left",
            same == of and not left)  # fmt: skip


def flip(path, draw):
    """Flip one bit of a file; returns a function that puts it back."""
    data = path.read_bytes()
    place = draw.randrange(len(data))
    damaged = bytearray(data)
    damaged[place] ^= 1 << draw.randrange(8)
    times = path.stat()
    path.write_bytes(damaged)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def undo():
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return undo


def flips(world):
    """Flip, run again, compare."""
    draw, of = random.Random(0), world.count(50)
    words = ["imagenet", "--ckpt", "base", "--ckpt", "sft", "--data", "digits", "--limit", "60", "-o", "out"]
    _flips_of_files("feature store", words, "cache/features", "*.safetensors", draw, of)
    words = ["gradcam", "images", "--ckpt", "base", "--ckpt", "sft", "--limit", "4", "-o", "out"]
    _flips_of_files("maps", words, "out", "*.npz", draw, of)
    _flips_of_snapshots(draw, of)
    _flips_of_hub(draw, of)


def _flips_of_files(what, words, folder, pattern, draw, of):
    afresh("out", "cache")
    assert run(words) == 0, Path("log").read_text()
    whole, same = fingerprint("out"), 0
    for _ in range(of):
        path = draw.choice(sorted(Path(folder).rglob(pattern)))
        flip(path, draw)
        same += run(words) == 0 and fingerprint("out") == whole
    say(f"flipped bits: {what}", f"{same} of {of} gave the same numbers", f"{of} of {of}", same == of)


def _flips_of_snapshots(draw, of):
    from visprobe.encoders import load_encoder
    from visprobe.errors import VisprobeError

    afresh("out", "cache")
    assert run([*train("sft"), "--snapshot-tower-every", "2"]) == 0, Path("log").read_text()
    folder = sorted(Path("out").rglob("model.safetensors"), key=lambda path: "snapshot" not in str(path))[0].parent
    whole, noticed, same = load_encoder(folder), 0, 0
    for _ in range(of):
        undo = flip(folder / "model.safetensors", draw)
        try:
            found = load_encoder(folder)
            same += (found.tower_hash, found.projector_hash) == (whole.tower_hash, whole.projector_hash)
        except VisprobeError:
            noticed += 1
        undo()
    counted = f"{noticed} noticed and {same} without effect of {of}"
    say("flipped bits: snapshots", counted, f"{of} of {of}", noticed + same == of)


def _flips_of_hub(draw, of):
    sys.path.insert(0, str(TESTS / "io"))
    from hub_server import HubServer
    from huggingface_hub import constants

    import visprobe.io.hub.remote_file as remote
    from visprobe.io.hub.repository import open_folder

    afresh("hub-cache")
    data, hub, same = random.Random(1).randbytes(2_000_000), HubServer(), 0
    os.environ["VISPROBE_CACHE"] = str(Path("hub-cache").absolute())
    constants.HF_HUB_OFFLINE, constants.ENDPOINT, remote._PIECE = False, hub.endpoint, 100_000
    os.environ["HF_ENDPOINT"] = hub.endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    commit = hub.add("org/name", {"model.safetensors": data, "config.json": b"{}"})
    open_folder(f"org/name@{commit}").open("model.safetensors").read([(0, len(data))])
    import logging

    logging.disable(logging.WARNING)
    for _ in range(of):
        flip(draw.choice([*Path("hub-cache").rglob("data"), *Path("hub-cache").rglob("ranges.json")]), draw)
        read = open_folder(f"org/name@{commit}").open("model.safetensors").read([(0, len(data))])
        same += read == [data]
    logging.disable(logging.NOTSET)
    hub.close()
    say("flipped bits: ranges kept from a hub", f"{same} of {of} gave the same bytes", f"{of} of {of}", same == of)


def mutated(data, draw):
    """`data` with a few bytes changed, cut out, doubled or put in."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(max(1, min(len(data), draw.choice([64, 512, len(data)]))))
        match draw.randrange(4):
            case 0:
                data[place : place + 1] = draw.randbytes(1)
            case 1:
                del data[place : place + draw.randrange(1, 9)]
            case 2:
                data[place:place] = data[place : place + draw.randrange(1, 65)]
            case 3:
                data[place:place] = draw.choice([b"\0", b"[", b"{", b"\xff" * 8, b"9" * 20, b"\n", b"- ", b": "])
    return bytes(data)


def mutants(world):
    """Damage, read, look at what is raised, how long it took and how much memory."""
    import torch
    import yaml

    from visprobe.encoders import load_encoder
    from visprobe.io.containers.folder import LocalFolder
    from visprobe.io.containers.gguf_file import GgufFile
    from visprobe.io.containers.kinds import open_tensors
    from visprobe.training.recipe import make_recipe, read_yaml

    weights = {f"block.{n}.weight": torch.randn(8, 8) for n in range(20)}
    recipe = {"stage": "sft", "steps": 3, "learning_rate": 1e-5, "part_learning_rates": {"projector": 1e-4}}

    def tensors(folder):
        found = open_tensors(LocalFolder(folder))
        found.read_many(found)

    def gguf_tensors(folder):
        found = GgufFile(LocalFolder(folder), "mmproj.gguf")
        found.read_many(found)

    def written(name, write):
        folder = Path("mutants") / name
        afresh(folder)
        folder.mkdir(parents=True)
        return folder, write(folder)

    def safetensors(folder):
        from visprobe.io.containers.safetensors_files import save_tensors

        save_tensors(weights, folder / "model.safetensors")
        return "model.safetensors"

    def torch_file(folder):
        torch.save(weights, folder / "pytorch_model.bin")
        return "pytorch_model.bin"

    def gguf_file(folder):
        import gguf

        writer = gguf.GGUFWriter(folder / "mmproj.gguf", "clip")
        for name, tensor in weights.items():
            writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return "mmproj.gguf"

    def config(folder):
        shutil.copytree("base", folder, dirs_exist_ok=True)
        return "config.json"

    def recipe_file(folder):
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return "recipe.yaml"

    kinds = {
        "safetensors": (safetensors, tensors),
        ".bin": (torch_file, tensors),
        "GGUF": (gguf_file, gguf_tensors),
        "config.json": (config, load_encoder),
        "YAML recipe": (recipe_file, lambda folder: make_recipe(read_yaml(folder / "recipe.yaml"), "recipe.yaml")),
    }
    for name, (write, read) in kinds.items():
        folder, file = written(name.strip("."), write)
        say(f"mutants: {name}", *_tried(folder, file, read, world.count(1000)))


def _tried(folder, file, read, of):
    """Counts of a child that reads `of` mutants; its memory is its own."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        found = json.loads(os.fdopen(ours).read())
        end(child)
        counted = f"{of}: {found['refused']} refused, {found['tracebacks']} tracebacks"
        met = not found["tracebacks"] and found["longest"] < 10 and found["memory"] <= 200
        return f"{counted}, longest {found['longest']:.1f} s, +{found['memory']} MB", "0 tracebacks, 10 s, +200 MB", met
    import logging
    import resource
    import traceback

    from visprobe.errors import VisprobeError

    logging.disable(logging.CRITICAL)
    draw, data = random.Random(0), (folder / file).read_bytes()
    read(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"refused": 0, "tracebacks": 0, "longest": 0.0}
    with quietly():
        for _ in range(of):
            (folder / file).write_bytes(mutated(data, draw))
            began = time.monotonic()
            try:
                read(folder)
            except VisprobeError:
                found["refused"] += 1
            except Exception:
                found["tracebacks"] += 1
                with open("tracebacks", "a") as told:
                    told.write(f"{folder}: {traceback.format_exc()}\n")
                shutil.copy(folder / file, f"traceback-{found['tracebacks']}-{file}")
            found["longest"] = max(found["longest"], time.monotonic() - began)
    found["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    os.write(theirs, json.dumps(found).encode())
    os.close(theirs)
    os._exit(0)


def canaries(world):
    """Files that run a command where they are trusted; a canary is a file that such a command makes."""
    import pickle
    import zipfile

    canary = Path("canary").absolute()

    class Runs:
        def __init__(self, function, *arguments):
            self.made = function, arguments

        def __reduce__(self):
            return self.made

    import builtins
    import importlib

    code = f"open({str(canary)!r}, 'w').close()"
    touch = ["touch", str(canary)]
    bad = [
        Runs(os.system, f"touch {canary}"), Runs(os.popen, f"touch {canary}"), Runs(exec, code), Runs(eval, code),
        Runs(builtins.open, str(canary), "w"), Runs(os.mkdir, str(canary)), Runs(subprocess.call, touch),
        Runs(subprocess.Popen, touch), Runs(importlib.import_module, "this"), Runs(os.execv, "/bin/touch", touch),
    ]  # fmt: skip
    hit = tried = 0
    for number, one in enumerate(bad[: world.count(len(bad))]):
        for where in ("legacy", "zip"):
            folder = Path("canaries") / f"{where}-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy("base/config.json", folder)
            data = pickle.dumps({"weight": one}, protocol=2)
            if where == "legacy":
                (folder / "pytorch_model.bin").write_bytes(data)
            else:
                with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:
                    file.writestr("archive/data.pkl", data)
                    file.writestr("archive/version", "3\n")
            code = run(["imagenet", "--ckpt", folder, "--data", "digits", "--limit", "4", "-o", "out"])
            tried, hit = tried + 1, hit + (canary.exists() or code not in (1, 2, 4))
            afresh(canary)
    tags = [
        f"!!python/object/apply:os.system ['touch {canary}']", f"!!python/object/new:os.system ['touch {canary}']",
        "!!python/name:os.system", "!!python/module:os", f"!!python/object/apply:builtins.exec [\"{canary}\"]",
    ]  # fmt: skip
    for tag in tags[: world.count(len(tags))]:
        Path("hostile.yaml").write_text(f"steps: {tag}\nlearning_rate: {tag}\n")
        for words in ([*train("sft"), "--config", "hostile.yaml"], [*COMPARE, "--config", "hostile.yaml"]):
            code = run(words)
            tried, hit = tried + 1, hit + (canary.exists() or code != 2)
            afresh(canary, "out")
    escapes = ("''.__class__.__mro__[1].__subclasses__()", "cycler.__init__.__globals__.os.popen('touch %s').read()",
               "lipsum.__globals__['os'].system('touch %s')", "self.__init__.__globals__")  # fmt: skip
    shutil.copytree("base", "hostile-base", dirs_exist_ok=True)
    for text in escapes[: world.count(len(escapes))]:
        Path("hostile-base/chat_template.jinja").write_text("{{ " + text.replace("%s", str(canary)) + " }}")
        code = run([word if word != "base" else "hostile-base" for word in train("sft")])
        tried, hit = tried + 1, hit + (canary.exists() or code not in (1, 2))
        afresh(canary, "out")
    say("pickles, YAML tags and templates that run a command", f"{hit} canaries of {tried}", "0", not hit)


COMMANDS = {
    "compare": COMPARE,
    "imagenet": ["imagenet", "--ckpt", "base", "--data", "images", "-o", "out"],
    "probe": ["probe", "--ckpt", "base", "--data", "images", "-o", "out"],
    "robust": ["robust", "--ckpt", "base", "--data", "digits", "--limit", "12", "-o", "out"],
    "segment": ["segment", "--ckpt", "base", "--data", "masked", "--limit", "12", "-o", "out"],
    "swap": ["swap", "base", "sft", "--data", "digits", "--limit", "12", "-o", "out"],
    "gradcam": ["gradcam", "images", "--ckpt", "base", "--ckpt", "sft", "--limit", "4", "-o", "out"],
    "extract-encoder": ["extract-encoder", "base", "-o", "out"],
    "transplant": ["transplant", "--tower", "sft", "--into", "base", "-o", "out"],
    "train sft": train("sft"),
    "train dpo": train("dpo"),
    "train grpo": train("grpo"),
}


def full_disk(world):
    """Fill a disk at many points of every command; then make room and run it again."""
    if os.environ.get("VISPROBE_MAY_MOUNT") is None:  # again, as root of a namespace of its own, where tmpfs mounts
        again = [sys.executable, __file__, "full-disk", "--scale", str(world.scale), "--folder", str(world.folder)]
        again += ["--commands", *world.commands] if world.commands else []
        may = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
        if not may:
            return say("full disk", "not run: unshare is not allowed here", "all resume", True)
        ran = subprocess.run(["unshare", "-rm", *again], check=False, env={**os.environ, "VISPROBE_MAY_MOUNT": "1"})
        _missed.extend(["full disk"] if ran.returncode else [])
        return None
    disk, of = Path("disk"), world.count(20)
    disk.mkdir(exist_ok=True)
    names = world.commands or list(COMMANDS)[: world.count(len(COMMANDS))]
    for name, words in [(name, COMMANDS[name]) for name in names]:
        afresh("out", "cache")
        assert run(words) == 0, Path("log").read_text()
        whole = fingerprint("out")
        needed = sum(
            path.stat().st_size for place in ("out", "cache") for path in Path(place).rglob("*") if path.is_file()
        )
        here = [word if word != "out" else "disk/out" for word in words]
        stopped = messages = same = left = 0
        for point in range(of):
            size = max(16, int(needed * (point + 0.5) / of) // 1024)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(disk)], check=True)
            code, told = run(here, cache="disk/cache"), Path("log").read_text()
            stopped += code != 0
            messages += code == 0 or (code == 4 and _messages(told) == 1 and "Traceback" not in told)
            if code not in (0, 4):
                Path(f"full-{name.replace(' ', '-')}-{point}.log").write_text(f"{code}\n{told}")
            subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
            code = run(here, cache="disk/cache")
            same += code == 0 and fingerprint("disk/out") == whole
            if code:
                shutil.copy("log", f"again-{name.replace(' ', '-')}-{point}.log")
            left += bool(leftovers(disk))
            subprocess.run(["umount", str(disk)], check=True)
        say(f"full disk: {name}", f"{same} of {of} same, {stopped} stopped, {messages} with one message, {left} left",
            f"{of} of {of}, 0 left", same == messages == of and not left)  # fmt: skip
    return None


def _messages(told):
    """How many errors stand in what a command printed."""
    return sum(line.startswith("error: ") for line in told.splitlines())


def processes(world):
    """Eight at once; one is killed, one stopped while it holds a lock."""
    afresh("cache", "out")
    assert run(COMPARE) == 0
    whole = fingerprint("out")
    afresh("cache", *Path().glob("out-*"))
    children = [start([*COMPARE[:-1], f"out-{number}"], log=f"log-{number}") for number in range(8)]
    time.sleep(3)
    killed, stopped = children[0], _stopped_with_a_lock(children[1:])
    os.kill(killed, signal.SIGKILL)
    time.sleep(14)
    os.kill(stopped, signal.SIGCONT)
    codes = [end(child) for child in children]
    same = sum(code == 0 and fingerprint(f"out-{number}") == whole for number, code in enumerate(codes))
    waited = sum(f"waiting for process {stopped} on" in Path(f"log-{number}").read_text() for number in range(8))
    say("8 processes, one cache, one killed, one stopped", f"{same} done with the same numbers, {waited} said the wait",
        "7, at least 1", same == 7 and waited)  # fmt: skip


def _stopped_with_a_lock(children):
    """Stop the process that has a lock of the store right now."""
    import fcntl

    until = time.monotonic() + ENDS
    while time.monotonic() < until:
        for holder in Path("cache").rglob("*.holder"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                child = int(holder.read_text().split()[1])
                if child not in children:
                    continue
                os.kill(child, signal.SIGSTOP)
                with holder.with_name(holder.name.removesuffix(".holder")).open() as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:
                        if holder.read_text().split()[1] == str(child):
                            return child
                os.kill(child, signal.SIGCONT)
    raise SystemExit("no process was found with a lock")


def users(world):
    """Under other umasks, and with a cache that may only be read."""
    words = ["imagenet", "--ckpt", "base", "--data", "images", "-o", "out"]
    for mask in (0o022, 0o077):
        afresh("out", "cache")
        code = fresh(words, umask=mask).wait()
        modes = {path.stat().st_mode & 0o777 for place in ("out", "cache") for path in Path(place).rglob("*")
                 if path.is_file() and "lock" not in path.name}  # fmt: skip
        wanted = 0o666 & ~mask
        counted = f"exit code {code}, files of {', '.join(map(oct, sorted(modes)))}"
        say(f"umask {mask:03o}", counted, f"0, {oct(wanted)}", code == 0 and modes == {wanted})
    whole = fingerprint("out")
    afresh("out", "cache")
    run(words)
    Path("theirs").mkdir(exist_ok=True)
    for path in (Path("cache"), *Path("cache").rglob("*")):
        path.chmod(path.stat().st_mode & 0o555 | 0o444)

    def bound_by_permissions():
        """Without what lets root write where permissions forbid it."""
        version, none = 0x20080522, (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(version, 0), none):
            raise OSError(ctypes.get_errno(), "capset")

    other = [word if word != "out" else "theirs/out" for word in words]
    code = run(other, prepare=bound_by_permissions, log="theirs-log")
    same = code == 0 and fingerprint("theirs/out") == whole
    counted = f"exit code {code}, {'same' if same else 'other'} numbers"
    say("a whole cache that may only be read", counted, "0, same", same)
    lacking = ["imagenet", "--ckpt", "sft", "--data", "images", "-o", "theirs/out2"]
    code, told = run(lacking, prepare=bound_by_permissions, log="lacking-log"), Path("lacking-log").read_text()
    said = _messages(told)
    say("one that lacks something", f"exit code {code}, {said} message", "4, 1", (code, said) == (4, 1))
    for path in (Path("cache"), *Path("cache").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def memory(world):
    """Peak memory of compare with large and bad files among its images, above that without them."""
    from PIL import Image

    large, bad = world.count(8), world.count(100)
    for name in ("plain", "heavy"):
        afresh(name)
        shutil.copytree("images", name)
    Image.linear_gradient("L").resize((9000, 7000)).convert("RGB").save("large.png", compress_level=1)
    for number in range(large):
        shutil.copy("large.png", f"heavy/class0/large{number}.png")
    for number in range(bad):
        with open(f"heavy/class1/bad{number:03d}.jpg", "wb") as file:
            file.truncate(100_000_000)
    peaks = {}
    for name in ("plain", "heavy"):
        afresh("cache")
        assert fresh(["compare", "base", "sft", "--data", name, "--max-bad", "100%", "-o", "out"]).wait() == 0
        said = dict(line.split(":") for line in Path("status").read_text().splitlines())
        peaks[name] = int(said["VmHWM"].split()[0]) / 1024
    with open("out/report.json") as file:
        named = sum(len(images["bad_items"]) for images in json.load(file)["data"])
    say(f"{bad} bad files of 100 MB and {large} images of 63 Mpx",
        f"{peaks['heavy'] - peaks['plain']:+.0f} MB over {peaks['plain']:.0f} MB, {named} named as bad",
        f"+300 MB, {bad}", peaks["heavy"] - peaks["plain"] <= 300 and named == bad)  # fmt: skip


PARTS = {
    "kills": kills, "flips": flips, "mutants": mutants, "canaries": canaries, "full-disk": full_disk,
    "processes": processes, "users": users, "memory": memory,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full counts")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, help="those of full-disk; by default all")
    parser.add_argument("--folder", type=Path, help="where to work; by default a folder that is removed")
    asked = parser.parse_args()
    import datasets  # noqa: F401 -- imported once, before anything forks
    import trl  # noqa: F401

    import visprobe.cli.app
    import visprobe.pipelines.compare
    import visprobe.training.run  # noqa: F401

    with tempfile.TemporaryDirectory() as scratch:
        world = World((asked.folder or Path(scratch)).absolute(), asked.scale, asked.commands or ())
        for part in asked.parts or PARTS:
            PARTS[part](world)
        os.chdir(HERE)
    if _missed:
        raise SystemExit(f"not as it has to be: {', '.join(_missed)}")


if __name__ == "__main__":
    main()
