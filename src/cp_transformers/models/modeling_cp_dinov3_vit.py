# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-DINOv3 model, on transformers' own classes."""

import math

import torch
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTAttention,
    DINOv3ViTBackbone,
    DINOv3ViTBackboneOutput,
    DINOv3ViTEncoder,
    DINOv3ViTLayer,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
    augment_patches_center_coordinates,
    get_patches_center_coordinates,
)

from .configuration_cp_dinov3_vit import CPDINOv3ViTConfig
from .modeling_context_pool import PooledAttention, PooledImageModel, PooledLayer
from .support_sizes import with_support_sizes


class CPDINOv3ViTAttention(PooledAttention, DINOv3ViTAttention):
    """DINOv3's self-attention, of pooled patches."""


class CPDINOv3ViTLayer(PooledLayer, DINOv3ViTLayer):
    """DINOv3's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPDINOv3ViTPreTrainedModel(PooledImageModel, DINOv3ViTPreTrainedModel):
    """Base of the CP-DINOv3 models, see [`PooledImageModel`]; without an `attention_mask`, which upstream's does not
    take.

    Where layers keep fewer tokens (`pool_strides`), the rotary position of a group is the mean of its patches'
    coordinates, which in training are drawn anew for each batch (`pos_embed_rescale` and its like).
    """

    config: CPDINOv3ViTConfig
    _no_split_modules = ["DINOv3ViTEmbeddings", "CPDINOv3ViTLayer"]
    takes_attention_mask = False

    @classmethod
    def pooled_classes(cls):
        return CPDINOv3ViTModel, CPDINOv3ViTEncoder, CPDINOv3ViTLayer, CPDINOv3ViTAttention

    @property
    def reads_inputs(self) -> bool:
        """True, although there is a base model in every model: upstream's prefix is the name of the layers."""
        return True

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.config.num_register_tokens

    def make_position_embeddings(self, states, arguments, centres):
        rows, columns = self.grid_size(arguments["pixel_values"])
        coordinates = get_patches_center_coordinates(rows, columns, dtype=torch.float32, device=states.device)
        if self.training:
            names = "shift", "jitter", "rescale"
            drawn = {name: getattr(self.config, f"pos_embed_{name}") for name in names}
            coordinates = augment_patches_center_coordinates(coordinates, **drawn)

        def embed(coordinates):
            angles = 2 * math.pi * coordinates[..., None] * self.rope_embeddings.inv_freq
            angles = angles.flatten(-2).tile(2)
            return angles.cos().to(states.dtype), angles.sin().to(states.dtype)

        whole = embed(coordinates) if self.training else None
        return [whole, *(embed(centre(coordinates[None])) for centre in centres)]


class CPDINOv3ViTEncoder(CPDINOv3ViTPreTrainedModel, DINOv3ViTEncoder):
    """The layers, which upstream makes a model of their own."""


class CPDINOv3ViTModel(CPDINOv3ViTPreTrainedModel, DINOv3ViTModel):
    """The bare encoder of CP-DINOv3, see [`CPDINOv3ViTPreTrainedModel`]."""


CPDINOv3ViTBackboneOutput = with_support_sizes(DINOv3ViTBackboneOutput, __name__)


class CPDINOv3ViTBackbone(CPDINOv3ViTPreTrainedModel, DINOv3ViTBackbone):
    """CP-DINOv3's feature maps, for the heads of detection and segmentation frameworks."""
