# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The README, the pages that it links to, and that of the results: their code runs, in order, as it stands, and their
figures are those of the files."""

import csv
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from cp_transformers import CPBertConfig, CPResNetConfig, CPViTConfig
from cp_transformers.benchmark import DENSE, SPREAD
from cp_transformers.tasks import demo_image, demo_text
from cp_transformers.tasks.experiment_tasks import TASKS
from cp_transformers.tasks.experiments import Experiment, paired_interval, read_results, values


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
HEADS = ("one head", "two heads with offsets", "four heads with offsets")
GENERAL = "bottleneck of as many parameters"
STOCK = "BERT, 2 layers"
FIRST_BLOCK = "CP-BERT, 4 layers, pooling the first block"
ONE_IN_BLOCK, IN_BLOCK, FOUR_IN_BLOCK = (
    f"CP-BERT, {layers}, pooling the block" for layers in ("1 layer", "2 layers", "4 layers")
)
FOUR, FACTORED = "4 heads, offsets", "4 heads, factored predictor"
CONVOLUTION = "bottleneck of as many parameters"
LONGFORMER, FUNNEL = "Longformer, 2 layers, window of 8", "Funnel, 1 + 1 layers and a decoder of 1"
CUT = "MiniLM, 2 layers"
BOTTLENECK = "2 layers, bottleneck of as many parameters on the block"
ONE_SIZE = "weights only, sigma 0.5"
CHANNELS = "channels in the predictor"
DEEP = "4 layers, pooling before {}"
STEM = "CP-ResNet, stem, predictor of 16 channels"
SWIN, POOLFORMER = "Swin, 2 + 2 layers", "PoolFormer, 2 + 2 layers"


def test_the_code_runs(tmp_path):
    pages = [README, *((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("onnx.md", "sharing.md"))]
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(pages), flags=re.DOTALL)
    assert len(blocks) == 10
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "{'max_abs_difference': 0.0, 'dtype': 'float32'}" in result.stdout
    assert "torch.Size([2, 4, 9])" in result.stdout  # the support sizes of two sentences, four heads, nine tokens
    assert "torch.Size([1, 4, 6, 6])" in result.stdout  # of an image, four heads, six by six patches
    assert "[torch.Size([1, 512, 12, 8]), torch.Size([1, 2048, 3, 2])]" in result.stdout
    assert "\nTrue\ntorch.Size([1, 4, 8, 10])" in result.stdout  # equal logits; the pools of a larger image


def test_the_table_of_fields_is_complete_and_right():
    rows = re.findall(r"^\| `(pool_\w+)` \| (.*?) \| (.*?) \| (.*?) \|", README, flags=re.MULTILINE)
    for column, config in enumerate((CPBertConfig(), CPViTConfig(), CPResNetConfig()), start=1):
        fields = {row[0]: row[column].strip('`"') for row in rows if row[column] != "-"}
        expected = {name: getattr(config, name) for name in vars(config) if name.startswith("pool_")}
        assert fields == {name: str(value) for name, value in expected.items()}


def test_what_the_text_demo_printed_is_what_results_hold():
    results = json.loads((ROOT / "results" / "demo_text.json").read_text())
    assert not results["quick"]
    table, figures = demo_text.report(results).split("\n\n")[:2]
    assert table in README and figures in README
    gain, error = 100 * results["gain_of_pooling_at_4_layers"], 100 * results["gain_standard_error"]
    assert f"({gain:+.2f} ± {error:.2f} points" in README
    cut, converted = (arm["milliseconds_a_batch"] for arm in results["arms"][1:])
    assert f"takes {100 * (converted / cut - 1):.0f} % more time" in README


def test_what_the_image_demo_printed_is_what_results_hold():
    results = json.loads((ROOT / "results" / "demo_image.json").read_text())
    assert not results["quick"] and set(results["parity"].values()) == {0.0}
    table, figures = demo_image.report(results).split("\n\n")[:2]
    assert table in README and figures in README


@pytest.mark.parametrize(
    ("name", "arm", "control", "metric", "said"),
    [
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "loss", "are {:.2f} ± {:.2f} nats ahead of six"),
        (
            "texts",
            "CP-BERT, 2 layers",
            "BERT, 6 layers",
            "film_reviews",
            "{:.1f} ± {:.1f} points, but not",
        ),
        ("texts", "CP-BERT, 2 layers", "BERT, 2 layers", "film_reviews", "ahead of two (+{:.1f} ± {:.1f})."),
        ("texts", ONE_IN_BLOCK, "BERT, 6 layers", "loss", "one is {:.2f} ± {:.2f} nats ahead of six"),
        ("texts", ONE_IN_BLOCK, "BERT, 6 layers", "film_reviews", "of six (+{:.1f} ± {:.1f} points), and two"),
        ("texts", IN_BLOCK, "BERT, 6 layers", "loss", "two are {:.2f} ± {:.2f} nats and"),
        ("texts", IN_BLOCK, "BERT, 6 layers", "film_reviews", "nats and {:.1f} ± {:.1f} points. [Trained"),
        ("images", "CP-ViT, 1 layer", "ViT, 1 layer", "accuracy", "and {:.1f} ± {:.1f} of one; two"),
        ("images", "CP-ViT, 1 layer", "ViT, 6 layers", "accuracy", "is {:.1f} ± {:.1f} points ahead of six without"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 2 layers", "loss", "two without by {:.2f} ± {:.2f} nats"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 2 layers", "film_reviews", "and {:.1f} ± {:.1f} points, four"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 4 layers", "loss", "four without by {:.2f} ± {:.2f} nats"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 4 layers", "film_reviews", "nats (+{:.1f} ± {:.1f} points); with"),
        ("texts_long", IN_BLOCK, "BERT, 4 layers", "loss", "four by {:.2f} ± {:.2f} nats"),
        ("texts_long", IN_BLOCK, "BERT, 4 layers", "film_reviews", "(+{:.1f} ± {:.1f} points) |"),
        ("texts_ablation", FOUR, f"{FOUR}, equal weights", "loss", "weights ({:.2f} ± {:.2f} nats worse)"),
        ("texts_ablation", f"{FOUR}, weights only, sigma 0.7", FOUR, "loss", "size ({:.2f} ± {:.2f} better)"),
        ("texts_ablation", "1 head", "1 head, sizes only", "loss", "weights gain {:.2f} ± {:.2f} nats"),
        ("texts_ablation", "1 head", "1 head, weights only, sigma 0.7", "loss", "sizes lose {:.2f} ± {:.2f} |"),
        ("texts_ablation", FOUR, "depthwise convolution", "loss", "are {:.2f} ± {:.2f} nats ahead of a depth"),
        ("texts_ablation", FOUR, GENERAL, "loss", "and {:.2f} ± {:.2f} of a general one"),
        ("texts_ablation", "1 head", "depthwise convolution", "loss", "is {:.2f} ± {:.2f} ahead of the former"),
        ("texts_ablation", "1 head", GENERAL, "loss", "and {:.2f} ± {:.2f} behind the latter"),
        ("texts_ablation", "no pooling", "1 head", "film_reviews", "fine-tuning {:.1f} ± {:.1f} points behind no"),
        (
            "images_ablation",
            FACTORED,
            "depthwise convolution",
            "accuracy",
            "{:.1f} ± {:.1f} points ahead of the",
        ),
        ("images_ablation", FACTORED, GENERAL, "accuracy", "only {:.1f} ± {:.1f} of the latter"),
        ("images_ablation", GENERAL, "1 head", "accuracy", "and one is {:.1f} ± {:.1f} behind it"),
        ("texts_ablation", FOUR, "depthwise convolution", "film_reviews", "neither (-{:.1f} ± {:.1f} and"),
        ("texts_ablation", FOUR, GENERAL, "film_reviews", "and +{:.1f} ± {:.1f} points); one head"),
        ("pretrained", f"CP-{CUT}, pooling the block", CUT, "film_reviews", "block -{:.1f} ± {:.1f} and"),
        ("pretrained", f"CP-{CUT}, pooling the block", CUT, "product_reviews", "and -{:.1f} ± {:.1f}), where"),
        ("images", "CP-ViT, 2 layers", "ViT, 6 layers", "accuracy", "two layers are {:.1f} ± {:.1f} ahead of six"),
        (
            "images_ablation",
            FACTORED,
            f"{FACTORED}, sizes only",
            "accuracy",
            "{:.1f} ± {:.1f} points over equal weights",
        ),
        (
            "images_ablation",
            FACTORED,
            f"{FACTORED}, {ONE_SIZE}",
            "accuracy",
            "+{:.1f} ± {:.1f} over a fixed",
        ),
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "loss", "{:.2f} ± {:.2f} nats ahead of a Longformer"),
        ("texts_alternatives", "CP-BERT, 2 layers", FUNNEL, "loss", "and {:.2f} ± {:.2f} of a Funnel"),
        (
            "texts_alternatives",
            LONGFORMER,
            "CP-BERT, 2 layers",
            "film_reviews",
            "is {:.1f} ± {:.1f} points ahead of CP",
        ),
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "film_reviews_by_mean", "(CP-BERT +{:.1f} ± {:.1f})"),
        ("images_alternatives", "CP-ViT, 2 layers", SWIN, "accuracy", "{:.1f} ± {:.1f} points ahead of a Swin"),
        ("images_alternatives", "CP-ViT, 2 layers", POOLFORMER, "accuracy", "a PoolFormer (+{:.1f} ± {:.1f})"),
        ("pretrained", f"CP-{CUT}", CUT, "film_reviews", "-{:.1f} ± {:.1f} points on film"),
        ("pretrained", f"CP-{CUT}", CUT, "product_reviews", "and -{:.1f} ± {:.1f} on product"),
        ("pretrained", BOTTLENECK, CUT, "film_reviews", "parameters gains {:.1f} ± {:.1f} and"),
        ("pretrained", BOTTLENECK, CUT, "product_reviews", "and {:.1f} ± {:.1f}; cut to four"),
        ("convnet", "CP-ResNet, stem", "ResNet, 3 blocks", "accuracy", "one more block (+{:.1f} ± {:.1f})"),
        ("convnet", "CP-ResNet, stem", "ResNet", "accuracy", "{:.1f} ± {:.1f} points over max pooling"),
        (
            "convnet",
            "CP-ResNet, global",
            "ResNet",
            "accuracy",
            "{:.1f} ± {:.1f} over the final average",
        ),
    ],
)
def test_the_claims_are_what_results_hold(name, arm, control, metric, said):
    mean, half = difference(name, arm, control, metric)
    lower = metric == "loss"
    assert ("-{" in said) == (mean < 0 and not lower)
    assert said.format(abs(mean), half) in README


def difference(name: str, arm: str, control: str, metric: str) -> tuple[float, float]:
    """Of five seeds, paired, and half of its confidence interval."""
    experiment = Experiment.read(ROOT / "configs" / "experiments" / f"{name}.yaml")
    rows = read_results(experiment, ROOT / "results" / f"{name}.csv")
    of = next(each for each in TASKS[experiment.task].metrics if each.name == metric)
    mean, half, seeds = paired_interval(
        *(values(rows, of, each, experiment.train_samples[0]) for each in (arm, control))
    )
    assert seeds == 5
    return mean, half


@pytest.mark.parametrize(
    ("name", "arm", "control", "metric", "said"),
    [
        ("texts_long", "CP-BERT, 2 layers", "BERT, 2 layers", "loss", "as many layers, by {:.2f} ± {:.2f} nats"),
        (
            "texts_long",
            "CP-BERT, 2 layers",
            "BERT, 2 layers",
            "film_reviews",
            "is {:.1f} ± {:.1f} points ahead, but",
        ),
        ("texts_long", IN_BLOCK, "CP-BERT, 2 layers", "loss", "another {:.2f} ± {:.2f} nats ahead, and after"),
        ("texts_long", IN_BLOCK, "CP-BERT, 2 layers", "film_reviews", "(+{:.1f} ± {:.1f} points). Its"),
        ("texts_long", IN_BLOCK, "BERT, 4 layers", "loss", "four layers is {:.2f} ± {:.2f} nats"),
        ("texts_long", IN_BLOCK, "BERT, 4 layers", "film_reviews", "nats (+{:.1f} ± {:.1f} points). - Four"),
        ("texts_long", "BERT, 4 layers", "BERT, 2 layers", "film_reviews", "nats, +{:.1f} ± {:.1f} points)"),
        (
            "images",
            "CP-ViT, 1 layer",
            "ViT, 6 layers",
            "accuracy",
            "{:.1f} ± {:.1f} points ahead of six without, at",
        ),
        ("images_ablation", "Gaussian, sigma 1", "no pooling", "accuracy", "is {:.1f} ± {:.1f} points worse"),
        ("images_ablation", "mean of 3 x 3", "no pooling", "accuracy", "a mean {:.1f} ± {:.1f}, a"),
        ("images_ablation", "1 head", "depthwise convolution", "accuracy", "convolution (+{:.1f} ± {:.1f}) and"),
        ("images_ablation", GENERAL, "1 head", "accuracy", "and {:.1f} ± {:.1f} points behind a general"),
        ("texts_ablation", FOUR, f"{FOUR}, equal weights", "loss", "weights ({:.2f} ± {:.2f} nats behind)"),
        ("texts_ablation", FOUR, f"{FOUR}, weights only, sigma 0.7", "loss", "for all (+{:.2f} ± {:.2f})"),
        ("texts_ablation", "1 head", GENERAL, "loss", "and {:.2f} ± {:.2f} behind the general"),
        ("texts_ablation", "1 head", "1 head, sizes only", "loss", "gain it {:.2f} ± {:.2f} nats"),
        ("texts_ablation", "1 head", "1 head, weights only, sigma 0.7", "loss", "cost it {:.2f} ± {:.2f}."),
        ("texts_ablation", "1 head", "no pooling", "film_reviews", "{:.1f} ± {:.1f} behind no pooling, and"),
        ("texts_ablation", "1 head", "1 head, sizes only", "film_reviews", "and {:.1f} ± {:.1f} behind itself"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 4 layers", "loss", "are {:.2f} ± {:.2f} nats ahead of four"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 4 layers", "film_reviews", "them (+{:.1f} ± {:.1f} points)"),
        ("texts", "CP-BERT, 2 layers", "BERT, 2 layers", "loss", "steps it was by {:.2f} ± {:.2f}"),
        ("texts", "CP-BERT, 1 layer", "BERT, 6 layers", "loss", "pooling is {:.2f} ± {:.2f} nats ahead of six"),
        ("texts", "CP-BERT, 1 layer", "BERT, 6 layers", "film_reviews", "from six (-{:.1f} ± {:.1f})"),
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "loss", "two are {:.2f} ± {:.2f} ahead"),
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "film_reviews", "are {:.1f} ± {:.1f} points ahead of six"),
        ("texts", "CP-BERT, 2 layers", "BERT, 2 layers", "film_reviews", "from two (+{:.1f} ± {:.1f})"),
        ("texts", ONE_IN_BLOCK, "CP-BERT, 1 layer", "loss", "one layer (by {:.2f} ± {:.2f} nats"),
        ("texts", ONE_IN_BLOCK, "CP-BERT, 1 layer", "film_reviews", "and {:.1f} ± {:.1f} points) and with two"),
        ("texts", IN_BLOCK, "CP-BERT, 2 layers", "loss", "with two ({:.2f} ± {:.2f} and"),
        ("texts", IN_BLOCK, "CP-BERT, 2 layers", "film_reviews", "and {:.1f} ± {:.1f}). One layer"),
        ("texts", ONE_IN_BLOCK, "BERT, 6 layers", "loss", "then {:.2f} ± {:.2f} nats ahead of BERT's six"),
        ("texts", ONE_IN_BLOCK, "BERT, 6 layers", "film_reviews", "(+{:.1f} ± {:.1f} points), two are"),
        ("texts", IN_BLOCK, "BERT, 6 layers", "loss", "two are {:.2f} ± {:.2f} nats and"),
        ("texts", IN_BLOCK, "BERT, 6 layers", "film_reviews", "nats and {:.1f} ± {:.1f} points ahead. With"),
        ("texts", FOUR_IN_BLOCK, "CP-BERT, 4 layers", "loss", "the gain is {:.2f} ± {:.2f} nats"),
        ("texts", FOUR_IN_BLOCK, "CP-BERT, 4 layers", "film_reviews", "nats (-{:.1f} ± {:.1f} points), and"),
        ("texts", FIRST_BLOCK, FOUR_IN_BLOCK, "loss", "alone it is {:.2f} ± {:.2f} nats lower"),
        ("texts", FIRST_BLOCK, "BERT, 6 layers", "film_reviews", "they are {:.1f} ± {:.1f} points ahead of BERT's"),
        (
            "images_ablation",
            DEEP.format("each"),
            "4 layers, no pooling",
            "accuracy",
            "before each gains {:.1f} ± {:.1f}",
        ),
        (
            "images_ablation",
            DEEP.format("each"),
            DEEP.format("the first"),
            "accuracy",
            "{:.1f} ± {:.1f} more than before",
        ),
        (
            "images_ablation",
            DEEP.format("each"),
            DEEP.format("the first two"),
            "accuracy",
            "from them (+{:.1f} ± {:.1f})",
        ),
        ("images_ablation", FOUR, f"{FOUR}, equal weights", "accuracy", "four heads lose {:.1f} ± {:.1f} points"),
        ("images_ablation", FACTORED, f"{FACTORED}, sizes only", "accuracy", "predictor {:.1f} ± {:.1f}) and one"),
        ("images_ablation", "1 head", "1 head, sizes only", "accuracy", "one head {:.1f} ± {:.1f}. Sizes"),
        (
            "images_ablation",
            FOUR,
            f"{FOUR}, {ONE_SIZE}",
            "accuracy",
            "four heads (+{:.1f} ± {:.1f}, with",
        ),
        ("images_ablation", FACTORED, f"{FACTORED}, {ONE_SIZE}", "accuracy", "+{:.1f} ± {:.1f}) nor"),
        ("images_ablation", "1 head", f"1 head, {ONE_SIZE}", "accuracy", "to one (+{:.1f} ± {:.1f})"),
        ("images_ablation", "4 heads", "1 head", "accuracy", "Four heads are {:.1f} ± {:.1f} points ahead of one"),
        ("images_ablation", "Gaussian, sigma 0.5", "no pooling", "accuracy", "from it (-{:.1f} ± {:.1f})"),
        ("images_ablation", FOUR, "depthwise convolution", "accuracy", "four are {:.1f} ± {:.1f} points ahead"),
        ("images_ablation", FOUR, GENERAL, "accuracy", "and operations (+{:.1f} ± {:.1f})"),
        ("images_ablation", f"4 heads, 32 {CHANNELS}", "4 heads", "accuracy", "(32: -{:.1f} ± {:.1f} points)"),
        ("images_ablation", FACTORED, "4 heads", "accuracy", "loses nothing (+{:.1f} ± {:.1f})"),
        ("images_ablation", FOUR, f"{FOUR}, pooling the block", "accuracy", "costs {:.1f} ± {:.1f} points here"),
        ("images_ablation", FOUR, f"{FOUR}, a gate", "accuracy", "the gate costs {:.1f} ± {:.1f} points"),
        ("images_ablation", FOUR, f"{FOUR}, range 0.15", "accuracy", "distinguishable from it (+{:.1f} ± {:.1f}"),
        ("images_ablation", FOUR, f"{FOUR}, range 0.6", "accuracy", "and -{:.1f} ± {:.1f})"),
        ("pretrained", f"CP-{CUT}", CUT, "film_reviews", "help here: -{:.1f} ± {:.1f} points on film"),
        ("pretrained", f"CP-{CUT}", CUT, "product_reviews", "reviews, -{:.1f} ± {:.1f} on ratings"),
        ("pretrained", f"CP-{CUT}, pooling the block", CUT, "film_reviews", "block: -{:.1f} ± {:.1f} points"),
        ("pretrained", f"CP-{CUT}, pooling the block", CUT, "product_reviews", "and -{:.1f} ± {:.1f} of rho."),
        ("pretrained", BOTTLENECK, CUT, "film_reviews", "help: {:.1f} ± {:.1f} points on film"),
        ("pretrained", BOTTLENECK, CUT, "product_reviews", "and {:.1f} ± {:.1f} of rho, with"),
        ("pretrained", BOTTLENECK, CUT, "hidden", "that is {:.4f} ± {:.4f} lower"),
        ("pretrained", CUT, "MiniLM, 6 layers", "product_reviews", "{:.1f} ± {:.1f} points of rho behind six"),
        ("pretrained", CUT, f"{CUT}, not distilled", "product_reviews", "brings back {:.1f} ± {:.1f} of that"),
        ("pretrained", CUT, f"{CUT}, not distilled", "film_reviews", "measured (+{:.1f} ± {:.1f})"),
        ("texts_ablation", FOUR, "no pooling", "loss", "offsets are {:.2f} ± {:.2f} nats ahead of no"),
        ("texts_ablation", FOUR, "depthwise convolution", "loss", "of no pooling, {:.2f} ± {:.2f} of a depthwise"),
        ("texts_ablation", FOUR, "Gaussian, sigma 0.7", "loss", "{:.2f} ± {:.2f} of a fixed Gaussian"),
        ("texts_ablation", FOUR, "mean of 3", "loss", "{:.2f} ± {:.2f} of a mean of three"),
        ("texts_ablation", FOUR, GENERAL, "loss", "and {:.2f} ± {:.2f} of a general"),
        ("texts_ablation", FOUR, "4 heads", "loss", "four heads lose {:.2f} ± {:.2f}"),
        ("texts_ablation", FOUR, "1 head, offsets", "loss", "one head with offset loses {:.2f} ± {:.2f}"),
        ("texts_ablation", FOUR, "2 heads, offsets", "loss", "from four ({:.2f} ± {:.2f})"),
        ("texts_ablation", "1 head", "no pooling", "loss", "without offset, is {:.2f} ± {:.2f} nats ahead"),
        ("texts_ablation", "1 head", "Gaussian, sigma 0.7", "loss", "Gaussian (-{:.2f} ± {:.2f})"),
        ("texts_ablation", "1 head", "mean of 3", "loss", "the mean (+{:.2f} ± {:.2f})"),
        ("texts_ablation", FOUR, "no pooling", "film_reviews", "from no pooling (-{:.1f} ± {:.1f} points)"),
        ("texts_ablation", FOUR, "1 head", "film_reviews", "which is {:.1f} ± {:.1f} points behind them"),
        ("texts_ablation", FOUR, f"{FOUR}, pooling the block", "loss", "another {:.2f} ± {:.2f} nats ahead, and"),
        ("texts_ablation", f"{FOUR}, pooling the block", FOUR, "film_reviews", "(+{:.1f} ± {:.1f} points)"),
        ("texts_ablation", FOUR, f"{FOUR}, before the first layer only", "loss", "({:.2f} ± {:.2f} nats behind)"),
        ("texts_ablation", FOUR, f"{FOUR}, range 0.3", "loss", "range loses {:.2f} ± {:.2f} nats"),
        ("texts_ablation", FOUR, f"{FOUR}, a gate", "loss", "the gate costs {:.2f} ± {:.2f} nats"),
        ("texts_ablation", f"{FOUR}, factored predictor", FOUR, "loss", "distinguishable (+{:.2f} ± {:.2f} nats,"),
        ("texts_ablation", f"{FOUR}, factored predictor", FOUR, "film_reviews", "nats, -{:.1f} ± {:.1f} points)"),
        ("convnet", "CP-ResNet, both", STEM, "accuracy", "added to the stem it loses {:.1f} ± {:.1f} points"),
    ],
)
def test_what_is_said_beside_the_tables_is_what_results_hold(name, arm, control, metric, said):
    mean, half = difference(name, arm, control, metric)
    assert said.format(abs(mean), half) in " ".join(RESULTS.split())


@pytest.mark.parametrize(
    ("metric", "arms", "said"),
    [
        ("film_reviews", {"texts_long": STOCK, "texts": STOCK}, "({:.1f} and {:.1f} %)"),
        ("film_reviews", {"texts_alternatives": STOCK, "texts": STOCK}, "to {:.1f} %, against {:.1f} %"),
        ("accuracy", {"images_ablation": "4 layers, no pooling"}, "it reaches {:.1f} %"),
    ],
)
def test_the_means_beside_the_tables_are_what_results_hold(metric, arms, said):
    assert said.format(*(mean(name, arm, metric) for name, arm in arms.items())) in " ".join(RESULTS.split())


def test_the_losses_of_pooled_blocks_are_what_results_hold():
    four, one = (mean("texts", arm, "loss") for arm in (FOUR_IN_BLOCK, ONE_IN_BLOCK))
    assert f"({four:.2f} and {one:.2f})" in RESULTS


def mean(name: str, arm: str, metric: str) -> float:
    """Over five seeds."""
    experiment = Experiment.read(ROOT / "configs" / "experiments" / f"{name}.yaml")
    of = next(each for each in TASKS[experiment.task].metrics if each.name == metric)
    reached = values(read_results(experiment, ROOT / "results" / f"{name}.csv"), of, arm, experiment.train_samples[0])
    assert len(reached) == 5
    return statistics.mean(reached.values())


def test_what_a_classifier_of_the_mean_gains_is_what_results_hold():
    experiment = Experiment.read(ROOT / "configs" / "experiments" / "texts_alternatives.yaml")
    rows, metrics = (
        read_results(experiment, ROOT / "results" / "texts_alternatives.csv"),
        TASKS["texts_by_mean"].metrics,
    )
    gains = {}
    for arm in experiment.arms:
        mean, half, seeds = paired_interval(*(values(rows, metric, arm, 10000) for metric in reversed(metrics[1:])))
        assert seeds == 5
        gains[arm] = f"{abs(mean):.1f} ± {half:.1f}"
    said = " ".join(RESULTS.split())
    assert f"CP-BERT with [CLS] pooled gains {gains['CP-BERT, 2 layers, [CLS] pooled']} points by it" in said
    assert f"the Longformer loses {gains[LONGFORMER]}." in said


def test_the_table_of_learning_rates_is_what_results_hold():
    with (ROOT / "results" / "pool_learning_rate.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    cells = {(row["model"], float(row["pool_learning_rate"])): [] for row in rows}
    for row in rows:
        cells[row["model"], float(row["pool_learning_rate"])].append(row)
    for (model, rate), runs in cells.items():
        assert sorted(run["seed"] for run in runs) == ["0", "1", "2"]
        accuracy = 100 * statistics.mean(float(run["validation_accuracy"]) for run in runs)
        gate = f"{statistics.mean(float(run['mean_absolute_gate']) for run in runs):.4f}" if rate else "-"
        assert f"| {model} | {f'{rate:g}' if rate else '-'} | {accuracy:.2f} | {gate} |" in RESULTS


def test_the_table_of_distillation_is_what_results_hold():
    with (ROOT / "results" / "distillation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    teacher, *students = rows
    assert f"({100 * float(teacher['validation_accuracy']):.2f} %)" in RESULTS
    for model in dict.fromkeys(row["model"] for row in students):
        cells = []
        for helped in (False, True):
            runs = [row for row in students if row["model"] == model and bool(row["teacher"]) == helped]
            assert [row["seed"] for row in runs] == ["1", "2", "3"]
            accuracies = [100 * float(row["validation_accuracy"]) for row in runs]
            cells.append(f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}")
        assert f"| {model} | {cells[0]} | {cells[1]} |" in RESULTS


def pools_table() -> str:
    lines = [
        "| model | layer | head | sigma at the start | sigma | its spread | spread of log-weights | offset "
        "| own weight | effective tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    figures = "sigma_at_start sigma sigma_spread weight_spread offset own_weight effective_tokens".split()
    for name, title in (("images_ablation", "CP-ViT"), ("texts_ablation", "CP-BERT")):
        for row in results(f"{name}_pools"):
            cells = [f"{float(row[each]):.2f}" for each in figures]
            place = f"{title}, {row['arm']} | {int(row['layer']) + 1} | {int(row['head']) + 1}"
            lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_pools_is_what_results_hold():
    assert pools_table() in RESULTS


def results(name: str) -> list[dict[str, str]]:
    with (ROOT / "results" / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if "rounds" in rows[0]:  # times, of which the text says how they were measured
        assert {row["threads"] for row in rows} == {"2"} and min(int(row["rounds"]) for row in rows) >= 5
    return rows


def cost_table(rows: list[dict[str, str]]) -> str:
    lines = [
        "| block | tokens | forward, one head | two heads | four heads | one, spread | one, dense | FLOPs "
        "| training, one head | two heads | four heads |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, tokens in dict.fromkeys((row["model"], row["tokens"]) for row in rows):
        own = {(row["pass"], row["pool"]): row for row in rows if (row["model"], row["tokens"]) == (model, tokens)}
        cells = [(SPREAD, "ratio"), (DENSE, "ratio"), ("one head", "flops_ratio")]
        cells = [("forward", pool, name) for pool, name in [*((pool, "ratio") for pool in HEADS), *cells]]
        cells += [("training", pool, "ratio") for pool in HEADS]
        figures = [own[way, pool][name] if (way, pool) in own else None for way, pool, name in cells]
        figures = ["-" if figure is None else f"{100 * float(figure):.1f}" for figure in figures]
        lines.append(f"| {model} | {tokens} | {' | '.join(figures)} |")
    return "\n".join(lines)


def models_table(rows: list[dict[str, str]]) -> str:
    lines = ["| models | forward | training |", "|---|---|---|"]
    for group in dict.fromkeys(row["group"] for row in rows):
        own = [row for row in rows if row["group"] == group]
        stock = own[0]
        for name in dict.fromkeys(row["model"] for row in own):
            layers = next(int(row["layers"]) for row in own if row["model"] == name)
            family = name.split(",")[0].removeprefix("CP-") == stock["model"].split(",")[0]
            if name == stock["model"] or (family and "layers" in name and 3 * layers != 2 * int(stock["layers"])):
                continue
            times = {row["pass"]: 1 / float(row["ratio"]) for row in own if row["model"] == name}
            lines.append(f"| {group}: {name} | {times['forward']:.2f} | {times['training']:.2f} |")
    return "\n".join(lines)


def short_cost_table(rows: list[dict[str, str]]) -> str:
    lines = [
        "| block | tokens | forward, one head | four heads | training, one head | four heads | FLOPs, one head |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in cost_table(rows).splitlines()[2:]:
        block, tokens, one, _, four, _, _, flops, one_trained, _, four_trained = line.strip("| ").split(" | ")
        if tokens not in ("2048", "8192"):
            lines.append(f"| {block} | {tokens} | {one} | {four} | {one_trained} | {four_trained} | {flops} |")
    return "\n".join(lines)


def short_models_table(rows: list[dict[str, str]]) -> str:
    times = dict(line.strip("| ").split(" | ", maxsplit=1) for line in models_table(rows).splitlines()[2:])
    lines = [
        "| two thirds of the layers of | without pooling, forward | in training | with, forward | in training |",
        "|---|---|---|---|---|",
    ]
    for name, ratios in times.items():
        group, model = name.split(": ")
        if model.endswith("8 layers") or model.endswith(" 4 layers"):
            if model.startswith("CP-"):
                lines[-1] += f" {ratios} |"
            else:
                lines.append(f"| {group} | {ratios} |")
    return "\n".join(lines)


def profile_table(rows: list[dict[str, str]]) -> str:
    parts = ("pooling", "convolution", "prediction", "mixing", "arithmetic", "traffic")
    lines = [
        "| block | tokens | pooling | convolution | rest of the prediction | mixing | arithmetic | traffic |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [f"{float(row[part]):.1f}" for part in parts]
        lines.append(f"| {row['model']} | {row['tokens']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def error_table(rows: list[dict[str, str]]) -> str:
    quantities = ("pooled", "gradient_hidden_states", "gradient_weights", "gradient_sigma", "gradient_offsets")
    lines = ["| sizes | pooled | hidden states | weights | sizes | offsets |", "|---|---|---|---|---|---|"]
    for implementation in ("linear", "dense"):
        for sizes in ("initial", "all scales"):
            own = [row for row in rows if (row["implementation"], row["sizes"]) == (implementation, sizes)]
            worst = [max(float(row[quantity] or 0) for row in own) for quantity in quantities]
            lines.append(f"| {implementation}, {sizes} | {' | '.join(f'{error:.0e}' for error in worst)} |")
    return "\n".join(lines)


def repeat_table() -> str:
    """How far the ratios of a second run are from the first run's: of whole models relative to them; of the pooling,
    which is a share of a block's time, relative to the block with its pooling."""
    lines = ["| suite | pass | ratios | within 3 % | median, % | largest, % |", "|---|---|---|---|---|---|"]
    for suite in ("pooling", "models"):
        pairs = list(zip(results(f"benchmark_{suite}"), results(f"benchmark_{suite}_repeat")))
        for way in ("forward", "training"):
            apart = []
            for first, second in pairs:
                what = ("pass", "group", "model", "layers", "tokens", "pool")
                assert [first.get(name) for name in what] == [second.get(name) for name in what]
                old, new = (float(row["ratio"]) + (suite == "pooling") for row in (first, second))
                if first["pass"] == way and old != 1:
                    apart.append(100 * abs(new / old - 1))
            figures = f"{sum(each < 3 for each in apart)} | {statistics.median(apart):.1f} | {max(apart):.1f}"
            lines.append(f"| {suite} | {way} | {len(apart)} | {figures} |")
    return "\n".join(lines)


def test_what_fewer_layers_save_is_what_results_hold():
    rows = [row for row in results("benchmark_models") if row["pass"] == "forward"]
    stock = {
        row["group"]: int(row["layers"]) for row in reversed(results("benchmark_models")) if row["ratio"] == "1.0"
    }
    gains: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        if 3 * int(row["layers"]) == 2 * stock[row["group"]] and "one head" not in row["model"]:
            gains[row["model"].startswith("CP-")].append(1 / float(row["ratio"]))
    assert len(gains[True]) == len(gains[False]) == 5
    pooled, plain = (f"{min(each):.2f} to {max(each):.2f}" for each in (gains[True], gains[False]))
    assert f"have {pooled} times the throughput, without it {plain} (forward" in README


def test_the_table_of_the_repeat_is_what_results_hold():
    assert repeat_table() in RESULTS
    # and what the README makes of it: all of whole models, and all but one of the pooling
    assert [line.split(" | ")[2:4] for line in repeat_table().split("\n")[2:]] == [
        ["35", "34"],
        ["35", "35"],
        ["41", "41"],
        ["41", "41"],
    ]


def runtimes_table(rows: list[dict[str, str]]) -> str:
    lines = [
        "| model | compiled | ONNX Runtime | int8 | accuracy | int8 | weights, MB | int8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["runtime"]: row for row in rows if row["model"] == model}
        plain, int8 = own["PyTorch"], own["ONNX Runtime, int8"]
        ratios = [own[name]["ratio"] for name in ("PyTorch, compiled", "ONNX Runtime", "ONNX Runtime, int8")]
        cells = [f"{float(ratio):.2f}" for ratio in ratios]
        cells += [f"{100 * float(row['accuracy']):.1f}" if row["accuracy"] else "-" for row in (plain, int8)]
        cells += [f"{float(row['megabytes']):.1f}" for row in (plain, int8)]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_what_is_said_of_runtimes_is_what_results_hold():
    ratios = {(row["model"], row["runtime"]): f"{float(row['ratio']):.2f}" for row in results("runtimes")}
    short, long = (ratios[f"CP-BERT, 4 layers, {tokens} tokens", "ONNX Runtime, int8"] for tokens in (64, 512))
    compiled = {model: ratio for (model, runtime), ratio in ratios.items() if runtime == "PyTorch, compiled"}
    said = " ".join(README.split())
    assert f"takes {short} to {long} of PyTorch's time for CP-BERT" in said
    assert f"makes small CP-ResNets faster ({compiled['CP-ResNet']})" in said
    assert f"CP-BERT at 512 tokens ({compiled['CP-BERT, 4 layers, 512 tokens']})" in said
    assert f"CP-ViT-S/16 ({compiled['CP-ViT-S/16']}) and a small CP-ViT ({compiled['CP-ViT, 2 layers']};" in said


@pytest.mark.parametrize(
    ("table", "name", "text"),
    [
        (cost_table, "benchmark_pooling", RESULTS),
        (models_table, "benchmark_models", RESULTS),
        (short_cost_table, "benchmark_pooling", README),
        (short_models_table, "benchmark_models", README),
        (profile_table, "pooling_profile", RESULTS),
        (error_table, "linear_pool_error", RESULTS),
        (runtimes_table, "runtimes", RESULTS),
    ],
    ids=["pooling", "models", "pooling, short", "models, short", "profile", "error", "runtimes"],
)
def test_the_tables_of_costs_are_what_results_hold(table, name, text):
    assert table(results(name)) in text
