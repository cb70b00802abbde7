# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-BERT model, on transformers' own classes."""

from transformers.models.bert.modeling_bert import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForPreTrainingOutput,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLayer,
    BertModel,
    BertPreTrainedModel,
    BertSelfAttention,
)

from .configuration_cp_bert import CPBertConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel
from .support_sizes import with_support_sizes


class CPBertSelfAttention(PooledAttention, BertSelfAttention):
    """BERT's self-attention, of pooled tokens."""


class CPBertLayer(PooledLayer, BertLayer):
    """BERT's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPBertPreTrainedModel(PooledTextModel, BertPreTrainedModel):
    """Base of the CP-BERT models, see [`PooledTextModel`]."""

    config: CPBertConfig
    _no_split_modules = ["BertEmbeddings", "CPBertLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPBertModel, CPBertLayer, CPBertSelfAttention


class CPBertModel(CPBertPreTrainedModel, BertModel):
    """The bare CP-BERT encoder, see [`PooledTextModel`]."""


CPBertForPreTrainingOutput = with_support_sizes(BertForPreTrainingOutput, __name__)


class CPBertForPreTraining(CPBertPreTrainedModel, BertForPreTraining):
    """CP-BERT with the two heads of BERT's pretraining: masked language modelling and next sentence prediction."""


class CPBertForMaskedLM(CPBertPreTrainedModel, BertForMaskedLM):
    """CP-BERT with a masked language modelling head."""


class CPBertForNextSentencePrediction(CPBertPreTrainedModel, BertForNextSentencePrediction):
    """CP-BERT with a next sentence prediction head."""


class CPBertForSequenceClassification(CPBertPreTrainedModel, BertForSequenceClassification):
    """CP-BERT with a classification or regression head for whole sequences, as GLUE asks for."""


class CPBertForMultipleChoice(CPBertPreTrainedModel, BertForMultipleChoice):
    """CP-BERT with a head that scores each of several choices."""


class CPBertForTokenClassification(CPBertPreTrainedModel, BertForTokenClassification):
    """CP-BERT with a classification head for every token, as for named entities."""


class CPBertForQuestionAnswering(CPBertPreTrainedModel, BertForQuestionAnswering):
    """CP-BERT with a head that finds the start and the end of an answer."""
