# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Metrics of predictions."""

import evaluate
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from cp_transformers.training import metrics


@pytest.mark.parametrize(
    ("metric", "reference", "num_labels"),
    [
        (metrics.Accuracy, accuracy_score, 3),
        (metrics.F1, f1_score, 2),
        (metrics.Matthews, matthews_corrcoef, 2),
        (metrics.Matthews, matthews_corrcoef, 3),
    ],
)
def test_metrics_of_labels_equal_scikit_learns(metric, reference, num_labels):
    predictions, references = np.random.default_rng(0).integers(num_labels, size=(2, 50))
    references[:25] = predictions[:25]
    computed = metric().compute(predictions=predictions, references=references)
    assert computed == {metric.__name__.lower(): pytest.approx(reference(references, predictions))}


@pytest.mark.parametrize(("metric", "reference"), [(metrics.Pearson, pearsonr), (metrics.Spearman, spearmanr)])
def test_correlations_equal_scipys_with_ties_too(metric, reference):
    generator = np.random.default_rng(0)
    predictions = generator.normal(size=50).round(1)
    references = (predictions + generator.normal(size=50)).round(1)
    computed = metric().compute(predictions=predictions, references=references)
    assert computed == {metric.__name__.lower(): pytest.approx(reference(predictions, references)[0], abs=1e-6)}


@pytest.mark.parametrize("metric", [metrics.F1, metrics.Matthews, metrics.Pearson, metrics.Spearman])
def test_a_metric_that_is_not_defined_is_zero(metric):
    assert metric().compute(predictions=[0, 0], references=[0, 0]) == {metric.__name__.lower(): 0.0}


def test_metrics_can_be_combined():
    combined = evaluate.combine([metrics.Accuracy(), metrics.F1()])
    assert combined.compute(predictions=[0, 1, 1], references=[0, 1, 0]) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 2 / 3}
    )


def test_accuracy_adds_up_over_batches():
    metric = metrics.Accuracy()
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[0], references=[1])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
