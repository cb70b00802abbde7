# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers glue`, for torchrun and accelerate."""

import sys

from cp_transformers.cli import run


sys.exit(run("cp_transformers.training.glue"))
