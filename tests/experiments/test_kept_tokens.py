# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Which tokens the kept tokens of a faster model are made of."""

import pytest
import torch
from transformers import AutoTokenizer

from cp_transformers import CPBertConfig, CPBertModel
from cp_transformers.inspection.pools import recorded_pools
from cp_transformers.models.context_pool import ContextPool, pooling_weights
from cp_transformers.training.packages import minilm_folder
from experiments.kept_tokens import shares


@pytest.fixture
def model(seeded):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    return CPBertModel(CPBertConfig(**sizes, pool_strides=[1, 2], pool_layers=[])).eval()


@pytest.fixture
def pool(model):
    (pool,) = (module for module in model.modules() if isinstance(module, ContextPool))
    return pool


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(minilm_folder())


def test_where_all_tokens_count_alike_each_has_half(model, pool, tokenizer):
    torch.nn.init.zeros_(pool.proj.weight)
    found = shares(model, [tokenizer("far too long, far slow", return_tensors="pt")], tokenizer)
    # The last group has [SEP] alone, which is left out.
    assert {token: len(each) for token, each in found.items()} == {"far": 2, "too": 1, "long": 1, ",": 1, "slow": 1}
    assert [share for each in found.values() for share in each] == pytest.approx([0.5] * 6)


def test_a_share_is_of_what_the_own_group_gives(model, pool, tokenizer):
    torch.nn.init.normal_(pool.proj.weight)
    example = tokenizer("it is far too long", return_tensors="pt")
    found = shares(model, [example], tokenizer)
    with recorded_pools(model) as records, torch.no_grad():
        model(**example)
    weights, sigma, offsets = records[pool][0].numbers
    p = pooling_weights(weights, sigma, offsets, stride=2)[0].mean(dim=0)
    assert found["far"] == pytest.approx([(p[1, 2] / (p[1, 2] + p[1, 3])).item()])
    assert found["far"][0] + found["too"][0] == pytest.approx(1)
