# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Where the time of one head's pooling goes, and what it could not be less than.

For each shape of the benchmark, and for the stem of CP-ResNet-50, the pooling's parts are timed in turn with the block
that it is put before (the whole model, for the stem): the predictor's convolution, the rest of the prediction, and the
pooling with what is predicted. Two bounds stand beside them. "arithmetic" is the time that the pooling's
multiplications and additions would take at the speed of a large matrix product in the same round, here one of the
block's own, and "traffic" the time to read the tokens twice and to write them once at the speed of a copy of them in
the same round. All are in percent of the block's time, forward, in float32, medians. Run it with nothing else on the
machine.

    python scripts/pooling_profile.py
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetModel

from cp_transformers import CPResNetConfig
from cp_transformers.benchmark.pooling import Shape, blocks, make_block
from cp_transformers.benchmark.timing import environment, interleaved
from cp_transformers.files import rounded, write_csv
from cp_transformers.models.context_pool import BaseContextPool, ContextPool, context_pool
from cp_transformers.models.feature_map_pool import windowed_context_pool
from cp_transformers.models.modeling_cp_resnet import CPResNetStemPool


PARTS = ("pooling", "convolution", "prediction", "mixing", "arithmetic", "traffic")
COLUMNS = ("model", "tokens", "batch", *PARTS, "rounds", "threads", "torch", "machine")
Calls = dict[str, Callable[[], Any]]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/pooling_profile.csv"))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, tokens, batch, calls in [*map(layer, blocks()), stem()]:
        seconds = interleaved(calls, options.rounds, seconds=30.0)
        row = {
            "model": name,
            "tokens": tokens,
            "batch": batch,
            **percentages(calls, seconds),
            "rounds": len(seconds["block"]),
            **environment(options.threads),
        }
        rows.append([rounded(row[column]) for column in COLUMNS])
        print(*rows[-1][:-2], flush=True)
    write_csv(options.output, COLUMNS, rows)


def layer(shape: Shape) -> tuple[str, int, int, Calls]:
    """The calls for a layer's pooling: those of [`PARTS`] that are timed, the block, a product and a copy."""
    block, pools = make_block(shape)
    pool: ContextPool = pools["one head"].eval()
    tokens = torch.randn(shape.batch, shape.tokens, shape.hidden_size)
    pooled = tokens if shape.grid is None else tokens[:, 1:].contiguous()
    grid = shape.grid or (1, pooled.shape[1])
    feature_map = pooled.transpose(1, 2).unflatten(2, grid)
    predicted = pool.predict(pooled, grid_size=shape.grid)
    calls: Calls = {
        "block": partial(block.eval(), tokens),
        "pooling": partial(pool, pooled, grid_size=shape.grid),
        "mixing": partial(context_pool, pooled, *predicted, grid_size=shape.grid),
        **shared_calls(pool, feature_map, pooled.flatten(0, 1), 4 * shape.hidden_size),
    }
    return shape.model, shape.tokens, shape.batch, calls


def stem() -> tuple[str, int, int, Calls]:
    """The calls of the pooling that takes the place of the max pooling in ResNet-50's stem; the block is the stock
    model."""
    torch.manual_seed(0)
    model, pool = ResNetModel(ResNetConfig()).eval(), CPResNetStemPool(CPResNetConfig()).context_pool.eval()
    feature_map = torch.randn(2, 64, 112, 112)
    numbers = pool.predict_numbers(feature_map).unflatten(2, feature_map.shape[-2:])
    sigma, _ = pool.sizes_and_offsets(numbers[:, :, ::2, ::2], 7)
    calls: Calls = {
        "block": partial(model, torch.randn(2, 3, 224, 224)),
        "pooling": partial(pool, feature_map),
        "mixing": partial(windowed_context_pool, feature_map, numbers[..., 0], sigma, window=7, stride=2),
        **shared_calls(pool, feature_map, feature_map.transpose(0, 1).flatten(1).T.contiguous(), 256),
    }
    return "CP-ResNet-50 stem", 112 * 112, 2, calls


def shared_calls(pool: BaseContextPool, feature_map: torch.Tensor, matrix: torch.Tensor, columns: int) -> Calls:
    weights, copy = torch.randn(matrix.shape[1], columns), torch.empty_like(matrix)
    return {
        "convolution": lambda: pool.conv(feature_map if pool.reduce is None else pool.reduce(feature_map)),
        "numbers": partial(pool.predict_numbers, feature_map),
        "product": partial(torch.mm, matrix, weights),
        "copy": partial(copy.copy_, matrix),
    }


def percentages(calls: Calls, seconds: Mapping[str, list[float]]) -> dict[str, float]:
    median = {name: statistics.median(each) for name, each in seconds.items()}
    # A copy reads and writes once; the pooling reads for the predictor and for the mix, and writes once.
    times = {
        "pooling": median["pooling"],
        "convolution": median["convolution"],
        "prediction": median["numbers"] - median["convolution"],
        "mixing": median["mixing"],
        "arithmetic": median["product"] * flops(calls["pooling"]) / flops(calls["product"]),
        "traffic": 1.5 * median["copy"],
    }
    return {name: 100 * each / median["block"] for name, each in times.items()}


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
