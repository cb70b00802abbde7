# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The options of the command `cp-transformers convert`."""

import argparse
import re
from pathlib import Path


# The defaults of the configurations' fields, by the kind of family where they differ.
DEFAULTS: dict[str, dict[str, object]] = {
    "pool_hidden_size": {"texts": 64, "patches": 32, "ConvNets": 8},
    "pool_kernel_size": {"all": 3},
    "pool_range": {"texts": 0.1, "patches": 0.1, "ConvNets": 0.3},
    "pool_num_heads": {"texts": 4, "patches": 4, "ConvNets": 1},
    "pool_max_offset": {"texts": 2.0, "patches": 0.0, "ConvNets": 0.0},
    "pool_placement": {"texts": "attention", "patches": "attention"},
    "pool_window": {"ConvNets": 7},
    "pool_factored": {"texts": False, "patches": True, "ConvNets": True},
    "pool_class_token": {"texts": False},
    "pool_layers": {"texts": "all", "patches": "all"},
}


def model_types() -> list[str]:
    """Upstream's model types of what can be converted, read from the text of the configurations, since the table of
    families takes long to load."""
    files = (Path(__file__).parents[1] / "cp_transformers").glob("models/configuration_cp_*.py")
    told = re.compile(r'^    (?:model_type = "cp_|tower_of = ")(.+)"$', re.MULTILINE)
    return sorted(name for file in files for name in told.findall(file.read_text(encoding="utf-8")))


def _default(field: str) -> str:
    kinds: dict[object, list[str]] = {}
    for kind, value in DEFAULTS[field].items():
        kinds.setdefault(value, []).append(kind)
    if list(kinds.values()) == [["all"]]:
        return f"default: {next(iter(kinds))}"
    return "default: " + "; ".join(f"{value} for {' and '.join(names)}" for value, names in kinds.items())


def make_parser() -> argparse.ArgumentParser:
    """The parser of `convert`. It gives no value to options that are left out, so that each family's defaults hold."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers convert",
        description="Load a pretrained checkpoint, insert the pooling modules, check that the result computes what "
        "the source computes (that cut to the same layers, where layers are cut), and write it. Model types that can "
        f"be converted, with any of their heads: {', '.join(model_types())}.",
        epilog="A Hub token is taken from the environment (HF_TOKEN) or from `hf auth login`.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("source", help="a folder, or the id of a model on the Hub")
    parser.add_argument("output", help="the folder to write, whole or not at all")
    parser.add_argument("--revision", help="branch, tag or commit of a source on the Hub")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that stands at OUTPUT")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the result (default: as is)")
    parser.add_argument(
        "--layers",
        help="layers to keep, where all are of one shape: 0,1,2,3 or first:4, last:4, every:2 for 0,2,4,...; a single "
        "number is that of the one layer to keep (default: all)",
    )
    pooled = parser.add_mutually_exclusive_group()
    pooled.add_argument(
        "--no-pool",
        dest="pool_layers",
        action="store_const",
        const=[],
        help="insert no pooling: the result is the stock model cut to --layers, of the source's own class, which is "
        "the control of one that pools, and faster",
    )
    pooled.add_argument(
        "--pool-layers",
        help="layers that pool, in the notation of --layers, counted in the converted model "
        f"({_default('pool_layers')})",
    )
    fewer = parser.add_mutually_exclusive_group()
    fewer.add_argument(
        "--halve-before",
        help="drop every second token (of patches three in four) before these layers of the converted model, after "
        "pooling it, in the notation of --layers: what follows costs half (a quarter) as much. The result differs "
        "from the source and is to be trained by cp-transformers distill; no other layer pools, unless --pool-layers "
        "names it",
    )
    fewer.add_argument(
        "--pool-strides",
        help="the same, told by one number a layer: 1,1,2,1,1,1 keeps one token of two (of 2 x 2 patches) before "
        "layer 2 (default: all 1)",
    )
    parser.add_argument(
        "--pool-restore-layer",
        type=int,
        help="with --halve-before or --pool-strides: the layer before which all tokens are restored (default: after "
        "the last one)",
    )
    for name, kind, text in (
        ("pool_placement", str, "attention: pool what attention is computed from; block: the block's whole input"),
        (
            "pool_range",
            float,
            "largest support size, as a fraction of the tokens, of the grid's side or of the window",
        ),
        ("pool_num_heads", int, "pooling heads"),
        ("pool_max_offset", float, "how far a pool's centre may move, in positions"),
        ("pool_hidden_size", int, "channels inside the predictor"),
        ("pool_kernel_size", int, "kernel of the predictor's convolution, odd"),
        ("pool_window", int, "side of the window that the stem pools, odd"),
    ):
        parser.add_argument("--" + name.replace("_", "-"), type=kind, help=f"{text} ({_default(name)})")
    parser.add_argument(
        "--pool-factored",
        action=argparse.BooleanOptionalAction,
        help=f"project the tokens to the predictor's channels before its convolution ({_default('pool_factored')})",
    )
    parser.add_argument(
        "--pool-class-token",
        action=argparse.BooleanOptionalAction,
        help=f"pool the class token, too ({_default('pool_class_token')})",
    )
    parser.add_argument(
        "--pool-global", action="store_true", help="ConvNets: pool the last feature map by context too"
    )
    parser.add_argument(
        "--no-pool-stem",
        dest="pool_stem",
        action="store_false",
        help="ConvNets: leave the stem's max pooling as it is",
    )
    parser.add_argument(
        "--no-gate",
        dest="pool_gate",
        action="store_false",
        help="leave out the gate; the result then differs from the source at once",
    )
    return parser
