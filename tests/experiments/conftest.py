# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Experiments without processes of their own."""

import pytest
from experiment_cases import InThisProcess

from experiments import grids


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(grids, "ProcessPoolExecutor", InThisProcess)
