# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The Triton kernels, on a GPU or, where there is none, under Triton's interpreter, against the dense pooling in
float64."""

import math
import sys

import pytest
import torch
from torch.testing import assert_close

from cp_transformers.models.context_pool import ContextPool, context_pool


pytest.importorskip("triton")
pytestmark = pytest.mark.slow  # test_implementations.py has the kernels in the fast tier

NAMES = ("hidden_states", "weights", "sigma", "offsets")


@pytest.fixture(autouse=True)
def on_triton_device(triton_device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the predictor's convolutions, compared in float32
    with torch.device(triton_device):
        yield


def make_inputs(num_tokens, num_heads=1, width=5, num_dims=0, batch_size=2, spread=1.0, min_sigma=0.5):
    """`hidden_states`, `weights`, `sigma` and, with `num_dims`, `offsets`, in float32."""
    tensors = [
        torch.randn(batch_size, num_tokens, num_heads * width),
        spread * torch.randn(batch_size, num_heads, num_tokens),
        min_sigma + 3 * torch.rand(batch_size, num_heads, num_tokens),
    ]
    if num_dims:
        tensors.append(2 * torch.randn(batch_size, num_heads, num_tokens, num_dims))
    return tensors


def with_gradients(function, tensors, grad, **options):
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    pooled = function(*tensors, **options)
    return {"pooled": pooled.detach(), **dict(zip(NAMES, torch.autograd.grad(pooled, tensors, grad.to(pooled.dtype))))}


def check(pool, tensors, tolerance=5e-5, mask=None, **options):
    """Compares results and gradients at valid tokens, relative to the largest number of each. Others get zeros, and
    their gradients reach nothing."""
    grad = torch.randn_like(tensors[0])
    ours = with_gradients(pool.triton_context_pool, tensors, grad, mask=mask, **options)
    valid = 1 if mask is None else mask[..., None]
    dense = with_gradients(context_pool, [each.double() for each in tensors], grad * valid, mask=mask, **options)
    dense["pooled"] = dense["pooled"] * valid
    compare(ours, dense, tensors, tolerance)
    return ours


def compare(ours, dense, tensors, tolerance=5e-5):
    for name, expected in dense.items():
        number, like = ours[name], tensors[NAMES.index(name) if name in NAMES else 0]
        assert number.dtype == like.dtype, name
        error = (number.double() - expected).abs().max().item()
        assert error <= tolerance * expected.abs().max().item() + 1e-6, f"{name}: off by {error}"


@pytest.mark.parametrize("gate", [False, True])
def test_the_module_trains(small_blocks, monkeypatch, gate):
    hidden_states, direction = torch.randn(2, 20, 8), torch.randn(2, 20, 8)
    pool, found = ContextPool(8, pool_num_heads=2, pool_max_offset=1.0, pool_gate=gate), []
    if gate:
        torch.nn.init.normal_(pool.gate)
    monkeypatch.setitem(sys.modules, "cp_transformers.models.triton_pool", small_blocks)
    for implementation in ("dense", "triton"):
        monkeypatch.setattr(
            sys.modules[ContextPool.__module__], "choose_implementation", lambda *args, chosen=implementation: chosen
        )
        found.append(torch.autograd.grad((pool(hidden_states)[0] * direction).sum(), list(pool.parameters())))
    assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


# Of 40 and 70 tokens: no multiples of a block, and more than two of them.
@pytest.mark.parametrize("width", [5, 64, 100])
def test_sequence(small_blocks, width):
    check(small_blocks, make_inputs(40, width=width))


def test_default_blocks(triton_pool):
    check(triton_pool, make_inputs(70, num_heads=2, width=100, num_dims=1, batch_size=1))


def test_default_blocks_of_half_precision(triton_pool):
    tensors = make_inputs(130, width=70, num_dims=1, batch_size=1)
    check(triton_pool, [tensors[0].bfloat16(), *tensors[1:]], tolerance=2e-2)


def holes(num_tokens):
    """Left and inner holes in the first example; the second is whole."""
    mask = torch.ones(2, num_tokens, dtype=torch.bool)
    mask[0, :18] = mask[0, 25:28] = False
    return mask


def test_heads_offsets_and_mask(small_blocks):
    check(small_blocks, make_inputs(40, num_heads=2, width=20, num_dims=1), mask=holes(40))


def test_rounding_is_not_amplified_where_the_nearest_tokens_are_far(small_blocks):
    tensors, mask = make_inputs(40, width=20, num_dims=1, min_sigma=0.3), torch.ones(2, 40, dtype=torch.bool)
    mask[:, 10:30] = False
    tensors[3][:, :, :10] += 10.0  # into the hole
    check(small_blocks, tensors, mask=mask)


def test_mask_of_integers(small_blocks):
    check(small_blocks, make_inputs(40), mask=holes(40).long())


def test_example_without_any_valid_token(small_blocks):
    mask = holes(40)
    mask[0] = False
    ours = check(small_blocks, make_inputs(40, num_heads=2, num_dims=1), mask=mask)
    assert all((number[0] == 0).all() for number in ours.values())


@pytest.mark.parametrize("with_offsets", [False, True], ids=["centred", "offsets"])
@pytest.mark.parametrize("grid_size", [(3, 5), (5, 7), (1, 1)])
def test_grid(small_blocks, grid_size, with_offsets):
    tensors = make_inputs(math.prod(grid_size), num_heads=2, num_dims=2 * with_offsets)
    check(small_blocks, tensors, grid_size=grid_size)


def test_grid_with_mask(small_blocks):
    check(small_blocks, make_inputs(35, num_dims=2), grid_size=(5, 7), mask=holes(35))


def test_segments(small_blocks):
    segments = torch.tensor([0] * 7 + [3] * 20 + [-1] * 13).expand(2, -1)
    check(small_blocks, make_inputs(40, num_heads=2, num_dims=1), segments=segments)


def test_segment_without_any_valid_token(small_blocks):
    segments = torch.tensor([0] * 18 + [1] * 12 + [2] * 10).expand(2, -1)
    ours = check(small_blocks, make_inputs(40, num_dims=1), mask=holes(40), segments=segments)
    assert (ours["pooled"][0, :18] == 0).all()
    assert (ours["sigma"][0, :, :18] == 0).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(small_blocks, dtype, tolerance):
    tensors = make_inputs(70, num_heads=2, width=20, num_dims=1)
    check(small_blocks, [tensors[0].to(dtype), *tensors[1:]], tolerance)


def test_predictions_in_half_precision(small_blocks):
    check(small_blocks, [tensor.bfloat16() for tensor in make_inputs(40, num_dims=1)], tolerance=2e-2)


@pytest.mark.parametrize("content", [math.nan, math.inf])
def test_weights_of_invalid_tokens_reach_nothing(small_blocks, content):
    mask, grad = holes(40), torch.randn(2, 40, 10)
    tensors = make_inputs(40, num_heads=2, num_dims=1)
    tensors[0] = tensors[0] * mask[..., None]
    expected = with_gradients(small_blocks.triton_context_pool, tensors, grad, mask=mask)
    tensors[1] = tensors[1].masked_fill(~mask[:, None], content)
    assert_close(with_gradients(small_blocks.triton_context_pool, tensors, grad, mask=mask), expected, rtol=0, atol=0)


def test_spread_weights_and_narrow_pools(small_blocks):
    tensors = make_inputs(70, num_heads=2, num_dims=1, spread=20.0)
    tensors[2] = 0.1 * 200 ** torch.rand_like(tensors[2])  # from 0.1 to 20
    check(small_blocks, tensors, tolerance=2e-4, mask=holes(70))


def test_inputs_need_not_be_contiguous(small_blocks):
    hidden_states, weights, sigma, offsets = make_inputs(20, num_heads=2, num_dims=1)
    tensors = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in (hidden_states, weights, sigma)]
    offsets = offsets.transpose(1, 2).contiguous().transpose(1, 2)
    check(small_blocks, [*tensors, offsets], segments=torch.zeros(20, 2, dtype=torch.long).T)
    hidden_states.requires_grad_()
    small_blocks.triton_context_pool(hidden_states, weights, sigma).sum().backward()  # an expanded gradient
    # Every query gives all its weight away.
    assert_close(hidden_states.grad.sum(dim=1), torch.full((2, 10), 20.0))


@pytest.mark.parametrize("grid_size", [None, (4, 4)], ids=["sequence", "grid"])
def test_second_derivatives_are_those_of_the_dense_form(small_blocks, grid_size):
    mask, direction = holes(40)[:, :16], torch.randn(2, 16, 10)
    mask[0, 14:] = True
    found = []
    tensors = make_inputs(16, num_heads=2, num_dims=1 if grid_size is None else 2)
    for pool, dtype in ((small_blocks.triton_context_pool, torch.float32), (context_pool, torch.float64)):
        inputs = [each.to(dtype).requires_grad_() for each in tensors]
        pooled = pool(*inputs, mask=mask, grid_size=grid_size) * mask[..., None]
        grads = torch.autograd.grad((pooled * direction).sum(), inputs, create_graph=True)
        found.append([*grads, *torch.autograd.grad(sum(each.square().sum() for each in grads), inputs)])
    for ours, dense in zip(*found):
        assert_close(ours.double(), dense, rtol=1e-4, atol=1e-4 * dense.abs().max().item())


def test_only_what_is_asked_for_has_second_derivatives(small_blocks):
    hidden_states, weights, sigma = make_inputs(16)
    pooled = small_blocks.triton_context_pool(hidden_states, weights.requires_grad_(), sigma)
    (grad,) = torch.autograd.grad(pooled.square().sum(), [weights], create_graph=True)
    grad.sum().backward()
    assert weights.grad.abs().max() < 1e-4  # the gradients of a softmax's logits sum to zero, whatever these are


def reached_blocks(pooled):
    """The first block of tokens that each block pools, and the end of those."""
    return pooled.grad_fn.saved_tensors[-1].view(2, *pooled.shape[:1], -1)


def test_far_blocks_are_left_out(small_blocks):
    tensors = make_inputs(200, width=4, num_dims=1, batch_size=1)
    tensors[2] = tensors[2].clamp(max=1.5)
    pooled = small_blocks.triton_context_pool(*(each.requires_grad_() for each in tensors))
    first, end = reached_blocks(pooled)[:, 0]
    num_blocks = len(first)
    assert num_blocks >= 5 and ((end - first)[1:-1] < num_blocks).all() and (first[-1] > 0) and (end[0] < num_blocks)
    check(small_blocks, tensors)


@pytest.mark.parametrize("case", ["as it is", "outweighed", "offsets", "into a hole", "rows"])
def test_no_block_that_matters_is_left_out(small_blocks, case):
    """The sizes are such that blocks are small beside them, and the weights are nearly equal."""
    rows = case == "rows"
    tensors = make_inputs(300, width=4, num_dims=1 + rows, batch_size=1, spread=0.1, min_sigma=0.5 if rows else 8.0)
    options = {"grid_size": (12, 25)} if rows else {}  # a block is little more than a row
    if rows:
        tensors[2] = tensors[2].clamp(max=0.8)
    if case == "outweighed":
        tensors[1][..., 290] += 60.0
    if case in ("offsets", "into a hole", "rows"):
        tensors[3][:, :, :100, 0] += {"offsets": 50.0, "into a hole": 90.0, "rows": 6.0}[case]
    if case == "into a hole":
        options["mask"] = torch.ones(1, 300, dtype=torch.bool)
        options["mask"][:, 100:280] = False
    check(small_blocks, tensors, tolerance=2e-4, **options)


def test_rows_of_a_grid_are_left_out(small_blocks):
    tensors = make_inputs(180, width=4, num_dims=2, batch_size=1)
    tensors[2] = tensors[2].clamp(max=0.8)
    pooled = small_blocks.triton_context_pool(*(each.requires_grad_() for each in tensors), grid_size=(45, 4))
    first, end = reached_blocks(pooled)[:, 0]
    assert ((end - first) < len(first)).all()
    check(small_blocks, tensors, grid_size=(45, 4))


@pytest.mark.parametrize("name", ["hidden_states", "sigma"])
def test_nan_is_handed_on(small_blocks, name):
    tensors = make_inputs(40, batch_size=1)
    tensors[NAMES.index(name)][0].flatten()[20] = math.nan  # of a token or of one of its channels
    assert small_blocks.triton_context_pool(*tensors).isnan().any()


def test_a_weight_that_is_nan_is_handed_on_to_all(small_blocks):
    tensors = make_inputs(200, batch_size=1)
    tensors[1][..., 190] = math.nan
    assert small_blocks.triton_context_pool(*tensors).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_narrow_pools_in_half_precision(small_blocks, dtype):
    """Where a token is nearly all of its own pool, both terms of its weight's gradient are far larger than that."""
    tensors = make_inputs(70, num_heads=2, width=32, num_dims=1)
    tensors[2], tensors[3] = 0.2 + 0.1 * torch.rand_like(tensors[2]), 0.1 * tensors[3]
    grad = torch.randn_like(tensors[0]).to(dtype).double()
    tensors[0] = tensors[0].to(dtype)
    ours = with_gradients(small_blocks.triton_context_pool, tensors, grad)
    exact = with_gradients(context_pool, [each.double() for each in tensors], grad)
    for name in NAMES:
        assert (ours[name].double() - exact[name]).norm() < 0.02 * exact[name].norm(), name


def test_what_one_example_or_head_has_is_broadcast(small_blocks):
    hidden_states, weights, sigma, offsets = make_inputs(40, num_heads=2, num_dims=1)
    tensors = [hidden_states, weights[:1], sigma[:, :1], offsets[:1, :1]]
    check(small_blocks, tensors, segments=(torch.arange(40) // 25)[None])


def test_batches_of_gradients(small_blocks):
    tensors = [each.requires_grad_() for each in make_inputs(16)]
    grads = torch.randn(3, 2, 16, 5)
    pooled = small_blocks.triton_context_pool(*tensors)
    batched = torch.autograd.grad(pooled, tensors, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(pooled, tensors, grad, retain_graph=True) for grad in grads]
    assert_close(batched, tuple(map(torch.stack, zip(*each))), rtol=1e-4, atol=1e-5)


def test_autocast_casts_the_tokens(small_blocks, triton_device):
    tensors = make_inputs(40, num_heads=2, num_dims=1)
    with torch.autocast(triton_device, torch.bfloat16):
        pooled = small_blocks.triton_context_pool(*tensors)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, small_blocks.triton_context_pool(tensors[0].bfloat16(), *tensors[1:]))


# Groups of tokens in the queries' place


def make_strided_inputs(num_tokens, stride, grid_size=None, num_heads=2, width=5, groups=None, **options):
    """`hidden_states`, `weights`, `sigma` and `offsets`, the last two of groups."""
    groups = groups or math.prod(math.ceil(side / stride) for side in grid_size or (num_tokens,))
    tensors = make_inputs(num_tokens, num_heads, width, num_dims=1 if grid_size is None else 2, **options)
    return [*tensors[:2], *(each[:, :, :groups].contiguous() for each in tensors[2:])]


@pytest.fixture
def strided_check(small_blocks, monkeypatch):
    """Compares results and gradients of [`context_pool`] with those of the dense form, relative to the largest number
    of each."""
    monkeypatch.setitem(sys.modules, "cp_transformers.models.triton_pool", small_blocks)
    monkeypatch.setattr(sys.modules[ContextPool.__module__], "choose_implementation", lambda chosen, *args: chosen)

    def check_strided(tensors, tolerance=5e-5, **options):
        grad = torch.randn(*tensors[0].shape[:1], tensors[2].shape[-1], tensors[0].shape[-1])
        ours = with_gradients(context_pool, tensors, grad, implementation="triton", **options)
        exact = [each.double() for each in tensors]
        dense = with_gradients(context_pool, exact, grad, implementation="dense", **options)
        compare(ours, dense, tensors, tolerance)
        return ours

    return check_strided


@pytest.mark.parametrize(
    ("num_tokens", "stride", "masked"), [(70, 2, False), (71, 2, True), (100, 3, True), (5, 8, False)]
)
def test_groups_of_a_sequence(strided_check, num_tokens, stride, masked):
    mask = None
    if masked:  # on the right and, with whole groups among them, inner holes; and on the left
        mask = torch.ones(2, num_tokens, dtype=torch.bool)
        mask[0, num_tokens - 2 :] = mask[0, 25:34] = mask[1, :3] = False
    strided_check(make_strided_inputs(num_tokens, stride, num_heads=1), mask=mask, stride=stride)


@pytest.mark.parametrize(("grid_size", "stride"), [((9, 15), 2), ((7, 11), 3), ((1, 1), 2), ((4, 10), 2)])
def test_groups_of_a_grid(strided_check, grid_size, stride):
    num_tokens = math.prod(grid_size)
    mask = torch.ones(2, num_tokens, dtype=torch.bool)
    mask[0, num_tokens // 3 : num_tokens - 3] = False
    strided_check(make_strided_inputs(num_tokens, stride, grid_size), mask=mask, grid_size=grid_size, stride=stride)


def test_groups_without_offsets(strided_check):
    strided_check(make_strided_inputs(20, 2)[:3], stride=2)
    strided_check(make_strided_inputs(15, 2, (3, 5))[:3], grid_size=(3, 5), stride=2)


@pytest.mark.parametrize("stride", [2, 3])
def test_groups_of_packed_rows(strided_check, stride):
    segments = torch.tensor([[0] * 7 + [3] * 20 + [-1] * 13, [0] * 1 + [1] * 2 + [2] * 30 + [3] * 7])
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0, 30:] = mask[1, 5:9] = False
    groups = [[7, 20, 3], [1, 2, 30, 7]]
    longest = max(sum(math.ceil(length / stride) for length in row) for row in groups)
    tensors = make_strided_inputs(40, stride, groups=longest)
    strided_check(tensors, mask=mask, segments=segments, stride=stride)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)], ids=str)
def test_groups_in_half_precision(strided_check, dtype, tolerance):
    tensors = make_strided_inputs(140, 2, num_heads=1, width=20)
    strided_check([tensors[0].to(dtype), *tensors[1:]], tolerance, stride=2)


@pytest.mark.parametrize("case", ["own tokens differ", "outweighed", "spread", "offsets", "rows"])
def test_no_block_that_matters_to_a_group_is_left_out(strided_check, case):
    """The pools are narrow, and blocks are small beside the row."""
    grid_size = (12, 15) if case == "rows" else None
    tensors = make_strided_inputs(180, 2, grid_size, num_heads=1, width=4, batch_size=1, spread=0.1)
    tensors[2] = tensors[2].clamp(max=1.5)
    weights, sigma, offsets = tensors[1:]
    if case == "own tokens differ":  # one token of each group, in turn the first and the last
        weights[..., ::4] -= 30.0
        weights[..., 3::4] -= 30.0
    if case == "outweighed":
        sigma *= 8
        weights[..., 170] += 60.0
    if case == "spread":
        weights *= 200
        sigma.copy_(0.2 * 100 ** torch.rand_like(sigma))  # from 0.2 to 20
    if case in ("offsets", "rows"):
        offsets[:, :, :40, 0] += 50.0 if case == "offsets" else 4.0
    strided_check(tensors, 2e-4, grid_size=grid_size, stride=2)


def test_blocks_far_from_groups_are_left_out(small_blocks):
    hidden_states, weights, sigma, offsets = make_strided_inputs(300, 2, num_heads=1, width=4, batch_size=1)
    tensors = [each.requires_grad_() for each in (hidden_states, weights, sigma.clamp(max=1.5), offsets)]
    pooled = small_blocks.triton_context_pool(*tensors, stride=2)
    first, end = pooled.grad_fn.saved_tensors[-1]
    num_blocks = end[-1]
    assert len(first) == 5 and num_blocks == 10  # of groups, and of tokens
    assert ((end - first) <= 4).all()


@pytest.mark.parametrize("grid_size", [None, (5, 8)], ids=["sequence", "grid"])
def test_groups_without_a_valid_token_are_zero(small_blocks, grid_size):
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0, 32:35] = True
    tensors = make_strided_inputs(40, 2, grid_size)
    tensors[0] = tensors[0] * mask[..., None]
    options = {"mask": mask, "grid_size": grid_size, "stride": 2}
    groups = tensors[2].shape[-1]
    ours = with_gradients(small_blocks.triton_context_pool, tensors, torch.randn(2, groups, 10), **options)
    valid = torch.zeros(2, groups, dtype=torch.bool)
    valid[0, [16, 17] if grid_size is None else [8, 9]] = True
    for number in (ours["pooled"], ours["sigma"].transpose(1, 2), ours["offsets"].transpose(1, 2)):
        assert (number[~valid] == 0).all() and number[valid].any()
    assert (ours["weights"].transpose(1, 2)[~mask] == 0).all() and (ours["hidden_states"][~mask] == 0).all()


@pytest.mark.parametrize("grid_size", [None, (3, 5)], ids=["sequence", "grid"])
def test_second_derivatives_of_groups_are_those_of_the_dense_form(strided_check, grid_size):
    mask, direction = torch.ones(2, 15, dtype=torch.bool), torch.randn(2, 8 if grid_size is None else 6, 10)
    mask[0, 11:] = False
    found = []
    tensors = make_strided_inputs(15, 2, grid_size)
    for implementation, dtype in (("triton", torch.float32), ("dense", torch.float64)):
        inputs = [each.to(dtype).requires_grad_() for each in tensors]
        options = {"mask": mask, "grid_size": grid_size, "stride": 2, "implementation": implementation}
        grads = torch.autograd.grad((context_pool(*inputs, **options) * direction).sum(), inputs, create_graph=True)
        found.append([*grads, *torch.autograd.grad(sum(each.square().sum() for each in grads), inputs)])
    for ours, dense in zip(*found):
        assert_close(ours.double(), dense, rtol=1e-4, atol=1e-4 * dense.abs().max().item())


def test_the_strided_module_trains(strided_check, monkeypatch):
    hidden_states, mask = torch.randn(2, 21, 8), torch.ones(2, 21, dtype=torch.bool)
    mask[0, :4] = False
    pool, direction, found = ContextPool(8, pool_num_heads=2, stride=2), torch.randn(2, 11, 8), []
    for pool.pool_implementation in ("dense", "triton"):
        found.append(torch.autograd.grad((pool(hidden_states, mask)[0] * direction).sum(), list(pool.parameters())))
    assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_errors(small_blocks):
    hidden_states, weights, sigma, offsets = make_inputs(15, num_heads=2, num_dims=1)
    pool = small_blocks.triton_context_pool
    with pytest.raises(ValueError, match="pooling heads"):
        pool(hidden_states[..., :-1], weights, sigma)
    with pytest.raises(ValueError, match="does not hold 15 tokens"):
        pool(hidden_states, weights, sigma, grid_size=(4, 4))
    with pytest.raises(ValueError, match="offsets need 2 coordinates"):
        pool(hidden_states, weights, sigma, offsets, grid_size=(3, 5))
    with pytest.raises(ValueError, match="float64"):
        pool(hidden_states.double(), weights, sigma)
