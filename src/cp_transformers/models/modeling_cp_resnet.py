# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ResNet model: a ResNet that pools by context, on transformers' own ResNet classes.

ContextPool takes the place of the stem's max pooling and, by an option, of the final average pooling. Unlike
upstream's, the stages support gradient checkpointing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.resnet.modeling_resnet import (
    ResNetBackbone,
    ResNetForImageClassification,
    ResNetModel,
    ResNetPreTrainedModel,
    ResNetStage,
)

from .configuration_cp_resnet import CPResNetConfig
from .feature_map_pool import GlobalContextPool, WindowedContextPool
from .modeling_context_pool import PooledModel, predictor_options
from .support_sizes import record_support_sizes


class CPResNetStemPool(nn.MaxPool2d):
    """Takes the place of the stem's max pooling and gives a map of the same size. The gate starts from the maximum."""

    context_pool: WindowedContextPool

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        original = None if self.context_pool.gate is None else super().forward(input)
        pooled, sizes = self.context_pool(input, original)
        record_support_sizes(sizes)
        return pooled


class CPResNetGlobalPool(nn.AdaptiveAvgPool2d):
    """Takes the place of the final average pooling. The gate starts from the average."""

    context_pool: GlobalContextPool

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        original = None if self.context_pool.gate is None else super().forward(input)
        return self.context_pool(input, original)


class CPResNetStage(GradientCheckpointingLayer, ResNetStage):
    """A ResNet stage that supports gradient checkpointing."""

    def __call__(self, hidden_state: torch.Tensor) -> torch.Tensor:
        # A checkpoint keeps the keywords of the call for when the backward pass runs the stage again. So each call
        # gets a list of its own, in which the first pass leaves a mark that the later ones find.
        checkpointed = self.gradient_checkpointing and self.training
        return super().__call__(hidden_state, passes=[] if checkpointed else None)

    def forward(self, hidden_state: torch.Tensor, passes: list[str] | None = None) -> torch.Tensor:
        with _frozen_statistics(self) if passes else nullcontext():
            if passes is not None:
                passes.append("done")
            return super().forward(hidden_state)


@contextmanager
def _frozen_statistics(stage: nn.Module) -> Iterator[None]:
    """Keeps batch normalisation from counting a batch again; what it computes stays the same."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, saved):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked


class CPResNetPreTrainedModel(PooledModel, ResNetPreTrainedModel):
    """Base of the CP-ResNet models, see [`PooledModel`]."""

    config: CPResNetConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["ResNetEmbeddings", "CPResNetStage"]

    @classmethod
    def pooled_classes(cls):
        return CPResNetModel, CPResNetStage

    def insert_pools(self, own: dict[type, type[nn.Module]]) -> None:
        config = self.config
        for stage in self.encoder.stages:
            stage.__class__ = own[type(stage)]
        if config.pool_stem:
            self.embedder.pooler.__class__ = CPResNetStemPool
            self.embedder.pooler.context_pool = WindowedContextPool(
                config.embedding_size,
                window=config.pool_window,
                stride=2,
                **predictor_options(config),
                pool_range=config.pool_range,
                pool_max_offset=config.pool_max_offset,
            )
        if config.pool_global and hasattr(self, "pooler"):
            self.pooler.__class__ = CPResNetGlobalPool
            self.pooler.context_pool = GlobalContextPool(config.hidden_sizes[-1], **predictor_options(config))

    draws_projections = True


class CPResNetModel(CPResNetPreTrainedModel, ResNetModel):
    """The bare CP-ResNet. `forward` takes and returns what [`~transformers.ResNetModel`]'s does."""


class CPResNetForImageClassification(CPResNetPreTrainedModel, ResNetForImageClassification):
    """CP-ResNet with an image classification head on the pooled last feature map."""


class CPResNetBackbone(CPResNetPreTrainedModel, ResNetBackbone):
    """CP-ResNet's feature maps, for the heads of detection and segmentation frameworks. It has no final pooling, so
    `pool_global` means nothing to it."""
