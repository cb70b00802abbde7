# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Shared fixtures. Nothing here or in the tests reaches beyond this machine."""

import gc
import importlib
import io
import logging
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any


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
from conversion_cases import make_source

from cp_transformers.families import FAMILIES


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


# Everything of three families is in the fast tier but what compiles or exports their further heads, and of the others
# these tests. Tests that start processes of their own, by these fixtures, are slow.
FAST_FAMILIES = {"bert", "vit", "resnet"}
FURTHER_HEADS = {model for family in FAMILIES.values() for model in list(family.models.values())[2:]}
OF_EVERY_FAMILY = {
    "test_a_reloaded_model_has_the_same_parameters_and_outputs",
    "test_convert_tells_the_defaults_that_the_configurations_have",
    "test_every_head_has_a_loss",
}
# Tests that compile or export, and so take long.
COSTLY = {
    "test_a_compiled_model_has_the_same_outputs",
    "test_a_strided_model_is_the_same_compiled_exported_and_offloaded",
    "test_an_exported_model_has_the_same_outputs_for_other_shapes",
    "test_construction_draws_hardly_more_numbers_than_the_stock_class",
    "test_support_sizes_are_not_those_of_a_compiled_model_in_another_thread",
    "test_support_sizes_come_out_of_parts_that_are_compiled_by_themselves",
    "test_the_graph_computes_what_the_model_does_for_other_shapes",
    "test_the_graph_of_a_model_that_drops_tokens_takes_other_shapes",
}
PROCESSES = {"environment", "hub", "killed", "two", "two_processes"}


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests as of the slow tier."""
    others = {name for name in FAMILIES if name not in FAST_FAMILIES}
    others |= {FAMILIES[name].config_class.model_type for name in others}
    for item in items:
        parameters = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
        models = [getattr(each, "model_class", each) for each in parameters]
        further = any(isinstance(each, type) and each in FURTHER_HEADS for each in models)
        of_others = item.originalname not in OF_EVERY_FAMILY and any(_model_type(each) in others for each in models)
        if of_others or (further and item.originalname in COSTLY) or PROCESSES & {*item.fixturenames}:
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Takes what has been imported and collected out of Python's garbage collection, which accelerate has run in full
    for every training: to look through so many objects takes a third of a second."""
    gc.collect()
    gc.freeze()


def _model_type(parameter: Any) -> str | None:
    """The model type of a case, a family, a class of models or of configurations, or a name."""
    for attribute in ("model_class", "config_class", "model_type"):
        parameter = getattr(parameter, attribute, parameter)
    return parameter if isinstance(parameter, str) else None


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


def _dot_of_any_dtype(triton, interpreter):
    """The interpreter's product; its own multiplies the bits of bfloat16 as if they were integers."""
    dot = interpreter.InterpreterBuilder.create_dot

    def float32_of(handle):
        if handle.dtype.scalar != triton.language.bfloat16:
            return handle
        bits = handle.data.view("uint16").astype("uint32") << 16
        return interpreter.TensorHandle(bits.view("float32"), triton.language.float32)

    return lambda builder, a, b, *rest: dot(builder, float32_of(a), float32_of(b), *rest)


@pytest.fixture(scope="session")
def triton_device() -> str:
    """Where the Triton kernels are tested: compiled for a GPU where there is one, else interpreted."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def triton_pool(triton_device):
    """The module of the Triton kernels, for tensors on `triton_device`. Functions are compiled or interpreted as
    decided when they are decorated, and triton's own, such as `tl.sum`, have been by now: to be interpreted they are
    decorated again."""
    triton = pytest.importorskip("triton")
    name = "cp_transformers.models.triton_pool"
    if triton_device == "cuda":
        yield importlib.import_module(name)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.knobs.runtime, "interpret", True)
        for key, value in list(vars(triton.language).items()):
            if isinstance(value, triton.runtime.JITFunction):
                patch.setattr(triton.language, key, triton.jit(value.fn))
        from triton.runtime import interpreter

        patch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot_of_any_dtype(triton, interpreter))
        patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module(name)
        sys.modules.pop(name)


@pytest.fixture
def small_blocks(triton_pool, monkeypatch):
    """The module, with blocks so small that few tokens make several: float32 then takes 16, the fewest there are."""
    for name, size in {"BLOCK_TOKENS": 64, "BLOCK_CHANNELS": 32, "STEP": 16}.items():
        monkeypatch.setattr(triton_pool, name, size)
    return triton_pool


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """See [`glue_cases.make_material`]."""
    from glue_cases import make_material  # here, since it imports much that few tests need

    return make_material(tmp_path_factory.mktemp("glue"))


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive of the form of the film reviews' own, with sentences made here."""
    lines = [
        f"{index}\t{rating}\tThis {'fine' if rating > 0 else 'dull'} film, number {index}, lasts for ever."
        for index, rating in ((index, (index % 9 - 4) * 0.9) for index in range(5000))
    ]
    lines += [lines[1], "5001\t0.4\tNeither here nor there.", "5002\t3.1\tAn \xe9clair of a film."]
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {
            "movieReviewSnippets": "\n".join(lines),
            "amazonReviewSnippets": "1\t2.0\tIt works.",
            "nytEditorialSnippets": "\n".join(f"{index}\t0.0\tNews, number {index}." for index in (*range(150), 7)),
        }.items():
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            member.size = len(text.encode("latin-1"))
            tar.addfile(member, io.BytesIO(text.encode("latin-1")))
    from cp_transformers.training import film_reviews

    monkeypatch.setattr(film_reviews, "fetch", lambda file: path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """See [`conversion_cases.make_source`]."""
    return make_source(tmp_path / "source")


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
