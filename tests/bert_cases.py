# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The classes of CP-BERT by name, for the tests of them alone."""

import pytest
import torch
from model_cases import BERT_MODELS, BERT_VARIANTS, over

from cp_transformers import CPBertForMaskedLM, CPBertForSequenceClassification, CPBertModel


CASES = {case.model_class: case for case in BERT_MODELS}
BASE, MASKED_LM, CLASSIFIER = CASES[CPBertModel], CASES[CPBertForMaskedLM], CASES[CPBertForSequenceClassification]

every_variant = pytest.mark.parametrize("variant", BERT_VARIANTS.values(), ids=BERT_VARIANTS)
every_one_row_bert = over([case for case in BERT_MODELS if case.inputs()["input_ids"].ndim == 2])


@torch.no_grad()
def run(model, inputs: dict[str, torch.Tensor], **kwargs):
    return model(**inputs, **kwargs)
