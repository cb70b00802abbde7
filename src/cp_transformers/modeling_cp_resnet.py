# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ResNet model: a ResNet that pools by context, on transformers' own ResNet classes.

ContextPool takes the place of the stem's max pooling and, by an option, of the final average pooling. Only
constructors are written anew, since upstream's build stock modules; what they compute is inherited. Unlike upstream's,
the stages support gradient checkpointing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.models.resnet.modeling_resnet import (
    ResNetBackbone,
    ResNetEmbeddings,
    ResNetEncoder,
    ResNetForImageClassification,
    ResNetModel,
    ResNetPreTrainedModel,
    ResNetStage,
)

from .configuration_cp_resnet import CPResNetConfig
from .context_pool import PoolProjection
from .feature_map_pool import GlobalContextPool, WindowedContextPool
from .modeling_context_pool import init_context_pool, predictor_options, record_pool_sizes, with_pool_sizes


@dataclass
class CPResNetModelOutput(BaseModelOutputWithPoolingAndNoAttention):
    """What upstream returns and, as in the classes below, `pool_sizes`: with `pool_stem`, one tensor, the predicted
    sigma of the stem's outputs in positions of the map that it pools, `(batch, heads, rows, columns)` in float32."""

    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPResNetImageClassifierOutput(ImageClassifierOutputWithNoAttention):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPResNetBackboneOutput(BackboneOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


class CPResNetStemPool(nn.MaxPool2d):
    """Takes the place of the stem's max pooling and gives a map of the same size. The gate starts from the maximum."""

    def __init__(self, config: CPResNetConfig):
        super().__init__(kernel_size=3, stride=2, padding=1)
        self.context_pool = WindowedContextPool(
            config.embedding_size,
            window=config.pool_window,
            stride=2,
            **predictor_options(config),
            pool_range=config.pool_range,
            pool_max_offset=config.pool_max_offset,
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        original = None if self.context_pool.gate is None else super().forward(input)
        pooled, sizes = self.context_pool(input, original)
        record_pool_sizes(sizes)
        return pooled


class CPResNetGlobalPool(nn.AdaptiveAvgPool2d):
    """Takes the place of the final average pooling. The gate starts from the average."""

    def __init__(self, config: CPResNetConfig):
        super().__init__((1, 1))
        self.context_pool = GlobalContextPool(config.hidden_sizes[-1], **predictor_options(config))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        original = None if self.context_pool.gate is None else super().forward(input)
        return self.context_pool(input, original)


class CPResNetEmbeddings(ResNetEmbeddings):
    def __init__(self, config: CPResNetConfig):
        super().__init__(config)
        if config.pool_stem:
            self.pooler = CPResNetStemPool(config)


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


class CPResNetEncoder(ResNetEncoder):
    def __init__(self, config: CPResNetConfig):
        nn.Module.__init__(self)
        strides = [2 if config.downsample_in_first_stage else 1] + [2] * (len(config.depths) - 1)
        channels = pairwise([config.embedding_size, *config.hidden_sizes])
        self.stages = nn.ModuleList(
            [
                CPResNetStage(config, in_channels, out_channels, stride=stride, depth=depth)
                for (in_channels, out_channels), stride, depth in zip(channels, strides, config.depths)
            ]
        )


class CPResNetPreTrainedModel(ResNetPreTrainedModel):
    config_class = CPResNetConfig
    config: CPResNetConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # else Trainer takes upstream's loss to divide by `num_items_in_batch`: it does not
    _no_split_modules = ["CPResNetEmbeddings", "CPResNetStage"]

    def __init__(self, config: CPResNetConfig):
        config.validate_context_pool()  # the fields may have been changed since the configuration was made
        # Not super(): in the heads that would be upstream's constructor, which builds a stock ResNetModel.
        ResNetPreTrainedModel.__init__(self, config)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PoolProjection):
            # Small, as in the other families, so that sigma and the weights start near what the biases say.
            PreTrainedModel._init_weights(self, module)
        else:
            super()._init_weights(module)
        init_context_pool(module)


class CPResNetModel(CPResNetPreTrainedModel, ResNetModel):
    """The bare CP-ResNet. `forward` takes and returns what [`~transformers.ResNetModel`]'s does, and with
    `output_pool_sizes=True` the support sizes, see [`CPResNetModelOutput`]; so it does in every head."""

    def __init__(self, config: CPResNetConfig):
        super().__init__(config)
        self.embedder = CPResNetEmbeddings(config)
        self.encoder = CPResNetEncoder(config)
        self.pooler = CPResNetGlobalPool(config) if config.pool_global else nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()

    forward = with_pool_sizes(CPResNetModelOutput)(ResNetModel.forward)


class CPResNetForImageClassification(CPResNetPreTrainedModel, ResNetForImageClassification):
    """CP-ResNet with an image classification head on the pooled last feature map."""

    def __init__(self, config: CPResNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.resnet = CPResNetModel(config)
        classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.classifier = nn.Sequential(nn.Flatten(), classifier)
        self.post_init()

    forward = with_pool_sizes(CPResNetImageClassifierOutput)(ResNetForImageClassification.forward)


class CPResNetBackbone(CPResNetPreTrainedModel, ResNetBackbone):
    """CP-ResNet's feature maps, for the heads of detection and segmentation frameworks. It has no final pooling, so
    `pool_global` means nothing to it."""

    def __init__(self, config: CPResNetConfig):
        config.validate_context_pool()
        BackboneMixin.__init__(self, config)  # goes on to ResNetPreTrainedModel
        self.num_features = [config.embedding_size, *config.hidden_sizes]
        self.embedder = CPResNetEmbeddings(config)
        self.encoder = CPResNetEncoder(config)
        self.post_init()

    forward = with_pool_sizes(CPResNetBackboneOutput)(ResNetBackbone.forward)


__all__ = ["CPResNetBackbone", "CPResNetForImageClassification", "CPResNetModel", "CPResNetPreTrainedModel"]
