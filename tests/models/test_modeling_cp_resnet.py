# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ResNet: what a ConvNet's pooling makes its own, its backbone, its gradient checkpointing, and the libraries that
its users train and serve it with."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
)

from cp_transformers import CPResNetBackbone, CPResNetConfig, CPResNetForImageClassification, CPResNetModel
from cp_transformers.models.context_pool import BaseContextPool
from cp_transformers.models.feature_map_pool import GlobalContextPool, WindowedContextPool
from cp_transformers.models.modeling_cp_resnet import _frozen_statistics


SIZES = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1], "num_labels": 3}
EVERY_STAGE = {"out_features": ["stem", "stage1", "stage2"]}

STOCK = {
    CPResNetModel: ResNetModel,
    CPResNetForImageClassification: ResNetForImageClassification,
    CPResNetBackbone: ResNetBackbone,
}
POOLINGS = {
    "none": {"pool_stem": False},
    "stem": {},
    "global": {"pool_stem": False, "pool_global": True},
    "both": {"pool_global": True},
}
ARCHITECTURES = {
    "bottleneck": {},
    "basic": {"layer_type": "basic"},
    "downsample_in_first_stage": {"downsample_in_first_stage": True},
    "downsample_in_bottleneck": {"downsample_in_bottleneck": True},
    "downsample_in_both": {"downsample_in_first_stage": True, "downsample_in_bottleneck": True},
}
HEADS = {"pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True}

every_class = pytest.mark.parametrize("model_class", STOCK)
every_pooling = pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
every_predictor = pytest.mark.parametrize("predictor", [{}, HEADS], ids=["plain", "heads"])
every_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def context_pools(model: nn.Module) -> list[BaseContextPool]:
    return [module for module in model.modules() if isinstance(module, BaseContextPool)]


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def random_model(model_class=CPResNetModel, **overrides):
    """A model in evaluation mode, whose pools, gates and batch statistics are far from where they start."""
    torch.manual_seed(0)
    model = model_class(CPResNetConfig(**{**SIZES, **overrides})).eval()
    for pool in context_pools(model):
        for parameter in (pool.proj.weight, pool.proj.bias, pool.gate):
            if parameter is not None:
                nn.init.normal_(parameter)
    scatter_statistics(model)
    return model


def scatter_statistics(model: nn.Module) -> None:
    for norm in batch_norms(model):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)


def stock_model(model_class, **overrides):
    torch.manual_seed(1)
    model = STOCK[model_class](ResNetConfig(**{**SIZES, **overrides})).eval()
    scatter_statistics(model)
    return model


def images(height: int = 40, width: int = 32, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


def tensors(outputs) -> list[torch.Tensor]:
    """Every tensor of an output, tuples of them included."""
    found = []
    for value in outputs.to_tuple():
        found.extend(value if isinstance(value, tuple) else [value])
    return found


def assert_equal(actual, expected) -> None:
    actual, expected = tensors(actual), tensors(expected)
    assert len(actual) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def assert_same_state(actual: nn.Module, expected: nn.Module) -> None:
    torch.testing.assert_close(actual.state_dict(), expected.state_dict(), rtol=0.0, atol=0.0)


# -------------------------------------------------------------------------------------------------- what is built


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("none", []), ("stem", ["stem"]), ("global", ["global"]), ("both", ["stem", "global"])],
)
@pytest.mark.parametrize("model_class", [CPResNetModel, CPResNetForImageClassification])
def test_each_pooling_is_built_where_asked_and_nowhere_else(model_class, pooling, expected):
    model = random_model(model_class, **POOLINGS[pooling])
    base = model.base_model
    places = {"stem": (base.embedder.pooler, WindowedContextPool), "global": (base.pooler, GlobalContextPool)}
    pools = context_pools(model)
    assert [type(pool) for pool in pools] == [places[place][1] for place in expected]
    assert pools == [places[place][0].context_pool for place in expected]


@pytest.mark.parametrize("pool_global", [False, True])
def test_a_backbone_pools_its_stem_alone(pool_global):
    model = random_model(CPResNetBackbone, pool_global=pool_global)
    assert context_pools(model) == [model.embedder.pooler.context_pool]
    assert not hasattr(model, "pooler")


@every_class
def test_without_poolings_the_parameters_are_the_stock_models(model_class):
    model, stock = random_model(model_class, pool_stem=False), stock_model(model_class)
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (model, stock)]
    assert shapes[0] == shapes[1]
    poolers = [[type(m) for m in each.modules() if "Pool" in type(m).__name__] for each in (model, stock)]
    assert poolers[0] == poolers[1] and len(poolers[0]) > 0


@every_mode
@every_architecture
@every_class
def test_without_poolings_the_outputs_are_the_stock_models(model_class, architecture, training):
    stock = stock_model(model_class, **architecture).train(training)
    model = random_model(model_class, pool_stem=False, **architecture).train(training)
    model.load_state_dict(stock.state_dict())
    assert_equal(*(run(each, images(), output_hidden_states=True) for each in (model, stock)))
    assert_same_state(model, stock)


@every_mode
@every_pooling
@every_class
def test_closed_gates_give_the_stock_models_outputs(model_class, pooling, training):
    stock = stock_model(model_class).train(training)
    model = random_model(model_class, pool_gate=True, **pooling).train(training)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(".context_pool." in name for name in missing)
    for pool in context_pools(model):
        nn.init.zeros_(pool.gate)
    assert_equal(*(run(model, images(), output_hidden_states=True) for model in (model, stock)))
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in stock.state_dict().items())


@every_pooling
def test_open_gates_give_others(pooling):
    model = random_model(pool_gate=True, **pooling)
    opened = run(model, images()).pooler_output
    for pool in context_pools(model):
        nn.init.zeros_(pool.gate)
    assert torch.equal(run(model, images()).pooler_output, opened) == (not context_pools(model))


@pytest.mark.parametrize(
    ("options", "numbers"),
    [({}, 2), ({"pool_max_offset": 1.5}, 4), ({"pool_num_heads": 4, "pool_max_offset": 3.0}, 16)],
    ids=str,
)
def test_the_stems_predictor_is_as_the_config_says(options, numbers):
    model = random_model(pool_hidden_size=6, pool_kernel_size=5, pool_window=9, pool_range=0.7, **options)
    pool = model.embedder.pooler.context_pool
    assert pool.reduce.weight.shape == (6, 8, 1, 1)
    assert pool.conv.weight.shape == (6, 6, 5, 5) and pool.proj.weight.shape == (numbers, 6)
    assert (pool.window, pool.window_stride, pool.pool_range) == (9, 2, 0.7)
    assert pool.pool_max_offset == model.config.pool_max_offset


@pytest.mark.parametrize("num_heads", [1, 4])
def test_the_global_predictor_is_as_the_config_says(num_heads):
    model = random_model(pool_global=True, pool_hidden_size=6, pool_kernel_size=1, pool_num_heads=num_heads)
    pool = model.pooler.context_pool
    assert pool.reduce.weight.shape == (6, 32, 1, 1) and pool.conv.weight.shape == (6, 6, 1, 1)
    assert pool.proj.weight.shape == (num_heads, 6) and pool.proj.bias is None


def test_the_defaults_of_feature_maps_are_their_own():
    config = CPResNetConfig()
    assert (config.pool_hidden_size, config.pool_factored) == (8, True)
    assert (config.pool_range, config.pool_window) == (0.3, 7)
    assert config.pool_stem and not config.pool_global and not config.pool_gate


# ---------------------------------------------------------------------------------------------------- feature maps


@pytest.mark.parametrize("size", [(40, 32), (32, 32), (33, 33), (37, 41), (38, 31), (9, 64)], ids=str)
@every_architecture
def test_feature_maps_have_the_stock_models_shapes(architecture, size):
    model, stock = random_model(**architecture, pool_global=True), stock_model(CPResNetModel, **architecture)
    actual, expected = (run(each, images(*size), output_hidden_states=True) for each in (model, stock))
    assert [tensor.shape for tensor in tensors(actual)] == [tensor.shape for tensor in tensors(expected)]
    assert len(actual.hidden_states) == 3


@every_predictor
def test_the_stem_pools_within_the_range_of_its_map(predictor):
    model = random_model(pool_range=0.6, **{**predictor, "pool_gate": False})
    maps = []
    model.embedder.embedder.register_forward_hook(lambda module, args, output: maps.append(output))
    pooled = run(model, images(), output_hidden_states=True).hidden_states[0]
    (unpooled,) = maps
    assert (pooled >= unpooled.amin((2, 3), keepdim=True) - 1e-6).all()
    assert (pooled <= unpooled.amax((2, 3), keepdim=True) + 1e-6).all()
    assert pooled.std() > 0.1


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-1, 0), (0, -1)])
def test_the_stem_pools_neighbours_in_the_image(down, right):
    model = random_model(pool_max_offset=1.0)
    pool = model.embedder.pooler.context_pool
    nn.init.zeros_(pool.proj.weight)
    with torch.no_grad():  # as narrow as can be, one position off
        pool.proj.bias.copy_(torch.tensor([0.0, -100.0, 100.0 * down, 100.0 * right]))
        unpooled = model.embedder.embedder(images())  # 20 x 16
        pooled = model.embedder(images())
    expected = unpooled.roll((-down, -right), dims=(2, 3))[:, :, ::2, ::2]
    torch.testing.assert_close(pooled[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=0.0, atol=1e-5)


@every_predictor
def test_the_stem_moves_with_the_image_away_from_borders(predictor):
    # The stem's stride is 4; its windows, kernels and the predictor's see no more than 5 of its outputs to each side.
    model = random_model(pool_range=0.6, **predictor)
    image, inner = images(72, 72, batch=1), slice(5, -5)
    first, moved = image[..., :64, :64], image[..., 4:68, 8:72]
    outputs = [run(model, each, output_hidden_states=True, output_support_sizes=True) for each in (first, moved)]
    for one, other in zip(*[(each.hidden_states[0], each.support_sizes[0]) for each in outputs]):
        torch.testing.assert_close(
            one.roll((-1, -2), dims=(2, 3))[..., inner, inner], other[..., inner, inner], rtol=0.0, atol=1e-5
        )
        assert (one - other)[..., inner, inner].abs().max() > 1e-2


@pytest.mark.parametrize("num_heads", [1, 4])
def test_global_pooling_with_equal_weights_is_the_average(num_heads):
    model = random_model(pool_global=True, pool_num_heads=num_heads)
    outputs = run(model, images())
    average = outputs.last_hidden_state.mean((2, 3), keepdim=True)
    assert outputs.pooler_output.shape == (3, 32, 1, 1)
    assert (outputs.pooler_output - average).abs().max() > 1e-3
    nn.init.zeros_(model.pooler.context_pool.proj.weight)
    torch.testing.assert_close(run(model, images()).pooler_output, average)


def test_global_pooling_stays_within_the_range_of_its_map():
    outputs = run(random_model(pool_global=True, pool_num_heads=4), images(80, 64))
    states, pooled = outputs.last_hidden_state, outputs.pooler_output
    assert (pooled >= states.amin((2, 3), keepdim=True) - 1e-6).all()
    assert (pooled <= states.amax((2, 3), keepdim=True) + 1e-6).all()


@pytest.mark.parametrize("place", ["stem", "global"])
def test_a_gate_of_one_gives_the_pooled_map(place):
    model, gated = random_model(**POOLINGS[place]), random_model(**POOLINGS[place], pool_gate=True)
    gated.load_state_dict(model.state_dict(), strict=False)
    (pool,) = context_pools(gated)
    nn.init.ones_(pool.gate)
    torch.testing.assert_close(run(gated, images()).pooler_output, run(model, images()).pooler_output)


@every_pooling
@every_predictor
def test_an_image_is_the_same_alone_and_in_a_batch(predictor, pooling):
    model, batch = random_model(CPResNetForImageClassification, **pooling, **predictor).double(), images().double()
    expected = tensors(run(model, batch, output_support_sizes=True))
    for index in range(3):
        alone = tensors(run(model, batch[index : index + 1], output_support_sizes=True))
        for one, all_of_them in zip(alone, expected, strict=True):
            torch.testing.assert_close(one, all_of_them[index : index + 1], rtol=0.0, atol=1e-10)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="the channel dimension of the pixel values"):
        random_model()(images()[:, :1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_class
def test_half_precision_is_finite_and_near_full_precision(model_class, dtype):
    model = random_model(model_class, pool_global=True, **HEADS)
    expected = run(model, images())
    outputs = run(model.to(dtype), images().to(dtype), output_support_sizes=True)
    *others, sizes = tensors(outputs)
    assert sizes.dtype is torch.float32 and sizes.isfinite().all()
    for actual, full in zip(others, tensors(expected), strict=True):
        assert actual.dtype is dtype and actual.isfinite().all()
        assert (actual.float() - full).abs().max() < 0.1 * full.abs().max()


# ----------------------------------------------------------------------------------------------------- support sizes


@pytest.mark.parametrize("size", [(40, 32), (37, 41), (32, 64)], ids=str)
@every_predictor
@every_class
def test_support_sizes_are_one_map_of_the_stems_size(model_class, predictor, size):
    model = random_model(model_class, pool_global=True, **predictor)
    (sizes,) = run(model, images(*size), output_support_sizes=True).support_sizes
    assert sizes.shape == (3, model.config.pool_num_heads, -(-size[0] // 4), -(-size[1] // 4))
    assert sizes.dtype is torch.float32 and sizes.min() > 0
    assert sizes.max() <= model.config.pool_range * model.config.pool_window


@pytest.mark.parametrize("pool_global", [False, True])
@every_class
def test_without_the_stem_there_are_no_support_sizes(model_class, pool_global):
    model = random_model(model_class, pool_stem=False, pool_global=pool_global)
    assert run(model, images(), output_support_sizes=True).support_sizes == ()


@every_class
def test_support_sizes_change_no_other_output(model_class):
    model = random_model(model_class)
    *others, _ = tensors(run(model, images(), output_support_sizes=True))
    expected = tensors(run(model, images()))
    assert all(torch.equal(a, b) for a, b in zip(others, expected, strict=True))


@every_class
def test_support_sizes_come_last_in_a_tuple(model_class):
    model = random_model(model_class)
    expected = run(model, images(), output_support_sizes=True)
    outputs = run(model, images(), output_support_sizes=True, return_dict=False)
    assert type(outputs) is tuple and torch.equal(outputs[-1][0], expected.support_sizes[0])
    assert len(outputs) == len(expected.to_tuple()) == len(run(model, images(), return_dict=False)) + 1


@every_class
def test_the_config_asks_for_support_sizes(model_class):
    model = random_model(model_class, output_support_sizes=True)
    assert len(run(model, images()).support_sizes) == 1
    assert "support_sizes" not in run(model, images(), output_support_sizes=False)


def test_equal_predictions_give_equal_support_sizes_at_all_image_sizes():
    model = random_model(pool_window=5, pool_range=0.4)
    nn.init.zeros_(model.embedder.pooler.context_pool.proj.weight)
    nn.init.zeros_(model.embedder.pooler.context_pool.proj.bias)
    for size in [(16, 16), (40, 32), (80, 120)]:
        (sizes,) = run(model, images(*size), output_support_sizes=True).support_sizes
        torch.testing.assert_close(sizes, torch.full_like(sizes, 0.4 * 5 * 0.5))


def test_support_sizes_do_not_depend_on_the_rest_of_a_larger_image():
    model, image = random_model(pool_num_heads=2), images(80, 96)
    (sizes,) = run(model, image, output_support_sizes=True).support_sizes
    (of_corner,) = run(model, image[..., :40, :32], output_support_sizes=True).support_sizes
    torch.testing.assert_close(of_corner[..., :-2, :-2], sizes[..., :8, :6], rtol=0.0, atol=1e-5)
    assert sizes.std() > 0.01


# ------------------------------------------------------------------------------------------ gradient checkpointing

every_checkpointing = pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved_tensors", "reentrant"])


def pair(use_reentrant: bool, model_class=CPResNetForImageClassification, **overrides) -> tuple[nn.Module, nn.Module]:
    """Two equal models in training mode, the second with gradient checkpointing."""
    plain, checkpointed = (random_model(model_class, **overrides).train() for _ in range(2))
    checkpointed.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    return plain, checkpointed


def loss_of(model, batch: int = 3) -> torch.Tensor:
    return model(images(batch=batch), labels=torch.arange(batch) % 3).loss


def statistics(model) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same_statistics(actual, expected) -> None:
    actual, expected = statistics(actual), statistics(expected)
    assert any(name.endswith("num_batches_tracked") for name in expected)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)


def assert_as_built(model) -> None:
    for norm in batch_norms(model):
        assert norm.momentum == 0.1 and isinstance(norm.num_batches_tracked, torch.Tensor)
        assert "num_batches_tracked" in norm.state_dict()


@every_checkpointing
@every_pooling
def test_a_checkpointed_step_has_the_same_gradients_and_statistics(pooling, use_reentrant):
    plain, checkpointed = pair(use_reentrant, **pooling)
    before = statistics(plain)
    for model in (plain, checkpointed):
        loss_of(model).backward()
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in (plain, checkpointed)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.0, atol=1e-6)
    assert_same_statistics(checkpointed, plain)
    assert all(norm.num_batches_tracked == 1 for norm in batch_norms(checkpointed))
    assert any(not torch.equal(before[name], buffer) for name, buffer in statistics(checkpointed).items())
    assert_as_built(checkpointed)


@every_checkpointing
def test_a_checkpointed_backbone_has_the_same_statistics(use_reentrant):
    plain, checkpointed = pair(use_reentrant, CPResNetBackbone, **EVERY_STAGE)
    for model in (plain, checkpointed):
        sum(feature_map.square().mean() for feature_map in model(images()).feature_maps).backward()
    assert_same_statistics(checkpointed, plain)


@every_checkpointing
def test_two_backward_passes_through_one_graph_count_a_batch_once(use_reentrant):
    plain, checkpointed = pair(use_reentrant)
    for model in (plain, checkpointed):
        loss = loss_of(model)
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same_statistics(checkpointed, plain)
    gradients = [[p.grad for p in model.parameters()] for model in (plain, checkpointed)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.0, atol=1e-6)
    assert_as_built(checkpointed)


@every_checkpointing
def test_two_forward_passes_before_a_backward_pass_count_both_batches(use_reentrant):
    plain, checkpointed = pair(use_reentrant)
    for model in (plain, checkpointed):
        (loss_of(model) + loss_of(model, batch=2)).backward()
    assert_same_statistics(checkpointed, plain)
    assert all(norm.num_batches_tracked == 2 for norm in batch_norms(checkpointed))


@every_checkpointing
def test_evaluation_between_steps_changes_no_statistics(use_reentrant):
    plain, checkpointed = pair(use_reentrant)
    for model in (plain, checkpointed):
        for _ in range(2):
            loss = loss_of(model)
            run(model.eval(), images(batch=2))
            model.train()
            loss.backward()
            run(model.eval(), images(batch=2))
            model.train()
    assert_same_statistics(checkpointed, plain)
    assert all(norm.num_batches_tracked == 2 for norm in batch_norms(checkpointed))


@every_checkpointing
def test_batch_normalisation_is_as_it_was_where_the_recomputation_raises(use_reentrant):
    _, model = pair(use_reentrant)
    loss = loss_of(model)
    expected, calls = statistics(model), []

    def fail(module, args):
        calls.append(module.momentum)
        raise RuntimeError("out of luck")

    model.resnet.encoder.stages[0].layers[1].layer[1].normalization.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        loss.backward()
    assert calls == [0.0]  # it was while the statistics were frozen
    assert_as_built(model)
    torch.testing.assert_close(statistics(model), expected, rtol=0.0, atol=0.0)


@every_checkpointing
def test_a_momentum_of_its_own_is_kept(use_reentrant):
    plain, checkpointed = pair(use_reentrant)
    for model in (plain, checkpointed):
        for index, norm in enumerate(batch_norms(model)):
            norm.momentum = None if index % 2 else 0.3  # None: the average of all batches
        for batch in (3, 2):
            loss_of(model, batch).backward()
        assert [norm.momentum for norm in batch_norms(model)][:3] == [0.3, None, 0.3]
    assert_same_statistics(checkpointed, plain)


def count_calls(model) -> list[int]:
    """For each stage, how often its first convolution has run, from now on."""
    calls = [0] * len(model.resnet.encoder.stages)
    for index, stage in enumerate(model.resnet.encoder.stages):

        def count(module, args, output, index=index):
            calls[index] += 1

        stage.layers[0].layer[0].convolution.register_forward_hook(count)
    return calls


@every_checkpointing
def test_the_backward_pass_runs_every_stage_again(use_reentrant):
    for model, times in zip(pair(use_reentrant), (1, 2)):
        calls = count_calls(model)
        loss = loss_of(model)
        assert calls == [1, 1]
        loss.backward()
        assert calls == [times, times]


@every_checkpointing
def test_evaluation_is_not_checkpointed(use_reentrant):
    plain, checkpointed = (model.eval() for model in pair(use_reentrant))
    calls = count_calls(checkpointed)
    losses = [loss_of(model) for model in (plain, checkpointed)]
    for loss in losses:
        loss.backward()
    assert calls == [1, 1] and torch.equal(*losses)
    assert_same_statistics(checkpointed, plain)


@every_checkpointing
def test_disabled_checkpointing_runs_nothing_again(use_reentrant):
    _, model = pair(use_reentrant)
    model.activation_checkpointing_disable()
    calls = count_calls(model)
    loss_of(model).backward()
    assert calls == [1, 1] and all(norm.num_batches_tracked == 1 for norm in batch_norms(model))


def test_support_sizes_of_a_checkpointed_step_are_those_of_a_plain_one():
    plain, checkpointed = (model(images(), output_support_sizes=True) for model in pair(False))
    (checkpointed.logits.sum() + checkpointed.support_sizes[0].sum()).backward()
    assert len(checkpointed.support_sizes) == 1 and torch.equal(checkpointed.support_sizes[0], plain.support_sizes[0])


def test_statistics_of_synchronised_batch_normalisation_are_frozen_too():
    stage = nn.SyncBatchNorm.convert_sync_batchnorm(random_model()).encoder.stages[0]
    norms = [module for module in stage.modules() if isinstance(module, nn.SyncBatchNorm)]
    with _frozen_statistics(stage):
        assert {norm.momentum for norm in norms} == {0.0}


# -------------------------------------------------------------------------------------------------------- backbone


@pytest.mark.parametrize(
    ("options", "indices"),
    [
        ({}, [2]),
        ({"out_features": ["stem", "stage2"]}, [0, 2]),
        ({"out_indices": [0, 1]}, [0, 1]),
        ({"out_features": ["stem", "stage1", "stage2"]}, [0, 1, 2]),
    ],
    ids=str,
)
def test_a_backbone_gives_the_feature_maps_that_it_is_asked_for(options, indices):
    backbone, model = random_model(CPResNetBackbone, **options), random_model()
    backbone.load_state_dict(model.state_dict())
    states = run(model, images(), output_hidden_states=True).hidden_states
    outputs = run(backbone, images())
    assert outputs.hidden_states is None and len(outputs.feature_maps) == len(indices)
    assert all(torch.equal(a, states[index]) for a, index in zip(outputs.feature_maps, indices))
    assert backbone.out_features == [["stem", "stage1", "stage2"][index] for index in indices]
    assert list(backbone.out_indices) == indices
    assert backbone.channels == [[8, 16, 32][index] for index in indices]
    assert backbone.channels == [feature_map.shape[1] for feature_map in outputs.feature_maps]


@pytest.mark.parametrize("where", ["argument", "config"])
def test_a_backbone_gives_all_hidden_states_where_asked(where):
    model = random_model(CPResNetBackbone, **({"output_hidden_states": True} if where == "config" else {}))
    outputs = run(model, images(), **({"output_hidden_states": True} if where == "argument" else {}))
    assert [state.shape[1] for state in outputs.hidden_states] == [8, 16, 32]
    assert torch.equal(outputs.feature_maps[0], outputs.hidden_states[-1])


@pytest.mark.parametrize("output_hidden_states", [False, True])
def test_a_backbones_outputs_as_a_tuple(output_hidden_states):
    model = random_model(CPResNetBackbone, **EVERY_STAGE)
    expected = run(model, images(), output_hidden_states=output_hidden_states)
    outputs = run(model, images(), output_hidden_states=output_hidden_states, return_dict=False)
    assert type(outputs) is tuple and len(outputs) == 1 + output_hidden_states
    for actual, maps in zip(outputs, expected.to_tuple(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(actual, maps, strict=True))


def test_a_backbone_loads_a_saved_classifier(tmp_path):
    model = random_model(CPResNetForImageClassification, pool_global=True, **HEADS)
    model.save_pretrained(tmp_path)
    backbone = CPResNetBackbone.from_pretrained(tmp_path, out_indices=[1, 2])
    assert backbone.channels == [16, 32]
    states = run(model, images(), output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(run(backbone, images()).feature_maps, states[1:], strict=True))


def test_a_backbone_remembers_its_features(tmp_path):
    model = random_model(CPResNetBackbone, out_features=["stem", "stage2"])
    model.save_pretrained(tmp_path)
    reloaded = CPResNetBackbone.from_pretrained(tmp_path)
    assert reloaded.out_features == ["stem", "stage2"]
    assert_equal(run(reloaded, images()), run(model, images()))


def test_auto_backbone_builds_the_backbone_of_a_saved_config(tmp_path):
    model = random_model(CPResNetBackbone, out_features=["stem", "stage2"])
    model.save_pretrained(tmp_path)
    backbone = AutoBackbone.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    assert type(backbone) is CPResNetBackbone and backbone.out_features == ["stem", "stage2"]
    backbone.load_state_dict(model.state_dict())
    assert_equal(run(backbone, images()), run(model, images()))


def test_auto_backbone_loads_what_the_hub_has(tmp_path, monkeypatch):
    # Upstream asks the hub whether it has the repository, before anything else, also for the name of a folder.
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda self, name, **kwargs: True)
    model = random_model(CPResNetBackbone)
    model.save_pretrained(tmp_path)
    backbone = AutoBackbone.from_pretrained(tmp_path, out_indices=[0, 1])
    assert type(backbone) is CPResNetBackbone and backbone.channels == [8, 16]
    states = run(model, images(), output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(run(backbone, images()).feature_maps, states[:2], strict=True))


# ---------------------------------------------------------------------------------------------------------- losses


@every_pooling
def test_the_logits_are_those_of_the_pooled_map(pooling):
    model = random_model(CPResNetForImageClassification, **pooling)
    pooled = run(model.resnet, images()).pooler_output
    with torch.no_grad():
        assert torch.equal(run(model, images()).logits, model.classifier[1](pooled.flatten(1)))


# ---------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_window": 4}, "pool_window must be odd and positive, not 4"),
        ({"pool_window": -1}, "pool_window must be odd and positive, not -1"),
        ({"pool_max_offset": 3.5}, r"pool_max_offset \(3.5\) must not lead out of the window: .* at most 3"),
        ({"pool_window": 5, "pool_max_offset": 3}, r"pool_max_offset \(3\) must not lead .* at most 2"),
        ({"pool_num_heads": 3}, r"pool_num_heads \(3\) must divide embedding_size \(8\)"),
        ({"pool_num_heads": 16, "pool_global": True}, r"pool_num_heads \(16\) must divide embedding_size \(8\)"),
        (
            {"pool_num_heads": 3, "pool_stem": False, "pool_global": True},
            r"pool_num_heads \(3\) must divide hidden_sizes\[-1\] \(32\)",
        ),
        (
            {"pool_num_heads": 8, "hidden_sizes": [16, 36], "pool_global": True},
            r"pool_num_heads \(8\) must divide hidden_sizes\[-1\] \(36\)",
        ),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_built_is_refused(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        CPResNetConfig(**{**SIZES, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"pool_num_heads": 16, "pool_stem": False, "pool_global": True},  # does not divide embedding_size
        {"pool_num_heads": 8, "hidden_sizes": [16, 36]},  # does not divide hidden_sizes[-1]
        {"pool_num_heads": 5, "pool_stem": False},
        {"pool_max_offset": 3},
    ],
    ids=str,
)
def test_heads_need_only_divide_the_channels_that_are_pooled(options):
    assert run(random_model(**options), images()).pooler_output.isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("pool_window", 4), ("pool_max_offset", 5.0), ("pool_num_heads", 3), ("pool_range", -1.0)],
)
@every_class
def test_a_field_spoilt_after_construction_is_refused(model_class, field, value):
    config = CPResNetConfig(**SIZES)
    setattr(config, field, value)
    with pytest.raises(ValueError, match=field):
        model_class(config)


@pytest.mark.parametrize("field", ["pool_placement", "pool_layers"])
def test_fields_of_the_transformers_are_refused(field):
    with pytest.raises(ValueError, match=f"CPResNetConfig of this version has no field {field}; "):
        CPResNetConfig(**{field: None})


def test_an_empty_batch_gives_empty_feature_maps():
    model = random_model(CPResNetBackbone, out_features=["stage1", "stage2"])
    shapes = [tuple(each.shape[1:]) for each in run(model, images()).feature_maps]
    assert [tuple(each.shape) for each in run(model, images(batch=0)).feature_maps] == [(0, *each) for each in shapes]
