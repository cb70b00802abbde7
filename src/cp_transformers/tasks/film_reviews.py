# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Review sentences with human sentiment ratings: real text for any machine that reaches a package index.

Source: C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014. The sentences lie, under the MIT licence, in the source distribution of the package vaderSentiment.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import cached_assets_path


LABELS = ["negative", "positive"]

_REQUIREMENT = "vaderSentiment==3.3.2 --hash=sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9\n"
_SDIST = "vaderSentiment-3.3.2.tar.gz"
_MEMBER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
_FILMS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_PRODUCTS = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"


def load_film_reviews() -> DatasetDict:
    """The sentences as `train` (the rest, about 6,000), `validation` and `test` (2,000 each), in a fixed split.

    Columns: `sentence` (str), `label` (negative or positive: the sign of the mean human rating), `rating` (float, -4
    to 4). Ratings within 0.5 of zero and repeated sentences are left out. Fetched once with pip and checked against a
    hash; cached where huggingface_hub keeps the files of other libraries.

    Raises:
        OSError: the data is not in the cache and cannot be fetched, or is not what it should be.
    """
    ratings = _read(_FILMS)
    # The order of a hash is as good as a shuffle, and the same in every version of every library.
    sentences = sorted(
        (sentence for sentence, rating in ratings.items() if abs(rating) > 0.5),
        key=lambda sentence: hashlib.sha256(sentence.encode()).digest(),
    )
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=LABELS), "rating": Value("float32")})

    def split(part: list[str]) -> Dataset:
        columns = {
            "sentence": part,
            "label": [int(ratings[sentence] > 0) for sentence in part],
            "rating": [ratings[sentence] for sentence in part],
        }
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(
        train=split(sentences[4000:]), validation=split(sentences[2000:4000]), test=split(sentences[:2000])
    )


def load_product_reviews() -> DatasetDict:
    """The sentences on products, likewise, as `train` (the rest, about 2,700), `validation` and `test` (500 each); all
    ratings, and without `label`.

    Raises:
        OSError: see [`load_film_reviews`].
    """
    ratings = _read(_PRODUCTS)
    sentences = sorted(ratings, key=lambda sentence: hashlib.sha256(sentence.encode()).digest())
    parts = {"train": sentences[1000:], "validation": sentences[500:1000], "test": sentences[:500]}
    return DatasetDict(
        {
            name: Dataset.from_dict({"sentence": part, "rating": [ratings[sentence] for sentence in part]})
            for name, part in parts.items()
        }
    )


def load_review_texts() -> DatasetDict:
    """Text without labels, as `text`, for language modelling: `train` (10,300) has the sentences on films that
    are not in [`load_film_reviews`]' `validation` or `test`, and on products; `validation` has the former of these.

    Raises:
        OSError: see [`load_film_reviews`].
    """
    films = load_film_reviews()
    held_out = {*films["validation"]["sentence"], *films["test"]["sentence"]}
    train = [text for text in {**_read(_FILMS), **_read(_PRODUCTS)} if text not in held_out]
    return DatasetDict(
        train=Dataset.from_dict({"text": train}),
        validation=films["validation"].select_columns("sentence").rename_column("sentence", "text"),
    )


def _read(member: str) -> dict[str, float]:
    """The sentences of a file of the archive, each with its mean rating; of repeated ones the first."""
    with tarfile.open(_archive()) as archive:
        lines = archive.extractfile(member).read().decode("latin-1").splitlines()  # type: ignore[union-attr]
    ratings: dict[str, float] = {}
    for line in lines:
        _, rating, sentence = line.split("\t")
        ratings.setdefault(sentence.strip(), float(rating))
    return ratings


def _archive() -> Path:
    """The cached archive, fetched if it is not there."""
    cached = cached_assets_path("cp_transformers", "film_reviews") / f"{_MEMBER_SHA256[:16]}.tar.gz"
    if not cached.is_file():
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            _download(Path(folder))
            with tarfile.open(Path(folder) / _SDIST) as sdist:
                (Path(folder) / "member").write_bytes(sdist.extractfile(_MEMBER).read())  # type: ignore[union-attr]
            os.replace(Path(folder) / "member", cached)
    if hashlib.sha256(cached.read_bytes()).hexdigest() != _MEMBER_SHA256:
        cached.unlink()
        raise OSError(f"{cached} was damaged and has been removed; run the command again to fetch it.")
    return cached


def _download(folder: Path) -> None:
    """Has pip download the source distribution; pip checks its hash before it runs anything in it."""
    (folder / "requirements.txt").write_text(_REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    command += ["--quiet", "--disable-pip-version-check", "-r", str(folder / "requirements.txt"), "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"The film reviews could not be fetched with pip ({last}); check that pip reaches an index.")
