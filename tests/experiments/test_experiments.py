# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The runner of experiments."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from experiment_cases import InThisProcess

from experiments import grids as experiments
from experiments.grids import Cell, Experiment


TINY = {
    "task": "images",
    "train_samples": [32],
    "steps": 3,
    "learning_rates": [0.001, 0.01],
    "seeds": [1, 2],
    "model": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 28, "patch_size": 7}
    | {"num_hidden_layers": 1},
    "arms": {"ViT": {"model_type": "vit"}, "CP-ViT": {"model_type": "cp_vit"}},
    "comparisons": [["CP-ViT", "ViT"]],
}


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1]}, "Seed 0 chooses the learning rates"),
        ({"comparisons": [["ViT", "ViP"]]}, "a pair of arms"),
        ({"series": {"stock": ["ViP"]}}, "A series is of arms, which ViP are not"),
        ({"rate": 1}, "must have the entries arms, comparisons"),
        ({"task": "sounds"}, "no task 'sounds'; choose one of images"),
        ({"arms": {"A": {"model_type": "cp_vit", "pool_num_heads": 3}}, "comparisons": []}, "A cannot be made"),
        ({"arms": {"A": {"model_type": "vit", "control": {"name": "mean"}}}, "comparisons": []}, "no ContextPool"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Experiment.read(write(tmp_path / "tiny.yaml", **changes))


def test_the_rate_is_chosen_by_the_search_alone():
    experiment = Experiment(**{**TINY, "learning_rates": [0.1, 0.2, 0.3]})
    reached = {"ViT": [0.5, 0.7, 0.7], "CP-ViT": [0.9, 0.1, 0.2]}
    results = {
        Cell("search", arm, 32, rate, 0): {"accuracy": accuracy}
        for arm, accuracies in reached.items()
        for rate, accuracy in zip(experiment.learning_rates, accuracies)
    }
    results[Cell("test", "CP-ViT", 32, 0.3, 1)] = {"accuracy": 1.0}
    chosen = {(cell.arm, cell.learning_rate) for cell in experiments.test_cells(experiment, 32, results)}
    assert chosen == {("ViT", 0.2), ("CP-ViT", 0.1)}


def test_a_rate_that_diverges_is_not_chosen():
    experiment = Experiment(**{**TINY, "task": "texts", "arms": {"BERT": {"model_type": "bert"}}, "comparisons": []})
    for losses in ([6.0, float("nan")], [float("nan"), 6.0]):
        results = {
            Cell("search", "BERT", 32, rate, 0): {"loss": loss}
            for rate, loss in zip(experiment.learning_rates, losses)
        }
        expected = experiment.learning_rates[losses.index(6.0)]
        assert {cell.learning_rate for cell in experiments.test_cells(experiment, 32, results)} == {expected}


def test_figures_of_several_rates_are_not_mixed(tmp_path):
    experiment, output = Experiment.read(write(tmp_path / "tiny.yaml")), tmp_path / "tiny.csv"
    figures = {"accuracy": 0.5, "parameters": 1, "gflops": 1.0, "seconds": 1.0, "digest": experiment.digest("ViT")}
    for rates, message in [((0.001, 0.01), "of one arm at several rates"), ((0.003,), "at a rate of 0.003, which is")]:
        results = {Cell("test", "ViT", 32, rate, seed): figures for rate in rates for seed in (1, 2)}
        experiments.write_results(experiment, results, output)
        with pytest.raises(ValueError, match=message):
            experiments.read_results(experiment, output)


def test_one_rate_for_all_needs_no_search():
    experiment = Experiment(**{**TINY, "learning_rates": [0.1]})
    assert experiments.search_cells(experiment, 32) == []
    cells = experiments.test_cells(experiment, 32, {})
    assert [(cell.arm, cell.learning_rate, cell.seed) for cell in cells] == [
        (arm, 0.1, seed) for arm in ("ViT", "CP-ViT") for seed in (1, 2)
    ]


def test_of_losses_the_lowest_chooses_the_rate():
    experiment = Experiment(**{**TINY, "task": "texts", "arms": {"BERT": {"model_type": "bert"}}, "comparisons": []})
    results = {
        Cell("search", "BERT", 32, rate, 0): {"loss": loss, "film_reviews": None}
        for rate, loss in zip(experiment.learning_rates, [6.0, 5.0])
    }
    assert {cell.learning_rate for cell in experiments.test_cells(experiment, 32, results)} == {0.01}


def test_an_interval_is_students():
    mean, half, n = experiments.paired_interval({1: 0.5, 2: 0.7, 3: 0.9, 4: 1.0}, {1: 0.4, 2: 0.5, 3: 0.6})
    assert (mean, n) == (pytest.approx(0.2), 3)
    assert half == pytest.approx(4.302652729911275 * 0.1 / 3**0.5)  # t of two degrees of freedom at 97.5 %


def test_the_times_of_the_arms_stand_beside_what_they_reach(tmp_path, capsys):
    config = write(tmp_path / "tiny.yaml", series={"stock": ["ViT"], "pooled": ["CP-ViT"]})
    output = tmp_path / "tiny.csv"
    arguments = ["--config", str(config), "--output", str(output)]
    experiments.main([*arguments, "--times", "--quick"])
    assert not output.exists()
    measured = rows(tmp_path / "tiny_times.csv")
    assert [row["arm"] for row in measured] == ["CP-ViT", "ViT"]  # as the file has them
    assert {row["threads"] for row in measured} == {"2"} and {row["rounds"] for row in measured} == {"5"}
    assert float(measured[0]["ratio"]) == 1

    experiment = Experiment.read(config)
    figures = {"accuracy": 0.5, "parameters": 1, "gflops": 1.0, "seconds": 1.0}
    results = {
        Cell("test", arm, 32, 0.001, seed): {**figures, "digest": experiment.digest(arm)}
        for arm in experiment.arms
        for seed in experiment.seeds
    }
    experiments.write_results(experiment, results, output)
    capsys.readouterr()
    experiments.main([*arguments, "--summary", "--draw"])
    printed = capsys.readouterr().out
    assert "| model | parameters | MFLOPs | times as fast | 32 images |" in printed
    for row in measured:
        assert f"| {row['arm']} | 0 k | 1000.0 | {1 / float(row['ratio']):.2f} | 50.0 ± 0.0 |" in printed
    assert (tmp_path / "tiny_times.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_results(tmp_path, capsys, monkeypatch):
    config, output = write(tmp_path / "tiny.yaml"), tmp_path / "tiny.csv"
    arguments = ["--config", str(config), "--output", str(output)]
    experiments.main(arguments)
    printed = capsys.readouterr().out.strip()
    whole = rows(output)
    assert len(whole) == 2 * 2 + 2 * 2
    assert len({(row["stage"], row["arm"], row["learning_rate"], row["seed"]) for row in whole}) == 8
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:1] + lines[3:6]))
    monkeypatch.setattr(experiments, "ProcessPoolExecutor", InThisProcess)
    experiments.main([*arguments, "--workers", "1"])
    assert [{**row, "seconds": ""} for row in rows(output)] == [{**row, "seconds": ""} for row in whole]
    capsys.readouterr()
    (tmp_path / "tiny.png").unlink()
    experiments.main([*arguments, "--summary"])
    assert capsys.readouterr().out.strip() == printed.replace(f", {tmp_path / 'tiny.png'} the picture", "")
    assert not (tmp_path / "tiny.png").exists()
    experiments.main([*arguments, "--summary", "--draw"])
    assert capsys.readouterr().out.strip() == printed and (tmp_path / "tiny.png").exists()
    assert "| CP-ViT | ViT |" in printed

    write(config, steps=4)
    with pytest.raises(ValueError, match="with another configuration; move the file away"):
        experiments.main(arguments)
    with pytest.raises(ValueError, match="has no runs"):
        experiments.main(["--config", str(config), "--output", str(tmp_path / "none.csv"), "--summary"])


def test_what_is_run_again_is_shown_beside_what_was_recorded(tmp_path, capsys, in_this_process):
    (tmp_path / "experiments" / "configs").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    config, again = write(tmp_path / "experiments" / "configs" / "tiny.yaml"), tmp_path / "again.csv"
    arguments = ["--config", str(config), "--workers", "1", "--arms", "ViT", "--seeds", "1", "--output", str(again)]
    experiments.main(arguments)
    assert "recorded" not in capsys.readouterr().out
    row = next(row for row in rows(again) if row["stage"] == "test")
    recorded = tmp_path / "results" / "tiny.csv"
    recorded.write_text(again.read_text().replace(f",{row['accuracy']},", ",0.125,"))
    experiments.main([*arguments, "--summary"])
    table = capsys.readouterr().out
    assert f"| ViT | 32 images | {row['seed']} | {100 * float(row['accuracy']):.2f} | 12.50 |" in table
    assert "on another processor" in table
    changed = Experiment.read(write(config, steps=4))
    assert experiments.read_recorded(changed, config) == {}  # another experiment than the recorded one


def test_a_part_is_run_as_it_is_in_the_whole(tmp_path, capsys, in_this_process):
    config, output = write(tmp_path / "tiny.yaml", train_samples=[32, 64]), tmp_path / "tiny.csv"
    arguments = ["--config", str(config), "--output", str(output), "--workers", "1"]
    experiments.main([*arguments, "--arms", "CP-ViT", "--train_samples", "64", "--seeds", "1"])
    alone = rows(output)
    assert [(row["stage"], row["arm"], row["train_samples"]) for row in alone] == [
        *[("search", "CP-ViT", "64")] * 2,
        ("test", "CP-ViT", "64"),
    ]
    assert "Not run" not in capsys.readouterr().out
    experiments.main([*arguments, "--train_samples", "64", "--seeds", "1"])
    ours, theirs = (float(row["accuracy"]) for row in rows(output) if row["stage"] == "test")
    table = capsys.readouterr().out
    assert f"| CP-ViT | ViT | {100 * ours - 100 * theirs:+.1f} |" in table  # of one seed, without an interval
    kept = [row for row in rows(output) if row["arm"] == "CP-ViT"]
    assert kept == alone
    for more, message in [
        (["--arms", "CP-ViP"], "no 'CP-ViP' in the experiment; it has CP-ViT; ViT"),
        (["--train_samples", "33"], "no 33 in the experiment; it has 32; 64"),
        (["--seeds", "3"], "has 1 to 2 seeds, not 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            experiments.main([*arguments, *more])


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    """However that ends; a worker that went on would train for nobody."""
    script = tmp_path / "start.py"
    script.write_text(
        "import multiprocessing, os, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from experiments.grids import _start_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), initializer=_start_worker)\n"
        "    pool.submit(os.getpid).result()\n"
        "    pool.submit(time.sleep, 600)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The worker has the pipe as well, which closes when both have ended.
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
