"""The runner of experiments, and the controls that take the pooling's place."""

import csv
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from torch.testing import assert_close

from cp_transformers import CPResNetConfig, CPResNetForImageClassification
from cp_transformers.context_pool import ContextPool, context_pool
from cp_transformers.tasks import experiment_tasks, experiments
from cp_transformers.tasks.controls import CONTROLS, replace_pools
from cp_transformers.tasks.experiment_tasks import (
    BATCH,
    TASKS,
    MaskedTokens,
    MeanClassifier,
    in_batches,
    masked_token_loss,
)
from cp_transformers.tasks.experiments import Cell, Experiment
from cp_transformers.tasks.mlm import Collator, Masking
from cp_transformers.tasks.runs import Drawn


CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "experiments").glob("*.yaml"))
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


@pytest.fixture
def inputs(seeded):
    """Tokens of two grids of 3 x 4, and which are valid."""
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    return torch.randn(2, 12, 8), mask


@pytest.fixture
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def pool(seeded):
    pool = ContextPool(8, pool_hidden_size=16, pool_num_heads=2, num_dims=2)
    torch.nn.init.normal_(pool.proj.weight)
    return pool


@pytest.mark.parametrize("name", ["depthwise", "bottleneck"])
def test_a_convolution_starts_as_the_identity(pool, inputs, name):
    tokens, mask = inputs
    mixed, sizes = CONTROLS[name](pool)(tokens, mask=mask, grid_size=(3, 4))
    assert torch.equal(mixed[mask], tokens[mask])
    assert sizes.shape == (2, 2, 12)


def test_a_bottleneck_of_kernel_1_is_of_each_token_alone(pool, inputs):
    tokens, _ = inputs
    control = CONTROLS["bottleneck"](pool, kernel_size=1)
    torch.nn.init.normal_(control.out.weight)
    one_changed = tokens.clone()
    one_changed[:, 5] += 1
    first, second = (control(each, grid_size=(3, 4))[0] for each in (tokens, one_changed))
    differs = ~torch.isclose(first, second).all(dim=2)
    assert differs.nonzero()[:, 1].tolist() == [5, 5]


@pytest.mark.parametrize("name", ["depthwise", "bottleneck", "mean"])
@pytest.mark.parametrize("num_dims", [1, 2])
def test_what_padding_holds_reaches_no_token(seeded, inputs, name, num_dims):
    tokens, mask = inputs
    control = CONTROLS[name](ContextPool(8, num_dims=num_dims))
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter)
    grid = (3, 4) if num_dims == 2 else None
    other = torch.where(mask[..., None], tokens, 1e3)
    first, second = (control(each, mask=mask, grid_size=grid)[0] for each in (tokens, other))
    assert torch.equal(first[mask], second[mask])
    assert not torch.allclose(first[mask], tokens[mask])


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_bottleneck_has_about_as_many_parameters_as_what_it_replaces(kernel_size):
    pool = ContextPool(64, 64, pool_num_heads=4, pool_max_offset=1.0, pool_factored=False, num_dims=2)
    ours, theirs = (
        sum(each.numel() for each in module.parameters())
        for module in (CONTROLS["bottleneck"](pool, kernel_size=kernel_size), pool)
    )
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("first", [0, 1])
def test_the_mean_of_a_group_is_that_of_its_valid_tokens(seeded, first):
    """Groups are counted from the first valid token: of five tokens the last is alone."""
    tokens, mask = torch.randn(1, 7, 8), torch.tensor([[first <= index < first + 5 for index in range(7)]])
    pool = ContextPool(8, stride=2, pool_num_heads=2)
    groups, sizes = CONTROLS["group_mean"](pool)(tokens.masked_fill(~mask[..., None], 1e3), mask=mask)
    own = tokens[0, first : first + 5]
    torch.testing.assert_close(groups[0, :3], torch.stack([own[:2].mean(dim=0), own[2:4].mean(dim=0), own[4]]))
    assert groups.shape == pool(tokens, mask=mask)[0].shape and sizes.shape == pool(tokens, mask=mask)[1].shape


def test_the_mean_of_a_group_on_a_grid_is_that_of_its_square(seeded):
    tokens = torch.randn(2, 12, 8)
    groups, _ = CONTROLS["group_mean"](ContextPool(8, stride=2, num_dims=2))(tokens, grid_size=(3, 4))
    torch.testing.assert_close(groups[:, 0], tokens[:, [0, 1, 4, 5]].mean(dim=1))
    torch.testing.assert_close(groups[:, 3], tokens[:, [10, 11]].mean(dim=1))


def test_the_mean_is_that_of_valid_neighbours(pool, inputs):
    tokens, mask = inputs
    mixed, _ = CONTROLS["mean"](pool)(tokens, mask=mask, grid_size=(3, 4))
    for example, token in [(0, 0), (0, 5), (1, 6), (1, 3)]:
        row, column = divmod(token, 4)
        near = [
            tokens[example, other]
            for other in range(12)
            if mask[example, other] and max(abs(other // 4 - row), abs(other % 4 - column)) <= 1
        ]
        torch.testing.assert_close(mixed[example, token], torch.stack(near).mean(dim=0))


@pytest.mark.parametrize(
    ("options", "fixed_sizes", "fixed_weights"),
    [
        ({"sigma": 0.7}, True, False),
        ({"equal_weights": True}, False, True),
        ({"sigma": 0.7, "equal_weights": True}, True, True),
    ],
)
def test_fixed_pooling_is_pooling_with_these_sizes_and_weights(pool, inputs, options, fixed_sizes, fixed_weights):
    tokens, mask = inputs
    tokens = tokens * mask[..., None]
    weights, sigma, _ = pool.predict(tokens, mask=mask, grid_size=(3, 4))
    weights = torch.zeros_like(weights) if fixed_weights else weights
    sigma = torch.full_like(sigma, 0.7) if fixed_sizes else sigma
    expected = context_pool(tokens, weights, sigma, mask=mask, grid_size=(3, 4))
    expected = torch.where(mask[..., None], expected, tokens)
    control = CONTROLS["fixed"](pool, **options)
    torch.testing.assert_close(control(tokens, mask=mask, grid_size=(3, 4))[0], expected)
    assert bool(list(control.parameters())) is not (fixed_sizes and fixed_weights)


@pytest.mark.parametrize(("num_dims", "grid_size"), [(1, None), (2, (3, 4))])
def test_a_shifted_gaussian_has_the_offsets_that_the_pool_starts_with_and_learns_them(inputs, num_dims, grid_size):
    tokens, mask = inputs
    tokens = tokens * mask[..., None]
    pool = ContextPool(8, pool_num_heads=4, pool_max_offset=2.0, num_dims=num_dims)
    torch.nn.init.zeros_(pool.proj.weight)  # what is predicted is the bias then, for every token
    weights, sigma, offsets = pool.predict(tokens, mask=mask, grid_size=grid_size)
    assert (offsets[:, 0] - offsets[:, 1]).abs().max() > 0.5
    expected = context_pool(
        tokens, torch.zeros_like(weights), torch.full_like(sigma, 0.7), offsets, mask=mask, grid_size=grid_size
    )
    expected = torch.where(mask[..., None], expected, tokens)
    control = CONTROLS["fixed"](pool, sigma=0.7, equal_weights=True)
    pooled, _ = control(tokens, mask=mask, grid_size=grid_size)
    torch.testing.assert_close(pooled, expected)
    pooled[mask].square().sum().backward()
    assert [name for name, _ in control.named_parameters()] == ["shift"]
    assert (control.shift.grad != 0).all()


def test_controls_that_cannot_be_are_refused(pool):
    with pytest.raises(ValueError, match="choose one of fixed, depthwise"):
        replace_pools(torch.nn.Identity(), "depthwize")
    resnet = CPResNetForImageClassification(CPResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match="has no ContextPool"):
        replace_pools(resnet, "depthwise")
    with pytest.raises(ValueError, match="no packed rows"):
        CONTROLS["mean"](ContextPool(8))(torch.zeros(1, 2, 8), segments=torch.ones(1, 2))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_arm_of_an_experiment_trains(path):
    experiment = Experiment.read(path)
    for arm in experiment.arms:
        torch.manual_seed(0)
        model = experiments.make_model(experiment, arm)
        model(**TASKS[experiment.task].inputs(model)).loss.backward()
        unused = [name for name, each in model.named_parameters() if each.grad is None]
        # Longformer has weights of its own for tokens that attend to all, of which there are none here.
        assert [name for name in unused if "_global" not in name] == []


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1]}, "Seed 0 chooses the learning rates"),
        ({"comparisons": [["ViT", "ViP"]]}, "a pair of arms"),
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


def test_batches_are_of_like_length_and_use_all_rows_alike():
    lengths = torch.randint(3, 60, (700,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": [0] * length, "number": number} for number, length in enumerate(lengths)]
    train = in_batches(rows, 42, seed=1)
    assert train == in_batches(rows, 42, seed=1) != in_batches(rows, 42, seed=2)
    assert len(train) == 42 * BATCH
    batches = [train[first : first + BATCH] for first in range(0, len(train), BATCH)]
    spreads = [max(wide) - min(wide) for wide in ([len(row["input_ids"]) for row in batch] for batch in batches)]
    assert sum(spreads) / len(spreads) < 10
    seen = [[row["number"] for batch in part for row in batch] for part in (batches[:21], batches[21:])]
    for part in seen:  # a pass over the rows, less what fills no batch
        assert len({*part}) == len(part) == 21 * BATCH
    with pytest.raises(ValueError, match="32 training examples, more than 31"):
        in_batches(rows[:31], 1, seed=0)


def test_the_masked_token_loss_is_that_of_the_whole_split():
    data = TASKS["texts"].data()
    tokenizer, rows = data["tokenizer"], Drawn(data["texts"]["test"][:40], Masking(data["tokenizer"], 0.15), seed=0)
    experiment = Experiment.read(next(path for path in CONFIGS if path.stem == "texts"))
    torch.manual_seed(0)
    model = experiments.make_model(experiment, "CP-BERT, 1 layer").eval()
    collator = Collator(tokenizer, pack=False, pools=False)
    with torch.no_grad():  # upstream's loss is the mean over the masked tokens of one batch
        expected = model(**collator([rows[index] for index in range(40)])).loss.item()
    assert masked_token_loss(model, rows, collator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arm", ["BERT, 2 layers", "CP-BERT, 2 layers", "Longformer, 2 layers, window of 8"])
def test_the_loss_of_masked_tokens_alone_is_upstream_s(arm):
    experiment = Experiment.read(next(path for path in CONFIGS if path.stem == "texts_alternatives"))
    torch.manual_seed(0)
    model = experiments.make_model(experiment, arm).eval()
    inputs = {"input_ids": torch.randint(5, 4000, (3, 16)), "attention_mask": torch.ones(3, 16, dtype=torch.long)}
    inputs["attention_mask"][1, 9:] = 0
    inputs["labels"] = torch.where(torch.rand(3, 16) < 0.3, inputs["input_ids"], -100)
    losses = [module(**inputs)["loss"] for module in (model, MaskedTokens(model))]
    assert_close(losses[1], losses[0])
    ours, theirs = (torch.autograd.grad(loss, model.get_input_embeddings().weight)[0] for loss in reversed(losses))
    assert_close(ours, theirs)


@pytest.mark.parametrize("arm", ["BERT, 2 layers", "CP-BERT, 2 layers", "Longformer, 2 layers, window of 8"])
def test_the_classifier_of_the_mean_takes_all_valid_tokens_and_no_others(arm):
    experiment = Experiment.read(next(path for path in CONFIGS if path.stem == "texts_alternatives"))
    torch.manual_seed(0)
    model = MeanClassifier(experiments.make_model(experiment, arm).base_model).eval()
    ids, mask, labels = torch.randint(5, 4000, (2, 16)), torch.ones(2, 16, dtype=torch.long), torch.tensor([0, 1])
    mask[:, 9:] = 0
    outputs, alone = model(ids, mask, labels), model(ids[:, :9], mask[:, :9], labels)
    assert_close(outputs["logits"], alone["logits"])
    assert_close(outputs["loss"], torch.nn.functional.cross_entropy(outputs["logits"], labels))
    states = model.base_model(input_ids=ids[:, :9], attention_mask=mask[:, :9])[0]
    assert_close(outputs["logits"], model.classifier(model.pooler(states.mean(dim=1)).tanh()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_quick_run_gives_every_figure(path):
    experiment = experiments.quick(Experiment.read(path))
    metrics = TASKS[experiment.task].metrics
    for stage in ("search", "test"):
        figures = experiments.run_cell(experiment, Cell(stage, [*experiment.arms][-1], 64, 0.001, 1))
        known = metrics if stage == "test" else metrics[:1]
        assert all(figures[metric.name] is not None for metric in known)
        assert figures["parameters"] > 0 and figures["gflops"] > 0


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("MiniLM, 2 layers, not distilled", [(2, {2e-3})] * 2),
        ("MiniLM, 2 layers", [(4, {5e-4}), *[(2, {2e-3})] * 2]),
        ("CP-MiniLM, 2 layers", [(4, {5e-4, 1e-2}), *[(2, {2e-3, 1e-3})] * 2]),
        ("CP-MiniLM, 4 layers, not distilled, pooling's rate 0.01", [(2, {2e-3, 1e-2})] * 2),
        (
            "CP-MiniLM, 2 layers, pooling the block, with a rate of the gates",
            [(4, {5e-4, 1e-3, 1e-2}), *[(2, {2e-3, 1e-3, 1e-2})] * 2],
        ),
    ],
)
def test_each_part_of_a_pretrained_run_has_its_steps_and_its_rates(monkeypatch, arm, expected):
    taken, training = [], experiment_tasks.training

    @contextmanager
    def counted(*args, **options):
        with training(*args, **options) as trainer:
            rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
            taken.append((trainer.state.global_step, rates))
            yield trainer

    monkeypatch.setattr(experiment_tasks, "training", counted)
    experiment = experiments.quick(Experiment.read(next(path for path in CONFIGS if path.stem == "pretrained")))
    experiments.run_cell(experiment, Cell("test", arm, 64, 0.002, 1))
    assert taken == expected


def test_an_interval_is_students():
    mean, half, n = experiments.paired_interval({1: 0.5, 2: 0.7, 3: 0.9, 4: 1.0}, {1: 0.4, 2: 0.5, 3: 0.6})
    assert (mean, n) == (pytest.approx(0.2), 3)
    assert half == pytest.approx(4.302652729911275 * 0.1 / 3**0.5)  # t of two degrees of freedom at 97.5 %


def test_a_run_that_was_stopped_goes_on_to_the_same_results(tmp_path, capsys):
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


def test_what_is_run_again_is_shown_beside_what_was_recorded(tmp_path, capsys):
    (tmp_path / "configs" / "experiments").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    config, again = write(tmp_path / "configs" / "experiments" / "tiny.yaml"), tmp_path / "again.csv"
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


def test_a_part_is_run_as_it_is_in_the_whole(tmp_path, capsys):
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


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    """However that ends; a worker that went on would train for nobody."""
    script = tmp_path / "start.py"
    script.write_text(
        "import multiprocessing, os, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from cp_transformers.tasks.experiments import _start_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), initializer=_start_worker)\n"
        "    pool.submit(os.getpid).result()\n"
        "    pool.submit(time.sleep, 600)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The worker has the pipe as well, which closes when both have ended.
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_models_of_the_results_are_those_of_today():
    # What an arm does not say is the default of this version, which may have changed since it was run.
    for path in CONFIGS:
        file = Path(__file__).parents[1] / "results" / f"{path.stem}.csv"
        experiment = Experiment.read(path)
        task = TASKS[experiment.task]
        measured = {cell.arm: row for cell, row in experiments.read_results(experiment, file).items()}
        for arm, row in measured.items():
            model = experiments.make_model(experiment, arm)
            # Of the pretrained ones, the rows are of the model that was fine-tuned last, which has another head.
            assert model.num_parameters() == pytest.approx(row["parameters"], rel=1e-4), f"{path.stem}: {arm}"
            assert experiments.gflops(model, task) == pytest.approx(row["gflops"], rel=1e-4), f"{path.stem}: {arm}"


def test_the_results_have_the_tables_of_every_experiment_that_was_run():
    results = Path(__file__).parents[1] / "results"
    text = (results / "README.md").read_text(encoding="utf-8")
    measured = [path for path in CONFIGS if (results / f"{path.stem}.csv").is_file()]
    assert measured
    for path in measured:
        experiment = Experiment.read(path)
        table = experiments.summary(experiment, experiments.read_results(experiment, results / f"{path.stem}.csv"))
        assert table in text, f"run_experiments.py --config {path} --summary"
        assert f"({path.stem}.png)" in text and (results / f"{path.stem}.png").is_file()
