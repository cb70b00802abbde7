# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The implementations of the pooling: all of them against the loops, the linear one where it differs, the choice."""

import math
import warnings
from functools import partial

import pytest
import torch
from pool_reference import reference_context_pool
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import cp_transformers.models.linear_pool as linear_pool
import cp_transformers.models.pool_implementation as module
from cp_transformers import CPBertConfig, CPBertModel, CPViTConfig
from cp_transformers.models.context_pool import ContextPool, context_pool
from cp_transformers.models.feature_map_pool import windowed_context_pool
from cp_transformers.models.linear_pool import Cells, linear_context_pool
from cp_transformers.models.pool_implementation import LINEAR_FROM, choose_implementation


def random_inputs(batch, num_tokens, channels, heads=1, grid_size=None, max_offset=0.0, widest=None, spread=1.0):
    """hidden_states, weights, sigma, offsets and a mask in float64. Sigma is spread evenly on a logarithmic scale,
    from the floor to the whole extent; the mask has padding on either side and holes."""
    extent = widest or max(grid_size or (num_tokens,))
    hidden_states = torch.randn(batch, num_tokens, channels, dtype=torch.float64)
    weights = spread * torch.randn(batch, heads, num_tokens, dtype=torch.float64)
    sigma = 0.1 * (10 * extent) ** torch.rand(batch, heads, num_tokens, dtype=torch.float64)
    num_dims = 1 if grid_size is None else 2
    offsets = max_offset * (2 * torch.rand(batch, heads, num_tokens, num_dims, dtype=torch.float64) - 1)
    mask = torch.rand(batch, num_tokens) < 0.9
    mask[:, : num_tokens // 8] = False
    mask[-1] = True
    return hidden_states, weights, sigma, offsets if max_offset else None, mask


# ---------------------------------------------------------------------------------------------- all, and the loops


def windowed(hidden_states, weights, sigma, offsets=None, mask=None, grid_size=None):
    """With a window that covers the map, the windowed pooling is that of the whole grid."""
    maps = [hidden_states.transpose(1, 2), weights, sigma, None if offsets is None else offsets.transpose(-1, -2)]
    maps = [each if each is None else each.unflatten(-1, grid_size) for each in maps]
    if offsets is not None:
        maps[3] = maps[3].movedim(2, -1)
    mask = None if mask is None else mask.unflatten(-1, grid_size)
    return windowed_context_pool(*maps, mask=mask, window=2 * max(grid_size) - 1).flatten(2).transpose(1, 2)


def of(implementation, request):
    if implementation == "windowed":
        return windowed
    if implementation == "triton":  # in float32
        kernels, device = request.getfixturevalue("small_blocks"), request.getfixturevalue("triton_device")

        def pool(*args, mask=None, grid_size=None):
            args = [each.to(device, torch.float32) for each in args]
            mask = None if mask is None else mask.to(device)
            return kernels.triton_context_pool(*args, mask=mask, grid_size=grid_size).to("cpu", torch.float64)

        return pool
    return lambda *args, **kwargs: context_pool(*args, **kwargs, implementation=implementation)


CASES = {
    "sequence": {"num_tokens": 61},
    "sequence, heads with offsets": {"num_tokens": 61, "heads": 2, "max_offset": 3.0},
    "grid": {"num_tokens": 54, "grid_size": (6, 9)},
    "grid, heads with offsets": {"num_tokens": 54, "grid_size": (9, 6), "heads": 2, "max_offset": 1.5},
}


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    ("implementation", "case"),
    [
        (name, case)
        for name in ("dense", "linear", "triton", "windowed")
        for case in CASES
        if name != "windowed" or "grid" in case
    ],
)
def test_implementations_equal_the_loops_and_their_slopes(implementation, case, masked, request):
    torch.manual_seed(0)
    grid_size = CASES[case].get("grid_size")
    *inputs, mask = random_inputs(2, channels=4, **CASES[case])
    inputs = [each for each in inputs if each is not None]
    mask = mask if masked else None
    valid = torch.ones(inputs[0].shape[:2], dtype=torch.bool) if mask is None else mask
    # Of values, and of slopes, which differences give to 1e-8 at best.
    tolerance, near = {"linear": (1e-4, 1e-4), "triton": (1e-5, 1e-5)}.get(implementation, (1e-12, 1e-8))

    for each in inputs:
        each.requires_grad_()
    pooled = of(implementation, request)(*inputs, mask=mask, grid_size=grid_size)
    expected = reference_context_pool(*(each.detach() for each in inputs), mask=mask, grid_size=grid_size)
    assert_close(pooled[valid], expected[valid], rtol=0.0, atol=tolerance)

    # The slope of a random sum of the outputs along a random direction of each input in turn, by differences.
    direction_of_output = torch.randn_like(pooled) * valid[..., None]
    gradients = torch.autograd.grad((pooled * direction_of_output).sum(), inputs)
    for index, gradient in enumerate(gradients):
        direction = torch.randn_like(inputs[index])
        sums = []
        for step in (1e-6, -1e-6):
            moved = [each.detach() for each in inputs]
            moved[index] = moved[index] + step * direction
            sums.append((reference_context_pool(*moved, mask=mask, grid_size=grid_size) * direction_of_output).sum())
        slope = (sums[0] - sums[1]) / 2e-6
        scale = gradient.norm() * direction.norm()
        assert abs((gradient * direction).sum() - slope) <= near * scale


# ------------------------------------------------------------------------------------------------------- linear time


LONG = {
    "sequence": {"num_tokens": 2501},
    "heads with offsets": {"num_tokens": 1000, "heads": 3, "max_offset": 4.0},
    "peaked weights": {"num_tokens": 1000, "spread": 4.0},
    "grid": {"num_tokens": 800, "grid_size": (20, 40), "heads": 2, "max_offset": 1.0, "widest": 13.0},
}


@pytest.mark.parametrize("case", LONG)
def test_linear_equals_dense_in_values_and_gradients(case):
    torch.manual_seed(0)
    *inputs, mask = random_inputs(2, channels=6, **LONG[case])
    exact = [None if each is None else each.requires_grad_() for each in inputs]
    single = [None if each is None else each.detach().float().requires_grad_() for each in inputs]
    grid_size = LONG[case].get("grid_size")
    expected = context_pool(*exact, mask=mask, grid_size=grid_size, implementation="dense")
    pooled = context_pool(*single, mask=mask, grid_size=grid_size, implementation="linear")
    assert pooled.dtype == torch.float32
    assert_close(pooled[mask].double(), expected[mask], rtol=0.0, atol=1e-4)

    direction = torch.randn_like(expected) * mask[..., None]
    (expected * direction).sum().backward()
    (pooled * direction.float()).sum().backward()
    for approximate, one in zip(single, exact):
        if one is not None:
            assert (approximate.grad - one.grad).norm() <= 3e-4 * one.grad.norm()


def test_linear_is_the_same_with_bounds_that_are_known():
    torch.manual_seed(0)
    hidden_states, weights, sigma, offsets, mask = random_inputs(2, 700, 4, heads=2, max_offset=2.0)
    hidden_states = hidden_states * mask[..., None]
    read = linear_context_pool(hidden_states, weights, sigma, offsets, mask)
    known = linear_context_pool(hidden_states, weights, sigma, offsets, mask, max_sigma=900.0, max_offset=5.0)
    assert_close(known[mask], read[mask], rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 63, 64, 65, 129])
def test_linear_takes_any_length(num_tokens):
    torch.manual_seed(num_tokens)
    hidden_states, weights, sigma, *_ = random_inputs(1, num_tokens, 4)
    pooled = context_pool(hidden_states, weights, sigma, implementation="linear")
    assert_close(pooled, context_pool(hidden_states, weights, sigma, implementation="dense"), rtol=0.0, atol=1e-4)


def test_linear_keeps_what_masked_tokens_and_other_examples_hold_out():
    torch.manual_seed(0)
    hidden_states, weights, sigma, _, mask = random_inputs(2, 300, 4)
    clean = context_pool(hidden_states, weights, sigma, mask=mask, implementation="linear")
    hidden_states[0, ~mask[0]] = weights[0, :, ~mask[0]] = math.nan
    hidden_states[1] = math.nan
    hidden_states.requires_grad_()
    pooled = context_pool(hidden_states, weights, sigma, mask=mask, implementation="linear")
    assert_close(pooled[0], clean[0])
    pooled[0].sum().backward()
    assert hidden_states.grad[0].isfinite().all()


def test_linear_gives_zeros_where_nothing_is_valid():
    hidden_states, weights, sigma, _, _ = random_inputs(1, 300, 4)
    mask = torch.zeros(1, 300, dtype=torch.bool)
    assert not context_pool(hidden_states, weights, sigma, mask=mask, implementation="linear").any()


def test_linear_takes_sizes_without_end_and_hands_nan_on():
    torch.manual_seed(0)
    hidden_states, weights, sigma, _, _ = random_inputs(1, 100, 4)
    everywhere = context_pool(hidden_states, weights, torch.full_like(sigma, math.inf), implementation="linear")
    expected = (weights.softmax(dim=-1) @ hidden_states).expand_as(hidden_states)
    assert_close(everywhere, expected, rtol=0.0, atol=1e-3)
    sigma[0, 0, 50] = math.nan
    lost = context_pool(hidden_states, weights, sigma, implementation="linear").isnan()
    assert lost[0, 50].all() and not lost[0, :50].any()


@pytest.mark.parametrize("grid_size", [None, (16, 16)], ids=["sequence", "grid"])
def test_linear_takes_sizes_beyond_the_extent_without_more_levels(grid_size, monkeypatch):
    torch.manual_seed(0)
    hidden_states, weights, sigma = torch.randn(1, 256, 4), torch.randn(1, 1, 256), torch.rand(1, 1, 256) * 500 + 0.5
    spacings, pool = [], Cells.pool
    monkeypatch.setattr(Cells, "pool", lambda cells, *args: spacings.append(cells.spacing) or pool(cells, *args))
    inputs = {"grid_size": grid_size, "mask": torch.arange(256)[None] < 200}
    linear, dense = (
        context_pool(hidden_states, weights, sigma, implementation=name, **inputs) for name in ("linear", "dense")
    )
    assert max(spacings) <= max(grid_size or (256,))
    assert_close(linear, dense, rtol=0.0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("grid_size", [(684, 6), (6, 684), (56, 4), (4, 56)], ids=str)
@torch.no_grad()
def test_linear_takes_narrow_grids_either_way(grid_size):
    torch.manual_seed(0)
    pool = ContextPool(8, pool_range=0.1, num_dims=2)
    pool.proj.weight[1].normal_(0, 50)  # sizes of all scales
    hidden_states, pooled = torch.randn(1, grid_size[0] * grid_size[1], 8), {}
    for pool.pool_implementation in ("linear", "dense"):
        pooled[pool.pool_implementation] = pool(hidden_states, grid_size=grid_size)[0]
    assert_close(pooled["linear"], pooled["dense"], rtol=0.0, atol=1e-3)


def test_linear_is_dense_where_it_is_traced_for_all_lengths():
    pool = ContextPool(8, pool_range=0.3, pool_implementation="linear").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(pool, torch.randn(1, 20, 8))
    hidden_states = torch.randn(1, 600, 8)
    assert_close(traced(hidden_states)[0], pool(hidden_states)[0], rtol=0.0, atol=1e-4)


def test_linear_keeps_half_precision():
    torch.manual_seed(0)
    hidden_states, weights, sigma, _, _ = random_inputs(1, 600, 8)
    pooled = context_pool(hidden_states.bfloat16(), weights.float(), sigma.float(), implementation="linear")
    assert pooled.dtype == torch.bfloat16
    assert_close(pooled.double(), context_pool(hidden_states, weights, sigma), rtol=0.0, atol=0.04)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        sizes = [
            each.untyped_storage().nbytes() // 4 for each in tree_leaves(output) if isinstance(each, torch.Tensor)
        ]
        self.numbers = max(self.numbers, *sizes, 0)
        return output


class Written(TorchDispatchMode):
    """Counts the numbers that operators write to new memory, in all."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        read = {
            each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)
        }
        made = [each for each in tree_leaves(output) if isinstance(each, torch.Tensor)]
        self.numbers += sum(each.numel() for each in made if each.untyped_storage()._cdata not in read)
        return output


@pytest.mark.parametrize("small", [True, False], ids=["examples together", "one at a time"])
@pytest.mark.parametrize("case", ["sequence", "feature map"])
def test_a_batch_costs_as_much_as_its_examples(case, small, monkeypatch):
    monkeypatch.setattr(linear_pool, "SMALL", math.inf if small else 0)
    torch.manual_seed(0)
    written = {}
    for batch in (2, 8):
        *inputs, _, _ = random_inputs(batch, 576, 8, heads=2)
        inputs = [each.float().requires_grad_() for each in inputs]
        with Written() as counted:
            if case == "sequence":
                context_pool(*inputs, implementation="linear").sum().backward()
            else:
                maps = [each.unflatten(-1, (24, 24)) for each in (inputs[0].transpose(1, 2), *inputs[1:])]
                windowed_context_pool(*maps, window=3).sum().backward()
        written[batch] = counted.numbers
    assert written[8] < 4.1 * written[2]


def test_products_are_the_same_together_and_one_at_a_time(monkeypatch):
    torch.manual_seed(0)
    row = torch.randn(2, 3, 40, 5, dtype=torch.float64, requires_grad=True)
    windows = row.unfold(2, 16, 8).transpose(-1, -2)  # (2, 3, 4 blocks, 16, 5), each over half of the next
    factors = [(torch.randn(2, 3, 4, 7, 16, dtype=torch.float64), windows) for _ in range(3)]
    expected = sum(left @ right for left, right in factors)
    direction = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * direction).sum(), row, retain_graph=True)
    for small in (0, math.inf):
        monkeypatch.setattr(linear_pool, "SMALL", small)
        summed = linear_pool.sum_of_products(factors)
        assert_close(summed, expected)
        assert_close(torch.autograd.grad((summed * direction).sum(), row, retain_graph=True)[0], gradient)


@pytest.mark.parametrize("widest", [200.0, None], ids=["sizes alike", "sizes in proportion"])
def test_linear_takes_time_and_memory_in_proportion_to_the_length(widest):
    torch.manual_seed(0)
    flops, numbers = {}, {}
    for num_tokens in (2048, 4096):
        hidden_states, weights, sigma, *_ = random_inputs(1, num_tokens, 64, widest=widest or 0.1 * num_tokens)
        inputs = [each.float().requires_grad_() for each in (hidden_states, weights, sigma)]
        with FlopCounterMode(display=False) as counter, Largest() as largest:
            context_pool(*inputs, implementation="linear").sum().backward()
        flops[num_tokens], numbers[num_tokens] = counter.get_total_flops(), largest.numbers
    # Sizes that grow with the length have another level for each factor of four.
    assert flops[4096] < (2.05 if widest else 2.5) * flops[2048]
    assert flops[4096] < 3 * 2 * 500 * 4096 * 64  # of the dense one: 4096 in the place of 500
    assert numbers[4096] < 2.1 * numbers[2048] and numbers[4096] < 8 * 4096 * 64


# ----------------------------------------------------------------------------------------------------------- choice


def zeros(num_tokens, **options):
    return torch.zeros(1, num_tokens, 2, **options)


def test_auto_is_linear_from_a_length_on():
    assert choose_implementation("auto", zeros(LINEAR_FROM[1] - 1)) == "dense"
    assert choose_implementation("auto", zeros(LINEAR_FROM[1])) == "linear"
    assert choose_implementation("auto", zeros(LINEAR_FROM[1], requires_grad=True)) == "linear"
    assert choose_implementation("auto", zeros(1024), grid_size=(32, 32)) == "dense"
    assert choose_implementation("auto", zeros(4096), grid_size=(64, 64)) == "linear"
    assert choose_implementation("auto", zeros(4096), grid_size=(64, 64), max_sigma=6.4) == "linear"
    assert choose_implementation("auto", zeros(4096), grid_size=(64, 64), max_sigma=6.5) == "dense"
    assert choose_implementation("auto", zeros(4096, requires_grad=True), grid_size=(64, 64)) == "dense"
    assert choose_implementation("auto", zeros(16384, requires_grad=True), grid_size=(128, 128)) == "linear"
    assert choose_implementation("auto", zeros(1024, device="meta")) == "dense"
    assert choose_implementation("auto", zeros(4096, device="meta")) == "linear"


def test_auto_is_dense_for_float64_for_segments_and_in_graphs():
    assert choose_implementation("auto", zeros(1024, dtype=torch.float64)) == "dense"
    for implementation in ("auto", "linear"):
        assert choose_implementation(implementation, zeros(1024), segments=torch.ones(1, 1024)) == "dense"
    with FakeTensorMode():
        assert choose_implementation("auto", zeros(1024)) == "dense"


def test_triton_without_its_device_is_dense_with_one_warning():
    module._warn_of_triton.cache_clear()
    with pytest.warns(UserWarning, match='here "dense" takes its place'):
        assert choose_implementation("triton", zeros(8)) == "dense"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_implementation("triton", zeros(8)) == "dense"


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes tensors on a GPU of which nothing but their kind is real."""
    monkeypatch.setattr(module, "is_traced", lambda tensor: False)  # as such tensors are
    monkeypatch.setattr(module, "_triton_runs", lambda device: True)
    with FakeTensorMode():
        yield partial(zeros, device="cuda")


def test_on_a_gpu_triton_is_the_choice_at_any_length(on_gpu):
    for num_tokens in (1, 4096, 16384):
        assert choose_implementation("auto", on_gpu(num_tokens)) == "triton"
        assert choose_implementation("auto", on_gpu(num_tokens, requires_grad=True)) == "triton"
    assert choose_implementation("auto", on_gpu(4096), grid_size=(64, 64)) == "triton"
    assert choose_implementation("auto", on_gpu(64), segments=torch.ones(1, 64)) == "triton"
    for other in ("dense", "linear"):
        assert choose_implementation(other, on_gpu(64)) == other
    for implementation in ("auto", "triton"):
        assert choose_implementation(implementation, on_gpu(64, dtype=torch.float64)) == "dense"


def test_where_triton_does_not_run_a_gpu_takes_another(on_gpu, monkeypatch):
    monkeypatch.setattr(module, "_triton_runs", lambda device: False)
    assert choose_implementation("auto", on_gpu(4095)) == "dense"
    assert choose_implementation("auto", on_gpu(4096)) == "linear"


def test_compiled_graphs_alone_hold_triton_and_only_where_it_is_asked_for(on_gpu, monkeypatch):
    monkeypatch.setattr(module, "is_traced", lambda tensor: True)
    assert choose_implementation("triton", on_gpu(64)) == "dense"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert choose_implementation("auto", on_gpu(64)) == "dense"
    assert choose_implementation("triton", on_gpu(64)) == "triton"
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert choose_implementation("triton", on_gpu(64)) == "dense"


def test_forward_mode_differentiation_is_dense(on_gpu):
    with torch.autograd.forward_ad.dual_level():
        assert choose_implementation("auto", on_gpu(64)) == "dense"


def test_memory_that_is_full_tells_nothing_of_triton(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "_TRITON_RUNS", {})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(module, "_triton_difference", full)
    with pytest.raises(torch.OutOfMemoryError):
        module._triton_runs(torch.device("cuda"))
    assert not module._TRITON_RUNS


def test_function_transforms_are_dense(on_gpu):
    chosen = []

    def choose(hidden_states):
        chosen.extend(choose_implementation(name, hidden_states) for name in ("auto", "triton"))
        return hidden_states

    torch.func.vmap(choose)(on_gpu(64)[None])
    assert chosen == ["dense", "dense"]


def test_triton_that_fails_is_dense_with_one_warning(monkeypatch):
    device = torch.device("cuda", 99)  # that there is none stands for whatever else may fail
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.warns(UserWarning, match="Triton fails here, and the pooling does without it: "):
        assert not module._triton_runs(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not module._triton_runs(device)
    monkeypatch.delitem(module._TRITON_RUNS, device)


@pytest.mark.parametrize("of_gradient", [False, True], ids=["output", "gradient"])
@pytest.mark.parametrize("error", [0.0, 0.1, math.nan])
def test_triton_that_computes_something_else_is_dense_with_a_warning(
    triton_pool, triton_device, error, of_gradient, monkeypatch
):
    def wrong(hidden_states, weights, *args, right=triton_pool.triton_context_pool, **kwargs):
        if of_gradient:
            weights = weights.clone()
            weights.register_hook(lambda gradient: gradient * (1 + error))
        pooled = right(hidden_states, weights, *args, **kwargs)
        return pooled if of_gradient else pooled * (1 + error)

    device = torch.device(triton_device, 0)
    monkeypatch.setattr(module, "_TRITON_RUNS", {})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton_pool, "triton_context_pool", wrong)
    state = torch.get_rng_state()
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert module._triton_runs(device) == (error == 0.0)
    told = [str(each.message) for each in caught]
    assert (error == 0.0) == (not any("differ from those of the dense form" in each for each in told)), told
    assert torch.equal(torch.get_rng_state(), state)
    assert error or module._triton_difference(device) < 1e-5


@pytest.mark.parametrize(("cuda", "capability"), [(None, (9, 0)), ("13.0", (7, 5))])
def test_other_gpus_do_without_triton(cuda, capability, monkeypatch):
    monkeypatch.setattr(module, "_TRITON_RUNS", {})
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not module._triton_runs(torch.device("cuda"))


def test_an_unknown_implementation_is_refused_by_name():
    with pytest.raises(ValueError, match='auto, dense, linear, triton, not "fast"'):
        choose_implementation("fast", zeros(8))
    for config_class in (CPBertConfig, CPViTConfig):
        with pytest.raises(Exception, match='auto, dense, linear, triton, not "fast"'):
            config_class(pool_implementation="fast")


@pytest.mark.parametrize("options", [{}, {"pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True}])
def test_modules_of_every_implementation_agree(options):
    torch.manual_seed(0)
    pools = {name: ContextPool(8, pool_implementation=name, **options) for name in ("dense", "linear", "auto")}
    for pool in pools.values():
        pool.load_state_dict(pools["dense"].state_dict())
        if pool.gate is not None:
            torch.nn.init.ones_(pool.gate)
    hidden_states, mask = torch.randn(2, 600, 8), torch.ones(2, 600, dtype=torch.bool)
    mask[1, 400:] = False
    pooled, sizes = pools["dense"](hidden_states, mask=mask)
    for name in ("linear", "auto"):
        actual, actual_sizes = pools[name](hidden_states, mask=mask)
        assert_close(actual[mask], pooled[mask], rtol=0.0, atol=1e-4)
        assert torch.equal(actual_sizes, sizes)


@pytest.mark.parametrize(("log_weight", "leaves_out"), [(5.0, False), (15.0, False), (25.0, True)])
def test_linear_leaves_out_far_tokens_of_a_very_large_weight_alone(log_weight, leaves_out):
    """The limit that `context_pool` names."""
    torch.manual_seed(0)
    hidden_states, weights = torch.randn(1, 512, 8), torch.randn(1, 1, 512)
    weights[..., 300] = log_weight
    inputs = hidden_states, weights, torch.full((1, 1, 512), 12.5)
    linear, dense = (context_pool(*inputs, implementation=name) for name in ("linear", "dense"))
    assert ((linear - dense).abs().max() > 1e-3) == leaves_out
    assert (linear - dense)[:, 250:350].abs().max() < 1e-5


def test_a_model_is_switched_by_its_configuration():
    sizes = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes.update(intermediate_size=8, max_position_embeddings=600)
    dense = CPBertModel(CPBertConfig(**sizes, pool_implementation="dense")).eval()
    linear = CPBertModel(CPBertConfig(**sizes, pool_implementation="linear")).eval()
    linear.load_state_dict(dense.state_dict())
    input_ids = torch.arange(600)[None] % 10
    assert_close(linear(input_ids).last_hidden_state, dense(input_ids).last_hidden_state, rtol=0.0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["linear", "triton"])  # here dense with a warning
def test_what_is_asked_for_is_compiled_whole(implementation):
    torch.manual_seed(0)
    module._warn_of_triton.cache_clear()
    pool = ContextPool(8, pool_implementation=implementation, pool_range=0.05).eval()
    hidden_states = torch.randn(1, 130, 8)
    compiled = torch.compile(pool, backend="aot_eager", fullgraph=True)
    assert_close(compiled(hidden_states)[0], pool(hidden_states)[0], rtol=0.0, atol=1e-4)
