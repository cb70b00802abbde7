# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""ContextPool variants of BERT for transformers. Importing the package registers them with the Auto classes."""

from .configuration_cp_bert import CPBertConfig
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
    "ContextPool",
    "register",
]

register()
