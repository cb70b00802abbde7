# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The record of a training, and the card that is made from it."""

import json

from mlm_cases import MAX_LENGTH, TRAIN, make_data, mlm


def test_the_card_says_what_was_trained_on_and_what_was_evaluated(tmp_path):
    data = make_data(tmp_path)
    mlm(data, tmp_path / "out", *TRAIN, "--do_eval")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"up to 40 tokens, of which training has seen {MAX_LENGTH};" in card
    assert "on local files named `train.txt`" in card and "| validation.txt | validation | perplexity |" in card
    named = json.loads((tmp_path / "out" / "training.json").read_text())["data"]
    assert (named["name"], named["held_out"]) == ("train.txt", "validation.txt")
