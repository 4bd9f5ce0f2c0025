"""Every benchmark in turn, each in a process of its own, and one table of their ratios with the commit at the end.

Run: python benchmarks/all.py [--smallest] [NAME ...]
"""

import argparse
import subprocess
import sys
from pathlib import Path

from ratios import MARK

HERE = Path(__file__).parent
SMALLEST = {  # sizes at which a benchmark runs through in a minute, and its ratios mean nothing
    "attribution": ["--images", "1", "--batch", "1", "--blocks", "1", "--steps", "1", "--side", "14"],
    "drift": ["--images", "32", "--sites", "1"],
    "imagenet": ["speed", "--images", "40", "--width", "64", "--blocks", "1"],
    "load": ["--layers", "1", "--repeats", "1"],
    "probe": ["--n", "400", "--d", "16", "--classes", "4"],
    "store": ["--images", "200"],
    "train": ["--repeats", "1", "--steps", "1", "--layers", "1"],
}


def run(name, arguments):
    """The ratios that benchmark `name` says, as pairs of what and how much; its output passes through."""
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    ratios = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(MARK):
                ratios.append(line.removeprefix(MARK).strip().rsplit(": ", 1))
    if process.returncode:
        raise SystemExit(f"benchmarks/{name}.py ended with exit code {process.returncode}")
    return ratios


def commit():
    """The commit that is measured, and whether files differ from it."""
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown commit"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SMALLEST], metavar="NAME", help=", ".join(SMALLEST))
    parser.add_argument("--smallest", action="store_true", help="at the smallest sizes, only to see that all run")
    asked = parser.parse_args()
    found = {name: run(name, SMALLEST[name] if asked.smallest else []) for name in asked.names or SMALLEST}
    print(f"\n{commit()}{', smallest sizes' if asked.smallest else ''}")
    for name, ratios in found.items():
        for what, value in ratios:
            print(f"{name:12} {what:64} {value:>8}")


if __name__ == "__main__":
    main()
