# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Shows what a model pools: as arrays, as a page and as pictures."""

from .pools import Inspection, Pool, inspect_pools


__all__ = ["Inspection", "Pool", "inspect_pools"]
