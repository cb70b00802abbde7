# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch models of CP-CLIP's image tower, on transformers' own classes."""

from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoderLayer,
    CLIPForImageClassification,
    CLIPPreTrainedModel,
    CLIPVisionModel,
    CLIPVisionModelOutput,
    CLIPVisionModelWithProjection,
)

from .configuration_cp_clip_vision_model import CPCLIPVisionConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTowerModel
from .support_sizes import with_support_sizes


class CPCLIPAttention(PooledAttention, CLIPAttention):
    """CLIP's self-attention, of pooled patches."""


class CPCLIPEncoderLayer(PooledLayer, CLIPEncoderLayer):
    """CLIP's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPCLIPPreTrainedModel(PooledTowerModel, CLIPPreTrainedModel):
    """Base of the models of CP-CLIP's image tower, see [`PooledTowerModel`]."""

    config: CPCLIPVisionConfig
    _no_split_modules = ["CLIPVisionEmbeddings", "CPCLIPEncoderLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPCLIPVisionModel, CPCLIPEncoderLayer, CPCLIPAttention


class CPCLIPVisionModel(CPCLIPPreTrainedModel, CLIPVisionModel):
    """CP-CLIP's bare image tower, see [`PooledTowerModel`]."""


CPCLIPVisionModelOutput = with_support_sizes(CLIPVisionModelOutput, __name__)


class CPCLIPVisionModelWithProjection(CPCLIPPreTrainedModel, CLIPVisionModelWithProjection):
    """CP-CLIP's image tower with the projection to the space that images and texts share."""


class CPCLIPForImageClassification(CPCLIPPreTrainedModel, CLIPForImageClassification):
    """CP-CLIP's image tower with an image classification head on the mean of the patches."""
