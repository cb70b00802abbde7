# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The notebooks run from top to bottom, with fewer steps of training than they have for a reader."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


EXAMPLES = Path(__file__).parents[2] / "examples"
# By notebook: what is trained for a shorter time here, and what is to be printed.
NOTEBOOKS = {
    "small_vit_from_scratch": (
        {"max_steps=600": "max_steps=5"},
        ["300 to learn from, 400 to be judged on", "CPViT: 95,194 parameters", "% of the test digits"],
    ),
    "faster_sentence_encoder": (
        {"steps, batch = 120, 32": "steps, batch = 14, 2"},
        ["with all tokens: 0.0\n", "held out, after it has learned: ", "times as fast", "True\n", "<iframe"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path):
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    shorter, printed = NOTEBOOKS[name]
    for old, new in shorter.items():
        changed = [cell for cell in notebook.cells if old in cell.source]
        assert len(changed) == 1
        changed[0].source = changed[0].source.replace(old, new)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/html", "") for output in outputs)
    assert [each for each in printed if each not in text] == []


def test_every_notebook_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NOTEBOOKS)
