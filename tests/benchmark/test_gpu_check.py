# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The script that checks and measures on a GPU, of which a CPU runs a little of each part."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"


@pytest.mark.slow
def test_every_part_runs_and_leaves_its_figures(tmp_path, environment):
    command = ["bash", str(SCRIPT), str(tmp_path / "out")]
    result = subprocess.run(command, env={**environment, "DEVICE": "cpu"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "test_triton_pool.py::test_no_block_that_matters_to_a_group_is_left_out" in log and "PASSED" in log
    with open(tmp_path / "out" / "benchmark_pooling.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["pass"] for row in rows} == {"forward", "training"} and {row["rounds"] for row in rows} == {"2"}
    assert json.loads((tmp_path / "out" / "training.json").read_text())["options"]["max_steps"] == 2


@pytest.mark.slow
def test_a_part_that_fails_is_named_and_the_others_are_run(tmp_path, environment):
    for name in ("python", "cp-transformers"):
        (tmp_path / name).write_text("#!/bin/sh\necho ran $0\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    command = ["bash", str(SCRIPT), str(tmp_path / "out")]
    result = subprocess.run(command, env={**environment, "PATH": path}, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout.endswith("failed: kernels strided pooling models training training.json\n")
