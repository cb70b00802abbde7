# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Context pooling in a time that is linear in the number of tokens, for long sequences and large grids.

A wide Gaussian is a narrower one of a blurred input, and a blurred input can be sampled sparsely. So the tokens are
blurred and sampled again and again, which gives levels of ever fewer cells, `ratio` times as far apart at each:

    S_l[k] = sum_j exp(w_j) G(k h_l - j; BLUR h_l) x_j       the values of cell k of level l, with x = 1 its weight

Each token then pools the cells of one level, that at which its Gaussian is a few cells wide, with what is left of its
variance, `sigma^2 - (BLUR h_l)^2`, and so a number of cells that does not grow with sigma. Level 0 are the tokens
themselves, exactly. Sums over Gaussian samples converge exponentially: with the constants below, what a level adds to
the error is of the order of float32's own. The cells' weights are kept as logarithms and their values as means, so
that nothing over- or underflows.

All products are of dense blocks on the diagonal of the matrix of weights: a block of neighbouring tokens against the
cells that any of them reaches.
"""

import math
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F


# How far apart, in cells, the samples of a level's Gaussian may be at the worst: sigma is at least this many cells.
NARROWEST = 1.5
# The blur of a level, in cells.
BLUR = 1.06
# A Gaussian ends where it has fallen to exp(-REACH^2 / 2), about 1e-5, of its peak.
REACH = 4.8
# The cells beyond each end of the tokens, into which the blur carries them.
MARGIN = math.ceil(REACH * BLUR)
# The tokens in a row of a block, by the number of dimensions.
BLOCK = {1: 64, 2: 16}
# The log-weight of a cell that no valid token has reached.
EMPTY = -1e30

# Weights of at most this are none. A Gaussian's tail runs into the subnormal numbers, with which CPUs compute many
# times more slowly: at the initial sizes the product of weights and tokens would take nearly all of the time.
MIN_WEIGHT = 1e-30


def linear_context_pool(
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    grid_size: tuple[int, int] | None = None,
    max_sigma: float | None = None,
    max_offset: float | None = None,
    stride: int = 1,
) -> torch.Tensor:
    """[`~cp_transformers.models.context_pool.context_pool`] in linear time, to an error of about 1e-5 of the result.

    Tokens at which a Gaussian has fallen below exp(-REACH^2 / 2) of its peak may be left out of its pool, however
    large their weight. What a token gets that has no valid token in its reach, as there are among invalid ones, means
    nothing.

    Args:
        hidden_states: `(batch, tokens, channels)`, zero where `mask` is False.
        weights, sigma, offsets, mask, grid_size: see [`~cp_transformers.models.context_pool.pooling_weights`].
        max_sigma, max_offset: bounds of `sigma` and of the offsets' absolute values, where they are known. None: they
            are read from the tensors, which waits for an accelerator and cannot be traced.
        stride: the positions of a group, one after the other from the first on. Each has its `sigma`, and its
            `offsets` are from its middle.

    Returns:
        The pooled tokens, or groups, of the dtype of `hidden_states`.
    """
    num_heads, num_tokens = weights.shape[1:]
    num_dims = 1 if grid_size is None else 2
    rows, columns = grid_size or (1, num_tokens)
    ratio = 4 if num_dims == 1 else 2
    dtype = torch.promote_types(weights.dtype, torch.float32)
    log_weights = weights.to(dtype)
    if mask is not None:
        log_weights = log_weights.masked_fill(~mask.bool()[:, None], EMPTY)

    # In what follows (batch, heads, rows, columns, ...), where a sequence is one row.
    values = hidden_states.unflatten(1, (rows, columns)).unflatten(-1, (num_heads, -1)).permute(0, 3, 1, 2, 4)
    groups = ((rows + stride - 1) // stride, (columns + stride - 1) // stride)
    log_weights, sigma = log_weights.unflatten(-1, (rows, columns)), sigma.to(dtype).unflatten(-1, groups)
    if offsets is not None:
        offsets = offsets.to(dtype).unflatten(-2, groups)
    traced = max_sigma is not None
    # Wider than this all are alike. In this order min() also bounds NaN, which then goes through to the result.
    widest = 100.0 * max(rows, columns)
    sigma = sigma.clamp(max=widest)
    max_sigma = min(widest, sigma.detach().max().item() if max_sigma is None else max_sigma)
    if max_offset is None:
        max_offset = 0.0 if offsets is None else offsets.detach().abs().max().item()
    max_offset = min(widest, max_offset)

    num_levels = 1
    while NARROWEST * ratio**num_levels <= max_sigma and ratio**num_levels <= max(rows, columns):
        num_levels += 1
    level_of_token = torch.zeros_like(sigma, dtype=torch.long)
    for level in range(1, num_levels):
        level_of_token = level_of_token + (sigma >= NARROWEST * ratio**level)

    parts = []
    cells = Cells(values, log_weights)
    for level in range(num_levels):
        if level:
            cells = cells.coarser(ratio, num_dims)
        selected = level_of_token == level
        if traced or selected.any():
            largest = min(max_sigma, NARROWEST * cells.spacing * ratio) if level < num_levels - 1 else max_sigma
            parts.append(cells.pool(sigma, offsets, selected, num_dims, largest, max_offset, stride))
    pooled = reduce(torch.Tensor.add_, parts)
    return pooled.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)


@dataclass
class Cells:
    """One level: what the tokens are blurred and sampled to.

    Attributes:
        values: `(batch, heads, rows, columns, channels)`, the weighted mean of the tokens in each cell.
        log_weights: `(batch, heads, rows, columns)`, the logarithm of its weight.
        spacing: from one cell to the next, in tokens.
        margin: how many cells there are before the one on the first token, along each dimension that is pooled.
        blur: the standard deviation of the Gaussian that has been applied, in cells.
    """

    values: torch.Tensor
    log_weights: torch.Tensor
    spacing: int = 1
    margin: int = 0
    blur: float = 0.0

    def coarser(self, ratio: int, num_dims: int) -> "Cells":
        """The next level. A Gaussian of several dimensions is one along each in turn."""
        values, log_weights = self._coarser_columns(self.values, self.log_weights, ratio)
        if num_dims == 2:
            values, log_weights = self._coarser_columns(values.transpose(2, 3), log_weights.transpose(2, 3), ratio)
            values, log_weights = values.transpose(2, 3), log_weights.transpose(2, 3)
        return Cells(values, log_weights, self.spacing * ratio, MARGIN, BLUR)

    def _coarser_columns(
        self, values: torch.Tensor, log_weights: torch.Tensor, ratio: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = math.sqrt((BLUR * ratio) ** 2 - self.blur**2)  # of the blur that is added, in cells of this level
        reach = math.ceil(REACH * sigma)
        num_cells = log_weights.shape[-1]
        num_coarse = (num_cells - 2 * self.margin - 2) // ratio + 2 + 2 * MARGIN
        # `size` coarse cells, `step` of these cells apart from those before them, see a window of these cells.
        size = 16
        step, window = size * ratio, (size - 1) * ratio + 2 * reach + 1
        num_blocks = max(-(-num_coarse // size), -(-num_cells // step))
        before = MARGIN * ratio - self.margin + reach  # from the first of these cells back to the first window
        after = (num_blocks - 1) * step + window - before - num_cells
        seen = F.pad(log_weights, (before, after), value=EMPTY).unfold(-1, window, step)
        index = torch.arange(max(size, window), device=values.device, dtype=log_weights.dtype)
        distance = index[:window] - reach - ratio * index[:size, None]
        logits = seen[..., None, :] - 0.5 * (distance / sigma) ** 2  # (batch, heads, rows, blocks, size, window)
        total = logits.logsumexp(dim=-1)
        p = F.threshold((logits - total[..., None]).exp(), MIN_WEIGHT, 0.0)
        coarse = _block_products(p[..., None, :], values, step, before)
        return coarse.flatten(3, 4)[:, :, :, :num_coarse], total.flatten(3, 4)[..., :num_coarse]

    def pool(
        self,
        sigma: torch.Tensor,
        offsets: torch.Tensor | None,
        selected: torch.Tensor,
        num_dims: int,
        max_sigma: float,
        max_offset: float,
        stride: int = 1,
    ) -> torch.Tensor:
        """Pools from these cells for the `selected` tokens, `(batch, heads, rows, columns)`; all others get zeros.
        With a stride the queries are groups in place of tokens, whose middles are `stride` tokens apart."""
        rows, columns = sigma.shape[2:]
        # A block of tokens is one of `height` x `width` tokens, or groups, on `cells_high` rows of `cells_wide` cells.
        cells_high, height = 1, 1
        if num_dims == 2:
            tokens_high = math.lcm(self.spacing, stride)
            cells_high, height = tokens_high // self.spacing, tokens_high // stride
        each = math.lcm(self.spacing, stride) // self.spacing  # the fewest cells on which whole groups stand
        cells_wide = -(-max(BLOCK[num_dims] // self.spacing, 8 // num_dims) // each) * each
        width = cells_wide * self.spacing // stride
        middle = (stride - 1) / 2 / self.spacing  # of the first group, in cells
        reach = (REACH * math.sqrt(max_sigma**2 - (self.blur * self.spacing) ** 2) + max_offset) / self.spacing
        num_rows, num_columns = self.log_weights.shape[2:]
        reach_down = min(math.ceil(reach), num_rows) if num_dims == 2 else 0  # from any token to all cells, at most
        reach = min(math.ceil(reach), num_columns)
        blocks_down = -(-rows // height)
        blocks_across = max(-(-columns // width), -(-num_columns // cells_wide))
        window, window_down = 2 * reach + cells_wide, 2 * reach_down + cells_high

        def by_blocks(numbers: torch.Tensor) -> torch.Tensor:
            """From `(batch, heads, rows, columns)` to `(batch, heads, blocks_down, blocks_across, tokens, 1, 1)`."""
            numbers = F.pad(numbers, (0, blocks_across * width - columns, 0, blocks_down * height - rows))
            numbers = numbers.unflatten(3, (blocks_across, width)).unflatten(2, (blocks_down, height))
            return numbers.transpose(3, 4).flatten(4, 5)[..., None, None]

        # From each token of a block to each cell of its window, in cells: (tokens, window_down, window).
        index = torch.arange(max(width, height, window, window_down), device=sigma.device, dtype=sigma.dtype)
        right = index[:window] - reach - (index[:width, None, None] * (stride / self.spacing) + middle)
        right = right.expand(height, width, 1, window).flatten(0, 1)
        if offsets is not None:
            right = right - by_blocks(offsets[..., -1]) / self.spacing
        squared_distance = right**2
        if num_dims == 2:
            down = index[:window_down, None] - reach_down
            down = down - (index[:height, None, None] * (stride / self.spacing) + middle)
            down = down[:, None].expand(height, width, window_down, 1).flatten(0, 1)
            if offsets is not None:
                down = down - by_blocks(offsets[..., 0]) / self.spacing
            squared_distance = squared_distance + down**2

        # Cells outside of the map have no weight, so that it does not matter which values stand for them.
        left, above = reach - self.margin, reach_down - self.margin if num_dims == 2 else 0
        right_pad = (blocks_across - 1) * cells_wide + window - left - num_columns
        below = (blocks_down - 1) * cells_high + window_down - above - num_rows
        seen = F.pad(self.log_weights, (left, right_pad, above, below), value=EMPTY)
        seen = seen.unfold(2, window_down, cells_high).unfold(3, window, cells_wide).unsqueeze(4)
        variance = torch.where(selected, (sigma / self.spacing) ** 2 - self.blur**2, 1.0)
        logits = torch.addcmul(seen, squared_distance, by_blocks(-0.5 / variance))
        p = logits.flatten(-2).softmax(dim=-1).view_as(logits) * by_blocks(selected.to(logits.dtype))
        values = F.pad(self.values, (0, 0, 0, 0, above, below)) if num_dims == 2 else self.values
        pooled = _block_products(F.threshold(p, MIN_WEIGHT, 0.0), values, cells_wide, left, cells_high)
        pooled = pooled.unflatten(4, (height, width)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return pooled[:, :, :rows, :columns]


def _block_products(p: torch.Tensor, values: torch.Tensor, step: int, before: int, step_down: int = 1) -> torch.Tensor:
    """The products of blocks of weights and the windows of values that they see.

    Args:
        p: `(batch, heads, rows, blocks, tokens, window rows, window columns)`.
        values: `(batch, heads, (rows - 1) * step_down + window rows, columns, channels)`, with
            `columns <= blocks * step`.
        step: columns from one block's window to the next one's.
        before: the columns by which the first window begins before the first column. `p` must be zero where a window
            leaves the row: in memory, the end of another row stands there.
        step_down: rows from one row of blocks to the next one.

    Returns:
        `(batch, heads, rows, blocks, tokens, channels)` in the dtype of `values`.
    """
    rows, blocks, _, _, window = p.shape[2:]
    width = blocks * step
    p = p.to(values.dtype).flatten(2, 3)
    missing = width - values.shape[3]
    if values.shape[2] > 1 and missing:
        values, missing = F.pad(values, (0, 0, 0, missing)), 0

    def flat(rows_of: torch.Tensor) -> torch.Tensor:
        """The rows one after the other."""
        return F.pad(rows_of.flatten(2, 3), (0, 0, before, missing + window))

    whole = flat(values) if step_down == 1 else None
    factors = []
    for row, weights in enumerate(p.unbind(-2)):
        below = flat(values[:, :, row::step_down]) if whole is None else whole[:, :, row * width :]
        seen = below[:, :, : (rows * blocks - 1) * step + window]
        seen = seen.unfold(2, window, step).transpose(3, 4)  # (batch, heads, rows * blocks, window, channels), a view
        factors.append((weights, seen))
    return sum_of_products(factors).unflatten(2, (rows, blocks))


# The elements of one example's factor up to which copying it takes less time than a product of its own.
SMALL = 2**14


def sum_of_products(factors: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The sum of matrix products of tensors of shape `(batch, heads, blocks, ...)`. One example and head at a time,
    views of overlapping windows are multiplied where they stand; all together they would be copied first, which only
    pays where they are [`SMALL`]."""
    first = factors[0][0]
    if is_traced(first) or first.shape[0] == 0 or first[0, 0].numel() <= SMALL:
        return reduce(torch.add, [left @ right for left, right in factors])
    shape = first.shape[:2]
    # Unbound, not indexed: the gradient of an index is as large as all that it was taken from.
    separate = [[_unbound(left), _unbound(right)] for left, right in factors]
    sums = []
    for index in range(shape[0] * shape[1]):
        (left, right), *others = separate
        total = torch.bmm(left[index], right[index])
        for left, right in others:
            total = torch.baddbmm(total, left[index], right[index])
        sums.append(total)
    return sums[0].expand(*shape, *sums[0].shape) if len(sums) == 1 else torch.stack(sums).unflatten(0, shape)


def _unbound(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The parts of its first two dimensions."""
    return [each for example in tensor.unbind() for each in example.unbind()]


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether a graph is made of what is done to it, instead of computing it."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return traced or type(tensor) not in (torch.Tensor, torch.nn.Parameter)


def can_be_read(tensor: torch.Tensor) -> bool:
    """Whether its numbers can be looked at: without waiting for a device, and in no graph or transform of torch.func
    that is to serve others."""
    return tensor.device.type == "cpu" and not is_traced(tensor) and not is_transformed()


def is_transformed() -> bool:
    """Whether this runs in a transform of torch.func."""
    return torch._C._are_functorch_transforms_active()
