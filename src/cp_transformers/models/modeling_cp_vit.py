# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ViT model, on transformers' own classes."""

import torch
from transformers.modeling_outputs import MaskedImageModelingOutput
from transformers.models.vit.modeling_vit import (
    ViTAttention,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTLayer,
    ViTModel,
    ViTPreTrainedModel,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_cp_vit import CPViTConfig
from .modeling_context_pool import PooledAttention, PooledImageModel, PooledLayer, pooling_forward


class CPViTAttention(PooledAttention, ViTAttention):
    """ViT's self-attention, of pooled patches."""


class CPViTLayer(PooledLayer, ViTLayer):
    """ViT's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPViTPreTrainedModel(PooledImageModel, ViTPreTrainedModel):
    """Base of the CP-ViT models, see [`PooledImageModel`]."""

    config: CPViTConfig
    _no_split_modules = ["ViTEmbeddings", "CPViTLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPViTModel, CPViTLayer, CPViTAttention


class CPViTModel(CPViTPreTrainedModel, ViTModel):
    """The bare CP-ViT encoder, see [`PooledImageModel`]."""


class CPViTForImageClassification(CPViTPreTrainedModel, ViTForImageClassification):
    """CP-ViT with an image classification head on the class token."""


class CPViTForMaskedImageModeling(CPViTPreTrainedModel, ViTForMaskedImageModeling):
    """CP-ViT with a decoder for masked image modelling, as in SimMIM. As upstream's, it is for square images."""

    @pooling_forward
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...] | MaskedImageModelingOutput:
        """See [`~transformers.ViTForMaskedImageModeling.forward`]."""
        self.check_square(pixel_values)
        return super().forward(pixel_values, bool_masked_pos, interpolate_pos_encoding, **kwargs)
