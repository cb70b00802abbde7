# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The benchmark: what it runs and writes. How long anything takes is tested nowhere."""

import csv

import pytest
import torch

from cp_transformers import benchmark
from cp_transformers.benchmark import COLUMNS, POOLS, SHAPES, Shape, interleaved, measure_pooling, run
from cp_transformers.cli import main as cli


TINY = (Shape("BERT", 16, 2, batch=2, tokens=6), Shape("ViT", 16, 2, batch=2, tokens=7, grid=(2, 3)))


def test_calls_are_run_in_turn_and_warmed_up():
    order = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.model)
def test_ratios_are_of_the_same_round(shape, train, monkeypatch):
    seconds = {"block": [1.0, 2.0, 4.0], "one head": [0.5, 0.2, 1.2], "two heads with offsets": [1.0, 2.0, 4.0]}

    def clock(calls, rounds):
        for call in calls.values():
            call()
        return seconds

    monkeypatch.setattr(benchmark, "interleaved", clock)
    one, two = measure_pooling(shape, rounds=3, train=train)
    assert (one["pool"], one["ratio"], one["block_ms"]) == ("one head", pytest.approx(0.3), 2000.0)
    assert (two["ratio"], two["lower_quartile"], two["upper_quartile"]) == (1.0, 1.0, 1.0)


def test_quartiles_stay_within_what_was_measured(monkeypatch):
    seconds = {"block": [1.0, 1.0], "one head": [0.1, 10.0], "two heads with offsets": [1.0, 1.0]}
    monkeypatch.setattr(benchmark, "interleaved", lambda calls, rounds: seconds)
    row = measure_pooling(TINY[0], rounds=2, train=False)[0]
    assert 0.1 <= row["lower_quartile"] <= row["ratio"] <= row["upper_quartile"] <= 10.0


def test_training_runs_the_backward_pass_and_evaluation_does_not(monkeypatch):
    seen = []

    def clock(calls, rounds):
        for call in calls.values():
            call()
        return {name: [1.0, 1.0] for name in calls}

    monkeypatch.setattr(benchmark, "interleaved", clock)
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: seen.append(self.requires_grad))
    for train in (False, True):
        measure_pooling(TINY[0], 2, train)
    assert seen == [True] * 3


def test_what_is_measured_is_written(tmp_path, capsys):
    threads = torch.get_num_threads()
    rows = run(tmp_path / "out.csv", rounds=2, threads=1, shapes=TINY)
    torch.set_num_threads(threads)
    written = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(written[0]) == COLUMNS and len(written) == len(rows) == len(TINY) * 2 * len(POOLS)
    assert all(float(row["lower_quartile"]) <= float(row["ratio"]) <= float(row["upper_quartile"]) for row in written)
    assert capsys.readouterr().out.count("%") == 3 * len(rows)


def test_the_blocks_are_those_of_the_models_they_are_named_after():
    assert {(shape.model, shape.hidden_size, shape.num_heads) for shape in SHAPES} == {
        ("BERT-base", 768, 12),
        ("MiniLM", 384, 12),
        ("ViT-B/16", 768, 12),
        ("ViT-S/16", 384, 6),
    }
    assert all(shape.grid is None or shape.tokens == 1 + shape.grid[0] * shape.grid[1] for shape in SHAPES)


@pytest.mark.parametrize("options", [["--rounds", "1"], ["--threads", "0"]])
def test_too_little_to_measure_is_refused(options, tmp_path, capsys):
    assert cli(["benchmark", "--output", str(tmp_path / "out.csv"), *options]) == 1
    assert "or more" in capsys.readouterr().err and not (tmp_path / "out.csv").exists()
