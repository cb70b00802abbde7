# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`python -m experiments`: grids of small models trained from scratch; see experiments/configs and `--help`."""

import sys

from cp_transformers.cli import run


if __name__ == "__main__":
    sys.exit(run("experiments.grids"))
