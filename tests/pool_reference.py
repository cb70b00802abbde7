# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pooling operation in plain loops, against which its implementations are tested, and what stands beside it."""

import math

import torch

from cp_transformers.models.context_pool import FACTORED_SCALE, MIN_STRIDED_SIGMA, STRIDED_SIGMA_RANGE


def reference_context_pool(hidden_states, weights, sigma, offsets=None, mask=None, grid_size=None):
    """`y_i` of the docstring's equations, one number at a time. No valid token: zeros."""
    batch_size, num_tokens, num_channels = hidden_states.shape
    num_heads = weights.shape[1]
    columns = num_tokens if grid_size is None else grid_size[1]
    position = [divmod(token, columns) for token in range(num_tokens)]
    if offsets is None:
        offsets = torch.zeros(batch_size, num_heads, num_tokens, 2)
    elif grid_size is None:
        offsets = torch.cat([torch.zeros_like(offsets), offsets], dim=-1)
    mask = torch.ones(batch_size, num_tokens) if mask is None else mask
    x, w, s, o, m = (tensor.tolist() for tensor in (hidden_states, weights, sigma, offsets, mask))

    pooled = torch.zeros(batch_size, num_tokens, num_channels, dtype=torch.float64)
    for b in range(batch_size):
        valid = [j for j in range(num_tokens) if m[b][j]]
        for h in range(num_heads):
            for i in range(num_tokens):
                centre = [position[i][axis] + o[b][h][i][axis] for axis in (0, 1)]
                logit = {j: w[b][h][j] - math.dist(centre, position[j]) ** 2 / (2 * s[b][h][i] ** 2) for j in valid}
                largest = max(logit.values(), default=0.0)
                total = sum(math.exp(logit[j] - largest) for j in valid)
                for channel in range(h * num_channels // num_heads, (h + 1) * num_channels // num_heads):
                    pooled[b, i, channel] = sum(math.exp(logit[j] - largest) / total * x[b][j][channel] for j in valid)
    return pooled


def reference_groups(num_tokens, mask=None, grid_size=None, segments=None, stride=1):
    """The valid tokens of each group, of one example: counted from the first valid one, in each run of a segment; on a
    grid from its corner. Of a sequence there are `ceil(num_tokens / stride)`."""
    valid = range(num_tokens) if mask is None else [token for token in range(num_tokens) if mask[token]]
    if grid_size is not None:
        rows, columns = (math.ceil(side / stride) for side in grid_size)
        groups = [[] for _ in range(rows * columns)]
        for token in valid:
            groups[token // grid_size[1] // stride * columns + token % grid_size[1] // stride].append(token)
        return groups
    groups = []
    for run in runs(num_tokens, segments):
        own = [token for token in valid if token in run]
        for start in range(own[0], own[-1] + 1, stride) if own else []:
            groups.append([token for token in own if start <= token < start + stride])
    return groups if segments is not None else groups + [[]] * (math.ceil(num_tokens / stride) - len(groups))


def runs(num_tokens, segments=None):
    """The runs of tokens of one segment, of one example."""
    starts = [i for i in range(num_tokens) if i == 0 or (segments is not None and segments[i] != segments[i - 1])]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], num_tokens])]


def mean_position(tokens, columns):
    return [
        sum(token // columns for token in tokens) / len(tokens),
        sum(token % columns for token in tokens) / len(tokens),
    ]


def reference_strided_weights(weights, sigma, offsets=None, mask=None, grid_size=None, segments=None, stride=1):
    """`p_gj` of the docstring's equations, `(batch, heads, groups, tokens)`, one row at a time, for autograd."""
    batch_size, num_heads, num_tokens = weights.shape
    columns = num_tokens if grid_size is None else grid_size[1]
    p = torch.zeros(batch_size, num_heads, sigma.shape[2], num_tokens, dtype=weights.dtype)
    for b in range(batch_size):
        valid, parts = [None if each is None else each[b].tolist() for each in (mask, segments)]
        for g, group in enumerate(reference_groups(num_tokens, valid, grid_size, parts, stride)):
            if not group:
                continue
            run = next(run for run in runs(num_tokens, parts) if group[0] in run)
            keys = [token for token in run if valid is None or valid[token]]
            positions = torch.tensor([[key // columns, key % columns] for key in keys], dtype=weights.dtype)
            for h in range(num_heads):
                centre = torch.tensor(mean_position(group, columns), dtype=weights.dtype)
                if offsets is not None:
                    centre = centre + torch.cat([offsets.new_zeros(2 - offsets.shape[-1]), offsets[b, h, g]])
                squares = ((centre - positions) ** 2).sum(dim=1)
                p[b, h, g, keys] = torch.softmax(weights[b, h, keys] - squares / (2 * sigma[b, h, g] ** 2), dim=0)
    return p


def reference_strided_context_pool(hidden_states, weights, sigma, offsets=None, mask=None, **options):
    """`y_g` of the docstring's equations, for autograd. Groups without a valid token: zeros."""
    p = reference_strided_weights(weights, sigma, offsets, mask, **options)
    if mask is not None:
        hidden_states = hidden_states.masked_fill(~mask[..., None], 0.0)
    slices = hidden_states.chunk(weights.shape[1], dim=-1)
    return torch.cat([p[:, head] @ each for head, each in enumerate(slices)], dim=-1)


def reference_numbers(module, hidden_states, mask=None, grid_size=None):
    """Computes what the predictor makes of each token, `(batch, heads, tokens, numbers)`, its convolution written as a
    sum over valid neighbours, for autograd."""
    batch_size, num_tokens, _ = hidden_states.shape
    rows, columns = (1, num_tokens) if grid_size is None else grid_size
    kernel, last_weight = predictor_weights(module)
    numbers = []
    for b in range(batch_size):
        for i in range(num_tokens):
            features = module.conv.bias
            for row in range(rows):
                for column in range(columns):
                    down = row - i // columns + kernel.shape[2] // 2
                    right = column - i % columns + kernel.shape[3] // 2
                    inside = 0 <= down < kernel.shape[2] and 0 <= right < kernel.shape[3]
                    if inside and (mask is None or mask[b, row * columns + column]):
                        features = features + kernel[:, :, down, right] @ hidden_states[b, row * columns + column]
            features = features * (1 + torch.erf(features / math.sqrt(2))) / 2
            numbers.append(last_weight @ features + module.proj.bias)
    numbers = torch.stack(numbers).unflatten(0, (batch_size, num_tokens))
    return numbers.unflatten(-1, (module.pool_num_heads, -1)).transpose(1, 2)


def reference_strided_module(module, hidden_states, mask=None, grid_size=None):
    """The two outputs of a module with a stride, for autograd."""
    stride, (batch_size, num_tokens, _) = module.stride, hidden_states.shape
    numbers = reference_numbers(module, hidden_states, mask, grid_size)
    means = []
    for b in range(batch_size):
        groups = reference_groups(num_tokens, None if mask is None else mask[b].tolist(), grid_size, None, stride)
        each = [numbers[b][:, group].mean(dim=1) if group else 0 * numbers[b][:, 0] for group in groups]
        means.append(torch.stack(each, dim=1))
    means = torch.stack(means)  # (batch, heads, groups, numbers)
    sigma = stride * (MIN_STRIDED_SIGMA + STRIDED_SIGMA_RANGE * means[..., 1].sigmoid())
    offsets = stride / 2 * means[..., 2:].tanh()
    options = {"mask": mask, "grid_size": grid_size, "stride": stride}
    pooled = reference_strided_context_pool(hidden_states, numbers[..., 0], sigma, offsets, **options)
    if mask is not None:
        groups = [reference_groups(num_tokens, row, grid_size, None, stride) for row in mask.tolist()]
        sigma = sigma * torch.tensor([[bool(group) for group in row] for row in groups])[:, None]
    return pooled, sigma


def randomize(module, std=0.5):
    """The pooling module in float64 with all parameters drawn, a factored predictor's smaller, so that it predicts
    numbers of like size."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    if module.reduce is not None:
        with torch.no_grad():
            module.conv.weight /= 2
            module.proj.weight /= FACTORED_SCALE
    return module.double()


def predictor_weights(module):
    """The kernel of the predictor as one convolution, `(hidden, channels, rows, columns)`, and its last weights."""
    if module.reduce is None:
        return module.conv.weight, module.proj.weight
    kernel = torch.einsum("hrij,rc->hcij", module.conv.weight, module.reduce.weight[:, :, 0, 0])
    return kernel, FACTORED_SCALE * module.proj.weight
