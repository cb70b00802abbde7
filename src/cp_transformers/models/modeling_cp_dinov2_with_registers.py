# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-DINOv2 with registers model, on transformers' own classes."""

from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersAttention,
    Dinov2WithRegistersBackbone,
    Dinov2WithRegistersEncoder,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersLayer,
    Dinov2WithRegistersModel,
    Dinov2WithRegistersPreTrainedModel,
)

from .configuration_cp_dinov2_with_registers import CPDinov2WithRegistersConfig
from .modeling_context_pool import PooledAttention, PooledImageModel, PooledLayer


class CPDinov2WithRegistersAttention(PooledAttention, Dinov2WithRegistersAttention):
    """DINOv2's self-attention, of pooled patches."""


class CPDinov2WithRegistersLayer(PooledLayer, Dinov2WithRegistersLayer):
    """DINOv2's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPDinov2WithRegistersPreTrainedModel(PooledImageModel, Dinov2WithRegistersPreTrainedModel):
    """Base of the CP-DINOv2 with registers models, see [`PooledImageModel`]."""

    config: CPDinov2WithRegistersConfig
    _no_split_modules = ["Dinov2WithRegistersEmbeddings", "CPDinov2WithRegistersLayer"]

    @classmethod
    def pooled_classes(cls):
        return (
            CPDinov2WithRegistersModel,
            CPDinov2WithRegistersEncoder,
            CPDinov2WithRegistersLayer,
            CPDinov2WithRegistersAttention,
        )

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.config.num_register_tokens


class CPDinov2WithRegistersEncoder(CPDinov2WithRegistersPreTrainedModel, Dinov2WithRegistersEncoder):
    """The layers, which upstream makes a model of their own."""


class CPDinov2WithRegistersModel(CPDinov2WithRegistersPreTrainedModel, Dinov2WithRegistersModel):
    """The bare encoder of CP-DINOv2 with registers, see [`PooledImageModel`]."""


class CPDinov2WithRegistersForImageClassification(
    CPDinov2WithRegistersPreTrainedModel, Dinov2WithRegistersForImageClassification
):
    """CP-DINOv2 with registers with an image classification head on the class token and the mean of the patches."""


class CPDinov2WithRegistersBackbone(CPDinov2WithRegistersPreTrainedModel, Dinov2WithRegistersBackbone):
    """CP-DINOv2's feature maps, for the heads of detection and segmentation frameworks."""
