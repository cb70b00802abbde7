# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-DeiT model, on transformers' own classes."""

import torch
from transformers.modeling_outputs import MaskedImageModelingOutput
from transformers.models.deit.modeling_deit import (
    DeiTAttention,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTForImageClassificationWithTeacherOutput,
    DeiTForMaskedImageModeling,
    DeiTLayer,
    DeiTModel,
    DeiTPreTrainedModel,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_cp_deit import CPDeiTConfig
from .modeling_context_pool import PooledAttention, PooledImageModel, PooledLayer, pooling_forward
from .support_sizes import with_support_sizes


class CPDeiTAttention(PooledAttention, DeiTAttention):
    """DeiT's self-attention, of pooled patches."""


class CPDeiTLayer(PooledLayer, DeiTLayer):
    """DeiT's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPDeiTPreTrainedModel(PooledImageModel, DeiTPreTrainedModel):
    """Base of the CP-DeiT models, see [`PooledImageModel`]."""

    config: CPDeiTConfig
    _no_split_modules = ["DeiTEmbeddings", "CPDeiTLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPDeiTModel, CPDeiTLayer, CPDeiTAttention

    @property
    def num_prefix_tokens(self) -> int:
        return 2  # the class token and the distillation token


class CPDeiTModel(CPDeiTPreTrainedModel, DeiTModel):
    """The bare CP-DeiT encoder, see [`PooledImageModel`]."""


class CPDeiTForImageClassification(CPDeiTPreTrainedModel, DeiTForImageClassification):
    """CP-DeiT with an image classification head on the class token."""


CPDeiTForImageClassificationWithTeacherOutput = with_support_sizes(
    DeiTForImageClassificationWithTeacherOutput, __name__
)


class CPDeiTForImageClassificationWithTeacher(CPDeiTPreTrainedModel, DeiTForImageClassificationWithTeacher):
    """CP-DeiT with the mean of two heads, on the class token and on the distillation token. As upstream's, it has no
    loss."""


class CPDeiTForMaskedImageModeling(CPDeiTPreTrainedModel, DeiTForMaskedImageModeling):
    """CP-DeiT with a decoder for masked image modelling, as in SimMIM. As upstream's, it is for square images."""

    @pooling_forward
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...] | MaskedImageModelingOutput:
        """See [`~transformers.DeiTForMaskedImageModeling.forward`]."""
        self.check_square(pixel_values)
        return super().forward(pixel_values, bool_masked_pos, interpolate_pos_encoding, attention_mask, **kwargs)
