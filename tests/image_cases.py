# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Pictures for the tests of image data."""

import io

import numpy as np
from PIL import Image


HALF = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}  # normalisation


def picture(seed: int = 0, rows: int = 20, columns: int = 26) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows // 2, columns // 2, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BICUBIC)


def as_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
