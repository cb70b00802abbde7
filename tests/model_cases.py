# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The model classes that the shared tests run over, each with a tiny configuration, inputs and labels."""

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from cp_transformers import (
    ContextPool,
    CPBertForMaskedLM,
    CPBertForMultipleChoice,
    CPBertForNextSentencePrediction,
    CPBertForPreTraining,
    CPBertForQuestionAnswering,
    CPBertForSequenceClassification,
    CPBertForTokenClassification,
    CPBertModel,
)


@dataclass(frozen=True)
class ModelCase:
    """
    One model class, and what the shared tests must know to build and to call it.

    Args:
        model_class, stock_class, auto_class: the class, what it is built on, and what loads it.
        sizes: configuration fields that make it small.
        base_sizes: configuration fields of the usual size but for the depth, where sizes themselves matter.
        inputs: makes the arguments of a batch, with padding where the family has any.
        valid_tokens: for those arguments, `(rows, tokens)`, True where a token is not padding.
        labels: makes the arguments with which a head returns a loss.
    """

    model_class: type[PreTrainedModel]
    stock_class: type[PreTrainedModel]
    auto_class: type
    sizes: dict[str, Any]
    base_sizes: dict[str, Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    valid_tokens: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    labels: Callable[[], dict[str, torch.Tensor]] = field(default=dict)

    def __str__(self) -> str:
        return self.model_class.__name__

    def config(self, **overrides) -> PreTrainedConfig:
        return self.model_class.config_class(**{**self.sizes, **overrides})

    def stock_config(self, **overrides) -> PreTrainedConfig:
        return self.stock_class.config_class(**{**self.sizes, **overrides})

    def fresh_model(self, **overrides) -> PreTrainedModel:
        """As it is constructed, but in evaluation mode."""
        return self.model_class(self.config(**overrides)).eval()

    def model(self, **overrides) -> PreTrainedModel:
        """With its gates open, so that pooling is seen in the outputs."""
        model = self.fresh_model(**overrides)
        for pool in context_pools(model):
            if pool.gate is not None:
                nn.init.normal_(pool.gate)
        return model


def context_pools(model: nn.Module) -> list[ContextPool]:
    return [module for module in model.modules() if isinstance(module, ContextPool)]


def tensors(outputs) -> list[torch.Tensor]:
    """The tensors of a model's output, in order, whether it is a tensor, a tuple or a dictionary."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    entries = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for entry in entries if entry is not None for tensor in tensors(entry)]


def assert_same_outputs(actual, expected, atol: float = 0.0) -> None:
    """Same number of tensors, equal to `atol`; bit for bit by default."""
    torch.testing.assert_close(tensors(actual), tensors(expected), rtol=0.0, atol=atol)


def at_valid_tokens(case: ModelCase, outputs) -> list[torch.Tensor]:
    """The tensors of an output, those that have a value for each token without the padded ones."""
    valid = case.valid_tokens(case.inputs())
    return [tensor[valid] if tensor.shape[:2] == valid.shape else tensor for tensor in tensors(outputs)]


@contextmanager
def messages_of_transformers():
    """The list of what transformers logs as a warning or worse within the block."""
    messages: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger("transformers").removeHandler(handler)


# ---------------------------------------------------------------------------------------------------------- text

VOCABULARY_SIZE, NUM_TOKENS = 99, 12
LENGTHS = (12, 7, 3)  # of the rows of a batch, in turn


def text_inputs(*rows: int) -> dict[str, torch.Tensor]:
    """Token arguments of shape `(*rows, NUM_TOKENS)`, padded on the right by zeros."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(LENGTHS).repeat(torch.Size(rows).numel())[: torch.Size(rows).numel()].view(*rows, 1)
    attention_mask = (torch.arange(NUM_TOKENS) < lengths).long()
    return {
        "input_ids": torch.randint(1, VOCABULARY_SIZE, (*rows, NUM_TOKENS), generator=generator) * attention_mask,
        "attention_mask": attention_mask,
        "token_type_ids": torch.randint(2, (*rows, NUM_TOKENS), generator=generator) * attention_mask,
    }


def bert_case(model_class, stock_class, auto_class, rows=(3,), labels=dict, **sizes) -> ModelCase:
    return ModelCase(
        model_class,
        stock_class,
        auto_class,
        sizes={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "max_position_embeddings": 40,
            "initializer_range": 0.1,
            **sizes,
        },
        base_sizes={"num_hidden_layers": 1},
        inputs=lambda: text_inputs(*rows),
        valid_tokens=lambda inputs: inputs["attention_mask"].flatten(0, -2).bool(),
        labels=labels,
    )


def token_labels(num_labels: int) -> torch.Tensor:
    return torch.arange(3 * NUM_TOKENS).view(3, NUM_TOKENS) % num_labels


BERT_MODELS = [
    bert_case(CPBertModel, BertModel, AutoModel),
    bert_case(
        CPBertForPreTraining,
        BertForPreTraining,
        AutoModelForPreTraining,
        labels=lambda: {"labels": token_labels(VOCABULARY_SIZE), "next_sentence_label": torch.tensor([0, 1, 1])},
    ),
    bert_case(
        CPBertForMaskedLM,
        BertForMaskedLM,
        AutoModelForMaskedLM,
        labels=lambda: {"labels": token_labels(VOCABULARY_SIZE)},
    ),
    bert_case(
        CPBertForNextSentencePrediction,
        BertForNextSentencePrediction,
        AutoModelForNextSentencePrediction,
        labels=lambda: {"labels": torch.tensor([0, 1, 1])},
    ),
    bert_case(
        CPBertForSequenceClassification,
        BertForSequenceClassification,
        AutoModelForSequenceClassification,
        labels=lambda: {"labels": torch.tensor([0, 1, 2])},
        num_labels=3,
    ),
    bert_case(
        CPBertForMultipleChoice,
        BertForMultipleChoice,
        AutoModelForMultipleChoice,
        rows=(2, 3),
        labels=lambda: {"labels": torch.tensor([0, 2])},
    ),
    bert_case(
        CPBertForTokenClassification,
        BertForTokenClassification,
        AutoModelForTokenClassification,
        labels=lambda: {"labels": token_labels(3)},
        num_labels=3,
    ),
    bert_case(
        CPBertForQuestionAnswering,
        BertForQuestionAnswering,
        AutoModelForQuestionAnswering,
        labels=lambda: {"start_positions": torch.tensor([0, 1, 0]), "end_positions": torch.tensor([9, 5, 2])},
    ),
]

# ------------------------------------------------------------------------------------------------- every family

MODELS = [*BERT_MODELS]

# The pools reach far (pool_range), so that pooling is seen in so few tokens.
VARIANTS = {
    "plain": {"pool_range": 0.5},
    "heads": {"pool_range": 0.5, "pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True},
    "block": {"pool_range": 0.5, "pool_placement": "block", "pool_layers": [1]},
}


def over(cases: list[ModelCase]):
    """Runs a test with each of `cases`."""
    return pytest.mark.parametrize("case", cases, ids=str)


every_model = over(MODELS)
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
