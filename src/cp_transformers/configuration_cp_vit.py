# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ViT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from .configuration_context_pool import ContextPoolConfigMixin, LayerPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_vit import CPViTModel  # noqa: F401


@strict
class CPViTConfig(LayerPoolConfigMixin, ViTConfig):
    __doc__ = f"""
    Configuration of the CP-ViT models: every field of [`~transformers.ViTConfig`], with the same defaults, and those
    of ContextPool.
    {ContextPoolConfigMixin.__doc__}{LayerPoolConfigMixin.__doc__}
    The predictor is by default a factored one (`pool_factored=True`) of `pool_hidden_size=32` channels.

    Example:

    ```python
    >>> from cp_transformers import CPViTConfig, CPViTModel

    >>> model = CPViTModel(CPViTConfig(num_hidden_layers=8))
    ```"""

    model_type = "cp_vit"
    keys_to_ignore_at_inference = ["pool_sizes"]
    auto_models = {
        "AutoModel": "CPViTModel",
        "AutoModelForImageClassification": "CPViTForImageClassification",
        "AutoModelForMaskedImageModeling": "CPViTForMaskedImageModeling",
    }

    pool_hidden_size: int = 32
    pool_factored: bool = True


__all__ = ["CPViTConfig"]
