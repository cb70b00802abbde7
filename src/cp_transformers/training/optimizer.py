# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Training helpers."""

import re
from typing import Any

from torch import nn

from ..models.context_pool import BaseContextPool
from ..models.pool_inputs import ContextRestore


def param_groups(
    model: nn.Module,
    learning_rate: float,
    pool_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    gate_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser that give the pooling modules a learning rate of their own.

    In a converted checkpoint everything is pretrained but the pooling, whose gate starts at zero: at the learning rate
    that suits the pretrained weights it hardly opens. A gate, one number a channel, bears a higher rate than the
    predictor, whose every number is a sum over many channels, and which a rate that opens the gate soon saturates.
    Biases, norms, gates, and ViT's position embeddings and class token get no weight decay.

    Args:
        model: a CP model, one of your own with a [`ContextPool`] anywhere in it, or any other (then there is no
            pooling group).
        learning_rate: for all parameters but the pooling's.
        pool_learning_rate: for the pooling's parameters; None for the same.
        weight_decay: for the weights of linear layers, convolutions and embedding tables.
        layer_decay: factor of the learning rates from one layer (of a ResNet: stage) to the one below it, as in BEiT
            (Bao et al., ICLR 2022); the head has the whole rate, the embeddings the lowest.
        gate_learning_rate: for the pooling's gates; None for that of the rest of the pooling.

    Raises:
        ValueError: there is a learning rate for the pooling or its gates, and none that is trained.

    Returns:
        Groups for a torch optimiser, the pooling's last. With `Trainer`, which builds the schedule for all groups:
        `Trainer(..., optimizers=(torch.optim.AdamW(param_groups(model, 5e-5, 1e-3)), None))`.
    """
    pools, gates = pool_parameters(model)
    for name, rate_given, found, what in (
        ("pool_learning_rate", pool_learning_rate, pools, "no pooling"),
        ("gate_learning_rate", gate_learning_rate, gates, "no gate of a pooling"),
    ):
        if rate_given is not None and not any(each.requires_grad for each in found):
            raise ValueError(f"{type(model).__name__} has {what} that is trained: leave out {name}.")
    pool_ids, gate_ids = ({id(each) for each in found} for found in (pools, gates))
    depth = 1 + max([_layer(name) or 0 for name, _ in model.named_parameters()])
    pool_rate = learning_rate if pool_learning_rate is None else pool_learning_rate
    gate_rate = pool_rate if gate_learning_rate is None else gate_learning_rate
    groups: dict[tuple[bool, int, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Of ViT's parameters of several dimensions, its position embeddings and tokens are no weights of a layer.
            decays = parameter.ndim > 1 and name.endswith("weight")
            layer = _layer(name)
            below_head = 0 if layer is None or layer_decay == 1.0 else depth - layer
            pooling = id(parameter) in pool_ids
            rate = learning_rate if not pooling else gate_rate if id(parameter) in gate_ids else pool_rate
            groups.setdefault((pooling, below_head, decays, rate), []).append(parameter)
    return [
        {
            "params": groups[pooling, below_head, decays, rate],
            "lr": rate * layer_decay**below_head,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for pooling, below_head, decays, rate in sorted(groups)
    ]


def pool_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a model's pooling modules, by whatever name it has them, and those among them that are gates.
    What stands in the place of a CP model's pooling, such as an experiment's control, counts as such."""
    pools = [
        module
        for name, module in model.named_modules()
        if isinstance(module, (BaseContextPool, ContextRestore)) or name.rpartition(".")[2] == "context_pool"
    ]
    named = [each for pool in pools for each in pool.named_parameters()]
    return [each for _, each in named], [each for name, each in named if name.rpartition(".")[2] == "gate"]


def _layer(name: str) -> int | None:
    """The layer or stage of a parameter, counted from 1, 0 for the embeddings; None for what lies above them."""
    if match := re.search(r"\b(?:layer|layers|stages)\.(\d+)\.", name):
        return 1 + int(match[1])
    return 0 if re.search(r"\b(?:embeddings|embedder)\.", name) else None
