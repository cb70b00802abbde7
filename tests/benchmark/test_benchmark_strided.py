# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The suite of models that keep fewer tokens: what it compares, and that it runs."""

import csv

import torch
from model_cases import TINY_BERT
from transformers import BertConfig

from cp_transformers import CPBertConfig
from cp_transformers.benchmark import strided as benchmark_strided
from cp_transformers.benchmark.group_reduction import Merging
from cp_transformers.benchmark.strided import _group, groups
from cp_transformers.models.context_pool import ContextPool


def test_tokens_are_merged_into_the_most_similar_of_those_that_stay():
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    tokens = torch.stack([right, 3 * up, up, 2 * up, right, right])[None]
    merged, _ = Merging(ContextPool(2, stride=2))(tokens)
    # 1 and 3 go to 2; 5 to the first of two that are as similar.
    torch.testing.assert_close(merged[0], torch.stack([right, 2 * up, right]))


def test_of_a_grid_one_token_of_each_square_stays():
    tokens = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    merging = Merging(ContextPool(8, stride=2, num_dims=2))
    merged, _ = merging(tokens, grid_size=(4, 6))
    assert merged.shape == (2, 6, 8)
    alone, _ = merging(tokens[1:], grid_size=(4, 6))
    torch.testing.assert_close(alone, merged[1:])


def test_tokens_may_be_merged_into_their_neighbours_alone():
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    tokens = torch.stack([right, 3 * up, right, 2 * right, up, right])[None]
    merged, _ = Merging(ContextPool(2, stride=2), neighbours=True)(tokens)
    # 1 cannot go to 4, and goes to the first of its neighbours; 3 goes to 2; 5 cannot go to 0 or 2.
    torch.testing.assert_close(merged[0], torch.stack([(right + 3 * up) / 2, 1.5 * right, (right + up) / 2]))


def test_each_comparison_begins_with_the_stock_model_and_has_what_drops_tokens():
    found = groups()
    assert {group.name.split(",")[0].removesuffix(" at 224") for group in found} == {
        "MiniLM",
        "BERT-base",
        "ViT-B/16",
        "DINOv2-small",
    }
    for group in found:
        stock, fewer, *_ = group.configs.values()
        assert type(stock) is type(fewer) and fewer.num_hidden_layers < stock.num_hidden_layers
        halved = [config for name, config in group.configs.items() if "halved" in name]
        assert halved and all(config.is_strided and config.pool_layers == [] for config in halved)
        assert any(name.startswith("merging") for name in group.configs)


def test_the_suite_writes_a_row_a_model_and_pass(tmp_path):
    tiny = _group("BERT", 2, 9, (BertConfig, CPBertConfig), {**TINY_BERT, "vocab_size": 1000}, 1, [(1,)])
    rows = benchmark_strided.run(tmp_path / "out.csv", rounds=2, threads=1, compared=[tiny])
    with open(tmp_path / "out.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows) == 2 * len(tiny.configs)
    assert (tmp_path / "out.png").is_file()
    assert [row["model"] for row in written] == [*tiny.configs] * 2
    assert {row["ratio"] for row in written if row["model"] == "BERT, 2 layers"} == {"1.0"}
