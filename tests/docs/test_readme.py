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
from experiment_cases import experiment_of

from cp_transformers import CPBertConfig, CPResNetConfig, CPViTConfig
from cp_transformers.benchmark.pooling import ACCELERATOR_POOLS, DENSE, SPREAD
from cp_transformers.demo import digits as demo_digits, image as demo_image, text as demo_text
from experiments.grids import paired_interval, read_results, values
from experiments.tasks import TASKS


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
FASTER_MODELS = (ROOT / "docs" / "faster_models.md").read_text(encoding="utf-8")
HEADS = ("one head", "two heads with offsets", "four heads with offsets")
GENERAL = "bottleneck of as many parameters"
BOTTLENECK = f"2 layers, {GENERAL} on the block"
IN_BLOCK = "CP-BERT, 2 layers, pooling the block"
FIRST_BLOCK = "CP-BERT, 2 layers, pooling the first block"
SHIFTED = "4 heads, Gaussians of sigma 0.7 at learned distances"
SHIFTED_IN_BLOCK = "2 layers, Gaussians of sigma 0.7 at learned distances on the block"
FOUR, FACTORED, ONE_SIZE = "4 heads, offsets", "4 heads, factored predictor", "weights only, sigma 0.5"
FOUR_IN_BLOCK = f"{FOUR}, pooling the block"
LONGFORMER, FUNNEL = "Longformer, 2 layers, window of 8", "Funnel, 1 + 1 layers and a decoder of 1"
SWIN, POOLFORMER = "Swin, 2 + 2 layers", "PoolFormer, 2 + 2 layers"
RATED, RATES = "CP-MiniLM, 4 layers, not distilled", (", pooling's rate 0.0003", "", ", pooling's rate 0.01")
STOCK, CUT, LESS_CUT = "BERT, 2 layers", "MiniLM, 2 layers", "MiniLM, 4 layers"


@pytest.mark.slow
def test_the_code_runs(tmp_path):
    pages = [
        README,
        *(
            (ROOT / "docs" / name).read_text(encoding="utf-8")
            for name in ("onnx.md", "sharing.md", "faster_models.md")
        ),
    ]
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(pages), flags=re.DOTALL)
    assert len(blocks) == 11
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "{'max_abs_difference': 0.0, 'dtype': 'float32'}" in result.stdout
    assert "torch.Size([2, 4, 9])" in result.stdout  # the support sizes of two sentences, four heads, nine tokens
    assert "torch.Size([1, 4, 6, 6])" in result.stdout  # of an image, four heads, six by six patches
    assert "[torch.Size([1, 512, 12, 8]), torch.Size([1, 2048, 3, 2])]" in result.stdout
    assert "[8, 8, 8, 5, 5, 5, 8]\ntorch.Size([1, 8, 384])" in result.stdout  # the tokens that each layer sees
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


def test_what_is_said_of_pretrained_models_with_fewer_tokens_holds_for_both_seeds():
    said = " ".join(README.split())
    for seed in ("", "_seed_1"):
        text, image = (
            json.loads((ROOT / "results" / f"demo_{name}{seed}.json").read_text()) for name in ("text", "image")
        )
        assert not text["quick"] and text["settings"]["seed"] == image["settings"]["seed"] == (1 if seed else 0)
        _, cut, means, pool = (f"{each['error']:.3f}" for each in text["arms"])
        assert f"is {pool}, with means of pairs {means}, with four of six layers {cut}" in said
        for gain, error in image["gains_over_means"].values():  # no nearer than means
            assert gain < error
    halved = [row for row in results("benchmark_strided") if row["model"].startswith("CP-") and row["tokens"]]
    speeds = [1 / float(row["ratio"]) for row in halved if row["pass"] == "forward" and " and " not in row["model"]]
    assert f"{min(speeds):.1f} to {max(speeds):.1f} times as fast on a CPU" in said


@pytest.mark.parametrize(
    ("name", "metric", "form"),
    [("text", "error", "{:.4f}"), ("image", "error", "{:.4f}"), ("digits", "accuracy", "{:.2%}")],
)
def test_a_demo_shows_what_was_recorded_beside_its_own_figures(name, metric, form):
    demo = {"text": demo_text, "image": demo_image, "digits": demo_digits}[name]
    results = json.loads((ROOT / "results" / f"demo_{name}.json").read_text())
    recorded = demo.RECORDED
    assert recorded[metric] == {arm["model"]: arm[metric] for arm in results["arms"]}
    assert recorded["settings"].items() <= results["settings"].items()
    assert recorded["torch"] == results["versions"]["torch"]
    then = results["arms"][-1][metric]
    results["arms"][-1][metric] += 0.001
    told = f"{form.format(then + 0.001):>9}{form.format(then):>9}"
    assert told in demo.report(results) and "on another processor" in demo.report(results)
    for change in ({"quick": True}, {"settings": {**results["settings"], "seed": 1}}):
        assert "on another processor" not in demo.report({**results, **change})


@pytest.mark.parametrize("name", ["image", "digits"])
def test_what_the_other_demos_printed_is_what_results_hold(name):
    demo = {"image": demo_image, "digits": demo_digits}[name]
    results = json.loads((ROOT / "results" / f"demo_{name}.json").read_text())
    assert not results["quick"] and results["parity"] in (0.0, {"ViT, 4 layers": 0.0, "ResNet": 0.0})
    table, figures = demo.report(results).split("\n\n")[:2]
    assert table in RESULTS and figures in RESULTS


@pytest.mark.parametrize(
    ("name", "arm", "control", "metric", "said"),
    [
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "loss", "are {:.2f} ± {:.2f} nats ahead of six"),
        ("texts", IN_BLOCK, FIRST_BLOCK, "film_reviews", "both fine-tunes {:.1f} ± {:.1f} points better"),
        ("texts", "CP-BERT, 2 layers", "BERT, 6 layers", "film_reviews", "gone ({:.1f} ± {:.1f} points ahead of six)"),
        ("texts_long", "CP-BERT, 2 layers", "BERT, 4 layers", "loss", "they are {:.2f} ± {:.2f} nats ahead of four"),
        ("texts_long", IN_BLOCK, "BERT, 4 layers", "loss", "or {:.2f} ± {:.2f} with the block pooled"),
        ("images", "CP-ViT, 2 layers", "ViT, 6 layers", "accuracy", "are {:.1f} ± {:.1f} points ahead of six w"),
        ("images", "CP-ViT, 1 layer", "ViT, 6 layers", "accuracy", "and one is {:.1f} ± {:.1f}"),
        ("images 2000", "CP-ViT, 1 layer", "ViT, 6 layers", "accuracy", "of 2,000 one is {:.1f} ± {:.1f}"),
        ("images_ablation", FACTORED, f"{FACTORED}, sizes only", "accuracy", "gain {:.1f} ± {:.1f} points over equal"),
        ("images_ablation", FACTORED, f"{FACTORED}, {ONE_SIZE}", "accuracy", "sizes +{:.1f} ± {:.1f}."),
        ("texts_ablation", FOUR, SHIFTED, "loss", "({:.2f} ± {:.2f} nats); with"),
        (
            "texts_ablation",
            FOUR_IN_BLOCK,
            f"{SHIFTED} on the block",
            "loss",
            "they are {:.2f} ± {:.2f} nats ahead, and",
        ),
        ("texts_long", IN_BLOCK, SHIFTED_IN_BLOCK, "loss", "and {:.2f} ± {:.2f} [after six"),
        ("texts_ablation", FOUR, "depthwise convolution", "loss", "Texts: {:.2f} ± {:.2f} nats ahead of a depth"),
        ("texts_ablation", FOUR, GENERAL, "loss", "and {:.2f} ± {:.2f} of a convolutional"),
        ("texts_ablation", FOUR_IN_BLOCK, f"{GENERAL} on the block", "loss", "pooled {:.2f} ± {:.2f} of the latter,"),
        ("texts_long", IN_BLOCK, BOTTLENECK, "loss", "after 6,000 steps {:.2f} ± {:.2f}. Images"),
        ("images_ablation", FACTORED, "depthwise convolution", "accuracy", "Images: {:.1f} ± {:.1f} points, and"),
        ("images_ablation", FACTORED, GENERAL, "accuracy", "points, and {:.1f} ± {:.1f} with half"),
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "loss", "{:.2f} ± {:.2f} nats ahead of a Longformer"),
        ("texts_alternatives", "CP-BERT, 2 layers", FUNNEL, "loss", "and {:.2f} ± {:.2f} of a Funnel"),
        ("texts_alternatives", LONGFORMER, "CP-BERT, 2 layers", "film_reviews", "is {:.1f} ± {:.1f} points ahead, w"),
        ("texts_alternatives", "CP-BERT, 2 layers", LONGFORMER, "film_reviews_by_mean", "(CP-BERT +{:.1f} ± {:.1f})"),
        ("images_alternatives", "CP-ViT, 2 layers", SWIN, "accuracy", "{:.1f} ± {:.1f} points ahead of a Swin"),
        ("images_alternatives", "CP-ViT, 2 layers", POOLFORMER, "accuracy", "+{:.1f} ± {:.1f} of a PoolFormer"),
        ("convnet", "CP-ResNet, stem", "ResNet, 3 blocks", "accuracy", "more block does (+{:.1f} ± {:.1f})"),
        ("convnet", "CP-ResNet, stem", "ResNet", "accuracy", "{:.1f} ± {:.1f} points over max pooling"),
        ("convnet", "CP-ResNet, global", "ResNet", "accuracy", "{:.1f} ± {:.1f} over the final average"),
        ("pretrained", f"CP-{CUT}", CUT, "film_reviews", "-{:.1f} ± {:.1f} points on film"),
        ("pretrained", f"CP-{CUT}", CUT, "product_reviews", "and -{:.1f} ± {:.1f} on product"),
        ("pretrained", f"CP-{LESS_CUT}", LESS_CUT, "film_reviews", "cut to four +{:.1f} ± {:.1f}"),
        ("pretrained", f"CP-{LESS_CUT}", LESS_CUT, "product_reviews", "and -{:.1f} ± {:.1f}; in two"),
        ("pretrained", LESS_CUT, f"{LESS_CUT}, not distilled", "film_reviews", "with four layers {:.1f} ± {:.1f}"),
        ("pretrained", LESS_CUT, f"{LESS_CUT}, not distilled", "product_reviews", "and {:.1f} ± {:.1f} on product ra"),
        ("pretrained", BOTTLENECK, CUT, "film_reviews", "block gains {:.1f} ± {:.1f} and"),
        ("pretrained", BOTTLENECK, CUT, "product_reviews", "and {:.1f} ± {:.1f} | no |"),
    ],
)
def test_the_claims_are_what_results_hold(name, arm, control, metric, said):
    mean, half = difference(name, arm, control, metric)
    lower = metric == "loss"
    assert ("-{" in said) == (mean < 0 and not lower)
    assert said.format(abs(mean), half) in README


def difference(name: str, arm: str, control: str, metric: str) -> tuple[float, float]:
    """Of five seeds, paired, and half of its confidence interval; of the first size of training sets, or of that which
    stands after the name."""
    name, *size = name.split()
    experiment = experiment_of(name)
    rows = read_results(experiment, ROOT / "results" / f"{name}.csv")
    of = next(each for each in TASKS[experiment.task].metrics if each.name == metric)
    samples = int(size[0]) if size else experiment.train_samples[0]
    mean, half, seeds = paired_interval(*(values(rows, of, each, samples) for each in (arm, control)))
    assert seeds == 5
    return mean, half


def sections() -> dict[str, str]:
    """Of the results page, by its experiment, what is said before each picture, with the anchor of its heading."""
    found = {}
    for section in RESULTS.split("\n## ")[1:]:
        if picture := re.search(r"!\[(\w+)\]\(\1\.png\)", section):
            found[picture[1]] = section[: picture.start()]
    return {name: found[name] for name in found if (ROOT / "experiments" / "configs" / f"{name}.yaml").exists()}


def compared(name: str) -> set[tuple[str, str]]:
    """All differences and halves of intervals in the table of an experiment, as they may be rounded."""
    experiment = experiment_of(name)
    rows = read_results(experiment, ROOT / "results" / f"{name}.csv")
    found = set()
    for arms in experiment.comparisons:
        for metric in TASKS[experiment.task].metrics:
            for size in experiment.train_samples:
                ours, control = (values(rows, metric, arm, size) for arm in arms)
                if ours and control:
                    mean, half, _ = paired_interval(ours, control)
                    found |= {(f"{abs(mean):.{digits}f}", f"{half:.{digits}f}") for digits in (1, 2, 4)}
    return found


@pytest.mark.parametrize("name", sections())
def test_every_difference_that_is_said_beside_a_table_is_in_it(name):
    said = sections()
    headings = {of: re.sub(r"[^a-z0-9 -]", "", text.split("\n")[0].lower()) for of, text in said.items()}
    anchors = {heading.replace(" ", "-"): of for of, heading in headings.items()}
    linked = [anchors[anchor] for anchor in re.findall(r"\]\(#([\w-]+)\)", said[name]) if anchor in anchors]
    known = set.union(*(compared(each) for each in [name, *linked]))
    told = re.findall(r"(\d+\.\d+)\s±\s(\d+\.\d+)", said[name])
    assert told and [each for each in told if each not in known] == []


@pytest.mark.parametrize(
    ("metric", "arms", "said"),
    [
        ("film_reviews", {"texts_long": STOCK, "texts": STOCK}, "({:.1f} and {:.1f} %)"),
        ("film_reviews", {"texts_alternatives": STOCK, "texts": STOCK}, "to {:.1f} %, against {:.1f} %"),
    ],
)
def test_the_means_beside_the_tables_are_what_results_hold(metric, arms, said):
    assert said.format(*(mean(name, arm, metric) for name, arm in arms.items())) in " ".join(RESULTS.split())


def test_the_runs_that_failed_are_those_that_are_said_to_have():
    with (ROOT / "results" / "pretrained.csv").open(newline="") as stream:
        deep = [row for row in csv.DictReader(stream) if "5 layers" in row["arm"] or "6 layers" in row["arm"]]
    failed = [row for row in deep if float(row["film_reviews"]) < 0.8]
    alike = [row for row in deep if row["arm"] in {each["arm"] for each in failed}]
    assert {row["seed"] for row in failed} == {"5"} and len(alike) == 5 * len(failed)
    assert {row["arm"] for row in alike} == {row["arm"] for row in deep if not row["hidden"]}  # not distilled
    reached = sorted(100 * float(row["film_reviews"]) for row in alike if row not in failed)
    lost = sorted({f"{100 * float(row['film_reviews']):.1f}" for row in failed})
    said = f"({' and '.join(lost)} %; the others have {reached[0]:.1f} to {reached[-1]:.1f})"
    assert said in " ".join(RESULTS.split())


def test_the_time_that_the_experiments_took_is_what_results_hold():
    hours = {}
    for path in (ROOT / "experiments" / "configs").glob("*.yaml"):
        with (ROOT / "results" / f"{path.stem}.csv").open(newline="") as stream:
            hours[path.stem] = sum(float(row["seconds"]) for row in csv.DictReader(stream)) / 3600
    said = f"took {sum(hours.values()):.0f} core hours, some at the side of other work, `pretrained` "
    assert f"{said}{hours['pretrained']:.0f} of these" in " ".join(RESULTS.split())


def mean(name: str, arm: str, metric: str) -> float:
    """Over five seeds."""
    experiment = experiment_of(name)
    of = next(each for each in TASKS[experiment.task].metrics if each.name == metric)
    reached = values(read_results(experiment, ROOT / "results" / f"{name}.csv"), of, arm, experiment.train_samples[0])
    assert len(reached) == 5
    return statistics.mean(reached.values())


def pools_table() -> str:
    lines = [
        "| model | layer | head | sigma at the start | sigma | its spread | spread of log-weights | offset "
        "| own weight | effective tokens | gate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    figures = "sigma_at_start sigma sigma_spread weight_spread offset own_weight effective_tokens".split()
    for name, title in (("images_ablation", "CP-ViT, "), ("texts_ablation", "CP-BERT, "), ("pretrained", "")):
        for row in results(f"{name}_pools"):
            if name != "pretrained" or row["arm"] == f"CP-{CUT}":
                cells = [f"{float(row[each]):.2f}" for each in figures]
                cells.append(f"{float(row['gate']):.3f}" if name == "pretrained" else "-")
                place = f"{title}{row['arm']} | {int(row['layer']) + 1} | {int(row['head']) + 1}"
                lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_pools_is_what_results_hold():
    assert pools_table() in RESULTS


def test_the_gates_and_the_saturation_that_are_said_are_what_results_hold():
    gates: dict[str, list[float]] = {}
    saturated: dict[str, list[float]] = {}
    for row in results("pretrained_pools"):
        gates.setdefault(row["arm"], []).append(float(row["gate"]))
        if (row["arm"], row["layer"]) != (f"CP-{CUT}", "0"):
            saturated.setdefault(row["arm"], []).append(100 * float(row["sigma_saturated"]))
    low, default, high = (f"{statistics.mean(gates[f'{RATED}{rate}']):.3f}" for rate in RATES)
    said = " ".join(RESULTS.split())
    assert f"{low} on the mean at 3e-4, {default} at 1e-3 and {high} at 1e-2" in said
    second, rated = saturated[f"CP-{CUT}"], saturated[f"{RATED}{RATES[2]}"]
    assert f"{min(second):.1f} to {max(second):.1f} % of a head's sigmas" in said
    assert f"it is {min(rated):.0f} to {max(rated):.0f} %. So the rate" in said


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


def what_fewer_layers_save(name: str) -> tuple[str, str]:
    """The throughput of two thirds of the layers, forward: with pooling and without."""
    rows = [row for row in results(name) if row["pass"] == "forward"]
    stock = {row["group"]: int(row["layers"]) for row in reversed(rows) if row["ratio"] == "1.0"}
    gains: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        if 3 * int(row["layers"]) == 2 * stock[row["group"]] and "one head" not in row["model"]:
            gains[row["model"].startswith("CP-")].append(1 / float(row["ratio"]))
    assert len(gains[True]) == len(gains[False]) == 5
    return tuple(f"{min(each):.2f} to {max(each):.2f}" for each in (gains[True], gains[False]))


def test_what_fewer_layers_save_is_what_results_hold():
    pooled, plain = what_fewer_layers_save("benchmark_models")
    assert f"have {pooled} times the throughput, without it {plain} (forward" in README
    pooled, plain = what_fewer_layers_save("benchmark_models_cuda")
    assert f"on an H100 {pooled} and {plain}" in README


def test_what_is_said_of_the_gpu_is_what_results_hold():
    said = " ".join(README.split())
    ratios = {(row["model"], row["pass"]): float(row["ratio"]) for row in results("benchmark_models_cuda")}
    resnet = (f"{1 / ratios['CP-ResNet-50', way]:.2f}" for way in ("forward", "training"))
    figures = "has {} of ResNet-50's throughput, {} in training".format(*resnet)
    assert f"CP-ResNet-50, whose window has no kernel, {figures}" in said
    added = {name: 100 * (ratio - 1) for (name, way), ratio in ratios.items() if way == "forward"}
    large = [added[name] for name in ("CP-BERT-base, 12 layers", "CP-ViT-B/16, 12 layers", "CP-ViT-S/16, 12 layers")]
    figures = f"{min(large):.0f} to {max(large):.0f} % to BERT-base and the ViTs"
    assert f"{figures}, and {added['CP-MiniLM, 6 layers']:.0f} % to MiniLM (forward)" in said
    lines = short_models_table(results("benchmark_models_cuda")).splitlines()[2:]
    table = {line.split(" | ")[0]: line.strip("| ").split(" | ")[3:] for line in lines}
    base = [table[name] for name in table if "BERT-base" in name or "ViT-B" in name]
    forward, training = (sorted(100 * float(each[way]) - 100 for each in base) for way in (0, 1))
    gains = (f"{each[0]:.0f} to {each[-1]:.0f} %" for each in (forward, training))
    assert "gain BERT-base and ViT-B {} there forward and {} in training, ViT-S nothing".format(*gains) in said
    assert float(table["| ViT-S/16 at 224"][0]) < 1.02 > float(table["| ViT-S/16 at 224"][1])
    assert float(table["| MiniLM, 128 tokens"][0]) < 1


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


def test_what_is_said_of_runtimes_is_what_results_hold():
    ratios = {(row["model"], row["runtime"]): f"{float(row['ratio']):.2f}" for row in results("runtimes")}
    short, long = (ratios[f"CP-BERT, 4 layers, {tokens} tokens", "ONNX Runtime, int8"] for tokens in (64, 512))
    compiled = {model: ratio for (model, runtime), ratio in ratios.items() if runtime == "PyTorch, compiled"}
    said = " ".join(README.split())
    stock = " to ".join(ratios[f"BERT, 4 layers, {tokens} tokens", "ONNX Runtime, int8"] for tokens in (64, 512))
    assert f"takes {short} to {long} of PyTorch's time for CP-BERT (stock BERT: {stock})" in said
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
        (strided_table, "benchmark_strided", RESULTS),
        (short_strided_table, "benchmark_strided", FASTER_MODELS),
        (error_table, "linear_pool_error", RESULTS),
        (runtimes_table, "runtimes", RESULTS),
        (gpu_cost_table, "benchmark_pooling_cuda", RESULTS),
        (models_table, "benchmark_models_cuda", RESULTS),
        (short_gpu_cost_table, "benchmark_pooling_cuda", README),
        (short_models_table, "benchmark_models_cuda", README),
    ],
    ids=[
        *("pooling", "models", "pooling, short", "models, short", "profile", "strided", "strided, short", "error"),
        "runtimes",
        *("pooling on a GPU", "models on a GPU", "pooling on a GPU, short", "models on a GPU, short"),
    ],
)
def test_the_tables_of_costs_are_what_results_hold(table, name, text):
    assert table(results(name)) in text
