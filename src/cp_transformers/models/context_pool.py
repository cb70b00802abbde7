# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""ContextPool: every token pools its neighbours with learned weights over a learned support size.

The idea is that of Huang, Talbott, Jaitly and Susskind, "Efficient Representation Learning via Adaptive Context
Pooling", ICML 2022 (arXiv 2207.01844). The equations are this project's own definition of it, consistent with the
paper's abstract; pooling heads and offsets are additions of this project:

    (w, s, o) = bias + linear(gelu(conv(reduce(x * m))))           per token and pooling head
    sigma_ih  = max(pool_range * extent * sigmoid(s_ih), MIN_SIGMA)
    centre_ih = position_i + pool_max_offset * tanh(o_ih)
    p_ijh     = softmax over valid j of (w_jh - |centre_ih - position_j|^2 / (2 sigma_ih^2))
    y_i       = for each head h, its slice of the channels: sum_j p_ijh x_j[slice h]
    out_i     = y_i, or x_i + gate * (y_i - x_i) where there is a gate

where `reduce` maps the channels to a few and the convolution of those sees neighbours; in a predictor that is not
`factored` there is no `reduce`, and the convolution is of all channels. `extent` is the number of valid tokens of the
example (a sequence) or the longer side of the grid (an image); a sequence is a grid of one row.

Strided pooling keeps one token of each group of `stride` neighbours (`stride` x `stride` on a grid, see
`token_groups`). It is the same for each group `g` in place of each token, around the mean position of its tokens, with
`s` and `o` the means of what is predicted for them, and sizes in proportion to the group's:

    sigma_gh  = stride * (MIN_STRIDED_SIGMA + STRIDED_SIGMA_RANGE * sigmoid(s_gh))
    centre_gh = position_g + stride / 2 * tanh(o_gh)

which starts close to the mean of the group's tokens. There are several implementations of the last three lines, see
[`context_pool`]; `feature_map_pool` has the forms for the feature maps of ConvNets.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from .linear_pool import MIN_WEIGHT, can_be_read, is_traced, linear_context_pool
from .pool_implementation import choose_implementation
from .token_groups import (
    centre_shifts,
    group_grid,
    group_means,
    group_sigma,
    lay_out,
    number_runs,
    take,
    valid_groups,
)


# The floor of sigma, in positions: of equal weights, the next neighbour's is then exp(-50) of the token's own.
MIN_SIGMA = 0.1

# The largest sigma of a module that is not told another, as a fraction of the extent, by the number of spatial
# dimensions: a grid has fewer positions a side than a sequence has tokens.
DEFAULT_RANGE = {1: 0.1, 2: 0.3}

# Where sigma starts, as a fraction of its range (pool_range * extent), by the number of spatial dimensions.
INITIAL_SIGMA = {1: 0.25, 2: 0.5}

# The bounds of sigma where the pooling is strided, in strides. Sigma starts at the standard deviation of the positions
# of a group: of two neighbours, and of 2 x 2, the pool is then within 5 % of their mean.
MIN_STRIDED_SIGMA = 0.1
STRIDED_SIGMA_RANGE = 1.5

# What a factored predictor multiplies its last hidden channels by: an optimiser such as AdamW moves each weight by the
# same step, and with few channels the predicted numbers would move by little.
FACTORED_SCALE = 4.0


def pooling_weights(
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    grid_size: tuple[int, int] | None = None,
    segments: torch.Tensor | None = None,
    stride: int = 1,
) -> torch.Tensor:
    """The weight `p` with which every token enters every other token's pool; with a `stride`, that of every group.

    Args:
        weights: `(batch, heads, tokens)`, the logarithm of each token's weight in anybody's pool.
        sigma: `(batch, heads, tokens)`, positive, the width of each token's Gaussian in positions; with a `stride`
            `(batch, heads, groups)`, each group's.
        offsets: `(batch, heads, tokens, 1)` for a sequence, `(batch, heads, tokens, 2)` (rows, columns) for a grid:
            the centre of each token's Gaussian relative to the token, in positions. None: the token itself. With a
            `stride` there are as many as groups, each relative to the mean position of the group's valid tokens.
        mask: `(batch, tokens)`, boolean or 0/1, True where a token is valid. None: all are.
        grid_size: (rows, columns) of a grid whose tokens come row by row. None: the tokens are a sequence.
        segments: `(batch, tokens)`, integers: tokens with different ones do not pool each other. None: all may. With
            a `stride`, each is a run of tokens.
        stride: the positions of a group, along each dimension. There are `ceil(tokens / stride)` groups of a sequence,
            counted from its first valid token; `ceil(rows / stride) * ceil(columns / stride)` of a grid; and of packed
            rows as many as the row of most groups has, where none spans two segments.

    Returns:
        `(batch, heads, tokens or groups, tokens)` in float32, or float64 for float64 input. Rows sum to one; invalid
        columns are exactly zero, and so are those of other segments, except in rows that are left without any valid
        token; and so are weights of at most `MIN_WEIGHT`. Rows of groups without a valid token are zero.

    Raises:
        ValueError: `grid_size` does not hold as many positions as there are tokens; `offsets` has not one coordinate a
            dimension; `stride` is less than 1; or, with a `stride`, `sigma` is not of as many groups as there are, or
            there are segments in a grid or in a traced graph.
    """
    num_tokens = weights.shape[-1]
    _check_grid(grid_size, num_tokens)
    _check_offsets(offsets, grid_size)
    _check_stride(stride, grid_size, segments)
    if stride == 1:
        return _pooling_weights(weights, sigma, offsets, mask, grid_size, segments)
    mask = None if mask is None else mask.bool()
    layout = lay_out(mask, segments, stride) if grid_size is None else None
    if layout is not None:
        weights, mask, segments = take(weights.transpose(1, 2), layout.source).transpose(1, 2), *layout[1::2]
    offsets = _from_middles(weights, sigma, offsets, mask, grid_size, stride)
    p = _pooling_weights(weights, sigma, offsets, mask, grid_size, segments, stride)
    if layout is not None:  # back to the tokens; where one has no place, it has no weight
        p = p.gather(-1, layout.places[:, None, None].expand(-1, *p.shape[1:3], -1))
        at_home = take(layout.mask[..., None], layout.places).squeeze(-1)
        at_home = at_home & (layout.source.gather(1, layout.places) == torch.arange(num_tokens, device=p.device))
        p = p * at_home[:, None, None]
    if mask is not None:
        p = p * valid_groups(mask, grid_size, stride)[:, None, :, None]
    return p


def _from_middles(
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None,
    mask: torch.Tensor | None,
    grid_size: tuple[int, int] | None,
    stride: int,
) -> torch.Tensor | None:
    """The offsets of groups from their middles, given those from the mean positions of their valid tokens."""
    num_tokens = weights.shape[-1]
    rows, columns = group_grid(grid_size, num_tokens, stride)
    if not is_traced(sigma) and sigma.shape[-1] != rows * columns:
        raise ValueError(
            f"With a stride of {stride}, sigma must be of {rows * columns} groups, not {sigma.shape[-1]}."
        )
    dtype = torch.promote_types(weights.dtype, torch.float32)
    shifts = centre_shifts(num_tokens, mask, grid_size, stride, weights.device, dtype)
    if shifts is None:
        return offsets
    if offsets is None:
        return shifts.expand(*sigma.shape, -1)
    return offsets.to(dtype) + shifts


def _pooling_weights(
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None,
    mask: torch.Tensor | None,
    grid_size: tuple[int, int] | None,
    segments: torch.Tensor | None,
    stride: int = 1,
) -> torch.Tensor:
    """[`pooling_weights`] of groups that stand where they belong, with offsets from their middles."""
    num_tokens = weights.shape[-1]
    dtype = torch.promote_types(weights.dtype, torch.float32)
    positions = _positions(num_tokens, grid_size, weights.device, dtype)  # one (tokens,) vector a dimension
    centres = positions
    if stride > 1:
        groups = group_grid(grid_size, num_tokens, stride)
        middles = _positions(groups[0] * groups[1], grid_size and groups, weights.device, dtype)
        centres = [stride * middle + (stride - 1) / 2 for middle in middles]
    # From token j to token i, exact in floating point however long the sequence; (tokens, tokens) a dimension.
    distances = [centre[:, None] - position for centre, position in zip(centres, positions)]
    if offsets is not None:
        distances = [distance + offset[..., None] for distance, offset in zip(distances, offsets.to(dtype).unbind(-1))]
    squared_distance = distances[0] ** 2 if len(distances) == 1 else distances[0] ** 2 + distances[1] ** 2

    log_weights = weights.to(dtype)
    if mask is not None:
        log_weights = log_weights.masked_fill(~mask.bool()[:, None], torch.finfo(dtype).min)
    precision = -0.5 / sigma.to(dtype) ** 2
    logits = torch.addcmul(log_weights[:, :, None, :], squared_distance, precision[..., None])
    if segments is not None:
        same = segments[:, ::stride, None] == segments[:, None]
        logits = logits.masked_fill(~same[:, None], torch.finfo(dtype).min)
    p = logits.softmax(dim=-1)
    return F.threshold(p, MIN_WEIGHT, 0.0, inplace=not p.requires_grad and not is_traced(p))


def context_pool(
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    grid_size: tuple[int, int] | None = None,
    segments: torch.Tensor | None = None,
    implementation: str = "auto",
    stride: int = 1,
) -> torch.Tensor:
    """Pools `hidden_states` of shape `(batch, tokens, channels)` with the weights of [`pooling_weights`].

    Head `h` of `heads` pools the `h`-th of `heads` equal slices of the channels. The result has the shape and dtype of
    `hidden_states`; with a `stride` its shape is `(batch, groups, channels)`, with zeros at groups without a valid
    token. What `hidden_states` and `weights` hold at invalid tokens, NaN included, reaches neither the result nor a
    gradient; an example without any valid token gives zeros.

    Of the implementations, which differ in cost alone,

    | implementation | time and memory | error | for |
    |---|---|---|---|
    | `"dense"` | tokens x tokens | none: the definition | everything |
    | `"linear"` | tokens | 2e-6, of gradients up to 1e-4 | all but segments |
    | `"triton"` | tokens x what is in reach, and tokens | float32 rounding | CUDA |

    The errors of `"linear"` are relative to the norm of all tokens, of weights with a standard deviation of 1. It may
    leave out what lies beyond 4.8 sigma of a pool's centre, which tells where a weight there is larger by a factor of
    exp(15) or more.

    `"auto"` takes `"triton"` on NVIDIA GPUs of compute capability 8.0 and more. Elsewhere it takes `"linear"` for
    sequences of 500 tokens and more and grids of 4,096 (16,384 with gradients or with a `pool_range` above 0.1), on
    other accelerators for 4,096 tokens and more; and `"dense"` for less and for segments. For float64, in the
    transforms of `torch.func` and forward-mode differentiation, and wherever a graph is traced, compiled models
    included, which should serve all lengths, it takes `"dense"`. Where what is asked for cannot be had, `"dense"`
    takes its place: of `"triton"` (which compiled models take where it is asked for) with a warning, and of
    `"linear"` in graphs that are exported for any number of tokens.

    Raises:
        ValueError: `hidden_states` is not of that shape, the channels are not divisible by the number of heads, there
            is no such implementation, or see [`pooling_weights`].
    """
    _check_tokens(hidden_states)
    num_heads = weights.shape[1]
    if hidden_states.shape[-1] % num_heads:
        raise ValueError(f"{hidden_states.shape[-1]} channels cannot be split into {num_heads} pooling heads.")
    _check_grid(grid_size, hidden_states.shape[1])
    _check_offsets(offsets, grid_size)
    _check_stride(stride, grid_size, segments)
    if stride > 1:
        mask = None if mask is None else mask.bool()
        if grid_size is None and (layout := lay_out(mask, segments, stride)) is not None:
            hidden_states, mask, segments = layout.take(hidden_states), *layout[1::2]
            weights = take(weights.transpose(1, 2), layout.source).transpose(1, 2)
    hidden_states = _zero_invalid(hidden_states, mask)
    return _pool(implementation, hidden_states, weights, sigma, offsets, mask, grid_size, segments, stride)


def _pool(
    implementation: str,
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None,
    mask: torch.Tensor | None,
    grid_size: tuple[int, int] | None,
    segments: torch.Tensor | None,
    stride: int = 1,
    max_sigma: float | None = None,
    max_offset: float | None = None,
) -> torch.Tensor:
    """[`context_pool`] of checked arguments, of `hidden_states` that are zero at invalid tokens and, with a stride,
    stand in the places of [`lay_out`]. The bounds of sigma and the offsets keep [`linear_context_pool`] from reading
    them."""
    chosen = choose_implementation(implementation, hidden_states, grid_size, segments, max_sigma)
    if stride > 1:
        offsets = _from_middles(weights, sigma, offsets, mask, grid_size, stride)
    if chosen == "linear":
        if can_be_read(sigma):
            max_sigma = max_offset = None  # what they are is less than what they may be
        bounds = {"max_sigma": max_sigma, "max_offset": max_offset}
        pooled = linear_context_pool(hidden_states, weights, sigma, offsets, mask, grid_size, stride=stride, **bounds)
    elif chosen == "triton":
        from .triton_pool import triton_context_pool

        pooled = triton_context_pool(hidden_states, weights, sigma, offsets, mask, grid_size, segments, stride)
    else:
        pooled = _mix(hidden_states, _pooling_weights(weights, sigma, offsets, mask, grid_size, segments, stride))
    if stride == 1 or mask is None:
        return pooled
    return pooled * valid_groups(mask, grid_size, stride)[..., None]


class FactoredConv(nn.Conv2d):
    """One of the two convolutions of a factored predictor, whose outputs start at one scale whatever their width."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class PoolProjection(nn.Linear):
    """The predictor's last layer: from its hidden channels to `w` and, where predicted, `s` and `o` of each head."""

    def __init__(self, in_features: int, num_heads: int, numbers_a_head: int, num_dims: int, stride: int = 1):
        self.num_heads = num_heads
        self.numbers_a_head = numbers_a_head
        self.num_dims = num_dims
        self.stride = stride
        # A bias of `w` alone would do nothing: it cancels in the softmax.
        super().__init__(in_features, num_heads * numbers_a_head, bias=numbers_a_head > 1)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            with torch.no_grad():
                self.bias.copy_(self.initial_bias())

    def initial_bias(self) -> torch.Tensor:
        """The bias at the start, `(heads * numbers a head,)` in float32: equal weights, sigma at `INITIAL_SIGMA` of
        its range, and the heads' centres spread over the offset's range (left and right in a sequence, around the
        compass on a grid). With a stride: equal weights, sigma as wide as the group, and no offset."""
        bias = torch.zeros(self.num_heads, self.numbers_a_head)
        if self.stride > 1:
            fraction = (group_sigma(self.stride) / self.stride - MIN_STRIDED_SIGMA) / STRIDED_SIGMA_RANGE
            bias[:, 1] = math.log(fraction / (1 - fraction))
            return bias.flatten()
        bias[:, 1] = math.log(INITIAL_SIGMA[self.num_dims] / (1 - INITIAL_SIGMA[self.num_dims]))
        if self.numbers_a_head > 2 and self.num_heads > 1:
            head = torch.arange(self.num_heads)
            if self.num_dims == 1:
                side, step = 2 * (head % 2) - 1, head // 2 + 1
                bias[:, 2] = torch.atanh(side * step / ((self.num_heads + 1) // 2 + 1))
            else:
                angle = 2 * math.pi * head / self.num_heads
                bias[:, 2:] = torch.atanh(0.5 * torch.stack([angle.sin(), angle.cos()], dim=-1))
        return bias.flatten()


class BaseContextPool(nn.Module):
    """Base of every kind of pooling: the predictor and the gate."""

    def __init__(
        self,
        hidden_size: int,
        numbers_a_head: int,
        pool_hidden_size: int,
        pool_kernel_size: int,
        pool_num_heads: int,
        pool_gate: bool,
        pool_factored: bool,
        num_dims: int,
        stride: int = 1,
    ):
        super().__init__()
        if hidden_size % pool_num_heads:
            raise ValueError(f"hidden_size ({hidden_size}) must be divisible by pool_num_heads ({pool_num_heads}).")
        if pool_kernel_size % 2 == 0:
            raise ValueError(f"pool_kernel_size must be odd, not {pool_kernel_size}.")
        self.pool_kernel_size = pool_kernel_size
        self.pool_num_heads = pool_num_heads
        self.numbers_a_head = numbers_a_head
        self.num_dims = num_dims

        # A sequence is a grid of one row: its kernel is 1 x k.
        kernel = (1 if num_dims == 1 else pool_kernel_size, pool_kernel_size)
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.reduce: nn.Conv2d | None = None
        if pool_factored:
            self.reduce = FactoredConv(hidden_size, pool_hidden_size, 1, bias=False)  # so that padding stays zero
            self.conv: nn.Conv2d = FactoredConv(pool_hidden_size, pool_hidden_size, kernel, padding=padding)
        else:
            self.conv = nn.Conv2d(hidden_size, pool_hidden_size, kernel, padding=padding)
        self.act = nn.GELU()
        self.proj = PoolProjection(pool_hidden_size, pool_num_heads, numbers_a_head, num_dims, stride)
        self.gate = nn.Parameter(torch.zeros(hidden_size)) if pool_gate else None

    def predict_numbers(self, feature_map: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        """From `(batch, channels, rows, columns)` the predicted numbers of each head and position, `(batch, heads,
        positions, numbers)` in float32 (float64 for float64 input): `w`, then `s` and `o` where they are predicted.
        The positions of one row may be split into `segments`, `(batch, columns)`, which do not see each other."""
        features = feature_map if self.reduce is None else self.reduce(feature_map)
        hidden = self.conv(features) if segments is None else self._conv_within(features, segments)
        hidden = self.act(hidden).flatten(2).transpose(1, 2)
        numbers = self.proj(hidden if self.reduce is None else FACTORED_SCALE * hidden)
        numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))
        return numbers.unflatten(-1, (self.pool_num_heads, self.numbers_a_head)).transpose(1, 2)

    def _conv_within(self, feature_map: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """The convolution of one row, with zeros in place of neighbours in another segment, as beyond the ends."""
        width = self.pool_kernel_size
        half = width // 2
        neighbours = F.pad(feature_map.squeeze(2), (half, half)).unfold(-1, width, 1)  # (B, C, tokens, k)
        theirs = F.pad(segments, (half, half)).unfold(-1, width, 1)
        within = neighbours * (theirs == segments[..., None])[:, None]
        # Each window by itself where more is computed than the weights say (by an adapter), or where they are fetched
        # for the module's forward alone (from the CPU, the disk or other processes).
        if not isinstance(self.conv, nn.Conv2d) or hasattr(self.conv, "_hf_hook") or self.conv.weight.ndim != 4:
            windows = within.transpose(1, 2).flatten(0, 1).unsqueeze(2)
            return self.conv(windows)[..., half].unflatten(0, segments.shape).permute(0, 2, 3, 1)
        kernel = self.conv.weight.squeeze(2)  # (hidden, channels, k)
        hidden = torch.einsum("bcnk,hck->bhn", within, kernel) + self.conv.bias[:, None]  # type: ignore[index]
        return hidden.unsqueeze(2)


class ContextPool(BaseContextPool):
    """Predicts weights, support sizes and offsets from the tokens and pools with them, by the equations at the head of
    `cp_transformers.models.context_pool`.

    Args:
        hidden_size: channels of the tokens.
        pool_hidden_size: channels inside the predictor.
        pool_kernel_size: kernel of the predictor's convolution, odd.
        pool_range: the largest sigma, as a fraction of the extent; None for 0.1 of a sequence and 0.3 of a grid, the
            one that was measured on 7 x 7 positions.
        pool_num_heads: pooling heads, each owning an equal slice of the channels.
        pool_max_offset: how far a head's centre may move from its token, in positions. 0: it does not move.
        pool_gate: whether a learned gate, one a channel and zero at the start, mixes the pooled tokens in.
        pool_factored: whether the predictor projects the tokens to its channels before its convolution.
        pool_implementation: see [`context_pool`].
        num_dims: 1 for sequences, 2 for grids.
        stride: more than 1 keeps one token of each group of `stride` neighbours, `stride` x `stride` on a grid. Sizes
            and offsets are then in proportion to the group's: `pool_range` and `pool_max_offset` mean nothing.

    Raises:
        ValueError: the channels are not divisible by the number of heads, the kernel is even, `stride` is less than 1,
            or a strided module is to have a gate, for which there is nothing to mix with.
    """

    def __init__(
        self,
        hidden_size: int,
        pool_hidden_size: int = 64,
        pool_kernel_size: int = 3,
        pool_range: float | None = None,
        pool_num_heads: int = 1,
        pool_max_offset: float = 0.0,
        pool_gate: bool = False,
        pool_factored: bool = False,
        pool_implementation: str = "auto",
        num_dims: int = 1,
        stride: int = 1,
    ):
        if stride < 1:
            raise ValueError(f"stride must be at least 1, not {stride}.")
        if stride > 1:
            if pool_gate:
                raise ValueError("Where the pooling is strided there is nothing that a gate could mix it with.")
            pool_max_offset = stride / 2
        numbers_a_head = 2 + (num_dims if pool_max_offset else 0)  # w, s and, where predicted, o
        super().__init__(
            hidden_size,
            numbers_a_head,
            pool_hidden_size,
            pool_kernel_size,
            pool_num_heads,
            pool_gate,
            pool_factored,
            num_dims,
            stride,
        )
        self.stride = stride
        self.pool_range = DEFAULT_RANGE[num_dims] if pool_range is None else pool_range
        self.pool_max_offset = pool_max_offset
        self.pool_implementation = pool_implementation

    def sizes_and_offsets(
        self, numbers: torch.Tensor, extent: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`sigma` and, where predicted, `offsets` of what [`predict_numbers`] gives, for pools of tokens that reach at
        most `pool_range * extent`."""
        sigma = (self.pool_range * extent * numbers[..., 1].sigmoid()).clamp(min=MIN_SIGMA)
        return sigma, self.pool_max_offset * numbers[..., 2:].tanh() if self.pool_max_offset else None

    def predict(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        segments: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The `weights`, `sigma` and `offsets` that [`context_pool`] takes, in float32 (float64 for float64 input).

        `hidden_states` must be zero where `mask` is False: a neighbour beyond the end looks like padding. With a
        stride they must stand in the places of [`~cp_transformers.models.token_groups.lay_out`].
        """
        num_tokens = hidden_states.shape[1]
        # (batch, tokens, channels) is seen as an image in channels-last order: nothing is transposed in memory.
        feature_map = hidden_states.transpose(1, 2).unflatten(2, grid_size or (1, num_tokens))
        numbers = self.predict_numbers(feature_map, segments)
        if self.stride > 1:
            each = numbers.movedim(-1, 2).flatten(1, 2)  # (batch, heads * numbers, tokens)
            means = group_means(each, None if mask is None else mask.bool(), grid_size, self.stride)
            means = means.unflatten(1, (self.pool_num_heads, self.numbers_a_head)).movedim(2, -1)
            sigma = self.stride * (MIN_STRIDED_SIGMA + STRIDED_SIGMA_RANGE * means[..., 1].sigmoid())
            return numbers[..., 0], sigma, self.pool_max_offset * means[..., 2:].tanh()
        extent: float | torch.Tensor
        if grid_size is not None and torch.jit.is_tracing():  # to which max() would be that of the example
            extent = torch.maximum(*map(torch.as_tensor, grid_size))
        elif grid_size is not None:
            extent = max(grid_size)
        elif segments is not None:
            run = number_runs(segments)
            counted = torch.ones_like(run, dtype=numbers.dtype) if mask is None else mask.to(numbers.dtype)
            extent = torch.zeros_like(counted).scatter_add(1, run, counted).gather(1, run)[:, None]
        elif mask is not None:
            extent = mask.sum(dim=-1, dtype=numbers.dtype)[:, None, None]
        else:
            extent = num_tokens
        return numbers[..., 0], *self.sizes_and_offsets(numbers, extent)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        segments: torch.Tensor | None = None,
        laid_out: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states: `(batch, tokens, channels)`.
            mask: `(batch, tokens)`, True or 1 where a token is valid. None: all are.
            grid_size: (rows, columns), for `num_dims=2` only and required there.
            segments: `(batch, tokens)`, integers, for `num_dims=1` only: the number of the sequence, each a run of
                tokens, that a token of a packed row belongs to. Each is pooled as if it stood alone.
            laid_out: with a stride, whether the caller has put the tokens in the places of
                [`~cp_transformers.models.token_groups.lay_out`].

        Returns:
            The pooled tokens, of the shape and dtype of `hidden_states`, with invalid tokens as they are; and sigma in
            positions, `(batch, heads, tokens)` in float32, zero at invalid tokens. With a stride one for each group
            in place of each token, see [`pooling_weights`], and zeros at groups without a valid token.

        Raises:
            ValueError: `hidden_states` is not of that shape; `grid_size` is missing, not expected, or does not hold as
                many positions as there are tokens; `mask` or `segments` is not of shape `(batch, tokens)`; or a grid
                is given segments.

        Warns:
            UserWarning: the grid is so small that no pool reaches the next position.
        """
        _check_tokens(hidden_states)
        if grid_size is None and self.num_dims == 2:
            raise ValueError(
                "With num_dims=2 give grid_size=(rows, columns), of the grid whose tokens come row by row."
            )
        if grid_size is not None and self.num_dims == 1:
            raise ValueError("grid_size is for a module that is made with num_dims=2; this one pools sequences.")
        _check_grid(grid_size, hidden_states.shape[1])
        if segments is not None and self.num_dims == 2:
            raise ValueError("segments are for sequences (num_dims=1).")
        for name, each in (("mask", mask), ("segments", segments)):
            if each is not None and each.shape != hidden_states.shape[:2]:
                raise ValueError(f"{name} must be of shape {tuple(hidden_states.shape[:2])}, not {tuple(each.shape)}.")
        if self.stride > 1 and self.num_dims == 1 and not laid_out:
            mask = None if mask is None else mask.bool()
            if (layout := lay_out(mask, segments, self.stride)) is not None:
                hidden_states, mask, segments = layout.take(hidden_states), *layout[1::2]
        if mask is not None and can_be_read(mask) and mask.all():
            mask = None  # nothing need be copied to make it zero
        valid_states = _zero_invalid(hidden_states, mask)
        weights, sigma, offsets = self.predict(valid_states, mask=mask, grid_size=grid_size, segments=segments)
        extent = max(grid_size or (hidden_states.shape[1],))
        max_sigma, max_offset = max(self.pool_range * extent, MIN_SIGMA), self.pool_max_offset
        if self.stride > 1:
            max_sigma = self.stride * (MIN_STRIDED_SIGMA + STRIDED_SIGMA_RANGE)
            max_offset = self.stride - 0.5  # that of the middle of a group from the mean of its valid tokens included
        elif grid_size is not None and not is_traced(hidden_states):
            self._check_reach(extent)
        pooled = _pool(
            self.pool_implementation,
            valid_states,
            weights,
            sigma,
            offsets,
            mask,
            grid_size,
            segments,
            self.stride,
            max_sigma=max_sigma,
            max_offset=max_offset,
        )
        if self.gate is not None:
            # Counted from zero at invalid tokens, so that what they hold cannot reach the gate's gradient.
            pooled = hidden_states.addcmul(self.gate, pooled - valid_states)
        if mask is None:
            return pooled, sigma
        if self.stride > 1:
            return pooled, sigma * valid_groups(mask.bool(), grid_size, self.stride)[:, None]
        return torch.where(mask.bool()[..., None], pooled, hidden_states), sigma * mask[:, None]

    def _check_reach(self, extent: int) -> None:
        """Warns of a grid on which pooling does next to nothing."""
        largest = self.pool_range * extent
        if extent > 1 and largest + self.pool_max_offset < 1:
            warnings.warn(
                f"Of a grid {extent} positions long every pool hardly leaves its own position: with a pool_range of "
                f"{self.pool_range:g} sigma is at most {largest:.2g} positions. Raise pool_range.",
                stacklevel=5,  # who calls the module
            )

    def extra_repr(self) -> str:
        return (
            f"pool_range={self.pool_range}, pool_num_heads={self.pool_num_heads}, "
            f"pool_max_offset={self.pool_max_offset}, pool_gate={self.gate is not None}, "
            f"pool_implementation={self.pool_implementation}, num_dims={self.num_dims}, stride={self.stride}"
        )


def _positions(
    num_tokens: int, grid_size: tuple[int, int] | None, device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    """The coordinates of the tokens, one `(tokens,)` vector a dimension."""
    _check_grid(grid_size, num_tokens)
    if grid_size is None:
        return [torch.arange(num_tokens, device=device).to(dtype)]
    # Not by division, of which the ONNX exporter knows no form for sizes that are not yet numbers.
    rows, columns = (torch.arange(size, device=device).to(dtype) for size in grid_size)
    return [rows[:, None].expand(grid_size).flatten(), columns.expand(grid_size).flatten()]


def _check_tokens(hidden_states: torch.Tensor) -> None:
    if hidden_states.ndim != 3:
        hint = " (of a feature map x, x.flatten(2).transpose(1, 2), with its grid_size)" * (hidden_states.ndim == 4)
        raise ValueError(
            f"hidden_states must be of shape (batch, tokens, channels), not {tuple(hidden_states.shape)}{hint}."
        )


def _check_grid(grid_size: tuple[int, int] | None, num_tokens: int) -> None:
    if grid_size is not None and grid_size[0] * grid_size[1] != num_tokens:
        raise ValueError(f"grid_size {grid_size[0]} x {grid_size[1]} does not hold {num_tokens} tokens.")


def _check_offsets(offsets: torch.Tensor | None, grid_size: tuple[int, int] | None) -> None:
    num_dims = 1 if grid_size is None else 2
    if offsets is not None and offsets.shape[-1] != num_dims:
        raise ValueError(f"offsets need {num_dims} coordinates a token, not {offsets.shape[-1]}.")


def _check_stride(stride: int, grid_size: tuple[int, int] | None, segments: torch.Tensor | None) -> None:
    if stride < 1:
        raise ValueError(f"stride must be at least 1, not {stride}.")
    if stride > 1 and grid_size is not None and segments is not None:
        raise ValueError("With a stride, segments are for sequences.")


def _zero_invalid(hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return hidden_states if mask is None else hidden_states.masked_fill(~mask.bool()[..., None], 0.0)


def _mix(hidden_states: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """`sum_j p_ijh x_j[slice h]` for `(batch, tokens, channels)` and `(batch, heads, tokens, tokens)`."""
    p = p.to(hidden_states.dtype)
    if p.shape[1] == 1:
        return p.squeeze(1) @ hidden_states
    slices = hidden_states.unflatten(-1, (p.shape[1], -1)).transpose(1, 2)  # (batch, heads, tokens, channels / heads)
    return (p @ slices).transpose(1, 2).flatten(2)
