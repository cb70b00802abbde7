# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch models of CP-SigLIP's image tower, on transformers' own classes."""

from transformers.models.siglip.modeling_siglip import (
    SiglipAttention,
    SiglipEncoderLayer,
    SiglipForImageClassification,
    SiglipPreTrainedModel,
    SiglipVisionModel,
)

from .configuration_cp_siglip_vision_model import CPSiglipVisionConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTowerModel


class CPSiglipAttention(PooledAttention, SiglipAttention):
    """SigLIP's self-attention, of pooled patches."""


class CPSiglipEncoderLayer(PooledLayer, SiglipEncoderLayer):
    """SigLIP's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPSiglipPreTrainedModel(PooledTowerModel, SiglipPreTrainedModel):
    """Base of the models of CP-SigLIP's image tower, see [`PooledTowerModel`]."""

    config: CPSiglipVisionConfig
    _no_split_modules = ["SiglipVisionEmbeddings", "CPSiglipEncoderLayer", "SiglipMultiheadAttentionPoolingHead"]

    @classmethod
    def pooled_classes(cls):
        return CPSiglipVisionModel, CPSiglipEncoderLayer, CPSiglipAttention

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    draws_projections = True


class CPSiglipVisionModel(CPSiglipPreTrainedModel, SiglipVisionModel):
    """CP-SigLIP's bare image tower, see [`PooledTowerModel`]; a head of attention pools its patches into one
    vector, unless `vision_use_head=False`."""


class CPSiglipForImageClassification(CPSiglipPreTrainedModel, SiglipForImageClassification):
    """CP-SigLIP's image tower with an image classification head on the mean of the patches."""
