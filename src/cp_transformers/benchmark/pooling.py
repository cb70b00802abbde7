# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Measures what pooling costs, side by side with what it is part of: the command `cp-transformers benchmark`.

All candidates are run once a round, in an order of the round's own, in one process with a fixed number of threads, so
that whatever else the machine does falls on each alike; only ratios of one round are compared. The suite of pooling is
here, that of whole models in `benchmark_models`.
"""

import argparse
import math
import platform
import random
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..families import FAMILIES, Family
from ..files import check_csv, write_csv
from ..models.context_pool import ContextPool, choose_implementation
from ..models.modeling_context_pool import build_context_pool


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
ACCELERATOR_TOKENS = 65536  # in a batch, which keep it busy
# The rounds that are measured even where they take more than the time that was meant for them.
FEWEST_ROUNDS = 5


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2, seconds: float = math.inf
) -> dict[str, list[float]]:
    """The seconds that each of the calls takes in each round, for `rounds` rounds or, from [`FEWEST_ROUNDS`] on, until
    `seconds` have passed. Each round has an order of its own: what follows upon a large call is slower."""
    measured: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for turn in range(rounds + warm_up):
        if turn >= warm_up + FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name in random.Random(turn).sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if turn >= warm_up:
                measured[name].append(time.perf_counter() - start)
    return measured


def those_that_fit(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """Without those for which a GPU's memory does not suffice, whose names are printed."""
    fitting = {}
    for name, call in calls.items():
        try:
            call()
            fitting[name] = call
        except torch.OutOfMemoryError:
            print(f"{name}: does not fit into the memory")
        if name not in fitting:  # here, since the error holds what was computed
            torch.cuda.empty_cache()
    return fitting


def replayed(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """The calls as CUDA graphs, which take the time of the GPU alone: how long a processor takes to launch kernels one
    by one says more of it than of them. [`those_that_fit`] has warmed them up."""
    graphs = {name: torch.cuda.CUDAGraph() for name in calls}
    for name, call in calls.items():
        with torch.cuda.graph(graphs[name]):
            call()
    return {name: graph.replay for name, graph in graphs.items()}


def ratio_to(seconds: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles of the ratios, round by round."""
    ratios = [one / other for one, other in zip(seconds, others, strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": median, "lower_quartile": lower, "upper_quartile": upper}


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operators return, for as long as these live, without those of `known`."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.known = [tensor.untyped_storage() for tensor in known]  # kept, so that no other takes its place
        self.alive = {storage._cdata: 0 for storage in self.known}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._watch(leaf.untyped_storage())
        self.peak = max(self.peak, sum(self.alive.values()))
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.alive:
            self.alive[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, storage._cdata)


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


def machine() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def dtype_on(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.bfloat16


def environment(threads: int, device: str = "cpu") -> dict[str, Any]:
    """The columns that say where something was measured."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else machine()
    return {"threads": threads, "torch": torch.__version__, "machine": name}


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


def rounded(value: Any) -> Any:
    """To four digits that mean something."""
    if not isinstance(value, float) or not value:
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))


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
        "Each takes up to ten minutes on two cores, on a GPU less. With --models it compares checkpoints of your own. "
        "Run it with nothing else on the machine.",
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
        help="CSV file; a picture is drawn beside that of a suite. Default: results/benchmark_<suite>.csv, or "
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
    options = parser.parse_args(args)
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
    suite = "checkpoints" if options.models else options.suite
    output = options.output or Path(f"results/benchmark_{suite}{suffix}.csv")
    check_csv(output)
    torch.set_num_threads(options.threads)
    if options.models:
        from .checkpoints import run_checkpoints
        from .models import keep_freed_memory

        keep_freed_memory()
        batch = options.batch or 8
        run_checkpoints(
            output, options.models, batch, options.length, options.rounds, options.threads, 35.0, options.device
        )
        print(f"\nWritten to {output}.")
        return
    import matplotlib  # noqa: F401  (before any work, so that a missing extra is found now)

    from .models import keep_freed_memory, run_models

    if options.suite == "pooling":
        run_pooling(output, options.rounds, options.threads, seconds=20.0, device=options.device)
    else:
        from .strided import run_strided

        keep_freed_memory()
        run_whole = run_models if options.suite == "models" else run_strided
        run_whole(output, options.rounds, options.threads, seconds=35.0, device=options.device)
    print(f"\nWritten to {output} and {output.with_suffix('.png')}.")
