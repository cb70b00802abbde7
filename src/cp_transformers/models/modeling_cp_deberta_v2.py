# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-DeBERTa-v2 model, on transformers' own classes."""

from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2ForMaskedLM,
    DebertaV2ForMultipleChoice,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
    DebertaV2Layer,
    DebertaV2Model,
    DebertaV2PreTrainedModel,
    DisentangledSelfAttention,
)

from .configuration_cp_deberta_v2 import CPDebertaV2Config
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel


class CPDisentangledSelfAttention(PooledAttention, DisentangledSelfAttention):
    """DeBERTa-v2's self-attention, of pooled tokens."""


class CPDebertaV2Layer(PooledLayer, DebertaV2Layer):
    """DeBERTa-v2's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""

    def __call__(self, hidden_states, *args, query_states=None, relative_pos=None, rel_embeddings=None, **kwargs):
        # As positional arguments: reentrant checkpointing fails on keywords that were computed, as by `norm_rel_ebd`.
        return super().__call__(hidden_states, *args, query_states, relative_pos, rel_embeddings, **kwargs)


class CPDebertaV2PreTrainedModel(PooledTextModel, DebertaV2PreTrainedModel):
    """Base of the CP-DeBERTa-v2 models, see [`PooledTextModel`]."""

    config: CPDebertaV2Config
    hands_keywords_down = False
    takes_4d_masks = False
    _no_split_modules = ["DebertaV2Embeddings", "CPDebertaV2Layer"]

    @classmethod
    def pooled_classes(cls):
        return CPDebertaV2Model, CPDebertaV2Layer, CPDisentangledSelfAttention


class CPDebertaV2Model(CPDebertaV2PreTrainedModel, DebertaV2Model):
    """The bare CP-DeBERTa-v2 encoder, see [`PooledTextModel`]."""


class CPDebertaV2ForMaskedLM(CPDebertaV2PreTrainedModel, DebertaV2ForMaskedLM):
    """CP-DeBERTa-v2 with a masked language modelling head."""


class CPDebertaV2ForSequenceClassification(CPDebertaV2PreTrainedModel, DebertaV2ForSequenceClassification):
    """CP-DeBERTa-v2 with a classification or regression head for whole sequences, as GLUE asks for."""


class CPDebertaV2ForMultipleChoice(CPDebertaV2PreTrainedModel, DebertaV2ForMultipleChoice):
    """CP-DeBERTa-v2 with a head that scores each of several choices."""


class CPDebertaV2ForTokenClassification(CPDebertaV2PreTrainedModel, DebertaV2ForTokenClassification):
    """CP-DeBERTa-v2 with a classification head for every token, as for named entities."""


class CPDebertaV2ForQuestionAnswering(CPDebertaV2PreTrainedModel, DebertaV2ForQuestionAnswering):
    """CP-DeBERTa-v2 with a head that finds the start and the end of an answer."""
