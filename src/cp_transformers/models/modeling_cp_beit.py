# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-BEiT model, on transformers' own classes."""

from typing import Any

from transformers.models.beit.modeling_beit import (
    BeitAttention,
    BeitBackbone,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    BeitLayer,
    BeitModel,
    BeitModelOutputWithPooling,
    BeitPreTrainedModel,
)

from .configuration_cp_beit import CPBeitConfig
from .modeling_context_pool import PooledAttention, PooledImageModel, PooledLayer
from .pool_inputs import PoolInputs
from .support_sizes import with_support_sizes


class CPBeitAttention(PooledAttention, BeitAttention):
    """BEiT's self-attention, of pooled patches."""


class CPBeitLayer(PooledLayer, BeitLayer):
    """BEiT's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPBeitPreTrainedModel(PooledImageModel, BeitPreTrainedModel):
    """Base of the CP-BEiT models, see [`PooledImageModel`]."""

    config: CPBeitConfig
    _no_split_modules = ["BeitEmbeddings", "CPBeitLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPBeitModel, CPBeitLayer, CPBeitAttention

    def make_pool_inputs(self, arguments: dict[str, Any]) -> dict[str, PoolInputs]:
        if arguments.get("bool_masked_pos") is not None and not self.config.use_mask_token:
            raise ValueError("Patches can be masked only by a model with a mask token: set use_mask_token to True.")
        return super().make_pool_inputs(arguments)


CPBeitModelOutputWithPooling = with_support_sizes(BeitModelOutputWithPooling, __name__)


class CPBeitModel(CPBeitPreTrainedModel, BeitModel):
    """The bare CP-BEiT encoder, see [`PooledImageModel`]."""


class CPBeitForMaskedImageModeling(CPBeitPreTrainedModel, BeitForMaskedImageModeling):
    """CP-BEiT with a head that predicts the visual words of masked patches. As upstream's, it is no model of
    AutoModelForMaskedImageModeling, whose models give pixels."""


class CPBeitForImageClassification(CPBeitPreTrainedModel, BeitForImageClassification):
    """CP-BEiT with an image classification head on the mean of the patches or on the class token."""


class CPBeitForSemanticSegmentation(CPBeitPreTrainedModel, BeitForSemanticSegmentation):
    """CP-BEiT with a segmentation head (UPerNet) on the hidden states of four layers."""

    makes_maps = True


class CPBeitBackbone(CPBeitPreTrainedModel, BeitBackbone):
    """CP-BEiT's feature maps, for the heads of detection and segmentation frameworks."""

    makes_maps = True
