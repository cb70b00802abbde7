# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints: converted, read and checked, described by a card, exported and pushed."""
