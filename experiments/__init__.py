# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Experiments: grids of small models, with controls in the place of the pooling. Not part of the package."""
