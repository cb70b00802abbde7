# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-XLM-RoBERTa model, on transformers' own classes."""

from transformers.models.xlm_roberta.modeling_xlm_roberta import (
    XLMRobertaForMaskedLM,
    XLMRobertaForMultipleChoice,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaLayer,
    XLMRobertaModel,
    XLMRobertaPreTrainedModel,
    XLMRobertaSelfAttention,
)

from .configuration_cp_xlm_roberta import CPXLMRobertaConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel


class CPXLMRobertaSelfAttention(PooledAttention, XLMRobertaSelfAttention):
    """XLM-RoBERTa's self-attention, of pooled tokens."""


class CPXLMRobertaLayer(PooledLayer, XLMRobertaLayer):
    """XLM-RoBERTa's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPXLMRobertaPreTrainedModel(PooledTextModel, XLMRobertaPreTrainedModel):
    """Base of the CP-XLM-RoBERTa models, see [`PooledTextModel`]."""

    config: CPXLMRobertaConfig
    _no_split_modules = ["XLMRobertaEmbeddings", "CPXLMRobertaLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPXLMRobertaModel, CPXLMRobertaLayer, CPXLMRobertaSelfAttention


class CPXLMRobertaModel(CPXLMRobertaPreTrainedModel, XLMRobertaModel):
    """The bare CP-XLM-RoBERTa encoder, see [`PooledTextModel`]."""


class CPXLMRobertaForMaskedLM(CPXLMRobertaPreTrainedModel, XLMRobertaForMaskedLM):
    """CP-XLM-RoBERTa with a masked language modelling head."""


class CPXLMRobertaForSequenceClassification(CPXLMRobertaPreTrainedModel, XLMRobertaForSequenceClassification):
    """CP-XLM-RoBERTa with a classification or regression head for whole sequences, as GLUE asks for."""


class CPXLMRobertaForMultipleChoice(CPXLMRobertaPreTrainedModel, XLMRobertaForMultipleChoice):
    """CP-XLM-RoBERTa with a head that scores each of several choices."""


class CPXLMRobertaForTokenClassification(CPXLMRobertaPreTrainedModel, XLMRobertaForTokenClassification):
    """CP-XLM-RoBERTa with a classification head for every token, as for named entities."""


class CPXLMRobertaForQuestionAnswering(CPXLMRobertaPreTrainedModel, XLMRobertaForQuestionAnswering):
    """CP-XLM-RoBERTa with a head that finds the start and the end of an answer."""
