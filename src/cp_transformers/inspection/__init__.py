# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What a model pools: the arrays, a page that shows them, and pictures."""

from .pools import Inspection, Pool, inspect_pools


__all__ = ["Inspection", "Pool", "inspect_pools"]
