# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pictures of docs/inspect.md, by `cp-transformers inspect`: a sentence, a photograph and a digit, before and
after training, and the page itself, for which Chromium is asked. The models are those that the three demos write:

    cp-transformers demo
    cp-transformers demo --modality image
    cp-transformers demo --modality digits
    python scripts/inspect_gallery.py
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from cp_transformers.cli import run
from cp_transformers.demo.digits import make_model, make_processor, save
from cp_transformers.demo.text import SENTENCE
from cp_transformers.inspection.command import main as inspect
from cp_transformers.training.digits import load_digits


# Parts of the page: from what is kept on it to the window's size.
PAGES = {
    "sentence_after": ("input=0&layer=2&pool=1&head=mean", "1000,670"),
    "photograph_after": ("input=0&layer=4&pool=20&head=mean&show=weights", "1000,1080"),
}
LARGE = 200_000  # bytes


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/inspect.md.")
    parser.add_argument("--text", type=Path, default=Path("out"), help="output of the demo (default: %(default)s)")
    parser.add_argument("--image", type=Path, default=Path("out-image"), help="default: %(default)s")
    parser.add_argument("--digits", type=Path, default=Path("out-digits"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="default: %(default)s")
    options = parser.parse_args(args)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        photograph, digit = work / "china.jpg", work / "digit.png"
        shutil.copyfile(sample("china.jpg"), photograph)
        digits = load_digits()["test"]
        digits[digits["label"].index(8)]["image"].save(digit)
        save(make_model("CP-ViT, 2 layers", 0), make_processor(), work / "cp-vit-l2-digits")  # as it was at the start
        subjects = {
            "sentence_before": (options.text / "cp-minilm-halved", "--text", SENTENCE),
            "sentence_after": (options.text / "cp-minilm-distilled", "--text", SENTENCE),
            "photograph_before": (options.image / "cp-dinov2-small-halved", "--image", photograph),
            "photograph_after": (options.image / "cp-dinov2-small-distilled", "--image", photograph),
            "digit_before": (work / "cp-vit-l2-digits", "--image", digit),
            "digit_after": (options.digits / "cp-vit-l2-digits", "--image", digit),
        }
        for name, arguments in subjects.items():
            page = work / f"{name}.html"
            inspect([*map(str, arguments), "--png", "--output", str(page)])
            keep(work / f"{name}-0.png", options.output / f"inspect_{name}.png")
            if name in PAGES:
                fragment, size = PAGES[name]
                photograph_page(page, fragment, size, work / "page.png")
                keep(work / "page.png", options.output / f"inspect_page_{name}.png")


def sample(name: str) -> Path:
    """The file of one of scikit-learn's two photographs."""
    import sklearn.datasets

    return Path(sklearn.datasets.__path__[0]) / "images" / name


def photograph_page(page: Path, fragment: str, size: str, output: Path) -> None:
    """A screenshot of a page as it is addressed.

    Raises:
        OSError: Chromium is not installed.
    """
    if (chromium := shutil.which("chromium")) is None:
        raise OSError("Chromium is not installed; install Debian's package chromium.")
    command = [chromium, "--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
    command += [f"--window-size={size}", f"--screenshot={output}", f"{page.as_uri()}#{fragment}"]
    subprocess.run(command, check=True, capture_output=True)


def keep(picture: Path, output: Path) -> None:
    """A picture as wide as a page of documentation at the most; in 256 colours where it is large otherwise."""
    image = PIL.Image.open(picture).convert("RGB")
    image.thumbnail((1000, 1200), PIL.Image.Resampling.LANCZOS)
    image.save(output, optimize=True)
    if output.stat().st_size > LARGE:
        image.quantize(256, kmeans=2).save(output, optimize=True)


if __name__ == "__main__":
    sys.exit(run(__name__))
