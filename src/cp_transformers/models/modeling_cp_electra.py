# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ELECTRA model, on transformers' own classes."""

from transformers.models.electra.modeling_electra import (
    ElectraForMaskedLM,
    ElectraForMultipleChoice,
    ElectraForPreTraining,
    ElectraForPreTrainingOutput,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraLayer,
    ElectraModel,
    ElectraPreTrainedModel,
    ElectraSelfAttention,
)

from .configuration_cp_electra import CPElectraConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel
from .support_sizes import with_support_sizes


class CPElectraSelfAttention(PooledAttention, ElectraSelfAttention):
    """ELECTRA's self-attention, of pooled tokens."""


class CPElectraLayer(PooledLayer, ElectraLayer):
    """ELECTRA's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPElectraPreTrainedModel(PooledTextModel, ElectraPreTrainedModel):
    """Base of the CP-ELECTRA models, see [`PooledTextModel`]."""

    config: CPElectraConfig
    _no_split_modules = ["ElectraEmbeddings", "CPElectraLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPElectraModel, CPElectraLayer, CPElectraSelfAttention


class CPElectraModel(CPElectraPreTrainedModel, ElectraModel):
    """The bare CP-ELECTRA encoder, see [`PooledTextModel`]."""


CPElectraForPreTrainingOutput = with_support_sizes(ElectraForPreTrainingOutput, __name__)


class CPElectraForPreTraining(CPElectraPreTrainedModel, ElectraForPreTraining):
    """CP-ELECTRA's discriminator, whose head tells of every token whether it has been replaced."""


class CPElectraForMaskedLM(CPElectraPreTrainedModel, ElectraForMaskedLM):
    """CP-ELECTRA with a masked language modelling head, as its generators have."""


class CPElectraForSequenceClassification(CPElectraPreTrainedModel, ElectraForSequenceClassification):
    """CP-ELECTRA with a classification or regression head for whole sequences, as GLUE asks for."""


class CPElectraForMultipleChoice(CPElectraPreTrainedModel, ElectraForMultipleChoice):
    """CP-ELECTRA with a head that scores each of several choices."""


class CPElectraForTokenClassification(CPElectraPreTrainedModel, ElectraForTokenClassification):
    """CP-ELECTRA with a classification head for every token, as for named entities."""


class CPElectraForQuestionAnswering(CPElectraPreTrainedModel, ElectraForQuestionAnswering):
    """CP-ELECTRA with a head that finds the start and the end of an answer."""
