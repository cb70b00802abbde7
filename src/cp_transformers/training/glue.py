# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Fine-tuning, evaluation and prediction on GLUE (Wang et al., ICLR 2019), for CP and stock models alike.

Nine tasks and the diagnostic set `ax`, from `nyu-mll/glue` on the Hub or from files with the same columns, one or all;
or any other set of labelled sentences or pairs of them. Several seeds can be run at once, a teacher can help, and
predictions are written as the GLUE server takes them.
"""

import copy
import dataclasses
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from ..families import max_tokens
from .arguments import ArgumentParser
from .distillation import (
    DistillationArguments,
    DistillationTrainer,
    TaughtCollator,
    load_teacher_tokenizer,
    make_layer_map,
)
from .glue_data import TASKS, GlueArguments, Task, encode, load_task, write_predictions
from .loading import draw_new_head, load_config, load_model, load_tokenizer
from .metrics import check_finite
from .names import match_names
from .run_folder import RunFolder
from .trainer import check_metrics, only_logits


logger = logging.get_logger(__name__)


@dataclass
class _Shared:
    """All that the seeds of a run share: the task, its rows and the student's checkpoint, and the teacher.

    Args:
        task: the task.
        rows: the encoded rows, by what is done with them (`train`, `eval` or `predict`) and their split.
        config: the student's configuration, with the task's labels.
        to_task: for each of the student's labels its number in the task; None where the label is a number on a scale.
        tokenizer: the student's.
        teacher: the arguments that [`DistillationTrainer`] takes besides a Trainer's.
        teacher_tokenizer: the teacher's, if there is one.
    """

    task: Task
    rows: dict[tuple[str, str], Dataset]
    config: PreTrainedConfig
    to_task: np.ndarray | None
    tokenizer: PreTrainedTokenizerBase
    teacher: dict[str, Any]
    teacher_tokenizer: PreTrainedTokenizerBase | None


def run(
    arguments: GlueArguments, training: TrainingArguments, distillation: DistillationArguments | None = None
) -> dict[str, Any]:
    """Trains, evaluates and predicts as `training.do_train`, `do_eval` and `do_predict` say.

    Writes to `training.output_dir`: the resolved arguments, `results.json`, the trained model, and `predictions/` with
    one file for each test split. With several `seeds` there is a folder `seed-N` for each, and `results.json` holds
    the mean and the standard deviation over them. With the task `all` there is a folder for each task, and
    `predictions/` has the files of all.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: an argument, the data or the checkpoint is not what the task needs.
        FileExistsError: `output_dir` has the results of another run.
        OSError: something cannot be read or written.
    """
    distillation = distillation or DistillationArguments()
    run_folder = RunFolder(training, arguments, distillation)
    _check(arguments, training, distillation)
    run_folder.check()
    if arguments.task == "all":
        return _run_all(arguments, training, distillation, run_folder)
    if not arguments.seeds and (found := run_folder.find_results()) is not None:
        return found
    shared = _load_shared(arguments, training, distillation)
    data_name = arguments.data_dir or arguments.dataset_name or "nyu-mll/glue"
    described = {"task": arguments.task, "data": data_name, "model": arguments.model_name_or_path}
    if not arguments.seeds:
        metrics = _run_seed(arguments, run_folder, shared)
        return run_folder.finish(described | _summary({str(training.seed): metrics}), _figures(metrics))
    run_folder.start()
    runs = {}
    for seed in arguments.seeds:
        seed_training = copy.copy(training)
        seed_training.seed, seed_training.output_dir = seed, str(run_folder.path / f"seed-{seed}")
        seed_folder = RunFolder(seed_training, dataclasses.replace(arguments, seeds=[]), distillation)
        seed_results = seed_folder.find_results()
        if seed_results is None:
            metrics = _run_seed(arguments, seed_folder, shared)
            results = {**described, "seed": seed, **_summary({str(seed): metrics})}
            seed_results = seed_folder.finish(results, _figures(metrics))
        runs[str(seed)] = seed_results["metrics"]
    return run_folder.write_results(described | _summary(runs))


def _load_shared(
    arguments: GlueArguments, training: TrainingArguments, distillation: DistillationArguments
) -> _Shared:
    """Loads all that the seeds of a run share, and encodes the rows.

    Raises:
        ValueError, OSError: see [`run`].
    """
    with training.main_process_first():  # the others then find what it has cached
        task, data = load_task(arguments, training)
        check_metrics(training, ["loss", *_metric_names(task)])
    config, to_task = load_task_config(arguments.model_name_or_path, task, training.do_train, arguments.new_head)
    tokenizer = load_tokenizer(arguments.model_name_or_path)
    max_length, where = find_max_length(arguments, tokenizer, config)
    teacher: dict[str, Any] = {}
    theirs = None
    if distillation.teacher is not None:
        teacher, theirs = load_teacher(distillation, config, tokenizer, task, to_task, max_length)
    with training.main_process_first():
        rows = {
            use: encode(part, task, tokenizer, max_length, to_task, theirs if use[0] == "train" else None)
            for use, part in data.items()
        }
    for (use, split), part in rows.items():
        if (cut := sum(part["cut"])) and training.process_index == 0:
            logger.warning(f"{cut} of {len(part)} rows of {split} are cut after {max_length} tokens, {where}.")
        rows[use, split] = part.remove_columns("cut")
    return _Shared(task, rows, config, to_task, tokenizer, teacher, theirs)


def find_max_length(
    arguments: GlueArguments, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> tuple[int, str]:
    """The number of tokens after which a text is cut off, and the option or checkpoint that has this limit."""
    limits = {
        "--max_length": arguments.max_length,
        f"the limit of the tokenizer of {arguments.model_name_or_path}": tokenizer.model_max_length,  # or very large
        f"the positions of {arguments.model_name_or_path}": max_tokens(config),
    }
    limits = {where: limit for where, limit in limits.items() if limit > 0}  # relative positions have none, or -1
    where = min(limits, key=limits.__getitem__)
    return limits[where], where


def _metric_names(task: Task) -> list[str]:
    """The names of a task's metrics."""
    return [metric.__name__.lower() for metric in task.metrics]


def _figures(metrics: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The figures for the record of a run, from the metrics of each split."""
    return [
        {"split": split, "metric": name, "name": name, "value": value}
        for split, values in metrics.items()
        for name, value in values.items()
    ]


def load_task_config(
    name: str, task: Task, train: bool = True, new_head: bool = False
) -> tuple[PreTrainedConfig, np.ndarray | None]:
    """The configuration of the checkpoint `name` with the task's labels, and for each of the model's labels its number
    in the task (None where the label is a number on a scale).

    A checkpoint that has been trained as a classifier keeps the order of its labels, which need not be the task's.

    Raises:
        OSError: the checkpoint cannot be read.
        ValueError: it was trained for other labels and `new_head` is False; or it was not trained as a classifier and
            is not to be trained now.
    """
    config = load_config(name, AutoModelForSequenceClassification)
    hint = ", or draw a new head with --new_head" if train else ""
    trained = not new_head and any("SequenceClassification" in each for each in config.architectures or [])
    if not trained and not train:
        raise ValueError(f"{name} has no trained classifier to evaluate; give --do_train as well.")
    if task.labels is None:
        if trained and config.num_labels != 1:
            raise ValueError(
                f"{name} tells {config.num_labels} labels apart, but the labels here are numbers on a scale; use "
                f"another checkpoint{hint}."
            )
        config.num_labels, config.problem_type = 1, "regression"
        return config, None
    if trained:
        theirs = [str(config.id2label[index]) for index in range(config.num_labels)]
        numbers = match_names(theirs, task.labels, apart=True)
        if len(theirs) == len(task.labels) and None not in numbers:
            config.problem_type = "single_label_classification"
            return config, np.array(numbers)
        if theirs != [f"LABEL_{index}" for index in range(len(task.labels))]:  # unnamed ones are taken in order
            raise ValueError(
                f"{name} was trained for the labels {', '.join(theirs)}, but those here are {', '.join(task.labels)}; "
                f"use another checkpoint{hint}."
            )
    config.num_labels = len(task.labels)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: index for index, label in enumerate(task.labels)}
    config.problem_type = "single_label_classification"
    return config, np.arange(len(task.labels))


def load_teacher(
    distillation: DistillationArguments,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    to_task: np.ndarray | None,
    max_length: int,
) -> tuple[dict[str, Any], PreTrainedTokenizerBase]:
    """The arguments that [`DistillationTrainer`] takes besides a Trainer's (the teacher, and its labels in the
    student's order), and the teacher's tokenizer.

    Raises:
        ValueError: the teacher has other labels, no trained head, another vocabulary, too few positions, or hidden
            states of another width.
        OSError: it cannot be read.
    """
    name = str(distillation.teacher)
    teacher_config = load_config(name, AutoModelForSequenceClassification)
    if distillation.distillation_hidden_weight:
        make_layer_map(config, teacher_config, distillation.layer_map)
    theirs = load_teacher_tokenizer(name, teacher_config, tokenizer, max_length)
    if not distillation.distillation_logits_weight:
        return {"teacher": load_model(name, AutoModel), "distillation": distillation}, theirs
    if not any("SequenceClassification" in each for each in teacher_config.architectures or []):
        raise ValueError(
            f"The teacher {name} has no trained classifier: fine-tune it first, or learn from its hidden states alone "
            "with --distillation_logits_weight 0."
        )
    teacher_config, teacher_to_task = load_task_config(name, task, train=False)
    labels = None if to_task is None or teacher_to_task is None else np.argsort(teacher_to_task)[to_task].tolist()
    teacher = load_model(name, AutoModelForSequenceClassification, config=teacher_config)
    return {"teacher": teacher, "distillation": distillation, "teacher_labels": labels}, theirs


def report(results: dict[str, Any]) -> str:
    """The results as a table."""
    several = len(results["runs"]) > 1
    header = f"{results['task'] or 'split':<24}{'metric':<12}{'value':>9}" + (
        f"{'std':>9}{'seeds':>7}" if several else ""
    )
    lines = [header, "-" * len(header)]
    for split, metrics in results["metrics"].items():
        for metric, value in metrics.items():
            line = f"{split:<24}{metric:<12}" + (f"{value:>9.4f}" if metric == "loss" else f"{100 * value:>9.2f}")
            if several:
                std = results["std"][split][metric]
                line += f"{100 * std if metric != 'loss' else std:>9.2f}{len(results['runs']):>7}"
            lines.append(line)
    return "\n".join(lines)


def report_all(results: dict[str, Any]) -> str:
    """The results of all tasks as GLUE's table, in percent."""
    several = len(results["runs"]["average"]) > 1
    lines = [f"{'task':<16}{'score':>9}" + ("      std" if several else "") + "  measured"]
    for name, score in results["scores"].items():
        metrics = results["metrics"].get(name, {})
        shown = {
            metric: [values[metric] for values in metrics.values()] for metric in next(iter(metrics.values()), {})
        }
        shown.pop("loss", None)
        measured = ", ".join(f"{m} {' / '.join(f'{100 * v:.2f}' for v in values)}" for m, values in shown.items())
        std = f"{100 * results['std'][name]:>9.2f}" if several else ""
        lines.append(f"{name:<16}{100 * score:>9.2f}{std}  {measured}".rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _check(arguments: GlueArguments, training: TrainingArguments, distillation: DistillationArguments) -> None:
    """Refuses what can be known to be wrong before anything is loaded.

    Raises:
        ValueError: see [`run`].
    """
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("There is nothing to do: give --do_train, --do_eval or --do_predict.")
    if arguments.task == "all" and not (training.do_train and training.do_eval):
        raise ValueError("--task all trains and evaluates on each task: give --do_train and --do_eval.")
    validation = arguments.task == "all" or arguments.find_task().validation
    if not validation and (training.do_train or training.do_eval):
        raise ValueError(f"{arguments.task} is for prediction alone: give --do_predict and a model trained on mnli.")
    if training.resume_from_checkpoint not in (None, "last") and (len(arguments.seeds) > 1 or arguments.task == "all"):
        raise ValueError("With several runs, resume each from its last checkpoint: --resume_from_checkpoint last.")
    if arguments.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise ValueError("Early stopping needs --load_best_model_at_end true, and --eval_strategy epoch or steps.")
    if distillation.teacher is not None:
        if not training.do_train:
            raise ValueError("A teacher teaches in training: give --do_train, or leave out --teacher.")
        if arguments.task == "all" and distillation.distillation_logits_weight:
            raise ValueError(
                "One teacher has no labels for all tasks: with --task all learn from its hidden states alone, with "
                "--distillation_logits_weight 0."
            )
        if not (distillation.distillation_logits_weight or distillation.distillation_hidden_weight):
            raise ValueError("Both weights of distillation are 0, so the teacher would teach nothing.")
    if training.push_to_hub and (arguments.seeds or arguments.task == "all"):
        raise ValueError("Several runs cannot be pushed to one repository: leave out --push_to_hub.")


def _run_all(
    arguments: GlueArguments,
    training: TrainingArguments,
    distillation: DistillationArguments,
    run_folder: RunFolder,
) -> dict[str, Any]:
    """All nine tasks, one after the other, and with prediction the diagnostic set, by the models trained on MNLI."""
    output = run_folder.path

    def task_arguments(name: str, model: str, folder: Path) -> tuple[GlueArguments, TrainingArguments]:
        data_dir = None if arguments.data_dir is None else str(Path(arguments.data_dir) / name)
        task_training = copy.copy(training)
        task_training.output_dir = str(folder)
        return dataclasses.replace(arguments, task=name, data_dir=data_dir, model_name_or_path=model), task_training

    planned = {
        name: task_arguments(name, arguments.model_name_or_path, output / name)
        for name in TASKS
        if TASKS[name].validation
    }
    diagnostic = {}
    if training.do_predict:
        for part in [f"seed-{seed}" for seed in arguments.seeds] or ["."]:
            options, task_training = task_arguments("ax", str(output / "mnli" / part), output / "ax" / part)
            task_training.do_train = task_training.do_eval = False
            task_training.eval_strategy = "no"
            diagnostic[part] = dataclasses.replace(options, seeds=[], new_head=False), task_training
    with training.main_process_first():
        for options, task_training in (*planned.values(), *diagnostic.values()):
            # What is wrong with any of them is said before the first is trained.
            task, _ = load_task(options, task_training)
            check_metrics(task_training, ["loss", *_metric_names(task)])
            if task.validation:
                config, to_task = load_task_config(options.model_name_or_path, task, new_head=options.new_head)
    if distillation.teacher is not None:
        tokenizer = load_tokenizer(arguments.model_name_or_path)
        max_length, _ = find_max_length(arguments, tokenizer, config)
        load_teacher(distillation, config, tokenizer, task, to_task, max_length)
    run_folder.start()

    runs: dict[str, dict[str, Any]] = {}
    for name, (options, task_training) in planned.items():
        runs[name] = run(options, task_training, distillation)
    for options, task_training in diagnostic.values():
        run(options, task_training)
    scores = {
        name: {seed: _score(metrics) for seed, metrics in results["runs"].items()} for name, results in runs.items()
    }
    scores["average"] = _average(scores, list(scores))
    scores["without wnli"] = _average(scores, [name for name in TASKS if name in scores and name != "wnli"])
    results = {
        "task": "all",
        "model": arguments.model_name_or_path,
        "scores": {name: statistics.mean(by_seed.values()) for name, by_seed in scores.items()},
        "metrics": {name: results["metrics"] for name, results in runs.items()},
        "runs": scores,
    }
    if len(arguments.seeds) > 1:
        results["std"] = {name: statistics.stdev(by_seed.values()) for name, by_seed in scores.items()}
    if training.process_index == 0:
        for file in sorted(output.glob("*/predictions/*.tsv")) + sorted(output.glob("*/seed-*/predictions/*.tsv")):
            part = file.parents[1].name if file.parents[1].name.startswith("seed-") else "."
            (output / "predictions" / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, output / "predictions" / part / file.name)
    return run_folder.write_results(results)


def _score(metrics: dict[str, dict[str, float]]) -> float:
    """GLUE's number for a task: the mean of its metrics, and of its validation splits."""
    values = [value for split in metrics.values() for name, value in split.items() if name != "loss"]
    return statistics.mean(values)


def _average(scores: dict[str, dict[str, float]], names: Sequence[str]) -> dict[str, float]:
    """The mean over tasks, for each seed."""
    return {seed: statistics.mean(scores[name][seed] for name in names) for seed in scores[names[0]]}


def _run_seed(arguments: GlueArguments, run_folder: RunFolder, shared: _Shared) -> dict[str, dict[str, float]]:
    """Trains, evaluates and predicts with one seed, and saves the model; returns the metrics of each validation
    split."""
    training = run_folder.go_on()
    task, to_task = shared.task, shared.to_task
    if to_task is None:
        training.label_smoothing_factor = 0.0  # numbers on a scale have no other labels
    patience, best = arguments.early_stopping_patience, None
    if training.do_train and patience is not None:
        best = best_of_stopped(training.resume_from_checkpoint, patience)
        training.restore_callback_states_from_checkpoint = True  # or it would count from zero again
    set_seed(training.seed)
    model = load_model(
        arguments.model_name_or_path,
        AutoModelForSequenceClassification,
        config=shared.config,
        ignore_mismatched_sizes=arguments.new_head,
    )
    if arguments.new_head:
        model = draw_new_head(model)
    run_folder.prepare(model)
    metrics = [metric() for metric in task.metrics]

    def to_numbers(values: np.ndarray) -> np.ndarray:
        """The model's outputs in the task's numbers."""
        return values.squeeze(-1) if to_task is None else to_task[values.argmax(-1)]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        references = prediction.label_ids if to_task is None else to_task[prediction.label_ids]
        check_finite(prediction.predictions)
        outputs, labels = torch.from_numpy(prediction.predictions).float(), torch.from_numpy(prediction.label_ids)
        # Trainer's own is a mean over batches, filled up with repeated examples where several processes share them.
        mean = F.mse_loss(outputs.squeeze(-1), labels) if to_task is None else F.cross_entropy(outputs, labels)
        values = {"loss": mean.item()}
        for metric in metrics:
            computed = metric.compute(predictions=to_numbers(prediction.predictions), references=references)
            values.update(computed or {})
        return values

    trainer = DistillationTrainer(
        model,
        training,
        data_collator=TaughtCollator(shared.tokenizer, shared.teacher_tokenizer),
        train_dataset=shared.rows.get(("train", "train")),
        eval_dataset=shared.rows.get(("eval", task.validation[0])) if task.validation else None,
        preprocess_logits_for_metrics=only_logits,
        compute_metrics=compute_metrics,
        processing_class=shared.tokenizer,
        pool_learning_rate=arguments.pool_learning_rate,
        source=arguments.model_name_or_path,
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
        **shared.teacher,
    )
    if best is not None:
        model.load_state_dict(load_model(str(best), AutoModelForSequenceClassification).state_dict())
        trainer.save_and_wait()
    elif training.do_train:
        trainer.train_and_save()

    values: dict[str, dict[str, float]] = {}
    if training.do_eval:
        for split in task.validation:
            measured = trainer.evaluate(shared.rows["eval", split])
            own = {name: measured[f"eval_{name}"] for name in _metric_names(task)}
            values[split] = {"loss": measured["eval_loss"], **own}
    if training.do_predict:
        for split, name in task.server_files.items():
            scores = trainer.predict(shared.rows["predict", split]).predictions
            check_finite(scores)
            predicted = to_numbers(scores)
            if trainer.is_world_process_zero():
                write_predictions(run_folder.path / "predictions" / f"{name}.tsv", predicted, task)
    return values


def best_of_stopped(checkpoint: str | None, patience: int) -> Path | None:
    """The best checkpoint of a run that, by its last `checkpoint`, had stopped early before it was killed; None: there
    is training left to do."""
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    stored = (state.stateful_callbacks or {}).get(EarlyStoppingCallback.__name__, {})
    counted = stored.get("attributes", {}).get("early_stopping_patience_counter", 0)
    if counted < patience or state.best_model_checkpoint is None:
        return None
    return Path(checkpoint).with_name(Path(state.best_model_checkpoint).name)


def _summary(runs: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """The mean over the runs, and with several runs the standard deviation."""
    first = next(iter(runs.values()))

    def over_runs(statistic) -> dict[str, dict[str, float]]:
        return {
            split: {name: statistic([run[split][name] for run in runs.values()]) for name in metrics}
            for split, metrics in first.items()
        }

    summary = {"metrics": over_runs(statistics.mean), "runs": runs}
    return {**summary, "std": over_runs(statistics.stdev)} if len(runs) > 1 else summary


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """The command `cp-transformers glue`, and scripts/run_glue.py; returns what [`run`] returns."""
    parser = ArgumentParser(
        [GlueArguments, DistillationArguments, TrainingArguments],
        prog="cp-transformers glue",
        description="Fine-tune, evaluate and predict on a GLUE task, with a CP or a stock checkpoint.",
    )
    arguments, distillation, training = parser.parse(args)
    results = run(arguments, training, distillation)
    if training.process_index == 0:
        if results["metrics"]:
            print("\n" + (report_all if arguments.task == "all" else report)(results))
        print(f"\nWritten to {training.output_dir}.")
    return results
