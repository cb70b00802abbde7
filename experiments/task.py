# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What a task of an experiment is: data, a head and metrics, by which every arm is trained and judged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from cp_transformers.checkpoints.conversion import convert_model, cut_layers


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Args:
        name: its column.
        title: in tables and pictures.
        scale: what it is multiplied by there.
        decimals: how many it is given there.
        lower_is_better: otherwise higher is.
    """

    name: str
    title: str
    scale: float = 1
    decimals: int = 1
    lower_is_better: bool = False


@dataclass(frozen=True)
class Run:
    """A run that a task is asked for.

    Args:
        make_model: gives a new model of the arm with a head, one of transformers' Auto classes.
        options: the arm's.
        train_samples: how many of the training examples.
        steps: of training, in batches of 32, of `photographs` of 8.
        learning_rate: the highest.
        seed: draws the examples, the weights and the order, alike for all arms.
        split: "validation" or "test", what the model is judged on.
        held_out: how many of its examples; None: all.
    """

    make_model: Callable[[Any], PreTrainedModel]
    options: Mapping[str, Any]
    train_samples: int
    steps: int
    learning_rate: float
    seed: int
    split: str
    held_out: int | None = None

    def choose(self, available: int) -> np.ndarray:
        """The numbers of the training examples, in the order of the seed.

        Raises:
            ValueError: there are not so many.
        """
        if self.train_samples > available:
            raise ValueError(f"There are {available} training examples, fewer than {self.train_samples}.")
        return np.random.default_rng(self.seed).permutation(available)[: self.train_samples]


def made_faster(full: PreTrainedModel, options: Mapping[str, Any]) -> PreTrainedModel:
    """A copy of a pretrained model by an arm's options: with some of its `layers`, or all; and if the arm's
    `model_type` is that of a CP model, one by [`~cp_transformers.convert_model`] with the options that are left."""
    options = {name: options[name] for name in options if name != "distilled"}
    layers = options.pop("layers", None)
    if options.pop("model_type") != full.config.model_type:
        return convert_model(full, layers, **options)
    return cut_layers(full, range(full.config.num_hidden_layers) if layers is None else layers)


class Task(ABC):
    """See the module; the first of `metrics` chooses the learning rates."""

    unit: str
    head: Any
    metrics: tuple[Metric, ...]
    config: dict[str, Any]  # of every model

    def make_model(self, options: Mapping[str, Any], head: Any) -> PreTrainedModel:
        """A new model by an arm's options."""
        options = {**self.config, **options}
        return head.from_config(AutoConfig.for_model(options.pop("model_type"), **options))

    @abstractmethod
    def prepare(self) -> None:
        """Fetches what is missing, before any work.

        Raises:
            ImportError: the `demo` extra is not installed.
            OSError: the data cannot be fetched.
        """

    @abstractmethod
    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """One example, whose forward pass is counted, with labels."""

    def workload(self, model: PreTrainedModel) -> Callable[[], Any]:
        """What the model's time is measured on: a forward pass over 32 times that example."""
        inputs = {name: each.expand(32, *each.shape[1:]) for name, each in self.inputs(model).items()}
        return partial(model, **{name: each for name, each in inputs.items() if name != "labels"})

    @abstractmethod
    def examples(self, number: int) -> list[dict[str, torch.Tensor]]:
        """The first held-out ones, each a batch of one."""

    @abstractmethod
    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        """A trained model, and the metrics."""
