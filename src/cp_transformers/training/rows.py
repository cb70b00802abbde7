# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Rows that are changed at random while a model trains: the same way whenever a run is repeated or goes on."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import IterableDataset
from torch.utils.data import Dataset as TorchDataset, IterableDataset as TorchIterableDataset


def random_seed(*parts: Any) -> int:
    """A seed that is made of numbers and names, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


class Drawn(TorchDataset):
    """Rows that are changed at random, the same way whenever they are drawn with the same seed.

    Args:
        rows: anything with a length and an index.
        draw: makes an example from a row and a seed.
        seed: of the run.
    """

    def __init__(self, rows: Any, draw: Callable[[Any, int], Any], seed: int):
        self.rows, self.draw, self.seed = rows, draw, seed
        self.epoch = torch.zeros(1, dtype=torch.long).share_memory_()  # so that workers that persist see it, too

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.draw(self.rows[index], random_seed(self.seed, int(self.epoch), index))


class DrawnAnew(Drawn):
    """Rows that are changed at random in another way in each epoch, however many workers or processes draw them, and
    whether or not the run was stopped in between; see [`Drawn`]."""

    def set_epoch(self, epoch: int) -> None:
        """For accelerate's data loaders."""
        self.epoch.fill_(epoch)


class Stream(TorchIterableDataset):
    """Rows that are streamed over and over, and changed at random in another way in each pass. The passes are one
    endless epoch: Trainer goes on from the middle of that, but not from the middle of a later one.

    Args:
        rows: a data set that is streamed.
        draw: makes an example from a row and a seed.
        seed: of the run.
        skipped: the exceptions by which `draw` leaves a row out.
        report: is called with the message of each such exception.
    """

    def __init__(
        self,
        rows: IterableDataset,
        draw: Callable[[Any, int], Any],
        seed: int,
        skipped: type[Exception] | tuple = (),
        report: Callable[[str], Any] = str,
    ):
        self.rows, self.draw, self.seed, self.skipped, self.report = rows, draw, seed, skipped, report

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        number = 0 if worker is None else worker.id
        for epoch in itertools.count():
            self.rows.set_epoch(epoch)
            any_left = False
            for index, row in enumerate(self.rows):
                try:
                    example = self.draw(row, random_seed(self.seed, epoch, number, index))
                except self.skipped as error:
                    self.report(str(error))
                    continue
                any_left = True
                yield example
            if not any_left:
                return
