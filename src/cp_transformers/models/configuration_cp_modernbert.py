# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ModernBERT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import ModernBertConfig

from .configuration_context_pool import TEXT_HEADS, TextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_modernbert import CPModernBertModel  # noqa: F401


@strict
class CPModernBertConfig(TextPoolConfigMixin, ModernBertConfig):
    """
    Configuration of the CP-ModernBERT models: every field of [`~transformers.ModernBertConfig`], with the same
    defaults, and those of ContextPool.
    """

    model_type = "cp_modernbert"
    heads = TEXT_HEADS
