# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command `cp-transformers demo`: the main job on real data, on texts, images or digits."""
