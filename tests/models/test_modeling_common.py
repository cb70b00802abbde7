# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Promises of every model class of every family; the table of classes is in model_cases.py."""

import copy
import importlib.util
import inspect
import math
import shutil
import sys
import threading
import warnings
from collections import Counter
from functools import wraps
from itertools import cycle
from pathlib import Path

import pytest
import torch
from model_cases import (
    BARE_MODELS,
    HEADS,
    LAYERED_MODELS,
    MODELS,
    ModelCase,
    aligned,
    assert_same_outputs,
    at_valid_tokens,
    context_pools,
    every_family,
    every_head,
    every_layered_model,
    every_model,
    every_unstrided_layered_variant,
    every_unstrided_variant,
    every_variant,
    every_variant_of_a_head,
    layers_on_disk,
    messages_of_transformers,
    over,
    over_variants,
    tensors,
)
from safetensors.torch import load_file, save_file
from torch import nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import AutoConfig
from transformers.modeling_layers import GradientCheckpointingLayer

import cp_transformers
from cp_transformers.families import family_of
from cp_transformers.models.context_pool import MIN_SIGMA, BaseContextPool, ContextPool


@torch.no_grad()
def run(model, case: ModelCase, **kwargs):
    inputs = case.inputs()
    for name, tensor in inputs.items():
        if tensor.is_floating_point():
            inputs[name] = tensor.to(model.dtype)
    return model(**inputs, **kwargs)


def total(outputs) -> torch.Tensor:
    """A number that depends on every output. Odd powers: the sum and the norm of normalised states are constant."""
    return sum(tensor.pow(3).mean() for tensor in tensors(outputs))


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def sized_pools(model: nn.Module) -> list[ContextPool]:
    return [pool for pool in context_pools(model) if isinstance(pool, ContextPool)]


def is_pooling(name: str) -> bool:
    return ".context_pool." in name or ".context_restore." in name


def saved_stock_model(case: ModelCase, folder: Path, **overrides):
    stock = case.stock_class(case.stock_config(**overrides)).eval()
    stock.save_pretrained(folder)
    return stock


def saved_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@torch.no_grad()
def close_pools(model: nn.Module) -> None:
    """Every sigma at its floor, every centre at its token, all weights equal."""
    for pool in context_pools(model):
        pool.proj.weight.zero_()
        pool.proj.bias.zero_()
        pool.proj.bias.view(pool.pool_num_heads, -1)[:, 1] = -1e4


# ---------------------------------------------------------------------------------------------- the Auto classes


@every_family
def test_auto_config_knows_the_model_type(case):
    config_class = case.model_class.config_class
    assert type(AutoConfig.for_model(config_class.model_type)) is config_class


@every_model
def test_the_auto_class_builds_the_model(case):
    assert type(case.auto_class.from_config(case.config(architectures=[str(case)]))) is case.model_class


@every_model
def test_the_auto_class_loads_the_model(case, tmp_path):
    case.fresh_model().save_pretrained(tmp_path)
    assert type(case.load(tmp_path)) is case.model_class


def stock_models(case: ModelCase) -> tuple[type, ...]:
    """Upstream's models that the Auto class gives for such a configuration."""
    models = case.auto_class._model_mapping.get(case.stock_class.config_class, ())
    return models if isinstance(models, tuple) else (models,)


@over([case for case in MODELS if case.stock_class in stock_models(case)])
def test_the_auto_class_still_builds_the_stock_model(case):
    config = case.stock_config(architectures=[case.stock_class.__name__])
    assert type(case.auto_class.from_config(config)) is case.stock_class


@every_model
def test_registering_again_changes_nothing(case):
    cp_transformers.register()
    assert type(case.auto_class.from_config(case.config(architectures=[str(case)]))) is case.model_class


@pytest.fixture
def another_copy():
    """The package, loaded a second time under another name; its registration is undone at the end."""
    source = Path(cp_transformers.__file__)
    spec = importlib.util.spec_from_file_location(
        "another_copy", source, submodule_search_locations=[str(source.parent)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["another_copy"] = package
    spec.loader.exec_module(package)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "another_copy"]:
        del sys.modules[name]
    cp_transformers.register()


def test_of_two_copies_the_last_to_register_is_loaded(another_copy, tmp_path):
    case = MODELS[0]
    case.fresh_model().save_pretrained(tmp_path)
    assert type(case.auto_class.from_pretrained(tmp_path)) is getattr(another_copy, str(case))
    cp_transformers.register()
    assert type(case.load(tmp_path)) is case.model_class


def test_each_of_two_copies_builds_its_own_classes(another_copy):
    for case in MODELS:
        its_class = getattr(another_copy, case.model_class.config_class.__name__)
        its_config = its_class(**case.sizes, architectures=[str(case)])
        assert type(case.auto_class.from_config(its_config)) is getattr(another_copy, str(case))
        assert type(case.auto_class.from_config(case.config(architectures=[str(case)]))) is case.model_class


# ------------------------------------------------------------------------------------------------ saving, loading


@every_variant
def test_a_reloaded_model_has_the_same_parameters_and_outputs(case, variant, tmp_path):
    model = case.model(**variant)
    model.save_pretrained(tmp_path)
    reloaded = aligned(case.model_class.from_pretrained(tmp_path))
    torch.testing.assert_close(reloaded.state_dict(), model.state_dict(), rtol=0.0, atol=0.0)
    assert_same_outputs(run(reloaded, case), run(model, case))


@every_model
def test_saving_a_reloaded_model_writes_the_same_files(case, tmp_path):
    case.model(**case.variants["heads"]).save_pretrained(tmp_path / "first")
    case.model_class.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert saved_files(tmp_path / "second") == saved_files(tmp_path / "first")


@every_model
def test_loading_reports_no_keys(case, tmp_path):
    case.fresh_model(**case.variants["heads"]).save_pretrained(tmp_path)
    _, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info


@every_model
def test_a_sharded_checkpoint_has_the_same_parameters(case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    reloaded = case.model_class.from_pretrained(tmp_path)
    torch.testing.assert_close(reloaded.state_dict(), model.state_dict(), rtol=0.0, atol=0.0)


@every_model
def test_a_model_loaded_with_a_device_map_has_the_same_outputs(case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path)
    reloaded = aligned(case.model_class.from_pretrained(tmp_path, device_map="cpu"))
    assert_same_outputs(run(reloaded, case), run(model, case))


@every_family
def test_a_model_offloaded_to_disk_returns_support_sizes(case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path / "model")
    offloaded = case.model_class.from_pretrained(
        tmp_path / "model", device_map=layers_on_disk(model), offload_folder=tmp_path / "offload"
    )
    assert_same_outputs(run(offloaded, case, output_support_sizes=True), run(model, case, output_support_sizes=True))


@every_model
def test_a_copied_model_has_the_same_outputs(case):
    model = case.model()
    assert_same_outputs(run(copy.deepcopy(model), case), run(model, case))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_model
def test_half_precision_is_finite(case, dtype, tmp_path):
    case.model(**case.variants["heads"]).save_pretrained(tmp_path)
    outputs = run(case.model_class.from_pretrained(tmp_path, dtype=dtype), case)
    assert all(tensor.isfinite().all() for tensor in tensors(outputs))
    assert all(tensor.dtype == dtype for tensor in tensors(outputs) if tensor.ndim)  # but the loss


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_family
def test_support_sizes_are_float32_in_half_precision(case, dtype):
    outputs = run(case.model().to(dtype), case, output_support_sizes=True)
    assert {sizes.dtype for sizes in outputs.support_sizes} == {torch.float32}


@every_model
def test_a_bfloat16_checkpoint_stays_bfloat16(case, tmp_path):
    case.model(pool_gate=True).to(torch.bfloat16).save_pretrained(tmp_path)
    reloaded = case.load(tmp_path)
    assert {parameter.dtype for parameter in reloaded.parameters()} == {torch.bfloat16}


@every_head
def test_a_head_loads_the_base_model(case, tmp_path):
    name = case.model_class.base_model_prefix
    base = getattr(case.model(), name)
    base.save_pretrained(tmp_path)
    model, info = case.model_class.from_pretrained(tmp_path, config=case.config(), output_loading_info=True)
    assert not [key for key in info["missing_keys"] if key.startswith(f"{name}.")]
    torch.testing.assert_close(getattr(model, name).state_dict(), base.state_dict(), rtol=0.0, atol=0.0)


@every_model
def test_the_base_model_is_what_upstreams_prefix_names(case):
    model = case.fresh_model()
    assert model.base_model is getattr(model, model.base_model_prefix, model)


@every_head
def test_the_base_model_of_a_head_is_its_cp_model(case):
    assert type(case.fresh_model().base_model) is next(
        base.model_class for base in MODELS if base not in HEADS and type(base.config()) is type(case.config())
    )


# -------------------------------------------------------------------------------------------------- initialising


@every_model
def test_equal_seeds_give_equal_models(case):
    torch.manual_seed(3)
    first = case.fresh_model()
    torch.manual_seed(3)
    second = case.fresh_model()
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0.0, atol=0.0)


def assert_parameter_is_at_its_start(pool: BaseContextPool, name: str, config) -> None:
    parameter = pool.get_parameter(name)
    if name == "proj.bias":
        assert torch.equal(parameter, pool.proj.initial_bias())
    elif name.endswith("weight"):
        std = getattr(config, "initializer_range", 0.02)
        if name in ("reduce.weight", "conv.weight") and pool.reduce is not None:  # so that outputs start at one scale
            std = 1 / math.sqrt(3 * parameter[0].numel())
        elif name == "conv.weight" and not hasattr(config, "initializer_range"):  # ResNet's, after He et al.
            std = math.sqrt(2 / (parameter.shape[0] * parameter[0, 0].numel()))
        assert parameter.std().item() == pytest.approx(std, rel=0.4 if parameter.numel() >= 200 else 1.0)
    else:
        assert not parameter.any()


def assert_pools_are_at_their_start(model) -> None:
    for pool in context_pools(model):
        for name, _ in pool.named_parameters():
            assert_parameter_is_at_its_start(pool, name, model.config)


@every_variant
def test_a_new_model_has_its_pools_at_their_start(case, variant):
    assert_pools_are_at_their_start(case.fresh_model(**variant))


@every_variant
def test_a_model_initialised_after_the_meta_device_has_its_pools_at_their_start(case, variant):
    with torch.device("meta"):
        model = case.fresh_model(**variant)
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(17)
    model.init_weights()
    assert_pools_are_at_their_start(model)
    assert not any((tensor == 17).all() for tensor in [*model.parameters(), *model.buffers()])


@every_variant
def test_a_model_loaded_from_nothing_is_initialised_as_a_new_one(case, variant):
    new = case.fresh_model(**variant)
    loaded = case.model_class.from_pretrained(None, config=case.config(**variant), state_dict={})
    assert_pools_are_at_their_start(loaded)
    for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
        actual = loaded.get_parameter_or_buffer(name)
        drawn = tensor.is_floating_point() and tensor.unique().numel() > 2
        if drawn and tensor.numel() >= 200:
            assert actual.std().item() == pytest.approx(tensor.std().item(), rel=0.4), name
        elif drawn:  # too few numbers for their spread to tell
            assert 0 < actual.abs().max() < 20 * tensor.abs().max(), name
        else:
            assert torch.equal(actual, tensor), name


@every_variant
def test_only_the_pools_are_initialised_when_stock_weights_are_loaded(case, variant, tmp_path):
    stock = saved_stock_model(case, tmp_path, **variant)
    model, info = case.model_class.from_pretrained(tmp_path, config=case.config(**variant), output_loading_info=True)
    missing = set(info.pop("missing_keys"))
    assert missing == {name for name in model.state_dict() if is_pooling(name)} and missing
    assert not any(info.values()), info
    loaded = {name: tensor for name, tensor in model.state_dict().items() if not is_pooling(name)}
    torch.testing.assert_close(loaded, dict(stock.state_dict()), rtol=0.0, atol=0.0)
    assert_pools_are_at_their_start(model)


@pytest.mark.parametrize("missing", ["reduce.weight", "conv.weight", "conv.bias", "proj.weight", "proj.bias", "gate"])
@every_family
def test_only_what_is_missing_of_a_pool_is_initialised(case, missing, tmp_path):
    model = case.fresh_model(pool_gate=True, pool_factored=True)
    for name, parameter in model.named_parameters():
        if is_pooling(name):
            nn.init.constant_(parameter, 17)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith(f"context_pool.{missing}")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = case.model_class.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        if not name.endswith(f"context_pool.{missing}"):
            assert torch.equal(loaded.state_dict()[name], tensor), name
    for pool in context_pools(loaded):
        assert_parameter_is_at_its_start(pool, missing, loaded.config)


# ------------------------------------------------------------------------------- the same construction as upstream

# What our classes have, besides ContextPool, that upstream's have not, or have with another value.
OWN_ATTRIBUTES = {"context_pool", "pool_placement", "pool_level", "pool_restore", "_no_split_modules"}


def attributes(module: nn.Module) -> dict[str, object]:
    """The attributes that a constructor sets on a module; of values that cannot be compared, the type."""
    plain = (bool, int, float, str, tuple, list, set, type(None))
    return {
        name: value if isinstance(value, plain) else type(value)
        for name, value in vars(module).items()
        if name not in OWN_ATTRIBUTES and name != "config"
    }


@every_variant
def test_every_module_has_the_attributes_of_its_stock_counterpart(case, variant):
    model = case.model_class(case.config(**variant, chunk_size_feed_forward=4))
    stock = case.stock_class(case.stock_config(**variant, chunk_size_feed_forward=4))
    for name, stock_module in stock.named_modules():
        assert isinstance(model.get_submodule(name), type(stock_module)), name
        own, stock_own = attributes(model.get_submodule(name)), attributes(stock_module)
        if "pool_strides" in variant and own.get("sliding_window") is not None:  # in groups, not in tokens
            assert own.pop("sliding_window") < stock_own.pop("sliding_window")
        assert own == stock_own, name


@every_variant
def test_the_modules_besides_the_pools_are_the_stock_ones(case, variant):
    model = case.model_class(case.config(**variant))
    names = [name for name, _ in model.named_modules() if "context_pool" not in name and "context_restore" not in name]
    assert names == [name for name, _ in case.stock_class(case.stock_config(**variant)).named_modules()]


@every_variant
def test_the_state_besides_the_pools_is_the_stock_one(case, variant):
    state = case.model_class(case.config(**variant)).state_dict()
    stock_state = case.stock_class(case.stock_config(**variant)).state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items() if not is_pooling(name)}
    assert shapes == {name: tensor.shape for name, tensor in stock_state.items()}


@every_model
def test_modules_that_no_device_map_may_split_are_in_the_model(case):
    model = case.fresh_model()
    assert set(model._no_split_modules) <= {type(module).__name__ for module in model.modules()}


class CountDraws(TorchDispatchMode):
    """Counts the random numbers that would be drawn, and draws none."""

    DRAWS = {torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default}

    def __init__(self):
        super().__init__()
        self.draws = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.DRAWS:
            self.draws += args[0].numel()
            return args[0].zero_()  # which no truncation draws again
        return func(*args, **(kwargs or {}))


@every_model
def test_construction_draws_hardly_more_numbers_than_the_stock_class(case):
    with CountDraws() as stock:
        case.stock_class(case.stock_config_of(case.base_sizes))
    with CountDraws() as ours:
        case.model_class(case.model_class.config_class(**case.base_sizes))
    assert stock.draws < ours.draws < 1.2 * stock.draws


# -------------------------------------------------------------------------------------- where pooling does nothing


@every_unstrided_variant
def test_a_closed_gate_gives_exactly_the_stock_outputs(case, variant, tmp_path):
    stock = saved_stock_model(case, tmp_path, **variant)
    config = case.config(**{**variant, "pool_gate": True})
    model = case.model_class.from_pretrained(tmp_path, config=config)
    assert_same_outputs(run(aligned(model), case), run(stock, case))


@every_unstrided_layered_variant
def test_pools_at_the_floor_of_sigma_give_the_stock_outputs(case, variant, tmp_path):
    stock = saved_stock_model(case, tmp_path)
    model = case.model_class.from_pretrained(tmp_path, config=case.config(**{**variant, "pool_gate": False}))
    close_pools(model)
    actual, expected = (at_valid_tokens(case, run(either, case)) for either in (model, stock))
    assert_same_outputs(actual, expected, atol=1e-6)


@every_model
def test_a_model_without_pools_gives_exactly_the_stock_outputs(case, tmp_path):
    stock = saved_stock_model(case, tmp_path)
    model = case.model_class.from_pretrained(tmp_path, config=case.config(**case.no_pools))
    assert not context_pools(model)
    assert_same_outputs(run(aligned(model), case), run(stock, case))


@every_variant
def test_open_pools_change_every_output(case, variant, tmp_path):
    stock = saved_stock_model(case, tmp_path, **variant)
    model = case.model_class.from_pretrained(tmp_path, config=case.config(**variant))
    for pool in context_pools(model):
        if pool.gate is not None:
            nn.init.ones_(pool.gate)
    for actual, expected in zip(tensors(run(model, case)), tensors(run(stock, case))):
        assert (actual - expected).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------ outputs on request


@every_model
def test_the_first_argument_is_the_main_input(case):
    inputs = case.inputs()
    first = inputs.pop(case.model_class.main_input_name)
    model = case.model()
    with torch.no_grad():
        assert_same_outputs(model(first, **inputs), run(model, case))


@every_model
def test_evaluation_is_deterministic(case):
    model = case.model()
    assert_same_outputs(run(model, case), run(model, case))


@every_variant
def test_an_example_has_the_same_outputs_alone_and_in_a_batch(case, variant):
    model, inputs = case.model(**variant).double(), case.inputs()
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.no_grad():
        together = tensors(model(**inputs, output_hidden_states=True, output_support_sizes=True))
        alone = tensors(
            model(**{k: v[:1] for k, v in inputs.items()}, output_hidden_states=True, output_support_sizes=True)
        )
    pairs = [(one, many[: len(one)]) for one, many in zip(alone, together, strict=True) if one.ndim]  # but the loss
    assert pairs
    for one, first in pairs:
        torch.testing.assert_close(one, first, rtol=0.0, atol=1e-10)


@every_variant
def test_a_tuple_holds_what_the_dictionary_holds(case, variant):
    model = case.model(**variant)
    flags = {"output_hidden_states": True, "output_support_sizes": True}
    if case.has_layers:
        model.set_attn_implementation("eager")
        flags["output_attentions"] = True
    as_tuple = run(model, case, return_dict=False, **flags)
    as_dictionary = run(model, case, **flags)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(as_dictionary)
    assert_same_outputs(as_tuple, as_dictionary)


# Upstream's own classes fail there, in what ours inherit.
NO_TUPLE_BY_CONFIG = ("CPViTForImageClassification", "CPViTForMaskedImageModeling", "CPResNetBackbone", "CPDinov2")
NO_TUPLE_BY_CONFIG += ("CPDeiTFor", "CPDINOv3", "CPEsmFor", "CPModernBertFor", "CPBeitFor", "CPBeitBackbone")
NO_TUPLE_BY_CONFIG += ("CPCLIPFor", "CPCLIPVisionModelWithProjection", "CPSiglipFor")


@over([case for case in MODELS if not str(case).startswith(NO_TUPLE_BY_CONFIG)])
def test_the_config_asks_for_a_tuple(case):
    model = case.model(return_dict=False, output_support_sizes=True)
    outputs = run(model, case)
    assert isinstance(outputs, tuple)
    assert_same_outputs(outputs, run(model, case, return_dict=True))


@every_unstrided_layered_variant
def test_there_is_one_hidden_state_more_than_layers(case, variant):
    model = case.model(**variant, num_hidden_layers=3)
    assert len(run(model, case, output_hidden_states=True).hidden_states) == 4


@every_unstrided_layered_variant
def test_there_is_an_attention_a_layer_whose_rows_sum_to_one(case, variant):
    model = case.model(**variant, num_hidden_layers=3, attn_implementation="eager")
    attentions = run(model, case, output_attentions=True).attentions
    assert len(attentions) == 3
    for attention in attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


@every_layered_model
def test_the_config_asks_for_hidden_states_and_attentions(case):
    config = {"attn_implementation": "eager", "output_hidden_states": True, "output_attentions": True}
    model = case.model(**config)
    outputs, depth = run(model, case), model.config.num_hidden_layers
    assert len(outputs.hidden_states) == depth + 1 and len(outputs.attentions) == depth


@every_unstrided_variant
def test_support_sizes_are_one_tensor_a_pool_that_predicts_them(case, variant):
    model = case.model(**variant)
    sizes = run(model, case, output_support_sizes=True).support_sizes
    batch_size, *positions = case.valid_tokens(case.inputs()).shape
    assert isinstance(sizes, tuple) and len(sizes) == len(sized_pools(model))
    assert all(pool.shape == (batch_size, model.config.pool_num_heads, *positions) for pool in sizes)


@every_unstrided_variant
def test_support_sizes_are_zero_at_padding_and_at_least_the_floor_elsewhere(case, variant):
    model, valid = case.model(**variant), case.valid_tokens(case.inputs())
    if not getattr(model.config, "pool_class_token", True):
        valid[:, 0] = False  # it is not pooled
    for sizes in run(model, case, output_support_sizes=True).support_sizes:
        by_token = sizes.movedim(1, -1)  # (batch, *positions, heads)
        assert not by_token[~valid].any()
        assert (by_token[valid] >= MIN_SIGMA).all()


@every_layered_model
def test_support_sizes_are_those_of_each_pool_in_order(case):
    model = case.model(num_hidden_layers=3, pool_layers=[0, 2])
    seen = []
    for pool in context_pools(model):
        pool.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    support_sizes = run(model, case, output_support_sizes=True).support_sizes
    # Class tokens of texts, which come first, are not pooled.
    assert_same_outputs([sizes.flatten(2)[..., -each.shape[-1] :] for sizes, each in zip(support_sizes, seen)], seen)


@over([case for case in BARE_MODELS if case.has_layers and "pixel_values" in case.inputs()])
def test_the_tokens_before_the_patches_are_not_pooled_and_all_kept(case):
    options = {"pool_placement": "block", "num_hidden_layers": 2, "attn_implementation": "eager"}
    model, seen = case.model(**options), []
    layers = family_of(model.config).layers(model)[1]
    layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    context_pools(model)[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run(model, case)
    embedded, pooled = seen
    _, rows, columns = case.valid_tokens(case.inputs()).shape
    assert embedded.shape[1] == model.num_prefix_tokens + rows * columns
    assert torch.equal(pooled, embedded[:, model.num_prefix_tokens :])
    fewer = run(case.model(**options, pool_strides=[2, 1]), case, output_attentions=True).attentions
    kept = model.num_prefix_tokens + math.ceil(rows / 2) * math.ceil(columns / 2)
    assert [each.shape[-1] for each in fewer] == [kept, kept]


@every_variant
def test_the_config_asks_for_support_sizes(case, variant):
    model = case.model(**variant)
    expected = run(model, case, output_support_sizes=True)
    model.config.output_support_sizes = True
    assert_same_outputs(run(model, case), expected)


@every_model
def test_the_argument_overrules_the_config(case):
    assert "support_sizes" not in run(case.model(output_support_sizes=True), case, output_support_sizes=False)


@every_model
def test_a_model_without_pools_has_no_support_sizes(case):
    assert run(case.model(**case.no_pools), case, output_support_sizes=True).support_sizes == ()


@every_model
def test_support_sizes_change_no_other_output(case):
    model = case.model()
    outputs = run(model, case, output_support_sizes=True)
    sizes = tensors(outputs.support_sizes)
    assert_same_outputs(tensors(outputs)[: -len(sizes)], run(model, case))


@every_model
def test_outputs_with_support_sizes_pass_through_pytree(case):
    outputs = run(case.model(), case, output_support_sizes=True)
    assert_same_outputs(tree_map(torch.clone, outputs), outputs)


@every_model
def test_outputs_with_support_sizes_can_be_copied(case):
    outputs = run(case.model(), case, output_support_sizes=True)
    assert_same_outputs(copy.deepcopy(outputs), outputs)


@every_model
def test_what_wraps_a_bound_forward_has_its_signature(case):
    """As the hooks of accelerate and the exporters of transformers wrap it, and then look at its arguments."""
    forward = case.fresh_model().forward
    arguments = inspect.signature(forward).parameters
    assert list(inspect.signature(wraps(forward)(lambda *args, **kwargs: None)).parameters) == list(arguments)
    assert {*case.model_class.pool_arguments, *case.inputs()} <= arguments.keys()


# ------------------------------------------------------------------------------------------------------- attention


@over_variants([case for case in LAYERED_MODELS if case.stock_class._supports_sdpa])
def test_eager_and_sdpa_are_the_same(case, variant):
    model = case.model(**variant)
    model.set_attn_implementation("eager")
    eager = run(model, case)
    model.set_attn_implementation("sdpa")
    assert_same_outputs(run(model, case), eager, atol=1e-5)


@every_layered_model
def test_the_attention_implementation_is_that_of_the_config(case):
    assert case.fresh_model(attn_implementation="eager").config._attn_implementation == "eager"


@every_layered_model
def test_the_attention_implementation_can_be_changed_where_upstreams_can(case):
    model = case.fresh_model(attn_implementation="eager")
    stock = case.stock_class(case.stock_config(attn_implementation="eager"))
    for each in (model, stock):
        each.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == stock.config._attn_implementation


@every_layered_model
def test_an_unknown_attention_implementation_is_refused(case):
    with pytest.raises(ValueError, match="no_such_attention"):
        case.fresh_model(attn_implementation="no_such_attention")


# Compiled for the CPU it takes minutes; eagerly it is the same operation. `_compile` is what transformers passes.
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@over_variants([case for case in LAYERED_MODELS if case.stock_class._supports_flex_attn])
def test_flex_attention_and_sdpa_are_the_same(case, variant):
    model = case.model(**variant)
    sdpa = run(model, case)
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        assert_same_outputs(run(model, case), sdpa, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- training


@every_variant_of_a_head
def test_every_head_has_a_loss(case, variant):
    loss = case.model(**variant)(**case.inputs(), **case.labels()).loss
    assert loss.shape == () and loss.isfinite() and loss > 0


# Parts of upstream's models, by the beginnings or ends of their names, that outputs without labels do not depend on.
UNUSED = (
    ("vision_model.post_layernorm.", "vision_model.head."),
    ("mask_token", "contact_head.regression.weight", "contact_head.regression.bias"),
)


@every_variant
def test_every_parameter_gets_a_gradient(case, variant):
    model, stock = case.fresh_model(**variant).train(), case.stock_class(case.stock_config(**variant)).train()
    without = []
    for each in (model, stock):
        total(each(**case.inputs())).backward()
        without.append([name for name, gradient in gradients(each).items() if gradient is None])
    assert without[0] == without[1]
    assert all(name.startswith(UNUSED[0]) or name.endswith(UNUSED[1]) for name in without[1])


@every_variant
def test_ungated_pools_learn_from_the_first_step(case, variant):
    options = {"pool_gate": False, "pool_num_heads": 2, "pool_max_offset": 2.0, "pool_range": 0.5}
    model = case.fresh_model(**{**variant, **options}).train()
    total(model(**case.inputs())).backward()
    assert all(gradient.any() for name, gradient in gradients(model).items() if ".context_pool." in name)


@every_model
def test_closed_gates_learn_from_the_first_step(case):
    model = case.fresh_model(pool_gate=True, pool_range=0.5).train()
    total(model(**case.inputs())).backward()
    assert all(pool.gate.grad.any() for pool in context_pools(model))


@every_head
def test_only_the_head_learns_where_the_base_model_is_frozen(case):
    model = case.model().train()
    model.base_model.requires_grad_(False)
    model(**case.inputs(), **case.labels()).loss.backward()
    learning = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
    assert learning == set(map(id, model.parameters())) - set(map(id, model.base_model.parameters()))


def train_step(model, case: ModelCase):
    """Loss and gradients with dropout, from one seed."""
    torch.manual_seed(5)
    model.zero_grad()
    loss = total(model.train()(**case.inputs()))
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@every_variant
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(case, variant, use_reentrant):
    model = case.model(**variant)
    if use_reentrant and variant.get("use_shared_relative_position_bias"):
        # Upstream hands the bias of all layers down by a keyword, so that its own models cannot be trained so, either.
        for each in (model, case.stock_class(case.stock_config(**variant))):
            each.activation_checkpointing_enable({"use_reentrant": True})
            with pytest.raises(RuntimeError, match="second time"):
                train_step(each, case)
        return
    loss, expected = train_step(model, case)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    actual_loss, actual = train_step(model, case)
    torch.testing.assert_close(actual_loss, loss, rtol=1e-5, atol=1e-6)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():  # of a class token that starts at zero they are in thousands
        atol = 1e-6 * max(1.0, 0.0 if gradient is None else gradient.abs().max().item())
        torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=atol)


@every_family
def test_gradient_checkpointing_runs_each_layer_again(case):
    model = case.model().train()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    calls = Counter()
    for part in {part for layer in layers for part in layer.modules() if not list(part.children())}:
        part.register_forward_hook(lambda module, args, output: calls.update([module]))
    total(model(**case.inputs())).backward()
    once = dict(calls)
    calls.clear()
    model.activation_checkpointing_enable({"use_reentrant": True})  # the other mode stops when it has what it needs
    total(model(**case.inputs())).backward()
    assert once and calls == {part: 2 * count for part, count in once.items()}


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@every_model
def test_support_sizes_are_the_same_with_gradient_checkpointing(case, use_reentrant):
    model = case.model(**case.no_dropout).train()
    expected = model(**case.inputs(), output_support_sizes=True).support_sizes
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    outputs = model(**case.inputs(), output_support_sizes=True)
    total(tensors(outputs)[: -len(expected)]).backward()
    torch.testing.assert_close(outputs.support_sizes, expected, rtol=0.0, atol=0.0)


# ----------------------------------------------------------------------------------------------------- compilation


# Compiling takes seconds: each class once, and in turn each variant with and without pool sizes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "variant", "output_support_sizes"),
    [
        (case, name if name in case.variants else "heads", sizes)
        for case, name, sizes in zip(MODELS, cycle(["plain", "heads", "elsewhere"]), cycle([False, True]))
    ],
    ids=lambda value: f"support_sizes={value}" if isinstance(value, bool) else str(value),
)
def test_a_compiled_model_has_the_same_outputs(case, variant, output_support_sizes, fresh_compiler):
    fields = {name: value for name, value in case.variants[variant].items() if name != "pool_layers"}
    model = case.model(**fields, **case.base_sizes)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = run(model, case, output_support_sizes=output_support_sizes)
    assert_same_outputs(run(compiled, case, output_support_sizes=output_support_sizes), expected, atol=1e-5)


@pytest.mark.slow
@every_family
def test_support_sizes_come_out_of_parts_that_are_compiled_by_themselves(case, fresh_compiler):
    model = case.model(**case.variants["heads"])
    expected = run(model, case, output_support_sizes=True)
    for module in model.modules():
        if getattr(module, "context_pool", None) is not None:
            module.compile(backend="eager")
    assert_same_outputs(run(model, case, output_support_sizes=True), expected, atol=1e-5)


@pytest.mark.slow
@every_family
def test_support_sizes_are_not_those_of_a_compiled_model_in_another_thread(case, fresh_compiler):
    model, compiled = case.model(), torch.compile(case.model(), backend="eager")
    expected = run(model, case, output_support_sizes=True)
    run(compiled, case)

    def run_the_other(*args) -> None:
        thread = threading.Thread(target=run, args=(compiled, case))
        thread.start()
        thread.join()

    context_pools(model)[0].register_forward_hook(run_the_other)
    assert_same_outputs(run(model, case, output_support_sizes=True), expected)


@pytest.mark.slow
def test_compiled_models_of_different_classes_do_not_count_as_recompilations_of_one(fresh_compiler):
    with torch._dynamo.config.patch(recompile_limit=1):
        for case in BARE_MODELS:
            run(torch.compile(case.model(), fullgraph=True, backend="eager"), case)


@every_family
def test_a_traced_model_passes_the_tracer_s_own_check(case):
    model = case.model(**case.variants["heads"])
    inputs = case.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, example_kwarg_inputs=inputs, strict=False)


# Of a sequence, a grid and a feature map: the graphs of all classes are captured above, and what inductor makes of one
# takes half a minute of a C++ compiler.
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@over([case for case in BARE_MODELS if str(case) in ("CPBertModel", "CPViTModel", "CPResNetModel")])
def test_inductor_gives_the_same_outputs(case, fresh_compiler):
    model = case.model(**case.variants["heads"], **case.base_sizes)
    assert_same_outputs(run(torch.compile(model, fullgraph=True), case), run(model, case), atol=1e-5)


# Exporting takes seconds as well: each family once, in turn with and without pool sizes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "output_support_sizes"),
    list(zip(BARE_MODELS, cycle([False, True]))),
    ids=lambda value: f"support_sizes={value}" if isinstance(value, bool) else str(value),
)
def test_an_exported_model_has_the_same_outputs_for_other_shapes(case, output_support_sizes):
    model = case.model(**case.variants["heads"], output_support_sizes=output_support_sizes)
    inputs = case.inputs()
    shapes = {name: dict.fromkeys(range(tensor.ndim), Dim.AUTO) for name, tensor in inputs.items()}
    exported = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=shapes).module()
    assert_same_outputs(exported(**case.smaller(inputs)), model(**case.smaller(inputs)), atol=1e-5)


# -------------------------------------------------------------------------------------------------------- the rest


@over_variants(BARE_MODELS, strided=False)
def test_pools_are_built_as_the_config_says(case, variant):
    sizes = {"pool_range": 0.7, "pool_max_offset": 1.5}
    options = {"pool_hidden_size": 7, "pool_kernel_size": 5, "pool_num_heads": 4, "pool_gate": True}
    model = case.fresh_model(**{**variant, **sizes, **options})
    for pool in context_pools(model):
        assert (pool.conv.out_channels, pool.conv.kernel_size[-1], pool.pool_num_heads) == (7, 5, 4)
        assert pool.gate is not None
    for factored in (True, False):
        pools = context_pools(case.fresh_model(**{**variant, **options}, pool_factored=factored))
        assert [pool.conv.in_channels == 7 for pool in pools] == [factored] * len(pools)
    for pool in sized_pools(model):
        assert {name: getattr(pool, name) for name in sizes} == sizes


@every_layered_model
def test_layers_that_do_not_pool_have_no_pool(case):
    model = case.fresh_model(num_hidden_layers=3, pool_layers=[1])
    assert len(context_pools(model)) == 1
    assert all(".1." in name for name, module in model.named_modules() if isinstance(module, ContextPool))


@pytest.mark.parametrize("placement", ["attention", "block"])
@over([case for case in BARE_MODELS if case.has_layers])
def test_layers_before_the_first_that_pools_are_the_stock_ones(case, placement, tmp_path):
    stock = case.stock_class(case.stock_config(num_hidden_layers=3)).eval()
    stock.save_pretrained(tmp_path)
    config = case.config(num_hidden_layers=3, pool_layers=[1], pool_placement=placement, pool_range=0.5)
    model = case.model_class.from_pretrained(tmp_path, config=config)
    states = run(model, case, output_hidden_states=True).hidden_states
    stock_states = run(stock, case, output_hidden_states=True).hidden_states
    assert_same_outputs(states[:2], stock_states[:2])
    assert (states[2] - stock_states[2]).abs().max() > 1e-3


@every_model
def test_loading_and_running_says_nothing(case, tmp_path):
    case.fresh_model().save_pretrained(tmp_path)
    with messages_of_transformers() as messages:
        run(case.load(tmp_path), case)
    assert not messages
