# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pooling operation in plain loops, against which its implementations are tested, and what stands beside it."""

import math

import torch

from cp_transformers.context_pool import FACTORED_SCALE


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
