# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""One layer's pooling, side by side with the block that it is put before: the suite `pooling` of
`cp-transformers benchmark`."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..families import FAMILIES, Family
from ..files import rounded, write_csv
from ..models.context_pool import ContextPool
from ..models.modeling_context_pool import build_context_pool
from ..models.pool_implementation import choose_implementation
from .timing import (
    ACCELERATOR_TOKENS,
    PeakMemory,
    dtype_on,
    environment,
    interleaved,
    ratio_to,
    replayed,
    those_that_fit,
)


@dataclass(frozen=True)
class Shape:
    """A block of a model, and the batch that it is given.

    Attributes:
        grid: (rows, columns) of the patches of an image, before which stands a class token; None for texts.
    """

    family: Family
    model: str
    hidden_size: int
    num_heads: int
    batch: int
    tokens: int
    grid: tuple[int, int] | None = None


BATCH_NUMBERS = 2**18 * 3  # that a batch of tokens has at most, unless it is one text or image


def blocks() -> list[Shape]:
    """The blocks of all models of the table of families, with each of the lengths that it has for them."""
    found = []
    for family in FAMILIES.values():
        for name, size in family.sizes.items() if family.has_layers else ():
            side = 224 // size.get("patch_size", 16)  # of the grid of an image of 224 x 224 pixels
            grid = None if family.is_text else (side, side)
            for tokens in size["tokens"] if grid is None else (1 + grid[0] * grid[1],):
                fitting = max(1, BATCH_NUMBERS // (tokens * size["hidden_size"]))
                batch = 2 ** int(math.log2(fitting))
                found.append(
                    Shape(family, name, size["hidden_size"], size["num_attention_heads"], batch, tokens, grid)
                )
    return found


# The options of the pools that are compared. The last two are for lengths at which "auto" is not dense.
DENSE, SPREAD = "one head, dense", "one head, sizes of all scales"
ONE_HEAD = {"pool_num_heads": 1, "pool_max_offset": 0.0}
FOUR_HEADS = "four heads with offsets"
POOLS: dict[str, dict[str, Any]] = {
    "one head": ONE_HEAD,
    "two heads with offsets": {"pool_num_heads": 2, "pool_max_offset": 2.0},
    FOUR_HEADS: {"pool_num_heads": 4, "pool_max_offset": 2.0},
    DENSE: {**ONE_HEAD, "pool_implementation": "dense"},
    SPREAD: ONE_HEAD,
}
COLUMNS = """
model hidden_size tokens batch pass pool ratio lower_quartile upper_quartile flops_ratio memory block_ms rounds threads
torch machine
""".split()
# Those on an accelerator.
ACCELERATOR_POOLS = {
    "one head": ONE_HEAD,
    FOUR_HEADS: POOLS[FOUR_HEADS],
    f"{FOUR_HEADS}, dense": {**POOLS[FOUR_HEADS], "pool_implementation": "dense"},
}


def measure_pooling(
    shape: Shape, rounds: int, train: bool, seconds: float = math.inf, device: str = "cpu"
) -> list[dict[str, Any]]:
    """The time of one layer's pooling as a fraction of that of the block it is put before, for each of [`POOLS`].

    The block is upstream's, with SDPA; text comes with a mask, as from a tokenizer. The pools are new, so that their
    sizes are those with which training starts, a quarter of their range, but for [`SPREAD`], whose sizes are spread
    over it. Without `train` it is a forward pass in evaluation mode, with it a forward and a backward pass. On an
    accelerator all are in bfloat16, on CUDA devices as graphs.

    Returns:
        For each pool its `ratio`, the median over the rounds, its quartiles, the block's median milliseconds; without
        `train`, on a CPU, the ratio of the multiplications and additions of matrix products, and for each pool the
        largest memory that it took at any time, in multiples of that of the tokens.
    """
    block, pools = make_block(shape, device)
    size = (shape.batch, shape.tokens, shape.hidden_size)
    tokens = torch.randn(size, device=device, dtype=dtype_on(device), requires_grad=train)
    pooled = tokens if shape.grid is None else tokens[:, 1:].detach().contiguous().requires_grad_(train)
    mask = torch.ones(shape.batch, shape.tokens, dtype=torch.bool, device=device) if shape.grid is None else None
    counted = not train and device == "cpu"

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
    if device != "cpu":
        calls = those_that_fit(calls)
        if "block" not in calls:
            return []
    measured = interleaved(replayed(calls) if device.startswith("cuda") else calls, rounds, seconds=seconds)
    flops = {name: _flops(call) for name, call in calls.items()} if counted else {}
    rows = []
    for name in list(calls)[1:]:
        with PeakMemory([pooled, *pools[name].parameters()]) as memory:
            calls[name]()
        rows.append(
            {
                "pool": name,
                **ratio_to(measured[name], measured["block"]),
                "flops_ratio": flops[name] / (flops["block"] + _attention_flops(shape)) if counted else "",
                "memory": memory.peak / (pooled.numel() * pooled.element_size()),
                "block_ms": 1000 * statistics.median(measured["block"]),
                "rounds": len(measured[name]),
            }
        )
    return rows


def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _attention_flops(shape: Shape) -> int:
    """The multiplications of scores and mixing, which PyTorch's counter does not see in SDPA on CPUs."""
    return 4 * shape.batch * shape.tokens**2 * shape.hidden_size


def make_block(shape: Shape, device: str = "cpu") -> tuple[nn.Module, dict[str, ContextPool]]:
    """A new block of the stock model, and the pools that are compared before it."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": 4 * shape.hidden_size,
        "attn_implementation": "sdpa",
    }
    block: nn.Module = shape.family.layer_class(shape.family.stock_config_class(**sizes))  # type: ignore[misc]
    num_dims = 1 if shape.grid is None else 2
    dense = choose_implementation("auto", torch.empty(1, shape.tokens - (num_dims - 1), 1), shape.grid) == "dense"
    options = {name: pool for name, pool in POOLS.items() if not dense or name not in (DENSE, SPREAD)}
    if device != "cpu":
        options = ACCELERATOR_POOLS
    configs = {name: shape.family.config_class(**sizes, **pool) for name, pool in options.items()}
    pools = {name: build_context_pool(config, num_dims) for name, config in configs.items()}
    if SPREAD in pools:
        with torch.no_grad():
            pools[SPREAD].proj.weight.mul_(10.0)
    for module in (block, *pools.values()):
        module.to(device=device, dtype=dtype_on(device))
    return block, pools


def run_pooling(
    output: Path,
    rounds: int,
    threads: int,
    seconds: float = math.inf,
    shapes: Sequence[Shape] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measures every shape, forward and in training, prints what is found and writes it to a CSV file and, beside it,
    a picture of the overhead against the length.

    Raises:
        OSError: the files cannot be written.
    """
    rows = []
    print(f"{'model':<10}{'tokens':>7}  {'pass':<10}{'pool':<31}{'of the block':>13}  quartiles")
    for shape in blocks() if shapes is None else shapes:
        if device != "cpu":
            shape = replace(shape, batch=max(1, ACCELERATOR_TOKENS // shape.tokens))
        for train in (False, True):
            for measured in measure_pooling(shape, rounds, train, seconds, device):
                row = {
                    "model": shape.model,
                    "hidden_size": shape.hidden_size,
                    "tokens": shape.tokens,
                    "batch": shape.batch,
                    "pass": "training" if train else "forward",
                    **{name: rounded(value) for name, value in measured.items()},
                    **environment(threads, device),
                }
                rows.append(row)
                print(
                    f"{row['model']:<10}{row['tokens']:>7}  {row['pass']:<10}{row['pool']:<31}{row['ratio']:>13.1%}  "
                    f"{row['lower_quartile']:.1%} to {row['upper_quartile']:.1%}",
                    flush=True,
                )
    write_csv(output, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    draw_overhead(rows, output.with_suffix(".png"))
    return rows


def draw_overhead(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The time of the pooling, in percent of the block's, against the length, for the model with most lengths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    model = rows[0]["model"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, way in zip(figure.subplots(1, 2, sharey=True), ("forward", "training")):
        colors = {"one": "tab:orange", "two": "tab:green", "four": "tab:blue"}
        styles = {SPREAD: "o:", DENSE: "o--", f"{FOUR_HEADS}, dense": "o--"}
        for pool in dict.fromkeys(row["pool"] for row in rows):
            own = [row for row in rows if (row["model"], row["pass"], row["pool"]) == (model, way, pool)]
            x, y = [row["tokens"] for row in own], [100 * row["ratio"] for row in own]
            axes.plot(x, y, styles.get(pool, "o-"), label=pool, color=colors[pool.split()[0]])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"one {model} block, {way}")
        axes.set_xlabel("tokens")
        axes.grid(alpha=0.3, which="both")
    ticks, limits = [1, 2, 5, 10, 20, 50, 100, 200, 500], figure.axes[0].get_ylim()  # of both
    for axes in figure.axes:
        axes.set_yticks(ticks, labels=map(str, ticks), minor=False)
        axes.set_yticks([], minor=True)
    figure.axes[0].set_ylim(limits)  # which ticks extend
    figure.axes[0].set_ylabel("time of the pooling, % of the block's")
    figure.axes[1].legend(fontsize="small")
    figure.savefig(path, dpi=150)
