# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-DistilBERT model, on transformers' own classes."""

from transformers.models.distilbert.modeling_distilbert import (
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    DistilBertPreTrainedModel,
    DistilBertSelfAttention,
    TransformerBlock,
)

from .configuration_cp_distilbert import CPDistilBertConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel


class CPDistilBertSelfAttention(PooledAttention, DistilBertSelfAttention):
    """DistilBERT's self-attention, of pooled tokens."""


class CPTransformerBlock(PooledLayer, TransformerBlock):
    """DistilBERT's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPDistilBertPreTrainedModel(PooledTextModel, DistilBertPreTrainedModel):
    """Base of the CP-DistilBERT models, see [`PooledTextModel`]."""

    config: CPDistilBertConfig
    _no_split_modules = ["Embeddings", "CPTransformerBlock"]

    @classmethod
    def pooled_classes(cls):
        return CPDistilBertModel, CPTransformerBlock, CPDistilBertSelfAttention


class CPDistilBertModel(CPDistilBertPreTrainedModel, DistilBertModel):
    """The bare CP-DistilBERT encoder, see [`PooledTextModel`]."""


class CPDistilBertForMaskedLM(CPDistilBertPreTrainedModel, DistilBertForMaskedLM):
    """CP-DistilBERT with a masked language modelling head."""


class CPDistilBertForSequenceClassification(CPDistilBertPreTrainedModel, DistilBertForSequenceClassification):
    """CP-DistilBERT with a classification or regression head for whole sequences, as GLUE asks for."""


class CPDistilBertForMultipleChoice(CPDistilBertPreTrainedModel, DistilBertForMultipleChoice):
    """CP-DistilBERT with a head that scores each of several choices."""


class CPDistilBertForTokenClassification(CPDistilBertPreTrainedModel, DistilBertForTokenClassification):
    """CP-DistilBERT with a classification head for every token, as for named entities."""


class CPDistilBertForQuestionAnswering(CPDistilBertPreTrainedModel, DistilBertForQuestionAnswering):
    """CP-DistilBERT with a head that finds the start and the end of an answer."""
