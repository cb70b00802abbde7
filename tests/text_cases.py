# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The classes of the text families, for the tests of them alone."""

import pytest
import torch
from model_cases import CASES, TEXT_VARIANTS, ModelCase, allowed, over

from cp_transformers.families import FAMILIES


TEXTS = [case for model_type, cases in CASES.items() if FAMILIES[model_type].is_text for case in cases]
OF_BERT = {case.model_class.__name__.removeprefix("CPBert"): case for case in CASES["bert"]}
BASE, MASKED_LM, CLASSIFIER = (OF_BERT[head] for head in ("Model", "ForMaskedLM", "ForSequenceClassification"))

every_variant = pytest.mark.parametrize("variant", TEXT_VARIANTS.values(), ids=TEXT_VARIANTS)
UNSTRIDED = {name: variant for name, variant in TEXT_VARIANTS.items() if "pool_strides" not in variant}
every_unstrided_variant = pytest.mark.parametrize("variant", UNSTRIDED.values(), ids=UNSTRIDED)
ONE_ROW_TEXTS = [case for case in TEXTS if case.inputs()["input_ids"].ndim == 2]
every_text, every_one_row_text = over(TEXTS), over(ONE_ROW_TEXTS)


def over_every_variant(cases: list[ModelCase]):
    """Runs a test with each of `cases`, heads too, and each variant that its family allows."""
    pairs = {
        f"{case}-{name}": (case, variant)
        for case in cases
        for name, variant in allowed(case.config(), TEXT_VARIANTS).items()
    }
    return pytest.mark.parametrize(("case", "variant"), pairs.values(), ids=pairs)


@torch.no_grad()
def run(model, inputs: dict[str, torch.Tensor], **kwargs):
    return model(**inputs, **kwargs)
