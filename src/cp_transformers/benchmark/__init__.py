# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command `cp-transformers benchmark`: what pooling costs, measured side by side with what it is part of."""
