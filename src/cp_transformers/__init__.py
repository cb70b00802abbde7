# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""ContextPool variants of BERT, ViT and ResNet for transformers; importing the package registers them."""

from .configuration_cp_bert import CPBertConfig
from .configuration_cp_resnet import CPResNetConfig
from .configuration_cp_vit import CPViTConfig
from .context_pool import ContextPool
from .modeling_cp_bert import (
    CPBertForMaskedLM,
    CPBertForMultipleChoice,
    CPBertForNextSentencePrediction,
    CPBertForPreTraining,
    CPBertForQuestionAnswering,
    CPBertForSequenceClassification,
    CPBertForTokenClassification,
    CPBertModel,
    CPBertPreTrainedModel,
)
from .modeling_cp_resnet import (
    CPResNetBackbone,
    CPResNetForImageClassification,
    CPResNetModel,
    CPResNetPreTrainedModel,
)
from .modeling_cp_vit import (
    CPViTForImageClassification,
    CPViTForMaskedImageModeling,
    CPViTModel,
    CPViTPreTrainedModel,
)
from .registration import register


__version__ = "0.1.0"

__all__ = [
    "CPBertConfig",
    "CPBertForMaskedLM",
    "CPBertForMultipleChoice",
    "CPBertForNextSentencePrediction",
    "CPBertForPreTraining",
    "CPBertForQuestionAnswering",
    "CPBertForSequenceClassification",
    "CPBertForTokenClassification",
    "CPBertModel",
    "CPBertPreTrainedModel",
    "CPResNetBackbone",
    "CPResNetConfig",
    "CPResNetForImageClassification",
    "CPResNetModel",
    "CPResNetPreTrainedModel",
    "CPViTConfig",
    "CPViTForImageClassification",
    "CPViTForMaskedImageModeling",
    "CPViTModel",
    "CPViTPreTrainedModel",
    "ContextPool",
    "register",
]

register()
