# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pooling, and the configurations and models of every family: exactly what a saved folder carries.

Modules here import each other alone, with one dot: transformers copies what they name beside a checkpoint.
"""
