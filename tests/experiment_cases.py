# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The experiments of configs/."""

from concurrent.futures import Future
from pathlib import Path

import yaml

from cp_transformers.training.arguments import Loader
from experiments.grids import Experiment


ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted((ROOT / "experiments" / "configs").glob("*.yaml"))}


def experiment_of(name: str) -> Experiment:
    """As its file says. `Experiment.read` makes a model of every arm besides, which for `pretrained` takes half a
    minute; test_experiment_tasks.py reads all in that way."""
    return Experiment(**yaml.load(CONFIGS[name].read_text(encoding="utf-8"), Loader))


class InThisProcess:
    """In the place of the pool of processes, each of which takes seconds to start."""

    def __init__(self, *args, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def submit(self, function, *args) -> Future:
        future: Future = Future()
        future.set_result(function(*args))
        return future
