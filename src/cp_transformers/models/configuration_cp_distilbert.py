# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DistilBERT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import DistilBertConfig

from .configuration_context_pool import TEXT_HEADS, TextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_distilbert import CPDistilBertModel  # noqa: F401


@strict
class CPDistilBertConfig(TextPoolConfigMixin, DistilBertConfig):
    """
    Configuration of the CP-DistilBERT models: every field of [`~transformers.DistilBertConfig`], with the same
    defaults, and those of ContextPool.
    """

    model_type = "cp_distilbert"
    heads = TEXT_HEADS
