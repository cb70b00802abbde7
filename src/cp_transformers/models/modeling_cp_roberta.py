# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-RoBERTa model, on transformers' own classes."""

from transformers.models.roberta.modeling_roberta import (
    RobertaForMaskedLM,
    RobertaForMultipleChoice,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaLayer,
    RobertaModel,
    RobertaPreTrainedModel,
    RobertaSelfAttention,
)

from .configuration_cp_roberta import CPRobertaConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel


class CPRobertaSelfAttention(PooledAttention, RobertaSelfAttention):
    """RoBERTa's self-attention, of pooled tokens."""


class CPRobertaLayer(PooledLayer, RobertaLayer):
    """RoBERTa's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPRobertaPreTrainedModel(PooledTextModel, RobertaPreTrainedModel):
    """Base of the CP-RoBERTa models, see [`PooledTextModel`]."""

    config: CPRobertaConfig
    _no_split_modules = ["RobertaEmbeddings", "CPRobertaLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPRobertaModel, CPRobertaLayer, CPRobertaSelfAttention


class CPRobertaModel(CPRobertaPreTrainedModel, RobertaModel):
    """The bare CP-RoBERTa encoder, see [`PooledTextModel`]."""


class CPRobertaForMaskedLM(CPRobertaPreTrainedModel, RobertaForMaskedLM):
    """CP-RoBERTa with a masked language modelling head."""


class CPRobertaForSequenceClassification(CPRobertaPreTrainedModel, RobertaForSequenceClassification):
    """CP-RoBERTa with a classification or regression head for whole sequences, as GLUE asks for."""


class CPRobertaForMultipleChoice(CPRobertaPreTrainedModel, RobertaForMultipleChoice):
    """CP-RoBERTa with a head that scores each of several choices."""


class CPRobertaForTokenClassification(CPRobertaPreTrainedModel, RobertaForTokenClassification):
    """CP-RoBERTa with a classification head for every token, as for named entities."""


class CPRobertaForQuestionAnswering(CPRobertaPreTrainedModel, RobertaForQuestionAnswering):
    """CP-RoBERTa with a head that finds the start and the end of an answer."""
