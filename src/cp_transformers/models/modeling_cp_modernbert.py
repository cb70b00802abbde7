# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ModernBERT model, on transformers' own classes."""

import math

from transformers.masking_utils import create_bidirectional_mask
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertAttention,
    ModernBertEncoderLayer,
    ModernBertForMaskedLM,
    ModernBertForMultipleChoice,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
    ModernBertPreTrainedModel,
)
from transformers.utils.generic import is_flash_attention_requested

from .configuration_cp_modernbert import CPModernBertConfig
from .linear_pool import is_traced
from .modeling_context_pool import PooledAttention, PooledLayer, PooledTextModel
from .pool_inputs import spans_of_kept, token_positions


class CPModernBertAttention(PooledAttention, ModernBertAttention):
    """ModernBERT's self-attention, of pooled tokens."""


class CPModernBertEncoderLayer(PooledLayer, ModernBertEncoderLayer):
    """ModernBERT's layer, which pools its attention's input or, with `pool_placement="block"`, its own."""


class CPModernBertPreTrainedModel(PooledTextModel, ModernBertPreTrainedModel):
    """Base of the CP-ModernBERT models, see [`PooledTextModel`].

    Where layers keep fewer tokens (`pool_strides`), the window of those with local attention goes on being counted in
    tokens: a group sees another if any token of the one is in the window of any token of the other. Of groups of `s`
    tokens these are `ceil(config.sliding_window / s)` on either side. A group's rotary position is its tokens' mean.
    """

    config: CPModernBertConfig
    _no_split_modules = ["ModernBertEmbeddings", "CPModernBertEncoderLayer"]

    @classmethod
    def pooled_classes(cls):
        return CPModernBertModel, CPModernBertEncoderLayer, CPModernBertAttention

    def insert_pools(self, own):
        super().insert_pools(own)
        strides = self.config.pool_strides or []
        for index, (layer, level) in enumerate(zip(self.layers, self.config.pool_levels())):
            if level and layer.attn.sliding_window is not None:  # by which flash attention goes; with the own token
                groups = math.ceil(self.config.sliding_window / math.prod(strides[: index + 1]))
                layer.attn.sliding_window = groups + 1

    def make_pool_inputs(self, arguments):
        named = [name for name in ("pool_mask", "pool_segments") if arguments.get(name) is not None]
        if named and self.config.is_strided and is_flash_attention_requested(self.config):
            raise ValueError(
                "Flash attention counts its window from one kept token to the next (pool_strides), which with "
                f"{named[0]} need not be neighbours: leave it out, or use another attn_implementation."
            )
        return super().make_pool_inputs(arguments)

    def make_attention_mask(self, states, attention_mask, places):
        if isinstance(attention_mask, dict):
            masks = attention_mask.items()
            return {name: create_bidirectional_mask(self.config, states, mask) for name, mask in masks}
        full = super().make_attention_mask(states, attention_mask, places)
        window = self.config.sliding_window
        if not is_traced(states) and places.shape[1] <= window + 1:  # each token sees all
            return {"full_attention": full, "sliding_attention": full}
        first, last = (ends.expand(states.shape[0], -1) for ends in spans_of_kept(places, states.shape[1]))

        def is_near(batch_idx, head_idx, q_idx, kv_idx):
            behind = first[batch_idx, kv_idx] - last[batch_idx, q_idx] <= window
            return behind & (first[batch_idx, q_idx] - last[batch_idx, kv_idx] <= window)

        local = create_bidirectional_mask(self.config, states, attention_mask, and_mask_function=is_near)
        return {"full_attention": full, "sliding_attention": local}

    def make_position_embeddings(self, states, arguments, centres):
        positions, names = token_positions(states, arguments), set(self.config.layer_types)
        kept = [centre(positions) for centre in centres]
        return [None, *({name: self.rotary_emb(states, each, name) for name in names} for each in kept)]


class CPModernBertModel(CPModernBertPreTrainedModel, ModernBertModel):
    """The bare CP-ModernBERT encoder, see [`CPModernBertPreTrainedModel`]."""


class CPModernBertForMaskedLM(CPModernBertPreTrainedModel, ModernBertForMaskedLM):
    """CP-ModernBERT with a masked language modelling head."""


class CPModernBertForSequenceClassification(CPModernBertPreTrainedModel, ModernBertForSequenceClassification):
    """CP-ModernBERT with a classification or regression head for whole sequences, as GLUE asks for."""


class CPModernBertForMultipleChoice(CPModernBertPreTrainedModel, ModernBertForMultipleChoice):
    """CP-ModernBERT with a head that scores each of several choices."""


class CPModernBertForTokenClassification(CPModernBertPreTrainedModel, ModernBertForTokenClassification):
    """CP-ModernBERT with a classification head for every token, as for named entities."""


class CPModernBertForQuestionAnswering(CPModernBertPreTrainedModel, ModernBertForQuestionAnswering):
    """CP-ModernBERT with a head that finds the start and the end of an answer."""
