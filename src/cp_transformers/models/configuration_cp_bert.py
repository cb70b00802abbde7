# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BERT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import BertConfig

from .configuration_context_pool import TEXT_HEADS, TextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_bert import CPBertModel  # noqa: F401


@strict
class CPBertConfig(TextPoolConfigMixin, BertConfig):
    """
    Configuration of the CP-BERT models: every field of [`~transformers.BertConfig`], with the same defaults, and
    those of ContextPool.
    """

    model_type = "cp_bert"
    heads = (*TEXT_HEADS, "ForPreTraining", "ForNextSentencePrediction")
