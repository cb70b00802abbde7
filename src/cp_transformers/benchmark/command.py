# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command `cp-transformers benchmark`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..files import check_csv
from . import models, strided
from .pooling import blocks, run_pooling
from .timing import ACCELERATOR_TOKENS, keep_freed_memory


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers benchmark`.

    Raises:
        ValueError: there are too few rounds or threads, the output is no CSV file, or there is no such device.
        OSError: the output cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="cp-transformers benchmark",
        description="Measure what pooling costs, side by side in one process. The suite `pooling` compares one "
        "layer's pooling with the block that it is put before, forward and in training, for the shapes of "
        f"{', '.join(dict.fromkeys(shape.model for shape in blocks()))}; `models` whole models with stock ones, with "
        "fewer layers of these, and with what else transformers has; `strided` those that keep fewer tokens. "
        "Each takes ten to twenty minutes on two cores, on a GPU less. With --models it compares checkpoints of your "
        "own. Run it with nothing else on the machine.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--suite", choices=("pooling", "models", "strided"), default="pooling", help="default: %(default)s"
    )
    what.add_argument(
        "--models",
        nargs="+",
        metavar="CHECKPOINT",
        help="in place of a suite: folders or ids on the Hub, CP or stock, to be compared with the first of them, "
        "each on random texts or on images of its own size",
    )
    parser.add_argument("--batch", type=int, help="of --models: texts or images at a time (default: 8)")
    parser.add_argument(
        "--length", type=int, help="of --models: tokens of each text (default: 128, or as many as all have positions)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="CSV file; a picture is drawn beside that of a suite. Default: out/benchmark_<suite>.csv, or "
        "_<suite>_cuda.csv, and of --models benchmark_checkpoints.csv",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help=f"such as cuda, where all is in bfloat16, batches are of {ACCELERATOR_TOKENS:,} tokens, and blocks and "
        "pools run as CUDA graphs (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=21,
        help="of each measurement, of which slow ones stop early, but not before the fifth (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two rounds of a suite's first comparison alone: shows that it works, and its figures mean nothing",
    )
    options = parser.parse_args(args)
    if options.quick and options.models:
        raise ValueError("--quick is for a suite; for --models give fewer --rounds.")
    if options.rounds < 2 or options.threads < 1:
        raise ValueError("Give --rounds of 2 or more, and --threads of 1 or more.")
    for name in ("batch", "length"):
        if (given := getattr(options, name)) is not None and (options.models is None or given < 1):
            raise ValueError(f"--{name} is for --models, and must be at least 1.")
    try:
        device = torch.empty(0, device=options.device).device
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {options.device} cannot be used: {str(error).splitlines()[0]}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    suffix = "" if device.type == "cpu" else f"_{device.type}"
    name = "checkpoints" if options.models else options.suite + "_quick" * options.quick
    output = options.output or Path(f"out/benchmark_{name}{suffix}.csv")
    check_csv(output)
    torch.set_num_threads(options.threads)
    if options.models:
        from .checkpoints import run_checkpoints

        keep_freed_memory()
        batch = options.batch or 8
        run_checkpoints(
            output, options.models, batch, options.length, options.rounds, options.threads, 35.0, options.device
        )
        print(f"\nWritten to {output}.")
        return
    import matplotlib  # noqa: F401  (before any work, so that a missing extra is found now)

    rounds, first = (2, slice(1)) if options.quick else (options.rounds, slice(None))
    if options.suite == "pooling":
        run_pooling(output, rounds, options.threads, 20.0, blocks()[first], options.device)
    else:
        suite = models if options.suite == "models" else strided
        keep_freed_memory()
        suite.run(output, rounds, options.threads, 35.0, suite.groups()[first], options.device)
    print(f"\nWritten to {output} and {output.with_suffix('.png')}.")
