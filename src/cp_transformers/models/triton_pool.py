# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`context_pool` as fused Triton kernels, which never write the (tokens x tokens) weights to memory.

Of the equations at the head of `context_pool`, this computes

    logit_ij = w_j - |centre_i - position_j|^2 / (2 sigma_i^2)      where j is valid and of i's segment, else -infinity
    y_i      = sum_j p_ij x_j,  p_ij = exp(logit_ij - log_sum_i)

a block of queries `i` and keys `j` at a time, as flash attention does: forward keeps a running maximum and saves only
`log_sum_i`, from which backward computes each block of `p` anew. With `dp_ij = dy_i . x_j` and `delta_i = dy_i . y_i`,

    dlogit_ij = p_ij (dp_ij - delta_i)
    dx_j      = sum_i p_ij dy_i
    dw_j      = sum_i dlogit_ij = x_j . dx_j - sum_i p_ij delta_i

where the last form spares the kernel that sums over queries the products `dp`. The `dlogit_ij` of a query sum to zero
but for rounding, foremost of `y`. Distances that are large against sigma would amplify it: so the gradients of sigma
and the offsets are sums of `dlogit_ij` times each distance's difference from its mean. In `dw_j` it would be most of
what is left of two terms that nearly cancel: so `delta_i` is corrected by that sum. Nothing is added up by atomics:
results do not change from run to run.

With a stride, a query is a group: `STRIDE` tokens, or a square of `STRIDE` x `STRIDE`, around whose middle its centre
stands. Without one it is a group of one token.

Blocks of keys are left out where no query of a block can give them a weight above exp(-MARGIN). As the valid tokens
`k` of a group enter its pool, and no weight is above the largest `w` of the row, that is where, for any of them,

    |centre_i - position_j|^2 > |centre_i - position_k|^2 + 2 sigma_i^2 (max w - w_k + MARGIN)

On a grid the rows between them are the distance.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .token_groups import group_grid, valid_groups


# transformers looks through the code of a checkpoint on the Hub, and refuses all of it where a package is missing that
# is imported outside of a `try`.
try:
    import triton
    import triton.language as tl
except ImportError:
    raise


# Powers of two of at least 16: the largest sides of a block, and how many of the tokens that it is set against are
# taken in one step. With the warps that share a block they bound the registers and the shared memory (some 100 KiB)
# that a program takes. The exact products of float32 take more registers: their blocks are smaller. Of those tried,
# the fastest on an H100.
BLOCK_TOKENS = 64
BLOCK_CHANNELS = 256
STEP = 32
LAUNCH = {"num_warps": 4, "num_stages": 2}

# What is left out weighs less than exp(-MARGIN), 4e-11, of what is summed: nothing beside float32's rounding.
MARGIN = tl.constexpr(24.0)
_LOG2_E = tl.constexpr(math.log2(math.e))  # exponentials are of base 2, as the GPU's own
_FAR = tl.constexpr(1e8)  # in positions


def triton_context_pool(
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    grid_size: tuple[int, int] | None = None,
    segments: torch.Tensor | None = None,
    stride: int = 1,
) -> torch.Tensor:
    """Pools as [`~cp_transformers.models.context_pool.context_pool`] does, in memory that grows with the tokens only.

    All but the products with `hidden_states` is computed in float32, and those are added up in it. Invalid tokens, and
    groups without a valid token, get zeros. Under autocast the tokens are cast to its dtype first, as in the products
    of the dense form.

    Args:
        hidden_states: `(batch, tokens, channels)`, in float32, bfloat16 or float16; zero where `mask` is False.
        weights: `(batch, heads, tokens)`, the logarithm of each token's weight in anybody's pool.
        sigma: `(batch, heads, tokens)`, positive, the width of each token's Gaussian in positions; with a `stride`
            `(batch, heads, groups)`, each group's.
        offsets: `(batch, heads, tokens, 1)` for a sequence, `(batch, heads, tokens, 2)` (rows, columns) for a grid:
            the centre of each token's Gaussian relative to the token, in positions. None: the token itself. With a
            `stride` there are as many as groups, each relative to the middle of the group's positions.
        mask: `(batch, tokens)`, boolean or 0/1, True where a token is valid. None: all are.
        grid_size: (rows, columns) of a grid whose tokens come row by row. None: the tokens are a sequence.
        segments: `(batch, tokens)`, integers: tokens with different ones do not pool each other. None: all may. With
            a `stride` they must be equal within each group of a sequence; a grid has none.
        stride: the positions of a group, along each dimension, one group after the other from the first position on.

    Returns:
        The pooled tokens, of the shape and dtype of `hidden_states`, under autocast of its dtype; with a `stride`
        `(batch, groups, channels)`.

    Raises:
        ValueError: the channels are not divisible by the number of heads, `grid_size` does not hold as many positions
            as there are tokens, `offsets` has the wrong number of coordinates, or `hidden_states` another dtype.
    """
    num_tokens, num_channels = hidden_states.shape[1:]
    num_dims = 1 if grid_size is None else 2
    if hidden_states.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"hidden_states must be in float32, bfloat16 or float16, not {hidden_states.dtype}.")
    if num_channels % weights.shape[1]:
        raise ValueError(f"{num_channels} channels cannot be split into {weights.shape[1]} pooling heads.")
    if grid_size is not None and grid_size[0] * grid_size[1] != num_tokens:
        raise ValueError(f"grid_size {grid_size[0]} x {grid_size[1]} does not hold {num_tokens} tokens.")
    if offsets is not None and offsets.shape[-1] != num_dims:
        raise ValueError(f"offsets need {num_dims} coordinates a token, not {offsets.shape[-1]}.")

    size = hidden_states.shape[0], weights.shape[1]
    num_groups = math.prod(group_grid(grid_size, num_tokens, stride))
    weights, sigma = weights.expand(*size, num_tokens), sigma.expand(*size, num_groups)
    offsets = None if offsets is None else offsets.expand(*size, num_groups, num_dims)
    segments = None if segments is None else segments.expand(size[0], num_tokens)
    if torch.is_autocast_enabled(hidden_states.device.type):  # as for the products of the dense form
        hidden_states = hidden_states.to(torch.get_autocast_dtype(hidden_states.device.type))
    log_weights = weights.float()
    if mask is not None:
        log_weights = log_weights.masked_fill(~mask.bool()[:, None], -torch.inf)  # how the kernels know
    columns = 0 if grid_size is None else grid_size[1]
    offsets = None if offsets is None else offsets.float().contiguous()
    segments = None if segments is None else segments.contiguous()
    inputs = hidden_states.contiguous(), log_weights.contiguous(), sigma.float().contiguous(), offsets, segments
    return _TritonPool.apply(*inputs, columns, stride)


class _TritonPool(torch.autograd.Function):
    """From `(batch, tokens, channels)`; `(batch, heads, tokens)`, -infinity at invalid tokens; `(batch, heads,
    groups)`; `(batch, heads, groups, dims)` or None; and `(batch, tokens)` or None: all contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        log_weights: torch.Tensor,
        sigma: torch.Tensor,
        offsets: torch.Tensor | None,
        segments: torch.Tensor | None,
        columns: int,
        stride: int,
    ) -> torch.Tensor:
        batch_size, num_heads, num_groups = sigma.shape
        num_tokens = log_weights.shape[2]
        width = hidden_states.shape[-1] // num_heads
        block_tokens, block_channels = BLOCK_TOKENS, BLOCK_CHANNELS
        if hidden_states.dtype == torch.float32:
            block_tokens, block_channels = block_tokens // 2, max(16, block_channels // 4)
        block_tokens = min(block_tokens, max(STEP, triton.next_power_of_2(num_tokens)))
        block_channels = min(block_channels, max(16, triton.next_power_of_2(width)))
        blocks, channel_blocks = triton.cdiv(num_groups, block_tokens), triton.cdiv(width, block_channels)
        # Blocks of tokens first: programs that run at the same time share their example's tokens in the cache.
        ctx.grid = batch_size * num_heads * blocks, channel_blocks
        ctx.key_grid = batch_size * num_heads * triton.cdiv(num_tokens, block_tokens), channel_blocks
        ctx.blocks = triton.next_power_of_2(blocks)
        ctx.sizes = num_tokens, num_heads, width, columns
        ctx.options = {
            "GRID": columns > 0,
            "OFFSETS": offsets is not None,
            "SEGMENTS": segments is not None,
            "STRIDE": stride,
            "BLOCK_TOKENS": block_tokens,
            "STEP": min(STEP, block_tokens),
            "BLOCK_CHANNELS": block_channels,
            **LAUNCH,
        }

        pooled = hidden_states.new_empty(batch_size, num_groups, hidden_states.shape[-1])
        log_sums = torch.empty_like(sigma)
        # For each block of queries, the first of the blocks of keys that it pools, and the end of those.
        reached = log_weights.new_empty(2, ctx.grid[0], dtype=torch.int32)
        inputs = hidden_states, log_weights, sigma, offsets, segments
        with _launched_on(hidden_states.device):
            _pool_kernel[ctx.grid](*inputs, pooled, log_sums, *reached, *ctx.sizes, **ctx.options)
        ctx.save_for_backward(*inputs, pooled, log_sums, reached)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *inputs, pooled, log_sums, reached = ctx.saved_tensors
        # For create_graph, and for batches of gradients: the dense form has second derivatives, and can be vectorised.
        if torch.is_grad_enabled() or _is_vectorised(grad):
            return *_dense_grads(inputs, grad, ctx.sizes, ctx.options["STRIDE"]), None, None, None
        hidden_states, log_weights, sigma, offsets, _ = inputs
        inputs += [grad.contiguous(), log_sums]
        deltas, sigma_grads, hidden_grads = (torch.empty_like(each) for each in (sigma, sigma, hidden_states))
        offset_grads = None if offsets is None else torch.empty_like(offsets)
        # One term for each block of channels, to be added up.
        weight_grads = log_weights.new_empty(*log_weights.shape[:2], ctx.grid[1], log_weights.shape[2])
        options = ctx.options | {"CHANNEL_BLOCKS": ctx.grid[1]}
        with _launched_on(hidden_states.device):
            _query_grads_kernel[ctx.grid[:1]](
                *inputs, pooled, deltas, sigma_grads, offset_grads, *reached, *ctx.sizes, **options
            )
            options = ctx.options | {"BLOCKS": ctx.blocks}
            _key_grads_kernel[ctx.key_grid](
                *inputs, deltas, hidden_grads, weight_grads, *reached, *ctx.sizes, **options
            )
        return hidden_grads, weight_grads.sum(dim=2), sigma_grads, offset_grads, None, None, None


def _is_vectorised(grad: torch.Tensor) -> bool:
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad)


def _launched_on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _dense_grads(
    inputs: list[torch.Tensor], grad: torch.Tensor, sizes: tuple[int, ...], stride: int
) -> list[torch.Tensor | None]:
    """The gradients of all but the segments, as part of a graph."""
    from .context_pool import _mix, _pooling_weights

    hidden_states, log_weights, sigma, offsets, segments = inputs
    num_tokens, _, _, columns = sizes
    mask = (log_weights != -torch.inf).any(dim=1)
    grid_size = (num_tokens // columns, columns) if columns else None
    wanted = [each for each in inputs[:4] if each is not None and each.requires_grad]
    with torch.enable_grad():
        p = _pooling_weights(log_weights, sigma, offsets, mask, grid_size, segments, stride)
        pooled = _mix(hidden_states, p) * valid_groups(mask, grid_size, stride)[..., None]
        found = iter(torch.autograd.grad(pooled, wanted, grad, create_graph=True))
    return [next(found) if each is not None and each.requires_grad else None for each in inputs[:4]]


@triton.jit
def _pool_kernel(
    hidden_states, log_weights, sigma, offsets, segments, pooled, log_sums, first_blocks, end_blocks,
    num_tokens, num_heads, width, columns,
    GRID: tl.constexpr, OFFSETS: tl.constexpr, SEGMENTS: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, STEP: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    num_groups = _num_groups(num_tokens, columns, GRID, STRIDE)
    row, queries = _row_and_tokens(num_groups, BLOCK_TOKENS)
    queries = queries[:, None]
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    gaussians = _gaussians(
        sigma, offsets, segments, row, queries, num_groups, num_tokens, num_heads, GRID, OFFSETS, SEGMENTS, STRIDE
    )
    valid, first, end = _reached_keys(
        log_weights, row, queries, gaussians, num_tokens, columns, GRID, STRIDE, BLOCK_TOKENS
    )
    # Finite, so that a block without any valid key leaves the other numbers zero instead of NaN.
    largest = tl.full([BLOCK_TOKENS, 1], -3e38, tl.float32)
    total = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    mixed = tl.full([BLOCK_TOKENS, BLOCK_CHANNELS], 0.0, tl.float32)
    for step in range(0, (end - first) * (BLOCK_TOKENS // STEP)):
        keys = first * BLOCK_TOKENS + step * STEP + tl.arange(0, STEP)
        x = _load(hidden_states, row, keys[:, None], channels, num_tokens, num_heads, width)
        keys = keys[None, :]
        key_weight = _log_weights(log_weights, row, keys, num_tokens)
        logits, _, _ = _logits(
            gaussians, queries, key_weight, segments, row, keys, num_tokens, num_heads, columns,
            GRID, SEGMENTS, STRIDE,
        )  # fmt: skip
        logits = _as_product(logits, hidden_states.dtype.element_ty)
        new_largest = tl.maximum(largest, tl.max(logits, 1, keep_dims=True))
        p = tl.exp2(logits - new_largest)
        shrink = tl.exp2(largest - new_largest)
        mixed = tl.dot(p.to(x.dtype), x, mixed * shrink, input_precision="ieee")
        total = total * shrink + tl.sum(p, 1, keep_dims=True)
        largest = new_largest
    empty = (total == 0) | (valid == 0)
    total = tl.where(empty, 1.0, total)
    mixed = tl.where(empty, 0.0, mixed / total)
    _store(pooled, mixed, row, queries, channels, num_groups, num_heads, width)
    # Infinite: backward's p are zero, too.
    log_sum = tl.where(empty, float("inf"), largest + tl.log2(total))
    if tl.program_id(1) == 0:
        tl.store(log_sums + row * num_groups + queries, log_sum, queries < num_groups)
        tl.store(first_blocks + tl.program_id(0), first)
        tl.store(end_blocks + tl.program_id(0), end)


@triton.jit
def _query_grads_kernel(
    hidden_states, log_weights, sigma, offsets, segments, grads, log_sums, pooled, deltas, sigma_grads, offset_grads,
    first_blocks, end_blocks, num_tokens, num_heads, width, columns,
    GRID: tl.constexpr, OFFSETS: tl.constexpr, SEGMENTS: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, STEP: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
):  # fmt: skip
    num_groups = _num_groups(num_tokens, columns, GRID, STRIDE)
    row, queries = _row_and_tokens(num_groups, BLOCK_TOKENS)
    queries = queries[:, None]
    channels = tl.arange(0, BLOCK_CHANNELS)[None, :]
    inside, groups = queries < num_groups, row * num_groups + queries
    log_sum = tl.load(log_sums + groups, inside, float("inf"))
    gaussians = _gaussians(
        sigma, offsets, segments, row, queries, num_groups, num_tokens, num_heads, GRID, OFFSETS, SEGMENTS, STRIDE
    )
    delta = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    for part in tl.static_range(CHANNEL_BLOCKS):
        own = part * BLOCK_CHANNELS + channels
        dy = _load(grads, row, queries, own, num_groups, num_heads, width)
        y = _load(pooled, row, queries, own, num_groups, num_heads, width)
        delta += tl.sum(dy.to(tl.float32) * y.to(tl.float32), 1, keep_dims=True)

    excess = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    square_sum = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    square_mean = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    down_sum = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    down_mean = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    right_sum = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    right_mean = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    first = tl.load(first_blocks + tl.program_id(0))
    for step in range(0, (tl.load(end_blocks + tl.program_id(0)) - first) * (BLOCK_TOKENS // STEP)):
        keys = first * BLOCK_TOKENS + step * STEP + tl.arange(0, STEP)
        dp = tl.full([BLOCK_TOKENS, STEP], 0.0, tl.float32)
        if CHANNEL_BLOCKS == 1:  # dy is that from above
            x = _load(hidden_states, row, keys[:, None], channels, num_tokens, num_heads, width)
            dp = tl.dot(dy, tl.trans(x), dp, input_precision="ieee")
        else:
            for block in range(CHANNEL_BLOCKS):
                own = block * BLOCK_CHANNELS + channels
                dy = _load(grads, row, queries, own, num_groups, num_heads, width)
                x = _load(hidden_states, row, keys[:, None], own, num_tokens, num_heads, width)
                dp = tl.dot(dy, tl.trans(x), dp, input_precision="ieee")
        keys = keys[None, :]
        key_weight = _log_weights(log_weights, row, keys, num_tokens)
        logits, down, right = _logits(
            gaussians, queries, key_weight, segments, row, keys, num_tokens, num_heads, columns,
            GRID, SEGMENTS, STRIDE,
        )  # fmt: skip
        p = tl.exp2(_as_product(logits, hidden_states.dtype.element_ty) - log_sum)
        logit_grads = p * (dp - delta)
        square = right * right
        if GRID:
            square += down * down
        excess += tl.sum(logit_grads, 1, keep_dims=True)
        square_sum += tl.sum(logit_grads * square, 1, keep_dims=True)
        square_mean += tl.sum(p * square, 1, keep_dims=True)
        if OFFSETS:
            right_sum += tl.sum(logit_grads * right, 1, keep_dims=True)
            right_mean += tl.sum(p * right, 1, keep_dims=True)
            if GRID:
                down_sum += tl.sum(logit_grads * down, 1, keep_dims=True)
                down_mean += tl.sum(p * down, 1, keep_dims=True)
    tl.store(deltas + groups, delta + excess, inside)  # with which the gradients of a query's logits sum to zero
    own_sigma = tl.load(sigma + groups, inside, 1.0)
    square_sum = (square_sum - excess * square_mean) / (own_sigma * own_sigma * own_sigma)
    tl.store(sigma_grads + groups, square_sum, inside)
    if OFFSETS:
        right_sum = (excess * right_mean - right_sum) / (own_sigma * own_sigma)
        if GRID:
            down_sum = (excess * down_mean - down_sum) / (own_sigma * own_sigma)
            tl.store(offset_grads + 2 * groups, down_sum, inside)
            tl.store(offset_grads + 2 * groups + 1, right_sum, inside)
        else:
            tl.store(offset_grads + groups, right_sum, inside)


@triton.jit
def _key_grads_kernel(
    hidden_states, log_weights, sigma, offsets, segments, grads, log_sums, deltas, hidden_grads, weight_grads,
    first_blocks, end_blocks, num_tokens, num_heads, width, columns,
    GRID: tl.constexpr, OFFSETS: tl.constexpr, SEGMENTS: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, STEP: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row, keys = _row_and_tokens(num_tokens, BLOCK_TOKENS)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    key_weight = _log_weights(log_weights, row, keys[:, None], num_tokens)

    # From the first to the last of the blocks of queries that reach these keys.
    num_groups = _num_groups(num_tokens, columns, GRID, STRIDE)
    num_blocks = (num_groups + BLOCK_TOKENS - 1) // BLOCK_TOKENS
    blocks = tl.arange(0, BLOCKS)
    firsts = tl.load(first_blocks + row * num_blocks + blocks, blocks < num_blocks, num_blocks)
    ends = tl.load(end_blocks + row * num_blocks + blocks, blocks < num_blocks, 0)
    own_block = tl.program_id(0) % ((num_tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS)
    reaching = (firsts <= own_block) & (ends > own_block)
    first = tl.min(tl.where(reaching, blocks, BLOCKS))
    end = tl.max(tl.where(reaching, blocks, -1)) + 1

    dx = tl.full([BLOCK_TOKENS, BLOCK_CHANNELS], 0.0, tl.float32)
    delta_sum = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    for step in range(0, (end - first) * (BLOCK_TOKENS // STEP)):
        queries = first * BLOCK_TOKENS + step * STEP + tl.arange(0, STEP)
        dy = _load(grads, row, queries[:, None], channels, num_groups, num_heads, width)
        queries = queries[None, :]
        inside, groups = queries < num_groups, row * num_groups + queries
        log_sum = tl.load(log_sums + groups, inside, float("inf"))
        delta = tl.load(deltas + groups, inside, 0.0)
        gaussians = _gaussians(
            sigma, offsets, segments, row, queries, num_groups, num_tokens, num_heads,
            GRID, OFFSETS, SEGMENTS, STRIDE,
        )  # fmt: skip
        logits, _, _ = _logits(
            gaussians, queries, key_weight, segments, row, keys[:, None], num_tokens, num_heads, columns,
            GRID, SEGMENTS, STRIDE,
        )  # fmt: skip
        p = tl.exp2(_as_product(logits, hidden_states.dtype.element_ty) - log_sum).to(dy.dtype)
        dx = tl.dot(p, dy, dx, input_precision="ieee")
        # Of the rounded p as well: the two terms of dw, which nearly cancel, must be of the same.
        delta_sum += tl.sum(p.to(tl.float32) * delta, 1, keep_dims=True)
    x = _load(hidden_states, row, keys[:, None], channels, num_tokens, num_heads, width)
    _store(hidden_grads, dx, row, keys[:, None], channels, num_tokens, num_heads, width)
    dw = tl.sum(x.to(tl.float32) * dx, 1)
    if tl.program_id(1) == 0:
        dw -= tl.sum(delta_sum, 1)
    pointers = weight_grads + (row * tl.num_programs(1) + tl.program_id(1)) * num_tokens + keys
    tl.store(pointers, dw, keys < num_tokens)


@triton.jit
def _num_groups(num_tokens, columns, GRID: tl.constexpr, STRIDE: tl.constexpr):
    if GRID and STRIDE > 1:
        return (num_tokens // columns + STRIDE - 1) // STRIDE * ((columns + STRIDE - 1) // STRIDE)
    else:
        return (num_tokens + STRIDE - 1) // STRIDE


@triton.jit
def _first_positions(queries, columns, GRID: tl.constexpr, STRIDE: tl.constexpr):
    """The row and the column of the first token of each group."""
    if GRID:
        group_columns = (columns + STRIDE - 1) // STRIDE
        return queries // group_columns * STRIDE, queries % group_columns * STRIDE
    else:
        return queries * 0, queries * STRIDE


@triton.jit
def _row_and_tokens(num_tokens, BLOCK_TOKENS: tl.constexpr):
    """This program's row of (batch * heads), in 64 bits for what is computed from it, and block of tokens."""
    blocks = (num_tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)


@triton.jit
def _log_weights(log_weights, row, tokens, num_tokens):
    """-infinity at invalid tokens and beyond the last."""
    return tl.load(log_weights + row * num_tokens + tokens, tokens < num_tokens, -float("inf"))


@triton.jit
def _gaussians(
    sigma, offsets, segments, row, queries, num_groups, num_tokens, num_heads,
    GRID: tl.constexpr, OFFSETS: tl.constexpr, SEGMENTS: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """The precision of each query, the two coordinates of its centre from the first of its tokens, and its segment."""
    inside, groups = queries < num_groups, row * num_groups + queries
    own_sigma = tl.load(sigma + groups, inside, 1.0)
    precision = -0.5 / (own_sigma * own_sigma)
    down = tl.where(inside, 0.0, 0.0)
    right = down
    if OFFSETS:
        if GRID:
            down = tl.load(offsets + 2 * groups, inside, 0.0)
            right = tl.load(offsets + 2 * groups + 1, inside, 0.0)
        else:
            right = tl.load(offsets + groups, inside, 0.0)
    if STRIDE > 1:
        right += (STRIDE - 1) / 2
        if GRID:
            down += (STRIDE - 1) / 2
    segment = queries
    if SEGMENTS:
        segment = tl.load(segments + row // num_heads * num_tokens + queries * STRIDE, inside, 0)
    return precision, down, right, segment


@triton.jit
def _reached_keys(
    log_weights, row, queries, gaussians, num_tokens, columns,
    GRID: tl.constexpr, STRIDE: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
):  # fmt: skip
    """Which of a block of queries have a valid token, the first block of keys that matters to any of them, and the end
    of those that do. A weight that is NaN matters everywhere, to be handed on."""
    precision, down, right, _ = gaussians
    weights = tl.full([4 * BLOCK_TOKENS], -float("inf"), tl.float32)
    for start in range(0, num_tokens, 4 * BLOCK_TOKENS):
        loaded = _log_weights(log_weights, row, start + tl.arange(0, 4 * BLOCK_TOKENS), num_tokens)
        weights = tl.maximum(weights, tl.where(loaded == loaded, loaded, float("inf")))
    largest = tl.max(weights)
    top, left = _first_positions(queries, columns, GRID, STRIDE)
    valid = queries < 0
    square = tl.full([BLOCK_TOKENS, 1], float("inf"), tl.float32)  # of the reach, by the best of a group's tokens
    for part in range(STRIDE * STRIDE if GRID else STRIDE):
        below, beside = part // STRIDE, part % STRIDE
        tokens, inside = left + beside, left + beside < num_tokens
        if GRID:
            tokens += (top + below) * columns
            inside = (left + beside < columns) & (top + below < num_tokens // columns)
        weight = tl.load(log_weights + row * num_tokens + tokens, inside, -float("inf"))
        counted = weight != -float("inf")
        headroom = tl.where(counted, largest - weight, 0.0) + MARGIN
        to_centre = (down - below) * (down - below) + (right - beside) * (right - beside)
        own = to_centre - headroom / precision
        square = tl.where(counted & ((own < square) | (own != own)), own, square)
        valid |= counted
    reach = tl.sqrt(square)
    position, offset, extent = left, right, num_tokens
    if GRID:
        position, offset, extent = top, down, num_tokens // columns
    lowest = tl.where(offset - reach > -_FAR, offset - reach, -_FAR)
    highest = tl.where(offset + reach < _FAR, offset + reach, _FAR)
    first = tl.min(tl.where(valid, position.to(tl.float32) + lowest, _FAR))
    last = tl.max(tl.where(valid, position.to(tl.float32) + highest, -1.0))
    first = tl.minimum(tl.maximum(first, 0.0), extent.to(tl.float32)).to(tl.int32)
    end = tl.minimum(last + 1.0, extent.to(tl.float32)).to(tl.int32)
    if GRID:
        first *= columns
        end *= columns
    return valid, first // BLOCK_TOKENS, (end + BLOCK_TOKENS - 1) // BLOCK_TOKENS


@triton.jit
def _logits(
    gaussians, queries, key_weight, segments, row, keys, num_tokens, num_heads, columns,
    GRID: tl.constexpr, SEGMENTS: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """The logits of a block, to base 2, and how far each query's centre lies below and to the right of each key."""
    precision, down, right, segment = gaussians
    top, left = _first_positions(queries, columns, GRID, STRIDE)
    # Distances between positions first: exact however long the sequence.
    if GRID:
        right = left.to(tl.float32) - (keys % columns).to(tl.float32) + right
        down = top.to(tl.float32) - (keys // columns).to(tl.float32) + down
        square = down * down + right * right
    else:
        right = left.to(tl.float32) - keys.to(tl.float32) + right
        square = right * right
    logits = key_weight * _LOG2_E + square * (precision * _LOG2_E)
    if SEGMENTS:
        key_segment = tl.load(segments + row // num_heads * num_tokens + keys, keys < num_tokens, 0)
        logits = tl.where(segment == key_segment, logits, -float("inf"))
    return logits, down, right


@triton.jit
def _as_product(logits, dtype: tl.constexpr):
    """The logits, spread over the threads as a product of matrices is: the sum of a row is then within four of them,
    and what is computed from the logits is ready for the next product. Tensor cores add zeros at no cost."""
    if dtype == tl.float32:
        return logits
    return tl.dot(tl.full([logits.shape[0], 16], 0.0, dtype), tl.full([16, logits.shape[1]], 0.0, dtype), logits)


@triton.jit
def _pointers(tensor, row, tokens, channels, num_tokens, num_heads, width):
    """To the tokens' channels of one head, in `(batch, tokens, channels)`."""
    tensor += (row // num_heads * num_tokens * num_heads + row % num_heads) * width
    return tensor + (tokens * (num_heads * width) + channels)


@triton.jit
def _load(tensor, row, tokens, channels, num_tokens, num_heads, width):
    """Zeros beyond the last token and the head's channels."""
    pointers = _pointers(tensor, row, tokens, channels, num_tokens, num_heads, width)
    return tl.load(pointers, (tokens < num_tokens) & (channels < width), 0.0)


@triton.jit
def _store(tensor, block, row, tokens, channels, num_tokens, num_heads, width):
    pointers = _pointers(tensor, row, tokens, channels, num_tokens, num_heads, width)
    tl.store(pointers, block.to(tensor.dtype.element_ty), (tokens < num_tokens) & (channels < width))
