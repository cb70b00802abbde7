# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The statistics of the pools of a trained model."""

import csv
import math

import pytest
import torch
import yaml
from experiment_cases import CONFIGS, ROOT

from cp_transformers import CPBertConfig, CPBertModel, CPViTConfig, CPViTModel
from cp_transformers.models.context_pool import ContextPool
from experiments import grids as experiments, pool_statistics as statistics
from experiments.pool_statistics import pool_statistics


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}


def without_a_predictor(model):
    """The pools of a model, whose predictors give what their bias says, whatever the tokens."""
    pools = [module for module in model.modules() if isinstance(module, ContextPool)]
    for pool in pools:
        torch.nn.init.zeros_(pool.proj.weight)
    return pools


def test_pools_that_do_not_look_at_the_tokens_are_where_they_started():
    model = CPBertModel(CPBertConfig(**SIZES, pool_num_heads=2, pool_max_offset=2.0))
    without_a_predictor(model)
    rows = pool_statistics(model, [{"input_ids": torch.arange(1, 42)[None]}])  # the first of which is not pooled
    assert [(row["layer"], row["head"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in rows:
        assert row["sigma"] == pytest.approx(row["sigma_at_start"]) == pytest.approx(0.25 * 0.1 * 40)
        assert [row[name] for name in ("sigma_spread", "weight_spread", "offset_spread")] == pytest.approx([0] * 3)
        assert row["sigma_saturated"] == 0 and row["gate"] == 1
        assert row["offset"] == pytest.approx(1.0)  # two heads, at half of the offset's range, left and right


def test_a_gate_is_that_of_a_head_s_channels():
    model = CPBertModel(CPBertConfig(**SIZES, pool_num_heads=2, pool_gate=True, pool_layers=[1]))
    (pool,) = without_a_predictor(model)
    with torch.no_grad():
        pool.gate.copy_(torch.tensor([0.5, -0.5] * 4 + [0.25, 0.0] * 4))
    rows = pool_statistics(model, [{"input_ids": torch.arange(1, 42)[None]}])
    assert [row["gate"] for row in rows] == [0.5, 0.125]


def test_a_narrow_pool_is_the_token_alone_and_a_wide_one_all_tokens_alike():
    model = CPViTModel(CPViTConfig(**SIZES, image_size=16, patch_size=4, pool_num_heads=1))
    narrow, wide = without_a_predictor(model)
    with torch.no_grad():
        narrow.proj.bias[1], wide.proj.bias[1] = -50.0, 50.0
        wide.pool_range = 1e3
    first, second = pool_statistics(model, [{"pixel_values": torch.rand(1, 3, 16, 16)} for _ in range(2)])
    assert (first["own_weight"], first["effective_tokens"]) == pytest.approx((1, 1))
    assert (second["own_weight"], second["effective_tokens"]) == pytest.approx((1 / 16, 16), rel=1e-4)
    assert first["sigma_saturated"] == second["sigma_saturated"] == 1
    assert first["sigma"] == pytest.approx(0.1) and second["sigma"] == pytest.approx(4e3)


def test_spreads_are_those_over_the_tokens_of_an_example():
    model = CPBertModel(CPBertConfig(**SIZES, pool_num_heads=1, pool_max_offset=1.0))
    for pool in (module for module in model.modules() if isinstance(module, ContextPool)):
        torch.nn.init.normal_(pool.proj.weight)
    examples = [{"input_ids": torch.randint(1, 1000, (1, length))} for length in (9, 5)]
    first, both = pool_statistics(model, examples[:1]), pool_statistics(model, examples)
    with statistics.recorded_pools(model) as records, torch.no_grad():
        model(**examples[0])
    weights, sigma, offsets = next(iter(records.values()))[0].numbers
    assert first[0]["weight_spread"] == pytest.approx(weights.std().item(), rel=1e-5)
    assert first[0]["sigma_spread"] == pytest.approx(sigma.std().item(), rel=1e-5)
    assert first[0]["offset_spread"] == pytest.approx(offsets.std(unbiased=False).item(), rel=1e-5)
    assert first[0]["offset"] == pytest.approx(offsets.abs().mean().item(), rel=1e-5)
    assert 1 < first[0]["effective_tokens"] < 9
    second = pool_statistics(model, examples[1:])  # each example counts alike, however long it is
    assert both[0]["sigma"] == pytest.approx(math.fsum(rows[0]["sigma"] for rows in (first, second)) / 2)
    assert not any("predict" in vars(module) for module in model.modules())  # the recorder is gone


def test_the_arms_of_an_experiment_are_trained_again(tmp_path, capsys, in_this_process):
    arm = {"model_type": "cp_vit", **SIZES, "image_size": 28, "patch_size": 7}
    config = tmp_path / "tiny.yaml"
    config.write_text(
        yaml.safe_dump(
            {"task": "images", "train_samples": [32], "steps": 2, "learning_rates": [0.01], "seeds": [3, 4]}
            | {"model": {}, "arms": {"CP-ViT": arm}, "comparisons": []}
        )
    )
    known, output = tmp_path / "tiny.csv", tmp_path / "pools.csv"
    arguments = ["--config", str(config), "--results", str(known), "--output", str(output), "--examples", "3"]
    arguments += ["--arms", "CP-ViT"]
    with pytest.raises(ValueError, match=r"must end in \.csv"):  # before anything is trained
        statistics.main([*arguments, "--arms", "CP-ViT", "--output", str(tmp_path / "pools")])
    with pytest.raises(ValueError, match=r"has no runs of 'CP-ViT'; it has none at all"):
        statistics.main(arguments)
    experiments.main(["--config", str(config), "--output", str(known), "--workers", "1"])
    capsys.readouterr()
    statistics.main(arguments)
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["arm"], row["seed"], row["layer"], row["head"]) for row in rows] == [
        ("CP-ViT", "3", str(layer), str(head)) for layer in range(2) for head in range(4)
    ]
    assert all(float(row["sigma"]) > 0 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_a_model_that_does_not_pool_is_refused():
    with pytest.raises(ValueError, match="CPBertModel has no ContextPool"):
        pool_statistics(CPBertModel(CPBertConfig(**SIZES, pool_layers=[])), [])
    with pytest.raises(ValueError, match="CPBertModel keeps fewer tokens"):
        pool_statistics(CPBertModel(CPBertConfig(**SIZES, pool_strides=[1, 2])), [])


def test_an_arm_that_keeps_fewer_tokens_is_refused_before_it_is_trained(tmp_path):
    arguments = ["--config", str(CONFIGS["embeddings"]), "--results", str(ROOT / "results" / "embeddings.csv")]
    with pytest.raises(ValueError, match="keeps fewer tokens"):
        statistics.main([*arguments, "--arms", "ContextPool", "--output", str(tmp_path / "pools.csv")])
