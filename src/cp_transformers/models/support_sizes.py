# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Support sizes as outputs: the classes of what a model returns when it is asked by `output_support_sizes=True`, and
the list in which the sizes get there, since upstream's modules would not hand them up."""

import threading
from dataclasses import dataclass

import torch
from transformers import modeling_outputs as outputs


@dataclass
class SupportSizesOutput:
    """The output of a model that was asked for `output_support_sizes=True`, besides upstream's fields; see
    [`with_support_sizes`].

    Args:
        support_sizes: for each module that pools, in order, the predicted sigma in positions and float32, zero at what
            is not pooled: `(batch, heads, tokens)` of texts, `(batch, heads, rows, columns)` of images; of the kept
            tokens where tokens are dropped.
    """

    support_sizes: tuple[torch.Tensor, ...] | None = None


def with_support_sizes(output_class: type, module: str = __name__) -> type:
    """The class of an output of upstream's with the fields of [`SupportSizesOutput`]. The `module` must have it under
    its name, which is CP and upstream's."""
    namespace = {
        "__module__": module,
        "__doc__": f"[`~transformers.utils.{output_class.__name__}`] and support_sizes.",
    }
    own: type = dataclass(type(f"CP{output_class.__name__}", (SupportSizesOutput, output_class), namespace))
    WITH_SUPPORT_SIZES[output_class] = own
    return own


WITH_SUPPORT_SIZES: dict[type, type] = {}  # from upstream's class to ours
CPBackboneOutput = with_support_sizes(outputs.BackboneOutput)
CPBaseModelOutput = with_support_sizes(outputs.BaseModelOutput)
CPBaseModelOutputWithPastAndCrossAttentions = with_support_sizes(outputs.BaseModelOutputWithPastAndCrossAttentions)
CPBaseModelOutputWithPooling = with_support_sizes(outputs.BaseModelOutputWithPooling)
CPBaseModelOutputWithPoolingAndCrossAttentions = with_support_sizes(
    outputs.BaseModelOutputWithPoolingAndCrossAttentions
)
CPBaseModelOutputWithPoolingAndNoAttention = with_support_sizes(outputs.BaseModelOutputWithPoolingAndNoAttention)
CPImageClassifierOutput = with_support_sizes(outputs.ImageClassifierOutput)
CPImageClassifierOutputWithNoAttention = with_support_sizes(outputs.ImageClassifierOutputWithNoAttention)
CPMaskedImageModelingOutput = with_support_sizes(outputs.MaskedImageModelingOutput)
CPMaskedLMOutput = with_support_sizes(outputs.MaskedLMOutput)
CPMultipleChoiceModelOutput = with_support_sizes(outputs.MultipleChoiceModelOutput)
CPNextSentencePredictorOutput = with_support_sizes(outputs.NextSentencePredictorOutput)
CPQuestionAnsweringModelOutput = with_support_sizes(outputs.QuestionAnsweringModelOutput)
CPSemanticSegmenterOutput = with_support_sizes(outputs.SemanticSegmenterOutput)
CPSequenceClassifierOutput = with_support_sizes(outputs.SequenceClassifierOutput)
CPTokenClassifierOutput = with_support_sizes(outputs.TokenClassifierOutput)


# In its `sizes` they are collected for the forward pass of this thread that was asked for them.
COLLECTED = threading.local()


def record_support_sizes(sizes: torch.Tensor) -> None:
    """Called by each module that pools, with its sigma, which goes to whoever asked by `output_support_sizes`."""
    if (collected := getattr(COLLECTED, "sizes", None)) is not None:
        collected.append(sizes)
