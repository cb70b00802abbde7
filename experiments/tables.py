# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Writes the tables of README.md, docs/ and results/ anew from the files in results/: `make tables`.

A table stands in a page between two comments, `<!-- table NAME -->` and `<!-- end -->`, and is made by the function of
that name in [`TABLES`]. With `--check` nothing is written: pages whose tables are not those of the files are named,
and the exit status is 1.
"""

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from cp_transformers.benchmark.pooling import ACCELERATOR_POOLS, DENSE, SPREAD
from cp_transformers.demo import digits as demo_digits, image as demo_image, text as demo_text
from cp_transformers.families import FAMILIES, Family
from cp_transformers.training.arguments import Loader

from .grids import Experiment, paired_interval, read_results, summary, times_path, values
from .tasks import TASKS
from .times import times_as_fast


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
BLOCK = re.compile(r"(<!-- table ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CONFIGS = {path.stem: path for path in sorted((ROOT / "experiments" / "configs").glob("*.yaml"))}


def pages() -> list[Path]:
    """The pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(RESULTS.glob("*.md"))]


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def read_csv(name: str) -> list[dict[str, str]]:
    """The rows of a file of results.

    Raises:
        ValueError: it has times that were measured with other than two threads, or in fewer than five rounds.
    """
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if "rounds" in rows[0]:
        if {row["threads"] for row in rows} != {"2"} or min(int(row["rounds"]) for row in rows) < 5:
            raise ValueError(f"results/{name}.csv is to have times of two threads, each of five rounds or more.")
    return rows


# ---------------------------------------------------------------------------------------------------------- families

# The end of a class's name, and how it is called in the table of families.
HEADS = {
    "ForPreTraining": "pretraining",
    "ForMaskedLM": "masked LM",
    "ForNextSentencePrediction": "next sentence",
    "ForSequenceClassification": "sequence classification",
    "ForTokenClassification": "token classification",
    "ForMultipleChoice": "multiple choice",
    "ForQuestionAnswering": "question answering",
    "ForImageClassification": "image classification",
    "ForImageClassificationWithTeacher": "image classification, distilled",
    "ForMaskedImageModeling": "masked image modelling",
    "ForSemanticSegmentation": "semantic segmentation",
    "ModelWithProjection": "with projection",
    "Backbone": "backbone",
}
MEASURED = {"bert", "vit", "dinov2", "resnet"}  # of which figures are in results/


def families_table() -> str:
    """The families by their heads, and their classes."""
    by_heads: dict[tuple[str, ...], list[Family]] = {}
    for family in FAMILIES.values():
        by_heads.setdefault(tuple(sorted(family.config_class.heads)), []).append(family)

    def row(families: Sequence[Family]) -> list[str]:
        types = [f"`{name}`" + " *" * (name in MEASURED) for each in families for name in each.source_types]
        classes = [f"`{each.config_class.model_name('For').removesuffix('For')}...`" for each in families]
        heads = [HEADS[head] for head in families[0].config_class.heads if head != "Model"]
        return [", ".join(types), ", ".join(classes), ", ".join(heads)]

    return markdown(["model type", "classes", "heads, besides the bare model"], map(row, by_heads.values()))


# ------------------------------------------------------------------------------------------------------------- demos


@cache
def read_demo(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"demo_{name}.json").read_text(encoding="utf-8"))


def demo_output(name: str) -> str:
    """A demo's output, without the sentence's tokens, as a block of text."""
    module: Any = {"text": demo_text, "image": demo_image, "digits": demo_digits}[name]
    return "```text\n" + "\n\n".join(module.report(read_demo(name)).split("\n\n")[:2]) + "\n```"


def recipe_table() -> str:
    """The sentence encoder of the guide to faster models, before and after it has learned."""
    results = json.loads((RESULTS / "halved_minilm.json").read_text(encoding="utf-8"))
    rows = [[when, f"{found['embedding']:.3f}", f"{found['rho']:.3f}"] for when, found in results["metrics"].items()]
    return markdown(["distillation", "1 - cosine", "rho"], rows)


def seeds_table(name: str) -> str:
    """How much nearer to the full model ContextPool is than the means, in each seed of a demo."""
    rows = []
    for seed, run in enumerate((read_demo(name), read_demo(f"{name}_seed_1"))):
        gains = run.get("gains_over_means") or {"embedding": [run["gain_over_means"], run["gain_standard_error"]]}
        rows += [[seed, what, f"{gain:.4f} ± {error:.4f}"] for what, (gain, error) in gains.items()]
    return markdown(["seed", "of", "nearer than the means by"], rows)


def dinov2_table() -> str:
    """A pretrained DINOv2 on photographs, stock and converted."""
    results = json.loads((RESULTS / "dinov2_small.json").read_text(encoding="utf-8"))
    onnx, *converted = results["largest_differences"].values()

    def between(smallest: str, largest: str | None = None) -> str:
        values = [[layer[name] for layer in results["layers"]] for name in (smallest, largest or smallest)]
        return f"{min(values[0]):.2f} to {max(values[1]):.2f}"

    rows = [
        ["largest number in the last hidden states", f"{results['largest_hidden_state']:.1f}"],
        ["largest difference, stock model and ONNX Runtime", f"{onnx:.1e}"],
        ["largest differences, converted and stock model", " and ".join(map(str, converted))],
        ["support sizes of all layers, in patches", between("smallest", "largest")],
        ["support sizes that are possible", "{} to {}".format(*results["possible_sizes"])],
        ["their means in the layers", between("mean")],
        ["their spread over a photograph, in the layers", between("spread_over_a_photograph")],
        ["correlation with those of another draw of the predictors", between("correlation_with_another_draw")],
    ]
    return markdown(["what", "measured"], rows)


# ------------------------------------------------------------------------------------------------------- experiments


@cache
def experiment(name: str) -> tuple[Experiment, Any]:
    """An experiment as its file says, and its runs."""
    read = Experiment(**yaml.load(CONFIGS[name].read_text(encoding="utf-8"), Loader))
    return read, read_results(read, RESULTS / f"{name}.csv")


def experiment_table(name: str) -> str:
    """The two tables of an experiment: what each model reaches, and the differences."""
    return summary(*experiment(name), times_as_fast(times_path(RESULTS / f"{name}.csv")))


def core_hours_table() -> str:
    """The time that the experiments took."""
    hours = {}
    for name in CONFIGS:
        with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            hours[name] = sum(float(row["seconds"]) for row in csv.DictReader(file)) / 3600
    rows = [[f"`{name}`", f"{value:.1f}"] for name, value in hours.items()]
    return markdown(["experiment", "core hours"], [*rows, ["all", f"{sum(hours.values()):.0f}"]])


IN_BLOCK = "CP-BERT, 2 layers, pooling the block"
FIRST_BLOCK = "CP-BERT, 4 layers, pooling the first block"
GENERAL = "bottleneck of as many parameters"
SHIFTED = "4 heads, Gaussians of sigma 0.7 at learned distances"
FOUR, FACTORED = "4 heads, offsets", "4 heads, factored predictor"
LONGFORMER, FUNNEL = "Longformer, 2 layers, window of 8", "Funnel, 1 + 1 layers and a decoder of 1"

# By the claim: experiment (and number of training examples), model, what it is compared with, metric.
CLAIMS: dict[str, list[tuple[str, str, str, str]]] = {
    "fewer tokens": [
        ("embeddings", "ContextPool", "means", "error"),
        ("embeddings", "ContextPool before 1", "4 layers", "error"),
        ("embeddings", "ContextPool before 3", "5 layers", "error"),
        ("embeddings", "ContextPool", "weights of the group alone", "error"),
        ("embeddings", "ContextPool", "means", "film_reviews"),
        ("embeddings", "ContextPool before 1", "4 layers", "film_reviews"),
        ("embeddings", "ContextPool before 3", "5 layers", "film_reviews"),
        ("embeddings", "ContextPool", "means", "product_reviews"),
        ("embeddings", "ContextPool before 1", "4 layers", "product_reviews"),
        ("embeddings", "ContextPool before 3", "5 layers", "product_reviews"),
        ("photographs", "ContextPool", "means", "error"),
        ("photographs", "ContextPool before 7", "means before 7", "error"),
        ("photographs", "ContextPool", "means", "digits"),
        ("photographs", "ContextPool before 7", "means before 7", "digits"),
    ],
    "fewer layers": [
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "loss"),
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "film_reviews"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 4 layers", "loss"),
        ("texts_long", IN_BLOCK, "BERT, 4 layers", "loss"),
        ("texts_long", FIRST_BLOCK, "BERT, 4 layers", "film_reviews"),
        ("images 600", "CP-ViT, 2 layers", "ViT, 6 layers", "accuracy"),
        ("images 2000", "CP-ViT, 1 layer", "ViT, 6 layers", "accuracy"),
        ("small_images 300", "CP-ViT, 2 layers", "ViT, 1 layer", "accuracy"),
        ("small_images 1000", "CP-ViT, 2 layers", "ViT, 1 layer", "accuracy"),
    ],
    "learned pools": [
        ("images_ablation", FACTORED, f"{FACTORED}, sizes only", "accuracy"),
        ("images_ablation", FACTORED, f"{FACTORED}, weights only, sigma 0.5", "accuracy"),
        ("texts_ablation", FOUR, SHIFTED, "loss"),
        ("texts_ablation", f"{FOUR}, pooling the block", f"{SHIFTED} on the block", "loss"),
        ("texts_long", IN_BLOCK, f"2 layers, {SHIFTED.removeprefix('4 heads, ')} on the block", "loss"),
    ],
    "more than a convolution": [
        ("texts_ablation", FOUR, "depthwise convolution", "loss"),
        ("texts_ablation", FOUR, GENERAL, "loss"),
        ("texts_ablation", "1 head", GENERAL, "loss"),
        ("texts_ablation", f"{FOUR}, pooling the block", f"{GENERAL} on the block", "loss"),
        ("texts_long", IN_BLOCK, f"2 layers, {GENERAL} on the block", "loss"),
        ("images_ablation", FACTORED, "depthwise convolution", "accuracy"),
        ("images_ablation", FACTORED, GENERAL, "accuracy"),
    ],
    "other models": [
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "loss"),
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "film_reviews"),
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "film_reviews_by_mean"),
        ("texts_alternatives", "CP-BERT, 2 layers", FUNNEL, "loss"),
        ("images_alternatives", "CP-ViT, 2 layers", "Swin, 2 + 2 layers", "accuracy"),
        ("images_alternatives", "CP-ViT, 2 layers", "PoolFormer, 2 + 2 layers", "accuracy"),
    ],
    "ConvNets": [
        ("convnet", "CP-ResNet, stem", "ResNet", "accuracy"),
        ("convnet", "CP-ResNet, stem", "ResNet, 3 blocks", "accuracy"),
        ("convnet", "CP-ResNet, global", "ResNet", "accuracy"),
    ],
    "pretrained": [
        ("pretrained", "CP-MiniLM, 2 layers", "MiniLM, 2 layers", "film_reviews"),
        ("pretrained", "CP-MiniLM, 2 layers", "MiniLM, 2 layers", "product_reviews"),
        ("pretrained", "CP-MiniLM, 4 layers", "MiniLM, 4 layers", "film_reviews"),
        ("pretrained", "CP-MiniLM, 4 layers", "MiniLM, 4 layers", "product_reviews"),
        ("pretrained", f"2 layers, {GENERAL} on the block", "MiniLM, 2 layers", "film_reviews"),
        ("pretrained", f"2 layers, {GENERAL} on the block", "MiniLM, 2 layers", "product_reviews"),
        ("pretrained", "MiniLM, 4 layers", "MiniLM, 4 layers, not distilled", "film_reviews"),
        ("pretrained", "MiniLM, 4 layers", "MiniLM, 4 layers, not distilled", "product_reviews"),
    ],
}


def claim_table(claim: str) -> str:
    """The comparisons that a claim rests on, by how much the first model is ahead: for a loss how much lower it is."""
    rows = []
    for place, model, control, name in CLAIMS[claim]:
        of, *size = place.split()
        grid, runs = experiment(of)
        metric = next(each for each in TASKS[grid.task].metrics if each.name == name)
        samples = int(size[0]) if size else grid.train_samples[0]
        mean, half, seeds = paired_interval(*(values(runs, metric, arm, samples) for arm in (model, control)))
        if seeds != 5:
            raise ValueError(f"results/{of}.csv has {seeds} seeds of {model!r} and {control!r}, not five.")
        title = f"{metric.title} ({samples} images)" if name == "accuracy" else metric.title
        ahead = -mean if metric.lower_is_better else mean
        rows.append([f"`{of}`", model, control, title, f"{ahead:+.{metric.decimals}f} ± {half:.{metric.decimals}f}"])
    return markdown(["experiment", "model", "against", "by", "ahead by"], rows)


# ------------------------------------------------------------------------------------------------------------- costs

POOLS = ("one head", "two heads with offsets", "four heads with offsets")


def cost_table(rows: list[dict[str, str]]) -> str:
    lines = [
        "| block | tokens | forward, one head | two heads | four heads | one, spread | one, dense | FLOPs "
        "| training, one head | two heads | four heads |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, tokens in dict.fromkeys((row["model"], row["tokens"]) for row in rows):
        own = {(row["pass"], row["pool"]): row for row in rows if (row["model"], row["tokens"]) == (model, tokens)}
        cells = [("forward", pool, "ratio") for pool in (*POOLS, SPREAD, DENSE)]
        cells += [("forward", "one head", "flops_ratio"), *(("training", pool, "ratio") for pool in POOLS)]
        figures = [
            f"{100 * float(own[way, pool][name]):.1f}" if (way, pool) in own else "-" for way, pool, name in cells
        ]
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


def gpu_cost_table(rows: list[dict[str, str]]) -> str:
    lines = [
        "| block | tokens | forward, one head | four heads | four, dense | training, one head | four heads "
        "| four, dense |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, tokens in dict.fromkeys((row["model"], row["tokens"]) for row in rows):
        own = {(row["pass"], row["pool"]): row for row in rows if (row["model"], row["tokens"]) == (model, tokens)}
        cells = [own[way, pool]["ratio"] for way in ("forward", "training") for pool in ACCELERATOR_POOLS]
        lines.append(f"| {model} | {tokens} | {' | '.join(f'{100 * float(cell):.1f}' for cell in cells)} |")
    return "\n".join(lines)


def short_gpu_cost_table(rows: list[dict[str, str]]) -> str:
    lines = ["| block | tokens | forward | dense | training | dense |", "|---|---|---|---|---|---|"]
    for line in gpu_cost_table(rows).splitlines()[2:]:
        block, tokens, _, four, dense, _, four_trained, dense_trained = line.strip("| ").split(" | ")
        if tokens not in ("2048", "8192"):
            lines.append(f"| {block} | {tokens} | {four} | {dense} | {four_trained} | {dense_trained} |")
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


def strided_table(rows: list[dict[str, str]]) -> str:
    """Throughputs in multiples of the stock model's, and what the multiplications that are left promise."""
    stock = {row["group"]: float(row["gflops"]) for row in reversed(rows)}  # the first of a group comes last
    lines = ["| model | by multiplications | forward | in training |", "|---|---|---|---|"]
    for row in rows:
        if row["pass"] == "forward" and row["ratio"] != "1.0":
            name = f"{row['group']}: {row['model']}"
            (trained,) = (
                each["ratio"]
                for each in rows
                if (each["group"], each["model"], each["pass"]) == (row["group"], row["model"], "training")
            )
            promised = stock[row["group"]] / float(row["gflops"])
            lines.append(f"| {name} | {promised:.2f} | {1 / float(row['ratio']):.2f} | {1 / float(trained):.2f} |")
    return "\n".join(lines)


def short_strided_table(rows: list[dict[str, str]]) -> str:
    lines = strided_table(rows).splitlines()
    return "\n".join([*lines[:2], *(line for line in lines[2:] if ": CP-" in line)])


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
        pairs = list(zip(read_csv(f"benchmark_{suite}"), read_csv(f"benchmark_{suite}_repeat")))
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


def runtimes_table(rows: list[dict[str, str]]) -> str:
    lines = [
        "| model | compiled | ONNX Runtime | int8 | accuracy | int8 | file, MB | int8 |",
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


def pools_table() -> str:
    lines = [
        "| model | layer | head | sigma at the start | sigma | its spread | spread of log-weights | offset "
        "| own weight | effective tokens | gate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    figures = "sigma_at_start sigma sigma_spread weight_spread offset own_weight effective_tokens".split()
    for name, title in (("images_ablation", "CP-ViT, "), ("texts_ablation", "CP-BERT, "), ("pretrained", "")):
        for row in read_csv(f"{name}_pools"):
            if name != "pretrained" or row["arm"] == "CP-MiniLM, 2 layers":
                cells = [f"{float(row[each]):.2f}" for each in figures]
                cells.append(f"{float(row['gate']):.3f}" if name == "pretrained" else "-")
                place = f"{title}{row['arm']} | {int(row['layer']) + 1} | {int(row['head']) + 1}"
                lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short_embeddings_table() -> str:
    """The principal arms of `embeddings`: how fast each is, and the means of its figures.

    Raises:
        ValueError: one of them, but the first, which learns nothing, was not run with five seeds.
    """
    grid, runs = experiment("embeddings")
    speeds = times_as_fast(times_path(RESULTS / "embeddings.csv"))
    metrics = [each for each in TASKS[grid.task].metrics if each.name not in ("rho", "neighbours")]
    arms = {
        "all layers and tokens": "all layers and tokens",
        "5 layers": "5 layers",
        "4 layers": "4 layers",
        "means": "means, before 2",
        "ContextPool before 3": "ContextPool, before 3",
        "ContextPool": "ContextPool, before 2",
        "ContextPool before 1": "ContextPool, before 1",
    }
    rows = []
    for arm, title in arms.items():
        cells = []
        for metric in metrics:
            reached = values(runs, metric, arm, grid.train_samples[0]).values()
            if len(reached) != 5 and grid.arms[arm].get("distilled", True):
                raise ValueError(f"results/embeddings.csv has {len(reached)} seeds of {arm!r}, not five.")
            cells.append(f"{statistics.mean(reached):.{min(metric.decimals, 3)}f}")
        rows.append([title, f"{speeds[arm]:.2f}", *cells])
    return markdown(["model", "times as fast", *(metric.title for metric in metrics)], rows)


def kept_tokens_table(number: int = 12) -> str:
    """The tokens with the largest shares of their pairs' pools, beside those with the smallest."""
    rows = [(f"`{row['token']}`", f"{float(row['share']):.2f}") for row in read_csv("kept_tokens")]
    pairs = zip(rows[:number], reversed(rows[-number:]))
    return markdown(["kept most", "share", "fades most", "share"], [[*kept, *faded] for kept, faded in pairs])


TABLES: dict[str, Callable[[], str]] = {
    "families": families_table,
    "embeddings, short": short_embeddings_table,
    "recipe": recipe_table,
    **{f"demo output {name}": partial(demo_output, name) for name in ("text", "image", "digits")},
    **{f"demo seeds {name}": partial(seeds_table, name) for name in ("text", "image")},
    **{f"experiment {name}": partial(experiment_table, name) for name in CONFIGS},
    **{f"claim {claim}": partial(claim_table, claim) for claim in CLAIMS},
    "core hours": core_hours_table,
    "dinov2": dinov2_table,
    "pools": pools_table,
    "kept tokens": kept_tokens_table,
    "costs pooling": lambda: cost_table(read_csv("benchmark_pooling")),
    "costs pooling, short": lambda: short_cost_table(read_csv("benchmark_pooling")),
    "costs models": lambda: models_table(read_csv("benchmark_models")),
    "costs models, short": lambda: short_models_table(read_csv("benchmark_models")),
    "costs strided": lambda: strided_table(read_csv("benchmark_strided")),
    "costs strided, short": lambda: short_strided_table(read_csv("benchmark_strided")),
    "costs pooling on a GPU": lambda: gpu_cost_table(read_csv("benchmark_pooling_cuda")),
    "costs pooling on a GPU, short": lambda: short_gpu_cost_table(read_csv("benchmark_pooling_cuda")),
    "costs models on a GPU": lambda: models_table(read_csv("benchmark_models_cuda")),
    "costs models on a GPU, short": lambda: short_models_table(read_csv("benchmark_models_cuda")),
    "costs profile": lambda: profile_table(read_csv("pooling_profile")),
    "costs repeat": repeat_table,
    "errors linear": lambda: error_table(read_csv("linear_pool_error")),
    "runtimes": lambda: runtimes_table(read_csv("runtimes")),
}


def renewed(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        ValueError: there is no table of a name, or a block has no end.
    """

    def block(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"There is no table {found[2]!r}; there are {', '.join(TABLES)}.")
        return f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}"

    if text.count("<!-- table ") != len(BLOCK.findall(text)):
        raise ValueError("A table has no '<!-- end -->'.")
    return BLOCK.sub(block, text)


def main(args: Sequence[str] | None = None) -> int:
    """The command `python -m experiments.tables`."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables", description="Write all tables anew.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a table is not the files'")
    check = parser.parse_args(args).check
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'Not those of the files, run make tables' if check else 'Written'}: {', '.join(stale)}.")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
