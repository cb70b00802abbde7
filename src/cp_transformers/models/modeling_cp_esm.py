# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ESM model, on transformers' own classes."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.esm.modeling_esm import (
    EsmForMaskedLM,
    EsmForSequenceClassification,
    EsmForTokenClassification,
    EsmLayer,
    EsmModel,
    EsmPreTrainedModel,
    EsmSelfAttention,
)

from .configuration_cp_esm import CPEsmConfig
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel
from .pool_inputs import token_positions


class CPEsmSelfAttention(PooledAttention, EsmSelfAttention):
    """ESM's self-attention, of pooled tokens."""


class CPEsmLayer(PooledLayer, EsmLayer):
    """ESM's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPEsmPreTrainedModel(PooledTextModel, EsmPreTrainedModel):
    """Base of the CP-ESM models, see [`PooledTextModel`]."""

    config: CPEsmConfig
    takes_4d_masks = False
    _no_split_modules = ["EsmEmbeddings", "CPEsmLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPEsmModel, CPEsmLayer, CPEsmSelfAttention

    def make_position_embeddings(self, states, arguments, centres):
        if self.rotary_embeddings is None:
            return None
        positions = token_positions(states, arguments)
        return [None, *(self.rotary_embeddings(states, centre(positions)) for centre in centres)]


class CPEsmModel(CPEsmPreTrainedModel, EsmModel):
    """The bare CP-ESM encoder, see [`PooledTextModel`]."""

    def predict_contacts(self, tokens: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Upstream's, `(batch, residues, residues)`, by how the residues attend to each other in each layer."""
        if self.config.is_strided:
            raise ValueError(
                "Contacts are between single residues: predict them by a model whose layers keep all tokens."
            )
        return super().predict_contacts(tokens, attention_mask)


class CPEsmForMaskedLM(CPEsmPreTrainedModel, EsmForMaskedLM):
    """CP-ESM with a masked language modelling head."""

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Upstream's, and a bias of as many numbers, without which a resized model would fail."""
        super().set_output_embeddings(new_embeddings)
        bias = self.lm_head.bias
        more = new_embeddings.out_features - len(bias)
        self.lm_head.bias = nn.Parameter(F.pad(bias.detach(), (0, more)), bias.requires_grad)


class CPEsmForSequenceClassification(CPEsmPreTrainedModel, EsmForSequenceClassification):
    """CP-ESM with a classification or regression head for whole proteins."""


class CPEsmForTokenClassification(CPEsmPreTrainedModel, EsmForTokenClassification):
    """CP-ESM with a classification head for every residue."""
