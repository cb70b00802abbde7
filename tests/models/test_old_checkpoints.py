# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints of each format of this package, with what they computed when they were written.

Those of formats 1 and 2 were written by the last commit of that format, those of format 3 before the models were
built by upstream's constructors. All gates are open.
"""

import json
from pathlib import Path

import pytest
import torch
from model_cases import aligned
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from cp_transformers.models.configuration_context_pool import FORMAT_VERSION


CHECKPOINTS = sorted((Path(__file__).parents[1] / "data" / "checkpoints").iterdir())
INPUTS = ("input_ids", "attention_mask", "pixel_values")
ASKED = {"output_hidden_states": True, "output_support_sizes": True}


def named(outputs) -> dict[str, torch.Tensor]:
    sizes = {f"support_sizes.{index}": sizes for index, sizes in enumerate(outputs.support_sizes)}
    return {"logits": outputs.logits, "last_hidden_state": outputs.hidden_states[-1], **sizes}


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
@torch.no_grad()
def test_a_checkpoint_computes_what_it_did_when_it_was_written(folder, tmp_path):
    recorded = load_file(folder / "expected.safetensors")
    recorded = {name.replace("pool_sizes", "support_sizes"): tensor for name, tensor in recorded.items()}
    auto_class = AutoModelForImageClassification if "pixel_values" in recorded else AutoModelForSequenceClassification
    model, info = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    inputs = {name: recorded.pop(name) for name in INPUTS if name in recorded}
    # The pools of some are steep: what float32 loses, and differently on each processor, is told by float64.
    double = {name: each.double() if each.is_floating_point() else each for name, each in inputs.items()}
    exact = named(auto_class.from_pretrained(folder, dtype=torch.float64).eval()(**double, **ASKED))
    lost = {name: (exact[name] - tensor).abs().max().item() for name, tensor in recorded.items()}
    at_valid = inputs["attention_mask"].bool() if "attention_mask" in inputs else ...
    lost["last_hidden_state"] = (
        (exact["last_hidden_state"] - recorded["last_hidden_state"])[at_valid].abs().max().item()
    )
    assert max(lost.values()) < 5e-3

    for again in range(2):
        actual = named(aligned(model.eval())(**inputs, **ASKED))
        assert actual.keys() == recorded.keys()
        for name, tensor in recorded.items():
            # What padding holds after the layers means nothing.
            at = at_valid if name == "last_hidden_state" and "input_ids" in inputs else ...
            torch.testing.assert_close(actual[name][at], tensor[at], rtol=1e-5, atol=1e-5 + 3 * lost[name])
        if not again:
            model.save_pretrained(tmp_path)
            assert json.loads((tmp_path / "config.json").read_text())["context_pool_version"] == FORMAT_VERSION
            model = auto_class.from_pretrained(tmp_path)


def test_there_is_one_of_each_format_and_placement():
    formats = {json.loads((folder / "config.json").read_text())["context_pool_version"] for folder in CHECKPOINTS}
    placements = {json.loads((folder / "config.json").read_text()).get("pool_placement") for folder in CHECKPOINTS}
    assert formats == {1, 2, 3} and placements == {None, "attention", "block"}
