# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The benchmark: what it runs and writes. How long anything takes is tested nowhere."""

import csv
import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, ViTConfig

from cp_transformers import CPBertConfig, CPViTConfig
from cp_transformers.benchmark import models as benchmark_models, pooling as benchmark
from cp_transformers.benchmark.models import (
    Group,
    by_layers,
    groups,
    measure_models,
    num_layers,
)
from cp_transformers.benchmark.pooling import (
    ACCELERATOR_POOLS,
    COLUMNS,
    DENSE,
    POOLS,
    Shape,
    blocks,
    measure_pooling,
    run_pooling,
)
from cp_transformers.benchmark.timing import (
    FEWEST_ROUNDS,
    PeakMemory,
    interleaved,
    keep_freed_memory,
    those_that_fit,
)
from cp_transformers.cli import main as cli
from cp_transformers.families import FAMILIES


TEXT, IMAGE = FAMILIES["bert"], FAMILIES["vit"]
TINY = (
    Shape(TEXT, "BERT", 16, 2, batch=2, tokens=6),
    Shape(IMAGE, "ViT", 16, 2, batch=2, tokens=7, grid=(2, 3)),
)


def test_calls_are_run_once_a_round_in_changing_orders_and_warmed_up():
    order = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, warm_up=2)
    rounds = list(zip(order[::2], order[1::2]))
    assert len(rounds) == 5 and set(rounds) == {("a", "b"), ("b", "a")}
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}


def test_rounds_end_with_their_time_but_not_before_the_fewest():
    assert len(interleaved({"a": lambda: None}, rounds=50, seconds=0.0)["a"]) == FEWEST_ROUNDS


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_stays_with_the_process(kept):
    code = """
import resource
import torch
from pathlib import Path
from cp_transformers.benchmark.timing import keep_freed_memory
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
if %s: keep_freed_memory()
before = pages()
torch.ones(64 * 2**20)  # 256 MB
print((pages() - before) * resource.getpagesize() > 200 * 2**20)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    arguments = [sys.executable, "-c", code % kept]
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(kept)


def test_without_glibc_nothing_is_asked_of_it(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delattr(ctypes, "CDLL")  # of Windows it cannot even be had
    keep_freed_memory()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.model)
def test_ratios_are_of_the_same_round(shape, train, monkeypatch):
    measured = {"block": [1.0, 2.0, 4.0], **{pool: [1.0, 2.0, 4.0] for pool in POOLS}, "one head": [0.5, 0.2, 1.2]}

    def clock(calls, rounds, seconds):
        for call in calls.values():
            call()
        return measured

    monkeypatch.setattr(benchmark, "interleaved", clock)
    one, two, _ = measure_pooling(shape, rounds=3, train=train)
    assert (one["pool"], one["ratio"], one["block_ms"]) == ("one head", pytest.approx(0.3), 2000.0)
    assert (two["ratio"], two["lower_quartile"], two["upper_quartile"]) == (1.0, 1.0, 1.0)


def test_quartiles_stay_within_what_was_measured(monkeypatch):
    measured = {"block": [1.0, 1.0], **{pool: [1.0, 1.0] for pool in POOLS}, "one head": [0.1, 10.0]}
    monkeypatch.setattr(benchmark, "interleaved", lambda calls, rounds, seconds: measured)
    row = measure_pooling(TINY[0], rounds=2, train=False)[0]
    assert 0.1 <= row["lower_quartile"] <= row["ratio"] <= row["upper_quartile"] <= 10.0


def test_training_runs_the_backward_pass_and_evaluation_does_not(monkeypatch):
    seen = []

    def clock(calls, rounds, seconds):
        for call in calls.values():
            call()
        return {name: [1.0, 1.0] for name in calls}

    monkeypatch.setattr(benchmark, "interleaved", clock)
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: seen.append(self.requires_grad))
    for train in (False, True):
        measure_pooling(TINY[0], 2, train)
    assert seen == [True] * 7  # the block and three pools, and these again for their memory


def test_what_is_measured_is_written_and_drawn(tmp_path, capsys):
    rows = run_pooling(tmp_path / "out.csv", rounds=2, threads=1, shapes=TINY)
    written = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(written[0]) == COLUMNS and len(written) == len(rows) == len(TINY) * 2 * 3
    assert all(float(row["lower_quartile"]) <= float(row["ratio"]) <= float(row["upper_quartile"]) for row in written)
    assert capsys.readouterr().out.count("%") == 3 * len(rows)
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_dense_pooling_is_measured_where_it_is_not_the_choice():
    long = Shape(TEXT, "BERT", 16, 2, batch=1, tokens=600)
    pools = {row["pool"]: row for row in measure_pooling(long, rounds=2, train=False)}
    assert set(pools) == set(POOLS)
    assert pools[DENSE]["memory"] > 600 / 16 > pools["one head"]["memory"]  # in multiples of 600 x 16 numbers
    assert pools[DENSE]["flops_ratio"] > pools["one head"]["flops_ratio"]


def test_the_arithmetic_is_that_of_the_predictor_and_the_mixing():
    shape = Shape(TEXT, "BERT", 32, 2, batch=2, tokens=10)
    block = 12 * 32**2 + 2 * 10 * 32  # multiplications a token
    predictor, mixing = 3 * 32 * 64 + 64 * 2, 10 * 32
    ratio = measure_pooling(shape, rounds=2, train=False)[0]["flops_ratio"]
    assert ratio == pytest.approx((predictor + mixing) / block)


def test_memory_is_counted_for_as_long_as_a_tensor_lives():
    with PeakMemory() as memory:
        for _ in range(3):
            torch.ones(1000)
        kept = [torch.ones(1000) for _ in range(2)]
    assert memory.peak == 4000 * len(kept)
    with PeakMemory(known=kept) as memory:
        assert kept[0][:10].sum() == 10.0
    assert memory.peak == 4 + 1  # the sum and what the comparison gave


# ------------------------------------------------------------------------------------------------------ whole models


def tiny(config_class):
    def make(**more):
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
        return config_class(**sizes, **more)

    return make


def test_models_are_compared_with_the_first_of_their_group(tmp_path, capsys):
    configs = by_layers("BERT", (3, 2, 1), tiny(BertConfig), tiny(CPBertConfig))
    images = by_layers("ViT", (2, 1), tiny(ViTConfig), tiny(CPViTConfig))
    compared = [Group("text", 2, 6, configs), Group("images", 2, None, images)]
    rows = benchmark_models.run(tmp_path / "out.csv", rounds=2, threads=1, compared=compared)
    written = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(written) == len(rows) == 2 * (len(configs) + len(images))
    first = [row for row in rows if row["model"] == "BERT, 3 layers"]
    assert [(row["ratio"], row["pass"]) for row in first] == [(1.0, "forward"), (1.0, "training")]
    by_name = {row["model"]: row for row in rows if row["pass"] == "training"}
    assert by_name["CP-BERT, 2 layers, one head"]["parameters"] > by_name["BERT, 2 layers"]["parameters"]
    assert by_name["CP-ViT, 1 layers"]["gflops"] > by_name["ViT, 1 layers"]["gflops"]
    assert all(row["peak_memory_mb"] > 0 and row["items_per_second"] > 0 for row in rows)
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("GFLOPs") == 2


def test_every_group_has_the_stock_model_first_and_cp_with_two_thirds_of_its_layers():
    for group in groups():
        names = list(group.configs)
        layers = {name: num_layers(config) for name, config in group.configs.items()}
        if "ResNet" not in group.name:
            two_thirds = [name for name in names if name.startswith("CP") and 3 * layers[name] == 2 * layers[names[0]]]
            assert len(two_thirds) == 2
        assert not names[0].startswith("CP") and any(name.startswith("CP") for name in names)
        others = [
            name
            for name in names
            if name.split(",")[0].split("-")[0] in ("Funnel", "Longformer", "Swin", "PoolFormer")
        ]
        assert len(others) == (0 if "ResNet" in group.name else 2)


def test_parameters_do_not_keep_the_gradients_of_the_measurement():
    group = Group("text", 1, 4, by_layers("BERT", (2, 1), tiny(BertConfig), tiny(CPBertConfig)))
    forward, training = (
        [row["peak_memory_mb"] for row in measure_models(group, 2) if row["pass"] == way]
        for way in ("forward", "training")
    )
    assert all(one < other for one, other in zip(forward, training))


def test_the_blocks_are_those_of_the_models_they_are_named_after():
    assert {(shape.model, shape.hidden_size, shape.num_heads) for shape in blocks()} == {
        ("BERT-base", 768, 12),
        ("MiniLM", 384, 12),
        ("ViT-B/16", 768, 12),
        ("ViT-S/16", 384, 6),
        ("DINOv2-small", 384, 6),
    }
    assert all(shape.grid is None or shape.tokens == 1 + shape.grid[0] * shape.grid[1] for shape in blocks())
    batches = {(shape.model, shape.tokens): shape.batch for shape in blocks()}
    assert batches["BERT-base", 32] == 32 and batches["BERT-base", 8192] == 1 and batches["ViT-S/16", 197] == 8


@pytest.mark.parametrize("options", [["--rounds", "1"], ["--threads", "0"]])
def test_too_little_to_measure_is_refused(options, tmp_path, capsys):
    assert cli(["benchmark", "--output", str(tmp_path / "out.csv"), *options]) == 1
    assert "or more" in capsys.readouterr().err and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("device", ["xpu:77", "gpu"])
def test_a_device_that_is_not_there_is_refused(device, tmp_path, capsys):
    assert cli(["benchmark", "--output", str(tmp_path / "out.csv"), "--device", device]) == 1
    assert f"--device {device} cannot be used" in capsys.readouterr().err and not (tmp_path / "out.csv").exists()


def test_other_devices_are_given_more_at_once_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "ACCELERATOR_TOKENS", 30)
    monkeypatch.setattr(benchmark_models, "ACCELERATOR_TOKENS", 30)
    seen = []
    for where, name in ((benchmark, "make_block"), (benchmark_models, "build")):
        make = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *args, make=make: seen.append(make(*args)) or seen[-1])
    # The processor by another name stands for a device of another kind.
    rows = run_pooling(tmp_path / "pooling.csv", rounds=2, threads=1, shapes=TINY, device="cpu:0")
    assert {(row["pool"], row["tokens"], row["batch"], row["flops_ratio"]) for row in rows} == {
        (pool, tokens, batch, "") for pool in ACCELERATOR_POOLS for tokens, batch in ((6, 5), (7, 4))
    }
    group = Group("text", 2, 4, by_layers("BERT", (2, 1), tiny(BertConfig), tiny(CPBertConfig)))
    rows = benchmark_models.run(tmp_path / "models.csv", rounds=2, threads=1, compared=[group], device="cpu:0")
    assert {(row["batch"], row["gflops"]) for row in rows} == {(7, "")}
    modules = [module for each in seen for module in ([each[0], *each[1].values()] if type(each) is tuple else [each])]
    assert {parameter.dtype for module in modules for parameter in module.parameters()} == {torch.bfloat16}


def test_what_does_not_fit_is_left_out_and_named(monkeypatch, capsys):
    def too_large():
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    calls = {"small": int, "large": too_large}
    assert those_that_fit(calls) == {"small": int}
    assert capsys.readouterr().out == "large: does not fit into the memory\n"


def test_a_block_or_stock_model_that_does_not_fit_ends_its_comparison(tmp_path, monkeypatch):
    for where in (benchmark, benchmark_models):
        monkeypatch.setattr(where, "those_that_fit", lambda calls: dict(list(calls.items())[1:]))
    group = Group("text", 2, 4, by_layers("BERT", (2, 1), tiny(BertConfig), tiny(CPBertConfig)))
    assert measure_pooling(TINY[0], 2, train=False, device="cpu:0") == []
    assert measure_models(group, 2, device="cpu:0") == []
