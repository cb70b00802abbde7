# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""How fast the arms of an experiment are, measured beside one another."""

import csv
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cp_transformers.benchmark.timing import environment, interleaved, ratio_to
from cp_transformers.files import write_csv


THREADS = 2
ROUNDS = 11
COLUMNS = "arm milliseconds ratio lower_quartile upper_quartile rounds threads torch machine".split()


@torch.no_grad()
def measure(workloads: Mapping[str, Callable[[], Any]], output: Path, rounds: int) -> None:
    """Writes a row an arm: the median time of its workload, in two threads, and the median and the quartiles of its
    ratio to the first arm's in the same round.

    Raises:
        OSError: `output` cannot be written.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        seconds = interleaved(workloads, rounds, warm_up=1)
    finally:
        torch.set_num_threads(before)
    first = next(iter(seconds.values()))
    rows = [
        {
            "arm": arm,
            "milliseconds": 1000 * statistics.median(each),
            **ratio_to(each, first),
            "rounds": len(each),
            **environment(THREADS),
        }
        for arm, each in seconds.items()
    ]
    write_csv(output, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))


def times_as_fast(path: Path) -> dict[str, float]:
    """For each arm of a file that [`measure`] has written, how many times as fast as the first it is; empty where
    there is no such file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["arm"]: 1 / float(row["ratio"]) for row in csv.DictReader(file)}
