# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Training and evaluation: the commands `glue`, `imagenet`, `mlm` and `distill`, their data and metrics."""

from .optimizer import param_groups


__all__ = ["param_groups"]
