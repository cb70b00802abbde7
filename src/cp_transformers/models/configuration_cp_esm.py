# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ESM model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import EsmConfig

from .configuration_context_pool import TextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_esm import CPEsmModel  # noqa: F401


@strict
class CPEsmConfig(TextPoolConfigMixin, EsmConfig):
    """
    Configuration of the CP-ESM models, which read proteins: every field of [`~transformers.EsmConfig`], with the same
    defaults, and those of ContextPool. The folding model (`EsmForProteinFolding`) is not among them.
    """

    model_type = "cp_esm"
    heads = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
