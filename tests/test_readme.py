# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The README: its code runs, in order, as it stands, and its table of fields is the configuration's."""

import re
import subprocess
import sys
from pathlib import Path

from cp_transformers import CPBertConfig


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "{'max_abs_difference': 0.0, 'dtype': 'float32'}" in result.stdout
    assert "torch.Size([2, 2, 9])" in result.stdout  # the support sizes of two sentences, two heads, nine tokens


def test_the_table_of_fields_is_complete_and_right():
    config = CPBertConfig()
    fields = dict(re.findall(r"^\| `(pool_\w+)` \| (.*?) \|", README, flags=re.MULTILINE))
    expected = {name: getattr(config, name) for name in vars(config) if name.startswith("pool_")}
    assert {name: value.strip('`"') for name, value in fields.items()} == {k: str(v) for k, v in expected.items()}
