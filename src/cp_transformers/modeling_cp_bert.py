# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-BERT model: BERT whose attention compares pooled contexts, on transformers' own BERT classes.

Only constructors are written anew, since upstream's build stock layers; what they compute is inherited.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertEmbeddings,
    BertEncoder,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForPreTrainingOutput,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertIntermediate,
    BertLayer,
    BertModel,
    BertOnlyMLMHead,
    BertOnlyNSPHead,
    BertOutput,
    BertPooler,
    BertPreTrainedModel,
    BertPreTrainingHeads,
    BertSelfAttention,
    BertSelfOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_cp_bert import CPBertConfig
from .context_pool import ContextPool, can_be_read
from .linear_pool import is_traced
from .modeling_context_pool import (
    build_context_pool,
    init_context_pool,
    keep_empty_rows,
    record_pool_sizes,
    with_pool_sizes,
)


# What the models return with `output_pool_sizes=True`; see `with_pool_sizes`.


@dataclass
class CPBertModelOutput(BaseModelOutputWithPoolingAndCrossAttentions):
    """What upstream returns and, as in the classes below, `pool_sizes`: for each layer that pools, in order, the
    predicted sigma in positions, `(batch, heads, tokens)` in float32, zero at padding and where [CLS] passes by."""

    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertForPreTrainingOutput(BertForPreTrainingOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertMaskedLMOutput(MaskedLMOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertNextSentencePredictorOutput(NextSentencePredictorOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertSequenceClassifierOutput(SequenceClassifierOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertMultipleChoiceModelOutput(MultipleChoiceModelOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertTokenClassifierOutput(TokenClassifierOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPBertQuestionAnsweringModelOutput(QuestionAnsweringModelOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


def class_tokens(mask: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
    """`(batch, tokens)`, True at the first token of each row that is True in `mask` or, of packed rows, at the first
    of each sequence."""
    if segments is None:
        return mask & (mask.cumsum(dim=1) == 1)
    return F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)


def packed_segments(
    rows: torch.Size, position_ids: torch.Tensor | None, masked: bool, kwargs: Mapping[str, Any]
) -> torch.Tensor | None:
    """The segments, `(1, tokens)`, of a row that [`~transformers.DataCollatorWithFlattening`] has packed, by what it
    gives for flash attention (`cu_seq_lens_q`, the bounds of the sequences) or as `seq_idx`, or by the positions of a
    batch's only row, where they begin anew; of others, and of rows that are `masked`, None. `rows` is `(batch,
    tokens)`."""
    if (number := kwargs.get("seq_idx")) is not None:
        return number + 1
    if (bounds := kwargs.get("cu_seq_lens_q")) is not None:
        positions = torch.arange(rows[1], device=bounds.device)
        return torch.searchsorted(bounds[1:].contiguous(), positions, right=True)[None] + 1
    if position_ids is None or masked or rows[0] != 1 or position_ids.shape != rows:
        return None
    begins = position_ids == 0
    return begins.cumsum(dim=1) + 1 if is_traced(begins) or begins[:, 1:].any() else None


def rows_of(name: str, given: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor | None:
    """A mask or segments as `(batch, tokens)`, also where they are given as `(batch, choices, tokens)`."""
    rows = given.flatten(0, 1) if given is not None and given.ndim == 3 else given
    if rows is not None and rows.shape != tokens.shape[:2]:
        raise ValueError(f"{name} must be of shape {tuple(tokens.shape[:2])}, not {tuple(rows.shape)}.")
    return rows


def leave_class_tokens_out(
    tokens: torch.Tensor,
    valid: torch.Tensor | None,
    pool_mask: torch.Tensor | None,
    pool_segments: torch.Tensor | None,
) -> tuple[int | torch.Tensor, torch.Tensor | None]:
    """What is `passing`, and the mask, with which [`pool_tokens`] lets [CLS] of `(batch, tokens, ...)` pass: the first
    token of each row that is True in `valid`, or of each sequence."""
    # Where it is the first column a slice does, and nothing need be copied to make it zero.
    at_the_start = valid is None or (can_be_read(valid) and bool(valid[:, 0].all()))
    if at_the_start and pool_segments is None and tokens.shape[1] > 1 and not is_traced(tokens):
        return 1, None if pool_mask is None else pool_mask[:, 1:]
    valid = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid.bool()
    passing = class_tokens(valid, pool_segments)
    return passing, ~passing if pool_mask is None else pool_mask & ~passing


def pool_tokens(
    context_pool: ContextPool,
    hidden_states: torch.Tensor,
    pool_mask: torch.Tensor | None,
    pool_segments: torch.Tensor | None,
    passing: int | torch.Tensor,
) -> torch.Tensor:
    """Pools `(batch, tokens, channels)`; the tokens that are `passing` keep what they hold. These are the first so
    many, and mask and segments those of the others; or, `(batch, tokens)`, where it is True, as the mask is not."""
    if isinstance(passing, torch.Tensor):
        pooled, sizes = context_pool(hidden_states, mask=pool_mask, segments=pool_segments)
        pooled = torch.where(passing[..., None], hidden_states, pooled)
    else:
        pooled, sizes = context_pool(hidden_states[:, passing:], mask=pool_mask, segments=pool_segments)
        if passing:
            pooled, sizes = torch.cat([hidden_states[:, :passing], pooled], dim=1), F.pad(sizes, (passing, 0))
    record_pool_sizes(sizes)
    return pooled


class CPBertSelfAttention(BertSelfAttention):
    """Self-attention whose queries, keys and values are computed from pooled tokens."""

    def __init__(self, config: CPBertConfig, layer_idx: int | None = None):
        super().__init__(config, layer_idx=layer_idx)
        self.context_pool = build_context_pool(config, num_dims=1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pool_mask: torch.Tensor | None = None,
        pool_segments: torch.Tensor | None = None,
        pool_passing: int | torch.Tensor = 0,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden_states = pool_tokens(self.context_pool, hidden_states, pool_mask, pool_segments, pool_passing)
        return super().forward(hidden_states, attention_mask, **kwargs)


class CPBertAttention(BertAttention):
    def __init__(self, config: CPBertConfig, layer_idx: int):
        nn.Module.__init__(self)
        self.is_cross_attention = False
        self.self = CPBertSelfAttention(config, layer_idx=layer_idx)
        self.output = BertSelfOutput(config)


class CPBertLayer(BertLayer):
    """A BERT layer that pools its attention's input or, with `pool_placement="block"`, its own."""

    def __init__(self, config: CPBertConfig, layer_idx: int):
        nn.Module.__init__(self)
        pools = config.pool_layers is None or layer_idx in config.pool_layers
        self.pools_attention = pools and config.pool_placement == "attention"
        self.context_pool = build_context_pool(config, num_dims=1) if pools and not self.pools_attention else None
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.seq_len_dim = 1
        self.attention = (CPBertAttention if self.pools_attention else BertAttention)(config, layer_idx=layer_idx)
        self.is_decoder = False
        self.add_cross_attention = False
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *args,
        pool_mask: torch.Tensor | None = None,
        pool_segments: torch.Tensor | None = None,
        pool_passing: int | torch.Tensor = 0,
        **kwargs,
    ) -> torch.Tensor:
        if self.context_pool is not None:
            pooled = pool_tokens(self.context_pool, hidden_states, pool_mask, pool_segments, pool_passing)
            hidden_states = keep_empty_rows(pooled, hidden_states, pool_mask)
        elif self.pools_attention:
            kwargs.update(pool_mask=pool_mask, pool_segments=pool_segments, pool_passing=pool_passing)
        return super().forward(hidden_states, attention_mask, *args, **kwargs)


class CPBertEncoder(BertEncoder):
    def __init__(self, config: CPBertConfig):
        nn.Module.__init__(self)
        self.config = config
        self.layer = nn.ModuleList([CPBertLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])


class CPBertPreTrainedModel(BertPreTrainedModel):
    config_class = CPBertConfig
    config: CPBertConfig
    accepts_loss_kwargs = False  # else Trainer takes upstream's losses to divide by `num_items_in_batch`: they do not
    _can_record_outputs = {"hidden_states": CPBertLayer, "attentions": BertSelfAttention}

    def __init__(self, config: CPBertConfig):
        config.validate_context_pool()  # the fields may have been changed since the configuration was made
        if config.is_decoder or config.add_cross_attention:
            raise ValueError(
                "CP-BERT is an encoder: pooling looks at both neighbours, so it would leak the future into a decoder. "
                "Set is_decoder and add_cross_attention to False."
            )
        # Not super(): in the heads that would be upstream's constructor, which builds a stock BertModel.
        BertPreTrainedModel.__init__(self, config)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_context_pool(module)


class CPBertModel(CPBertPreTrainedModel, BertModel):
    """The bare CP-BERT encoder. By default [CLS], the first valid token of a row, passes by the pooling as it is.

    `forward` takes and returns what [`~transformers.BertModel`]'s does as an encoder, and three things more:

    - `output_pool_sizes=True` adds `pool_sizes` to the output, see [`CPBertModelOutput`]; so it does in every head.
    - `pool_mask`, `(batch, tokens)`, True where a token may be pooled. It defaults to `attention_mask` where that has
      this shape and is required where it has not; [CLS] is then the first token that it names.
    - `pool_segments`, `(batch, tokens)`, integers, for rows into which several sequences are packed: the number of the
      sequence that a token belongs to, 0 at padding, which takes the place of `pool_mask`. Each sequence is pooled as
      if it stood alone; that attention keeps to it is for a 4-D `attention_mask` and `position_ids` to say. Rows that
      [`~transformers.DataCollatorWithFlattening`] has packed for flash attention say it by themselves.
    """

    _no_split_modules = ["BertEmbeddings", "CPBertLayer"]

    def __init__(self, config: CPBertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = BertEmbeddings(config)
        self.encoder = CPBertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    @with_pool_sizes(CPBertModelOutput)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        pool_mask: torch.Tensor | None = None,
        pool_segments: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...] | BaseModelOutputWithPoolingAndCrossAttentions:
        """See the class, and [`~transformers.BertModel.forward`] for what both share."""
        for name in ("encoder_hidden_states", "past_key_values"):
            if kwargs.get(name) is not None:
                raise ValueError(f"CP-BERT is an encoder and takes no {name}.")
        tokens = inputs_embeds if input_ids is None else input_ids
        if pool_segments is None and tokens is not None:
            masked = attention_mask is not None or pool_mask is not None
            pool_segments = packed_segments(tokens.shape[:2], position_ids, masked, kwargs)
        valid = attention_mask if getattr(attention_mask, "ndim", None) == 2 else None
        if tokens is not None:
            pool_mask = rows_of("pool_mask", pool_mask, tokens)
            pool_segments = rows_of("pool_segments", pool_segments, tokens)
            valid = rows_of("attention_mask", valid, tokens)
        if pool_mask is None and pool_segments is not None:
            pool_mask = pool_segments != 0
        if pool_mask is None and attention_mask is not None:
            if valid is None:
                raise ValueError(
                    "With an attention_mask that is not of shape (batch, tokens), say which tokens may be pooled: "
                    "pass pool_mask of that shape, True where a token is valid."
                )
            pool_mask = valid
        pool_mask = None if pool_mask is None else pool_mask.bool()
        pool_passing: int | torch.Tensor = 0
        if not self.config.pool_class_token and tokens is not None:
            valid = pool_mask if valid is None and attention_mask is not None else valid
            pool_passing, pool_mask = leave_class_tokens_out(tokens, valid, pool_mask, pool_segments)
        return super().forward(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            pool_mask=pool_mask,
            pool_segments=pool_segments,
            pool_passing=pool_passing,
            **kwargs,
        )


# What the heads' upstream classes hand down to CPBertModel without naming it.
HANDED_DOWN = ("pool_mask", "pool_segments")


class CPBertForPreTraining(CPBertPreTrainedModel, BertForPreTraining):
    """CP-BERT with the two heads of BERT's pretraining: masked language modelling and next sentence prediction."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.bert = CPBertModel(config)
        self.cls = BertPreTrainingHeads(config)
        self.post_init()

    forward = with_pool_sizes(CPBertForPreTrainingOutput, *HANDED_DOWN)(BertForPreTraining.forward)


class CPBertForMaskedLM(CPBertPreTrainedModel, BertForMaskedLM):
    """CP-BERT with a masked language modelling head."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.bert = CPBertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    forward = with_pool_sizes(CPBertMaskedLMOutput, *HANDED_DOWN)(BertForMaskedLM.forward)


class CPBertForNextSentencePrediction(CPBertPreTrainedModel, BertForNextSentencePrediction):
    """CP-BERT with a next sentence prediction head."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.bert = CPBertModel(config)
        self.cls = BertOnlyNSPHead(config)
        self.post_init()

    forward = with_pool_sizes(CPBertNextSentencePredictorOutput, *HANDED_DOWN)(BertForNextSentencePrediction.forward)


def _classifier_dropout(config: CPBertConfig) -> nn.Dropout:
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


class CPBertForSequenceClassification(CPBertPreTrainedModel, BertForSequenceClassification):
    """CP-BERT with a classification or regression head for whole sequences, as GLUE asks for."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = CPBertModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    forward = with_pool_sizes(CPBertSequenceClassifierOutput, *HANDED_DOWN)(BertForSequenceClassification.forward)


class CPBertForMultipleChoice(CPBertPreTrainedModel, BertForMultipleChoice):
    """CP-BERT with a head that scores each of several choices."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.bert = CPBertModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    forward = with_pool_sizes(CPBertMultipleChoiceModelOutput, *HANDED_DOWN)(BertForMultipleChoice.forward)


class CPBertForTokenClassification(CPBertPreTrainedModel, BertForTokenClassification):
    """CP-BERT with a classification head for every token, as for named entities."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = CPBertModel(config, add_pooling_layer=False)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    forward = with_pool_sizes(CPBertTokenClassifierOutput, *HANDED_DOWN)(BertForTokenClassification.forward)


class CPBertForQuestionAnswering(CPBertPreTrainedModel, BertForQuestionAnswering):
    """CP-BERT with a head that finds the start and the end of an answer."""

    def __init__(self, config: CPBertConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = CPBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    forward = with_pool_sizes(CPBertQuestionAnsweringModelOutput, *HANDED_DOWN)(BertForQuestionAnswering.forward)


__all__ = [
    "CPBertForMaskedLM",
    "CPBertForMultipleChoice",
    "CPBertForNextSentencePrediction",
    "CPBertForPreTraining",
    "CPBertForQuestionAnswering",
    "CPBertForSequenceClassification",
    "CPBertForTokenClassification",
    "CPBertModel",
    "CPBertPreTrainedModel",
]
