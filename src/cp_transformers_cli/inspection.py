# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The options of the command `cp-transformers inspect`."""

import argparse
from pathlib import Path


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cp-transformers inspect",
        description="See what a model pools: write a page, in one file, that shows how much each token or patch "
        "weighs, how far each pool reaches and what has entered it, and for which tokens each kept one stands. The "
        "model is any of this package's; what its predictors draw means something once they have been trained.",
        epilog="A Hub token is taken from the environment (HF_TOKEN) or from `hf auth login`.",
    )
    parser.add_argument("checkpoint", help="a folder, or the id of a model on the Hub")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--text", nargs="+", metavar="TEXT", help="texts, each in quotation marks")
    inputs.add_argument("--file", type=Path, help="a file of texts in UTF-8, one a line")
    inputs.add_argument("--image", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parser.add_argument("--output", type=Path, default=Path("pools.html"), help="the page (default: %(default)s)")
    parser.add_argument(
        "--png",
        action="store_true",
        help="draw pictures for a paper too, one an input, beside the page: pools-0.png and so on; needs the extra "
        "cp-transformers[demo]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a page and pictures that stand there")
    return parser
