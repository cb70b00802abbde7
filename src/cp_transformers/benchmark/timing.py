# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""How the benchmarks measure: side by side in one process, time and memory.

All candidates are run once a round, in an order of the round's own, in one process with a fixed number of threads, so
that whatever else the machine does falls on each alike; only ratios of one round are compared.
"""

import ctypes
import math
import platform
import random
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


def keep_freed_memory() -> None:
    """Has glibc's malloc keep what is freed for what is allocated next, for as long as the process lives. By default
    it gives large blocks back to the system and gets them anew, page by page, which takes more or less time by what
    the other candidates have just given back: ratios in training then differed by a tenth from one run to the next.
    Where there is no glibc, nothing is done."""
    if platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_MAX
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


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
