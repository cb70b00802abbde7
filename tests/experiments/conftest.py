# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Experiments without processes of their own."""

from concurrent.futures import Future

import pytest

from experiments import grids


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


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(grids, "ProcessPoolExecutor", InThisProcess)
