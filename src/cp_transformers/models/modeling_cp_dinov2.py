# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-DINOv2 model, on transformers' own classes."""

from transformers.models.dinov2.modeling_dinov2 import (
    Dinov2Attention,
    Dinov2Backbone,
    Dinov2Encoder,
    Dinov2ForImageClassification,
    Dinov2Layer,
    Dinov2Model,
    Dinov2PreTrainedModel,
)

from .configuration_cp_dinov2 import CPDinov2Config
from .modeling_context_pool import PooledAttention, PooledImageModel, PooledLayer


class CPDinov2Attention(PooledAttention, Dinov2Attention):
    """DINOv2's self-attention, of pooled patches."""


class CPDinov2Layer(PooledLayer, Dinov2Layer):
    """DINOv2's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPDinov2PreTrainedModel(PooledImageModel, Dinov2PreTrainedModel):
    """Base of the CP-DINOv2 models, see [`PooledImageModel`]."""

    config: CPDinov2Config
    _no_split_modules = ["Dinov2Embeddings", "CPDinov2Layer"]

    @classmethod
    def pooled_classes(cls):
        return CPDinov2Model, CPDinov2Encoder, CPDinov2Layer, CPDinov2Attention


class CPDinov2Encoder(CPDinov2PreTrainedModel, Dinov2Encoder):
    """The layers, which upstream makes a model of their own."""


class CPDinov2Model(CPDinov2PreTrainedModel, Dinov2Model):
    """The bare CP-DINOv2 encoder, see [`PooledImageModel`]."""


class CPDinov2ForImageClassification(CPDinov2PreTrainedModel, Dinov2ForImageClassification):
    """CP-DINOv2 with an image classification head on the class token and the mean of the patches."""


class CPDinov2Backbone(CPDinov2PreTrainedModel, Dinov2Backbone):
    """CP-DINOv2's feature maps, for the heads of detection and segmentation frameworks."""
