# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DeBERTa-v2 model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import DebertaV2Config

from .configuration_context_pool import TEXT_HEADS, TextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_deberta_v2 import CPDebertaV2Model  # noqa: F401


@strict
class CPDebertaV2Config(TextPoolConfigMixin, DebertaV2Config):
    """
    Configuration of the CP-DeBERTa-v2 models: every field of [`~transformers.DebertaV2Config`], with the same
    defaults, and those of ContextPool. Layers keep all tokens: `pool_strides` above 1 are refused.
    """

    model_type = "cp_deberta-v2"
    heads = TEXT_HEADS

    @property
    def strides_refused(self) -> str:
        return (
            "A DeBERTa-v2 cannot keep fewer tokens, since its attention is told how far one token is from another, "
            "which groups of tokens cannot be told: leave strides out, and cut layers for a faster model."
        )
