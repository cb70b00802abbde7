# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BERT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import BertConfig

from .configuration_context_pool import ContextPoolConfigMixin, LayerPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_bert import CPBertModel  # noqa: F401


@strict
class CPBertConfig(LayerPoolConfigMixin, BertConfig):
    __doc__ = f"""
    Configuration of the CP-BERT models: every field of [`~transformers.BertConfig`], with the same defaults, and
    those of ContextPool.
    {ContextPoolConfigMixin.__doc__}{LayerPoolConfigMixin.__doc__}
    And that of `pool_max_offset` is 2: on texts, heads that look to one side learn more. One field is CP-BERT's own:

    Args:
        pool_class_token: whether [CLS], the first valid token of a row (of packed rows, the first of each sequence),
            is pooled and in other tokens' pools, as in checkpoints of formats 1 and 2; else it passes by the pooling
            as it is, like CP-ViT's class token.

    Example:

    ```python
    >>> from cp_transformers import CPBertConfig, CPBertModel

    >>> model = CPBertModel(CPBertConfig(num_hidden_layers=4))
    ```"""

    model_type = "cp_bert"
    keys_to_ignore_at_inference = ["past_key_values", "pool_sizes"]
    auto_models = {
        "AutoModel": "CPBertModel",
        "AutoModelForTextEncoding": "CPBertModel",
        "AutoModelForPreTraining": "CPBertForPreTraining",
        "AutoModelForMaskedLM": "CPBertForMaskedLM",
        "AutoModelForNextSentencePrediction": "CPBertForNextSentencePrediction",
        "AutoModelForSequenceClassification": "CPBertForSequenceClassification",
        "AutoModelForMultipleChoice": "CPBertForMultipleChoice",
        "AutoModelForTokenClassification": "CPBertForTokenClassification",
        "AutoModelForQuestionAnswering": "CPBertForQuestionAnswering",
    }

    pool_max_offset: float | int = 2.0
    pool_class_token: bool = False

    def __post_init__(self, **kwargs):
        if self.context_pool_version in (1, 2):
            self.pool_class_token = True
        super().__post_init__(**kwargs)


__all__ = ["CPBertConfig"]
