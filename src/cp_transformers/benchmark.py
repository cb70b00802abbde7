# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What pooling costs, measured side by side with what it is part of: the command `cp-transformers benchmark`.

All candidates are run in turn, round after round, in one process with a fixed number of threads, so that whatever else
the machine does falls on each alike; only ratios of one round are compared.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, ViTConfig
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.vit.modeling_vit import ViTLayer

from .context_pool import ContextPool
from .files import write_csv


@dataclass(frozen=True)
class Shape:
    """A block of a model, and the batch that it is given.

    Attributes:
        grid: (rows, columns) of the patches, for a ViT, whose class token is not pooled; None for BERT.
    """

    model: str
    hidden_size: int
    num_heads: int
    batch: int
    tokens: int
    grid: tuple[int, int] | None = None


SHAPES = (
    Shape("BERT-base", 768, 12, batch=8, tokens=128),
    Shape("BERT-base", 768, 12, batch=2, tokens=512),
    Shape("BERT-base", 768, 12, batch=1, tokens=2048),
    Shape("MiniLM", 384, 12, batch=16, tokens=128),
    Shape("MiniLM", 384, 12, batch=4, tokens=512),
    Shape("ViT-B/16", 768, 12, batch=4, tokens=197, grid=(14, 14)),
    Shape("ViT-S/16", 384, 6, batch=8, tokens=197, grid=(14, 14)),
)
# The options of the pools that are compared.
POOLS: dict[str, dict[str, Any]] = {
    "one head": {},
    "two heads with offsets": {"pool_num_heads": 2, "pool_max_offset": 2.0},
}
COLUMNS = """
model hidden_size tokens batch pass pool ratio lower_quartile upper_quartile block_ms rounds threads torch machine
""".split()


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """The seconds that each of the calls takes in each round, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + warm_up):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_pooling(shape: Shape, rounds: int, train: bool) -> list[dict[str, Any]]:
    """The time of one layer's pooling as a fraction of that of the block it is put before, for each of [`POOLS`].

    The block is upstream's, with SDPA; text comes with a mask, as from a tokenizer. Without `train` it is a forward
    pass in evaluation mode, with it a forward and a backward pass.

    Returns:
        For each pool its `ratio`, the median over the rounds, its quartiles, and the block's median milliseconds.
    """
    block, pools = _make(shape)
    tokens = torch.randn(shape.batch, shape.tokens, shape.hidden_size, requires_grad=train)
    pooled = tokens if shape.grid is None else tokens[:, 1:].detach().contiguous().requires_grad_(train)
    mask = torch.ones(shape.batch, shape.tokens, dtype=torch.bool) if shape.grid is None else None

    def timed(call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with torch.set_grad_enabled(train):
                output = call()
            if train:
                (output[0] if isinstance(output, tuple) else output).sum().backward()

        return run

    calls = {"block": timed(partial(block.train(train), tokens))}
    for name, pool in pools.items():
        calls[name] = timed(partial(pool.train(train), pooled, mask=mask, grid_size=shape.grid))
    seconds = interleaved(calls, rounds)
    rows = []
    for name in pools:
        ratios = [pool / block for pool, block in zip(seconds[name], seconds["block"])]
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        quartiles = {"ratio": median, "lower_quartile": lower, "upper_quartile": upper}
        rows.append({"pool": name, **quartiles, "block_ms": 1000 * statistics.median(seconds["block"])})
    return rows


def _make(shape: Shape) -> tuple[nn.Module, dict[str, ContextPool]]:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": 4 * shape.hidden_size,
        "attn_implementation": "sdpa",
    }
    block = BertLayer(BertConfig(**sizes)) if shape.grid is None else ViTLayer(ViTConfig(**sizes))
    num_dims = 1 if shape.grid is None else 2
    return block, {
        name: ContextPool(shape.hidden_size, num_dims=num_dims, **options) for name, options in POOLS.items()
    }


def machine() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def run(output: Path, rounds: int, threads: int, shapes: Sequence[Shape] = SHAPES) -> list[dict[str, Any]]:
    """Measures every shape, forward and in training, prints what is found and writes it to a CSV file.

    Raises:
        ValueError: the number of rounds or threads is too small.
        OSError: the file cannot be written.
    """
    if rounds < 2 or threads < 1:
        raise ValueError("Give --rounds of 2 or more, and --threads of 1 or more.")
    torch.set_num_threads(threads)
    rows = []
    print(f"{'model':<10}{'tokens':>7}  {'pass':<10}{'pool':<24}{'of the block':>13}  quartiles")
    for shape in shapes:
        for train in (False, True):
            for measured in measure_pooling(shape, rounds, train):
                row = {
                    "model": shape.model,
                    "hidden_size": shape.hidden_size,
                    "tokens": shape.tokens,
                    "batch": shape.batch,
                    "pass": "training" if train else "forward",
                    **{name: _rounded(value) for name, value in measured.items()},
                    "rounds": rounds,
                    "threads": threads,
                    "torch": torch.__version__,
                    "machine": machine(),
                }
                rows.append(row)
                print(
                    f"{row['model']:<10}{row['tokens']:>7}  {row['pass']:<10}{row['pool']:<24}{row['ratio']:>13.1%}  "
                    f"{row['lower_quartile']:.1%} to {row['upper_quartile']:.1%}",
                    flush=True,
                )
    write_csv(output, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    return rows


def _rounded(value: Any) -> Any:
    """To four digits that mean something."""
    if not isinstance(value, float):
        return value
    return round(value, 3 - math.floor(math.log10(value)))


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers benchmark`."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers benchmark",
        description="Measure one layer's pooling against the block that it is put before, forward and in training, "
        "for the shapes of BERT-base, MiniLM and ViT. Run it with nothing else on the machine.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmark_pooling.csv"), help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=21, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args(args)
    run(options.output, options.rounds, options.threads)
    print(f"\nWritten to {options.output}.")
