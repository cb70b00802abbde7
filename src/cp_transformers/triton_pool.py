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
but for rounding, which distances that are large against sigma would amplify: so the gradients of sigma and the offsets
are sums of `dlogit_ij` times each distance's difference from its mean. Nothing is added up by atomics: results do not
change from run to run.

Tested under Triton's interpreter and compiled for GPUs of compute capability 8.0 and 9.0; not run or timed on a GPU.
"""

from typing import Any

import torch


# transformers looks through the code of a checkpoint on the Hub, and refuses all of it where a package is missing that
# is imported outside of a `try`.
try:
    import triton
    import triton.language as tl
except ImportError:
    raise


# The largest sides of the blocks, powers of two of at least 32 and 16. With the warps that share a block they bound
# the registers and the shared memory (some 20 KiB) that a program takes. The exact products of float32 take more
# registers: their blocks have half as many tokens.
BLOCK_TOKENS = 64
BLOCK_CHANNELS = 64
LAUNCH = {"num_warps": 8, "num_stages": 2}


def triton_context_pool(
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    grid_size: tuple[int, int] | None = None,
    segments: torch.Tensor | None = None,
) -> torch.Tensor:
    """What [`~cp_transformers.context_pool.context_pool`] computes, in memory that grows with the tokens only.

    All but the products with `hidden_states` is computed in float32, and those are added up in it. A row that sees no
    valid token, in its segment where there are `segments`, gives zeros.

    Args:
        hidden_states: `(batch, tokens, channels)`, in float32, bfloat16 or float16.
        weights: `(batch, heads, tokens)`, the logarithm of each token's weight in anybody's pool.
        sigma: `(batch, heads, tokens)`, positive, the width of each token's Gaussian in positions.
        offsets: `(batch, heads, tokens, 1)` for a sequence, `(batch, heads, tokens, 2)` (rows, columns) for a grid:
            the centre of each token's Gaussian relative to the token, in positions. None: the token itself.
        mask: `(batch, tokens)`, boolean or 0/1, True where a token is valid. None: all are.
        grid_size: (rows, columns) of a grid whose tokens come row by row. None: the tokens are a sequence.
        segments: `(batch, tokens)`, integers: tokens with different ones do not pool each other. None: all may.

    Returns:
        The pooled tokens, of the shape and dtype of `hidden_states`.

    Raises:
        ValueError: the channels are not divisible by the number of heads, `grid_size` does not hold as many positions
            as there are tokens, `offsets` has the wrong number of coordinates, or `hidden_states` another dtype.
        RuntimeError: on a backward pass with `create_graph=True`: there are no second derivatives.
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

    log_weights = weights.float()
    if mask is not None:
        log_weights = log_weights.masked_fill(~mask.bool()[:, None], -torch.inf)  # how the kernels know
    precision = -0.5 / sigma.float() ** 2
    down = right = torch.zeros_like(precision)
    if offsets is not None:  # a sequence is a grid of one row
        right = offsets[..., -1].float()
        down = down if grid_size is None else offsets[..., 0].float()
    gaussians = torch.stack([precision, down, right], dim=2)
    if segments is None:
        segments = torch.zeros(hidden_states.shape[:2], dtype=torch.int32, device=hidden_states.device)
    columns = num_tokens if grid_size is None else grid_size[1]
    return _TritonPool.apply(
        hidden_states.contiguous(), log_weights.contiguous(), gaussians, segments.contiguous(), columns
    )


class _TritonPool(torch.autograd.Function):
    """From `(batch, tokens, channels)`; `(batch, heads, tokens)`, -infinity at invalid tokens; `(batch, heads, 3,
    tokens)`, the precision and the two coordinates of the offset; and `(batch, tokens)`: all contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        log_weights: torch.Tensor,
        gaussians: torch.Tensor,
        segments: torch.Tensor,
        columns: int,
    ) -> torch.Tensor:
        num_heads, num_tokens = log_weights.shape[1:]
        width = hidden_states.shape[-1] // num_heads
        ctx.sizes = num_tokens, num_heads, width, columns
        block_tokens = BLOCK_TOKENS // 2 if hidden_states.dtype == torch.float32 else BLOCK_TOKENS
        ctx.blocks = block_tokens, max(16, min(BLOCK_CHANNELS, triton.next_power_of_2(width)))
        # Blocks of tokens first: programs that run at the same time share their example's tokens in the cache.
        rows = log_weights.shape[0] * num_heads
        ctx.grid = rows * triton.cdiv(num_tokens, block_tokens), triton.cdiv(width, ctx.blocks[1])

        pooled, log_sums = torch.empty_like(hidden_states), torch.empty_like(log_weights)
        with torch.cuda.device_of(hidden_states):  # Triton launches on the current device
            _pool_kernel[ctx.grid](
                hidden_states, log_weights, gaussians, segments, pooled, log_sums, *ctx.sizes, *ctx.blocks, **LAUNCH
            )
        ctx.save_for_backward(hidden_states, log_weights, gaussians, segments, pooled, log_sums)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph: what is written by hand here would be left out of it, silently
            raise RuntimeError("triton_context_pool has no second derivatives; leave out create_graph=True.")
        hidden_states, log_weights, gaussians, segments, pooled, log_sums = ctx.saved_tensors
        inputs = hidden_states, log_weights, gaussians, segments, grad.contiguous(), log_sums
        deltas, gaussian_grads = torch.empty_like(log_weights), torch.empty_like(gaussians)
        hidden_grads = torch.empty_like(hidden_states)
        # One term for each block of channels, to be added up.
        weight_grads = log_weights.new_empty(*log_weights.shape[:2], ctx.grid[1], log_weights.shape[2])
        with torch.cuda.device_of(hidden_states):
            _query_grads_kernel[ctx.grid[:1]](
                *inputs, pooled, deltas, gaussian_grads, *ctx.sizes, *ctx.blocks, **LAUNCH
            )
            _key_grads_kernel[ctx.grid](*inputs, deltas, hidden_grads, weight_grads, *ctx.sizes, *ctx.blocks, **LAUNCH)
        return hidden_grads, weight_grads.sum(dim=2), gaussian_grads, None, None


@triton.jit
def _pool_kernel(
    hidden_states, log_weights, gaussians, segments, pooled, log_sums, num_tokens, num_heads, width, columns,
    BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    row, queries = _row_and_tokens(num_tokens, BLOCK_TOKENS)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    # Finite, so that a block without any valid key leaves the other numbers zero instead of NaN.
    largest = tl.full([BLOCK_TOKENS], -3e38, tl.float32)
    total = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    mixed = tl.full([BLOCK_TOKENS, BLOCK_CHANNELS], 0.0, tl.float32)
    for start in range(0, num_tokens, BLOCK_TOKENS):
        keys = start + tl.arange(0, BLOCK_TOKENS)
        logits, valid, _, _ = _logits(
            log_weights, gaussians, segments, row, queries, keys, num_tokens, num_heads, columns
        )
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        p = tl.exp(logits - new_largest[:, None])
        shrink = tl.exp(largest - new_largest)
        x = _load(hidden_states, row, keys, valid, channels, num_tokens, num_heads, width)
        mixed = tl.dot(p.to(x.dtype), x, mixed * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(p, 1)
        largest = new_largest
    inside = queries < num_tokens
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    _store(pooled, mixed / total[:, None], row, queries, inside, channels, num_tokens, num_heads, width)
    log_sum = tl.where(empty, float("inf"), largest + tl.log(total))  # infinite: backward's p are zero, too
    tl.store(log_sums + row * num_tokens + queries, log_sum, inside & (tl.program_id(1) == 0))


@triton.jit
def _query_grads_kernel(
    hidden_states, log_weights, gaussians, segments, grads, log_sums, pooled, deltas, gaussian_grads,
    num_tokens, num_heads, width, columns, BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    row, queries = _row_and_tokens(num_tokens, BLOCK_TOKENS)
    inside = queries < num_tokens
    log_sum = tl.load(log_sums + row * num_tokens + queries, inside, float("inf"))
    delta = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    for start in range(0, width, BLOCK_CHANNELS):
        channels = start + tl.arange(0, BLOCK_CHANNELS)
        dy = _load(grads, row, queries, inside, channels, num_tokens, num_heads, width)
        y = _load(pooled, row, queries, inside, channels, num_tokens, num_heads, width)
        delta += tl.sum(dy.to(tl.float32) * y.to(tl.float32), 1)
    tl.store(deltas + row * num_tokens + queries, delta, inside)

    precision_grad = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    down_grad = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    right_grad = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    excess = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    square_mean = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    down_mean = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    right_mean = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    for start in range(0, num_tokens, BLOCK_TOKENS):
        keys = start + tl.arange(0, BLOCK_TOKENS)
        logits, valid, down, right = _logits(
            log_weights, gaussians, segments, row, queries, keys, num_tokens, num_heads, columns
        )
        dp = tl.full([BLOCK_TOKENS, BLOCK_TOKENS], 0.0, tl.float32)
        for channel_start in range(0, width, BLOCK_CHANNELS):
            channels = channel_start + tl.arange(0, BLOCK_CHANNELS)
            dy = _load(grads, row, queries, inside, channels, num_tokens, num_heads, width)
            x = _load(hidden_states, row, keys, valid, channels, num_tokens, num_heads, width)
            dp = tl.dot(dy, tl.trans(x), dp, input_precision="ieee")
        p = tl.exp(logits - log_sum[:, None])
        logit_grads = p * (dp - delta[:, None])
        square = down * down + right * right
        precision_grad += tl.sum(logit_grads * square, 1)
        down_grad += tl.sum(logit_grads * down, 1)
        right_grad += tl.sum(logit_grads * right, 1)
        excess += tl.sum(logit_grads, 1)
        square_mean += tl.sum(p * square, 1)
        down_mean += tl.sum(p * down, 1)
        right_mean += tl.sum(p * right, 1)
    precision = tl.load(gaussians + row * 3 * num_tokens + queries, inside, 0.0)
    precision_grad -= excess * square_mean
    down_grad = 2 * precision * (down_grad - excess * down_mean)
    right_grad = 2 * precision * (right_grad - excess * right_mean)
    pointers = gaussian_grads + row * 3 * num_tokens + queries
    tl.store(pointers, precision_grad, inside)
    tl.store(pointers + num_tokens, down_grad, inside)
    tl.store(pointers + 2 * num_tokens, right_grad, inside)


@triton.jit
def _key_grads_kernel(
    hidden_states, log_weights, gaussians, segments, grads, log_sums, deltas, hidden_grads, weight_grads,
    num_tokens, num_heads, width, columns, BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    row, keys = _row_and_tokens(num_tokens, BLOCK_TOKENS)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    dx = tl.full([BLOCK_TOKENS, BLOCK_CHANNELS], 0.0, tl.float32)
    delta_sum = tl.full([BLOCK_TOKENS], 0.0, tl.float32)
    for start in range(0, num_tokens, BLOCK_TOKENS):
        queries = start + tl.arange(0, BLOCK_TOKENS)
        inside = queries < num_tokens
        log_sum = tl.load(log_sums + row * num_tokens + queries, inside, float("inf"))
        delta = tl.load(deltas + row * num_tokens + queries, inside, 0.0)
        dy = _load(grads, row, queries, inside, channels, num_tokens, num_heads, width)
        logits, _, _, _ = _logits(log_weights, gaussians, segments, row, queries, keys, num_tokens, num_heads, columns)
        p = tl.exp(logits - log_sum[:, None]).to(dy.dtype)
        dx = tl.dot(tl.trans(p), dy, dx, input_precision="ieee")
        # Of the rounded p as well: the two terms of dw, which nearly cancel, must be of the same.
        delta_sum += tl.sum(p.to(tl.float32) * delta[:, None], 0)
    inside = keys < num_tokens
    valid = tl.load(log_weights + row * num_tokens + keys, inside, -float("inf")) > -float("inf")
    x = _load(hidden_states, row, keys, valid, channels, num_tokens, num_heads, width)
    _store(hidden_grads, dx, row, keys, inside, channels, num_tokens, num_heads, width)
    dw = tl.sum(x.to(tl.float32) * dx, 1) - tl.where(tl.program_id(1) == 0, delta_sum, 0.0)
    tl.store(weight_grads + (row * tl.num_programs(1) + tl.program_id(1)) * num_tokens + keys, dw, inside)


@triton.jit
def _row_and_tokens(num_tokens, BLOCK_TOKENS: tl.constexpr):
    """This program's row of (batch * heads) and block of tokens. 64 bits, for all pointers are computed from them."""
    blocks = (num_tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)


@triton.jit
def _logits(log_weights, gaussians, segments, row, queries, keys, num_tokens, num_heads, columns):
    """The logits of a block, which of its keys are valid anywhere, and how far each query's centre lies below and to
    the right of each key."""
    query_inside, key_inside = queries < num_tokens, keys < num_tokens
    gaussians += row * 3 * num_tokens + queries
    precision = tl.load(gaussians, query_inside, 0.0)
    down_offset = tl.load(gaussians + num_tokens, query_inside, 0.0)
    right_offset = tl.load(gaussians + 2 * num_tokens, query_inside, 0.0)
    # Distances between positions first: exact however long the sequence.
    down = _distances(queries // columns, keys // columns) + down_offset[:, None]
    right = _distances(queries % columns, keys % columns) + right_offset[:, None]

    log_weight = tl.load(log_weights + row * num_tokens + keys, key_inside, -float("inf"))
    logits = log_weight[None, :] + (down * down + right * right) * precision[:, None]
    segments += row // num_heads * num_tokens
    query_segment, key_segment = tl.load(segments + queries, query_inside, 0), tl.load(segments + keys, key_inside, 0)
    logits = tl.where(query_segment[:, None] == key_segment[None, :], logits, -float("inf"))
    return logits, log_weight > -float("inf"), down, right


@triton.jit
def _distances(query_positions, key_positions):
    return query_positions.to(tl.float32)[:, None] - key_positions.to(tl.float32)[None, :]


@triton.jit
def _pointers(tensor, row, tokens, channels, num_tokens, num_heads, width):
    """To the tokens' channels of one head, in `(batch, tokens, channels)`."""
    tensor += (row // num_heads * num_tokens * num_heads + row % num_heads) * width
    return tensor + tokens.to(tl.int64)[:, None] * (num_heads * width) + channels[None, :]


@triton.jit
def _load(tensor, row, tokens, wanted, channels, num_tokens, num_heads, width):
    """Zeros where a token is not wanted."""
    pointers = _pointers(tensor, row, tokens, channels, num_tokens, num_heads, width)
    return tl.load(pointers, wanted[:, None] & (channels < width)[None, :], 0.0)


@triton.jit
def _store(tensor, block, row, tokens, wanted, channels, num_tokens, num_heads, width):
    pointers = _pointers(tensor, row, tokens, channels, num_tokens, num_heads, width)
    tl.store(pointers, block.to(tensor.dtype.element_ty), wanted[:, None] & (channels < width)[None, :])
