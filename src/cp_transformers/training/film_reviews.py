# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Review sentences with human sentiment ratings, and sentences from the news.

Source: C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014. The sentences lie, under the MIT licence, in the source distribution of the package vaderSentiment.
"""

import hashlib
import tarfile

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .packages import SDIST, PackagedFile, fetch


LABELS = ["negative", "positive"]

_ARCHIVE = PackagedFile(
    "vaderSentiment==3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    SDIST,
    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
)
_FILMS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_PRODUCTS = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
_NEWS = "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt"


def load_film_reviews() -> DatasetDict:
    """The sentences as `train` (the rest, about 6,000), `validation` and `test` (2,000 each), in a fixed split.

    Columns: `sentence` (str), `label` (negative or positive: the sign of the mean human rating), `rating` (float, -4
    to 4). Ratings within 0.5 of zero and repeated sentences are left out. Fetched and cached by
    [`~cp_transformers.training.packages.fetch`].

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


def load_news() -> Dataset:
    """The sentences of newspaper editorials (about 5,000), as `text`, in a fixed order: text of another kind than the
    reviews'.

    Raises:
        OSError: see [`load_film_reviews`].
    """
    sentences = sorted(_read(_NEWS), key=lambda sentence: hashlib.sha256(sentence.encode()).digest())
    return Dataset.from_dict({"text": sentences})


def _read(member: str) -> dict[str, float]:
    """The sentences of a file of the archive, each with its mean rating; of repeated ones the first."""
    with tarfile.open(fetch(_ARCHIVE)) as archive:
        lines = archive.extractfile(member).read().decode("latin-1").splitlines()  # type: ignore[union-attr]
    ratings: dict[str, float] = {}
    for line in lines:
        _, rating, sentence = line.split("\t")
        ratings.setdefault(sentence.strip(), float(rating))
    return ratings
