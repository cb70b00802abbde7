# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Shared fixtures. Nothing here or in the tests reaches beyond this machine."""

import logging
import os
import shutil
import tempfile
from pathlib import Path


# Before transformers and datasets are imported: no test may fall back on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Where the modules of checkpoints that bring their own are copied to.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp()
# Before torch is: there is a process for each core already.
os.environ["OMP_NUM_THREADS"] = "1"

import datasets
import pytest
import torch


class _ErrorOnDeprecation(logging.Handler):
    """Fails on what transformers and torch deprecate through their loggers instead of through warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "deprecat" in message.lower():
            raise DeprecationWarning(f"{record.name}: {message}")


@pytest.fixture(scope="session", autouse=True)
def error_on_logged_deprecation():
    handler = _ErrorOnDeprecation(level=logging.WARNING)
    for name in ("transformers", "torch"):
        logging.getLogger(name).addHandler(handler)
    yield
    for name in ("transformers", "torch"):
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Keeps what datasets and transformers cache out of the user's folders."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder
    shutil.rmtree(os.environ["HF_MODULES_CACHE"])


@pytest.fixture
def environment(cache) -> dict[str, str]:
    """For processes of their own."""
    return {**os.environ, "HF_DATASETS_CACHE": str(cache)}
