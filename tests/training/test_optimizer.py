# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Parameter groups whose learning rates decay with the depth, and the optimiser that is made of them."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from cp_transformers import (
    CPBertConfig,
    CPBertForSequenceClassification,
    CPResNetConfig,
    CPResNetForImageClassification,
    CPViTConfig,
    CPViTForImageClassification,
)
from cp_transformers.demo.comparison import make_trainer
from cp_transformers.models.context_pool import ContextPool
from cp_transformers.models.feature_map_pool import GlobalContextPool
from cp_transformers.training.optimizer import param_groups
from cp_transformers.training.trainer import TaskTrainer, make_optimizer
from experiments.controls import replace_pools_by


SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {**SIZES, "vocab_size": 20, "max_position_embeddings": 10}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
MAPS = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [2, 1, 1], "layer_type": "basic"}
MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**TEXT)),
    "cp_bert": lambda: CPBertForSequenceClassification(CPBertConfig(**TEXT, pool_gate=True)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**IMAGE)),
    "cp_vit": lambda: CPViTForImageClassification(CPViTConfig(**IMAGE, pool_gate=True)),
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(**MAPS)),
    "cp_resnet": lambda: CPResNetForImageClassification(CPResNetConfig(**MAPS, pool_gate=True, pool_global=True)),
}


@pytest.fixture(params=MODELS)
def model(request) -> nn.Module:
    return MODELS[request.param]()


def distances(model: nn.Module) -> dict[str, int]:
    """How many layers or stages below the head each parameter is, by the model's modules."""
    base = model.base_model
    embeddings = base.embedder if hasattr(base, "embedder") else base.embeddings
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    parts = [embeddings, *max(lists, key=lambda each: sum(weight.numel() for weight in each.parameters()))]
    assert len(parts) == 4
    below = {id(weight): len(parts) - index for index, part in enumerate(parts) for weight in part.parameters()}
    return {name: below.get(id(weight), 0) for name, weight in model.named_parameters()}


def pools(model: nn.Module) -> bool:
    return any("context_pool" in name for name, _ in model.named_parameters())


def rates(model: nn.Module, groups: list[dict]) -> dict[str, float]:
    """The learning rate of each parameter, each of which must be in one group alone."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [(names[id(parameter)], group["lr"]) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(dict(grouped))
    return dict(grouped)


def described(groups: list[dict]) -> list[tuple]:
    return [([id(each) for each in group["params"]], group["lr"], group["weight_decay"]) for group in groups]


@pytest.mark.parametrize("pool_learning_rate", [None, 1e-2])
def test_the_learning_rate_decays_with_the_distance_from_the_head(pool_learning_rate, model):
    pool_learning_rate = pool_learning_rate if pools(model) else None
    found = rates(model, param_groups(model, 1e-3, pool_learning_rate, weight_decay=0.1, layer_decay=0.5))
    below = distances(model)
    whole = {name: (pool_learning_rate or 1e-3) if "context_pool" in name else 1e-3 for name in below}
    assert found == pytest.approx({name: whole[name] * 0.5 ** below[name] for name in below})
    assert set(below.values()) == {0, 1, 2, 3, 4}


def test_the_head_has_the_whole_learning_rate(model):
    found = rates(model, param_groups(model, 1e-3, layer_decay=0.1))
    assert {rate for name, rate in found.items() if name.startswith("classifier")} == {1e-3}
    assert max(found.values()) == 1e-3


@pytest.mark.parametrize("name", ["cp_bert", "cp_vit", "cp_resnet"])
def test_the_pooling_s_learning_rate_decays_as_the_others_do(name):
    model = MODELS[name]()
    own = rates(model, param_groups(model, 1e-3, 1e-2, layer_decay=0.5))
    shared = rates(model, param_groups(model, 1e-3, layer_decay=0.5))
    times = {name: own[name] / shared[name] for name in own}
    assert times == pytest.approx({name: 10.0 if "context_pool" in name else 1.0 for name in own})
    assert len({rate for name, rate in own.items() if "context_pool" in name}) > 1


@pytest.mark.parametrize("name", ["cp_bert", "cp_vit", "cp_resnet"])
def test_gates_have_a_learning_rate_of_their_own_where_one_is_given(name):
    model = MODELS[name]()
    own = rates(model, param_groups(model, 1e-3, 1e-2, layer_decay=0.5, gate_learning_rate=1e-1))
    shared = rates(model, param_groups(model, 1e-3, 1e-2, layer_decay=0.5))
    gates = {name for name, module in model.named_parameters() if name.endswith("context_pool.gate")}
    assert gates and {name: own[name] / shared[name] for name in own} == pytest.approx(
        {name: 10.0 if name in gates else 1.0 for name in own}
    )


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_are_in_none(model):
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 > 0)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = rates(model, param_groups(model, 1e-3, weight_decay=0.1, layer_decay=0.5))
    assert found.keys() == trainable


def test_frozen_layers_change_no_other_s_learning_rate(model):
    before = rates(model, param_groups(model, 1e-3, layer_decay=0.5))
    below = distances(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(below[name] in (0, 3))
    after = rates(model, param_groups(model, 1e-3, layer_decay=0.5))
    assert after == {name: rate for name, rate in before.items() if below[name] in (0, 3)}


def test_a_decay_of_one_gives_the_groups_without_it(model):
    rate = 1e-2 if pools(model) else None
    plain = param_groups(model, 1e-3, rate, weight_decay=0.1)
    assert described(param_groups(model, 1e-3, rate, weight_decay=0.1, layer_decay=1.0)) == described(plain)
    assert len(plain) == (4 if pools(model) else 2)


def test_the_layers_decay_changes_no_weight_decay(model):
    def weight_decays(layer_decay: float) -> dict[int, float]:
        groups = param_groups(model, 1e-3, weight_decay=0.1, layer_decay=layer_decay)
        return {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}

    assert weight_decays(0.5) == weight_decays(1.0) and set(weight_decays(0.5).values()) == {0.0, 0.1}


def test_the_pooling_s_groups_are_the_last():
    model = MODELS["cp_bert"]()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, 1e-3, 1e-2, layer_decay=0.5)
    pooling = [{"context_pool" in names[id(each)] for each in group["params"]} for group in groups]
    assert pooling == sorted(pooling, key=lambda each: each == {True}) and {True} in pooling and {False} in pooling


class OwnModel(nn.Module):
    """With pooling under a name of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.blur = ContextPool(8, pool_hidden_size=4, pool_gate=True)
        self.summary = GlobalContextPool(8, pool_hidden_size=4)
        self.out = nn.Linear(8, 2)


def test_pooling_is_found_by_its_class_in_a_model_of_one_s_own():
    model = OwnModel()
    found = rates(model, param_groups(model, 1e-3, 1e-2, gate_learning_rate=1e-1))
    expected = {name: 1e-2 if name.startswith(("blur.", "summary.")) else 1e-3 for name in found}
    assert found == {**expected, "blur.gate": 1e-1} and len(set(found.values())) == 3
    itself = ContextPool(8, pool_hidden_size=4)
    assert set(rates(itself, param_groups(itself, 1e-3, 1e-2)).values()) == {1e-2}


def test_what_stands_in_the_pooling_s_place_has_its_learning_rate():
    """An experiment's control learns as the pooling does that it is compared with."""
    model = replace_pools_by(MODELS["cp_vit"](), "bottleneck")
    found = rates(model, param_groups(model, 1e-3, 1e-2))
    assert {name for name, rate in found.items() if rate == 1e-2} == {name for name in found if "context_pool" in name}
    assert pools(model)


@pytest.mark.parametrize("name", ["bert", "vit", "resnet"])
def test_a_learning_rate_without_pooling_to_give_it_to_is_an_error(name):
    for model in (MODELS[name](), MODELS[f"cp_{name}"]().requires_grad_(False)):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no pooling .* leave out pool_learning_rate"):
            param_groups(model, 1e-3, 1e-2)
    with pytest.raises(ValueError, match="no gate of a pooling that is trained: leave out gate_learning_rate"):
        param_groups(ContextPool(8), 1e-3, gate_learning_rate=1e-2)


# The optimiser


def arguments(folder, **more) -> TrainingArguments:
    return TrainingArguments(
        str(folder), use_cpu=True, report_to="none", **{"do_train": True, "learning_rate": 1e-3, **more}
    )


@pytest.mark.parametrize(("pool", "decay"), [(None, 0.5), (1e-2, None), (1e-2, 0.5), (None, 1.0)])
def test_the_optimiser_has_the_learning_rates_that_are_given(pool, decay, tmp_path):
    model = MODELS["cp_vit"]()
    optimizer = make_optimizer(model, arguments(tmp_path, weight_decay=0.1, adam_beta2=0.9), pool, decay)
    expected = param_groups(model, 1e-3, pool, 0.1, decay if decay is not None else 1.0)
    assert isinstance(optimizer, torch.optim.AdamW) and described(optimizer.param_groups) == described(expected)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.9)}


def test_trainer_makes_the_optimiser_itself(tmp_path):
    # Given to it, it would be refused with FSDP.
    model = MODELS["cp_vit"]()
    trainer = TaskTrainer(model, arguments(tmp_path), pool_learning_rate=1e-2, layer_decay=0.5)
    assert trainer.optimizer is None
    assert described(trainer.create_optimizer().param_groups) == described(param_groups(model, 1e-3, 1e-2, 0.0, 0.5))
    plain = TaskTrainer(model, arguments(tmp_path)).create_optimizer()
    assert {group["lr"] for group in plain.param_groups} == {1e-3}


def test_trainer_s_own_optimiser_is_left_where_no_rate_is_given(tmp_path):
    model = MODELS["cp_vit"]()
    assert make_optimizer(model, arguments(tmp_path)) is None


@pytest.mark.parametrize("name", ["bert", "vit", "resnet"])
def test_one_configuration_serves_cp_and_stock_models(name, tmp_path, capsys):
    """A stock model is said to make no use of the pooling's rate, and is trained as it is without."""
    model = MODELS[name]()
    optimizer = make_optimizer(model, arguments(tmp_path, weight_decay=0.1), 1e-2)
    assert described(optimizer.param_groups) == described(param_groups(model, 1e-3, weight_decay=0.1))
    said = f"{type(model).__name__} has no pooling, and makes no use of --pool_learning_rate.\n"
    assert capsys.readouterr().out == said
    rate = {"learning_rate": 1e-3, "pool_learning_rate": 1e-2, "weight_decay": 0.1}
    trainer = make_trainer(model, None, None, str(tmp_path), seed=0, gate_learning_rate=1e-1, **rate)
    assert described(trainer.optimizer.param_groups) == described(optimizer.param_groups)
    make_optimizer(MODELS[f"cp_{name}"](), arguments(tmp_path), 1e-2)
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------- learning rates of their own


def tiny_model() -> CPBertForSequenceClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return CPBertForSequenceClassification(CPBertConfig(vocab_size=20, pool_gate=True, **sizes))


def test_param_groups_hold_every_trainable_parameter_once():
    model = tiny_model()
    model.bert.embeddings.requires_grad_(False)
    grouped = [id(parameter) for group in param_groups(model, 1e-4) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


def test_the_pooling_gets_its_own_learning_rate_and_vectors_no_weight_decay():
    model = tiny_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in param_groups(model, 1e-4, 1e-3, weight_decay=0.1):
        for parameter in group["params"]:
            assert group["lr"] == (1e-3 if "context_pool" in names[id(parameter)] else 1e-4)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_only_the_weights_of_layers_decay_in_a_vit():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = CPViTForImageClassification(CPViTConfig(image_size=8, patch_size=4, **sizes))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {
        names[id(parameter)]
        for group in param_groups(model, 1e-4, weight_decay=0.1)
        for parameter in group["params"]
        if group["weight_decay"]
    }
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    assert decaying == {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}


def test_without_a_pool_learning_rate_all_learn_alike():
    assert {group["lr"] for group in param_groups(tiny_model(), 1e-4)} == {1e-4}
