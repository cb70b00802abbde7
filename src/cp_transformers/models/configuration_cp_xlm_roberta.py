# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-XLM-RoBERTa model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import XLMRobertaConfig

from .configuration_context_pool import TEXT_HEADS, TextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_xlm_roberta import CPXLMRobertaModel  # noqa: F401


@strict
class CPXLMRobertaConfig(TextPoolConfigMixin, XLMRobertaConfig):
    """
    Configuration of the CP-XLM-RoBERTa models: every field of
    [`~transformers.XLMRobertaConfig`], with the same defaults, and those of ContextPool.
    """

    model_type = "cp_xlm-roberta"
    heads = TEXT_HEADS
