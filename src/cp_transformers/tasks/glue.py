# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Fine-tuning, evaluation and prediction on GLUE (Wang et al., ICLR 2019), for CP and stock models alike.

Nine tasks and the diagnostic set `ax`, from `nyu-mll/glue` on the Hub or from files with the same columns. Several
seeds can be run at once; predictions are written as the GLUE server takes them.
"""

import copy
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..files import write_json, write_whole
from ..training import param_groups
from .arguments import ArgumentParser, save_arguments
from .metrics import F1, Accuracy, Matthews, Pearson, Spearman


@dataclass(frozen=True)
class Task:
    """What GLUE says of a task.

    Args:
        columns: of the sentence or the two sentences.
        labels: their names, in the order of their numbers; None where the label is a number on a scale.
        metrics: those that GLUE reports.
        server_files: for each test split, the name of the file that the GLUE server takes.
        server_words: whether the server takes the names of the labels, and not their numbers.
        validation: the validation splits.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[type, ...]
    server_files: dict[str, str]
    server_words: bool = False
    validation: tuple[str, ...] = ("validation",)


PAIR, NLI = ("sentence1", "sentence2"), ("premise", "hypothesis")
ENTAILS = ("entailment", "not_entailment")
ENTAILS_OR_CONTRADICTS = ("entailment", "neutral", "contradiction")

TASKS = {
    "cola": Task(("sentence",), ("unacceptable", "acceptable"), (Matthews,), {"test": "CoLA"}),
    "sst2": Task(("sentence",), ("negative", "positive"), (Accuracy,), {"test": "SST-2"}),
    "mrpc": Task(PAIR, ("not_equivalent", "equivalent"), (Accuracy, F1), {"test": "MRPC"}),
    "qqp": Task(("question1", "question2"), ("not_duplicate", "duplicate"), (Accuracy, F1), {"test": "QQP"}),
    "stsb": Task(PAIR, None, (Pearson, Spearman), {"test": "STS-B"}),
    "mnli": Task(
        NLI,
        ENTAILS_OR_CONTRADICTS,
        (Accuracy,),
        {"test_matched": "MNLI-m", "test_mismatched": "MNLI-mm"},
        server_words=True,
        validation=("validation_matched", "validation_mismatched"),
    ),
    "qnli": Task(("question", "sentence"), ENTAILS, (Accuracy,), {"test": "QNLI"}, server_words=True),
    "rte": Task(PAIR, ENTAILS, (Accuracy,), {"test": "RTE"}, server_words=True),
    "wnli": Task(PAIR, ("not_entailment", "entailment"), (Accuracy,), {"test": "WNLI"}),
    "ax": Task(NLI, ENTAILS_OR_CONTRADICTS, (Matthews,), {"test": "AX"}, server_words=True, validation=()),
}
# What a run is asked for; one that is finished with other values of these is gone on with.
ASKED = ("do_train", "do_eval", "do_predict", "max_steps", "num_train_epochs")
EXTENSIONS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


@dataclass
class GlueArguments:
    """What a run needs besides transformers' TrainingArguments."""

    task: str = field(metadata={"help": f"one of {', '.join(TASKS)}; ax is for prediction with an MNLI model"})
    model_name_or_path: str = field(metadata={"help": "a checkpoint's folder or its id on the Hub, CP or stock"})
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder with train, validation and test (for mnli: train, validation_matched, ...) as .parquet, "
            ".jsonl or .csv, in GLUE's columns; default: nyu-mll/glue on the Hub"
        },
    )
    seeds: list[int] = field(
        default_factory=list,
        metadata={"help": "run once for each of them, each in a folder of its own, not for `seed`"},
    )
    max_length: int = field(default=128, metadata={"help": "tokens after which a text is cut off"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first of them alone"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "evaluate on the first of them alone"})
    max_predict_samples: int | None = field(default=None, metadata={"help": "predict the first of them alone"})
    pool_learning_rate: float | None = field(
        default=None, metadata={"help": "of the pooling modules; default: that of the rest"}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "stop after so many evaluations without a better one"}
    )
    new_head: bool = field(default=False, metadata={"help": "draw a new head, though the checkpoint has one"})

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"There is no task {self.task}; the tasks are {', '.join(TASKS)}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names a seed twice: {self.seeds}.")
        positive = ("max_length", "max_train_samples", "max_eval_samples", "max_predict_samples")
        for name in (*positive, "pool_learning_rate", "early_stopping_patience"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")


def run(arguments: GlueArguments, training: TrainingArguments) -> dict[str, Any]:
    """Trains, evaluates and predicts as `training.do_train`, `do_eval` and `do_predict` say.

    Writes to `training.output_dir`: the resolved arguments, `results.json`, the trained model, and `predictions/` with
    one file for each test split. With several `seeds` there is a folder `seed-N` for each, and `results.json` holds
    the mean and the standard deviation over them.

    Returns:
        What is written to `results.json`.

    Raises:
        ValueError: an argument, the data or the checkpoint is not what the task needs.
        FileExistsError: `output_dir` has the results of another run.
        OSError: something cannot be read or written.
    """
    task, output = TASKS[arguments.task], Path(training.output_dir)
    resume = training.resume_from_checkpoint
    _check(arguments, training, task)
    with training.main_process_first():  # the others then find what it has cached
        data = load_task(arguments, training, task)
    config, to_task = load_config(arguments, task, training.do_train)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    with training.main_process_first():
        encoded = {split: encode(part, task, tokenizer, arguments.max_length, to_task) for split, part in data.items()}

    output.mkdir(parents=True, exist_ok=True)
    training = copy.copy(training)
    training.dataloader_pin_memory &= torch.accelerator.is_available()
    if training.process_index == 0:
        save_arguments(output / "arguments.yaml", arguments, training)
    asked = {name: getattr(training, name) for name in ASKED}
    runs = {}
    for seed in arguments.seeds or [training.seed]:
        of_seed = copy.copy(training)
        of_seed.seed = seed
        folder = Path(of_seed.output_dir) / f"seed-{seed}" if arguments.seeds else output
        of_seed.output_dir = str(folder)
        if resume == "last":
            of_seed.resume_from_checkpoint = _last_checkpoint(folder)
            if finished := _finished(folder / "results.json", asked):
                runs[str(seed)] = finished
                continue
        runs[str(seed)] = _run_seed(arguments, of_seed, task, config, tokenizer, encoded, to_task)
        if training.process_index == 0 and arguments.seeds:
            write_json(folder / "results.json", {"seed": seed, "metrics": runs[str(seed)], "asked": asked})
    model = arguments.model_name_or_path
    results = {"task": arguments.task, "model": model, **_summary(runs), "asked": asked}
    if training.process_index == 0:
        write_json(output / "results.json", results)
    return results


def load_task(arguments: GlueArguments, training: TrainingArguments, task: Task) -> dict[str, Dataset]:
    """The splits that the run needs, each checked: not empty, with the task's columns, and with labels in the task's
    numbers, which test splits need not have (there they are dropped)."""
    needed: dict[str, int | None] = {}
    if training.do_train:
        needed["train"] = arguments.max_train_samples
    if training.do_eval or training.eval_strategy != "no":
        needed.update(dict.fromkeys(task.validation, arguments.max_eval_samples))
    if training.do_predict:
        needed.update(dict.fromkeys(task.server_files, arguments.max_predict_samples))
    data = {}
    for split, limit in needed.items():
        part, where = _load_split(arguments, split)
        if limit is not None:
            part = part.select(range(min(limit, len(part))))
        data[split] = _checked(part, where, task, labelled=split not in task.server_files)
    return data


def load_config(
    arguments: GlueArguments, task: Task, train: bool = True
) -> tuple[PreTrainedConfig, np.ndarray | None]:
    """The checkpoint's configuration with the task's labels, and for each of the model's labels its number in the task
    (None where the label is a number on a scale).

    A checkpoint that has been trained as a classifier keeps the order of its labels, which need not be the task's.
    """
    name = arguments.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise OSError(
            f"{name} is neither a checkpoint's folder nor a model on the Hub that can be reached and you may read."
        ) from error
    trained = not arguments.new_head and any("SequenceClassification" in each for each in config.architectures or [])
    if not trained and not train:
        raise ValueError(f"{name} has no trained classifier to evaluate; give --do_train as well.")
    if task.labels is None:
        if trained and config.num_labels != 1:
            raise ValueError(
                f"{name} tells {config.num_labels} labels apart, but the labels of {arguments.task} are numbers on a "
                "scale; use another checkpoint, or draw a new head with --new_head."
            )
        config.num_labels, config.problem_type = 1, "regression"
        return config, None
    number = {label: index for index, label in enumerate(task.labels)}
    if trained:
        theirs = [str(config.id2label[index]).strip().lower() for index in range(config.num_labels)]
        if sorted(theirs) == sorted(task.labels):
            return config, np.array([number[label] for label in theirs])
        if theirs != [f"label_{index}" for index in range(len(task.labels))]:  # unnamed ones are taken in order
            raise ValueError(
                f"{name} was trained for the labels {', '.join(theirs)}, but those of {arguments.task} are "
                f"{', '.join(task.labels)}; use another checkpoint, or draw a new head with --new_head."
            )
    config.num_labels = len(task.labels)
    config.id2label, config.label2id = dict(enumerate(task.labels)), number
    config.problem_type = "single_label_classification"
    return config, np.arange(len(task.labels))


def encode(
    data: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, to_task: np.ndarray | None
) -> Dataset:
    """Token ids, and labels in the model's numbers."""
    of_model = None if to_task is None else np.argsort(to_task)

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        encoded = {**tokenizer(*(batch[column] for column in task.columns), truncation=True, max_length=max_length)}
        if "label" in batch:
            encoded["labels"] = batch["label"] if of_model is None else of_model[batch["label"]].tolist()
        return encoded

    return data.map(encode_batch, batched=True, remove_columns=data.column_names)


def write_predictions(path: Path, predictions: np.ndarray, task: Task) -> None:
    """A file for the GLUE server: its header, and for each example its index and what is predicted for it, a number of
    the task or one on a scale."""
    rows: list[Any]
    if task.labels is None:
        rows = [f"{number:.3f}" for number in predictions]
    else:
        rows = [task.labels[number] if task.server_words else int(number) for number in predictions]
    lines = ["index\tprediction", *(f"{index}\t{row}" for index, row in enumerate(rows))]
    write_whole(path, "\n".join(lines) + "\n")


def report(results: dict[str, Any]) -> str:
    """The results as a table."""
    several = len(results["runs"]) > 1
    header = f"{results['task']:<24}{'metric':<12}{'value':>9}" + (f"{'std':>9}{'seeds':>7}" if several else "")
    lines = [header, "-" * len(header)]
    for split, metrics in results["metrics"].items():
        for metric, value in metrics.items():
            line = f"{split:<24}{metric:<12}{100 * value if metric != 'loss' else value:>9.2f}"
            if several:
                std = results["std"][split][metric]
                line += f"{100 * std if metric != 'loss' else std:>9.2f}{len(results['runs']):>7}"
            lines.append(line)
    return "\n".join(lines)


def _check(arguments: GlueArguments, training: TrainingArguments, task: Task) -> None:
    """What can be known to be wrong before anything is loaded."""
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("There is nothing to do: give --do_train, --do_eval or --do_predict.")
    if not task.validation and (training.do_train or training.do_eval):
        raise ValueError(f"{arguments.task} is for prediction alone: give --do_predict and a model trained on mnli.")
    if training.resume_from_checkpoint not in (None, "last") and len(arguments.seeds) > 1:
        raise ValueError("With several seeds, resume each from its last checkpoint: --resume_from_checkpoint last.")
    if training.prediction_loss_only or training.batch_eval_metrics:
        raise ValueError("GLUE's metrics need all predictions: leave out prediction_loss_only and batch_eval_metrics.")
    if arguments.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise ValueError("Early stopping needs --load_best_model_at_end true, and --eval_strategy epoch or steps.")
    output = Path(training.output_dir)
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is not a folder; choose another --output_dir.")
    earlier = [*output.glob("results.json"), *output.glob("seed-*/results.json")]
    if earlier and training.resume_from_checkpoint is None:
        raise FileExistsError(
            f"{earlier[0]} is of an earlier run; choose another --output_dir, or go on with that run by "
            "--resume_from_checkpoint last."
        )


def _load_split(arguments: GlueArguments, split: str) -> tuple[Dataset, str]:
    """A split, and where it is from."""
    if arguments.data_dir is None:
        try:
            return load_dataset("nyu-mll/glue", arguments.task, split=split), f"{split} of {arguments.task}"
        except (ConnectionError, OSError) as error:
            raise OSError(
                f"nyu-mll/glue cannot be fetched from the Hub ({' '.join(str(error).split())[:200]}); check the "
                "network, or give the data as files with --data_dir."
            ) from error
    for extension, kind in EXTENSIONS.items():
        path = Path(arguments.data_dir) / f"{split}{extension}"
        if path.is_file():
            try:
                options = {"keep_default_na": False} if kind == "csv" else {}  # or "null" would be no sentence
                return load_dataset(kind, data_files=str(path), split="train", **options), str(path)
            except (DatasetGenerationError, StopIteration, ValueError) as error:
                cause = " ".join(str(error.__cause__ or error).split())[:200]
                raise ValueError(f"{path} cannot be read as {kind}, or is empty: {cause}") from error
    names = ", ".join(f"{split}{extension}" for extension in EXTENSIONS)
    raise FileNotFoundError(f"{arguments.data_dir} has none of {names}, which {arguments.task} needs.")


def _checked(data: Dataset, where: str, task: Task, labelled: bool) -> Dataset:
    columns = [*task.columns, "label"] if labelled else list(task.columns)
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        raise ValueError(f"{where} has no column {missing[0]}; its columns are {', '.join(data.column_names)}.")
    if not len(data):
        raise ValueError(f"{where} is empty.")
    for column in task.columns:
        if any(not isinstance(text, str) for text in data[column]):
            raise ValueError(f"{where} has entries in column {column} that are no text.")
    if not labelled:
        return data.select_columns(columns)
    feature, labels = data.features["label"], list(data["label"])
    if isinstance(feature, ClassLabel):
        names = dict(enumerate(feature.names))
        labels = [names.get(label, label) for label in labels]
    numbers = [_number(label, task) for label in labels]
    if None in numbers:
        row = numbers.index(None)
        allowed = "numbers" if task.labels is None else f"{', '.join(task.labels)}, or 0 to {len(task.labels) - 1}"
        raise ValueError(f"{where} has the label {labels[row]!r} in row {row}; the labels must be {allowed}.")
    return data.select_columns(list(task.columns)).add_column("label", numbers)


def _number(label: Any, task: Task) -> float | int | None:
    """A label as the task's number; None for one that it has not."""
    try:
        if task.labels is None:
            return float(label) if np.isfinite(float(label)) else None
        if isinstance(label, str) and label.strip().lower() in task.labels:
            return task.labels.index(label.strip().lower())
        number = int(label)
        return number if number == float(label) and 0 <= number < len(task.labels) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _run_seed(
    arguments: GlueArguments,
    training: TrainingArguments,
    task: Task,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    encoded: dict[str, Dataset],
    to_task: np.ndarray | None,
) -> dict[str, dict[str, float]]:
    """One seed's run; returns its metrics for each validation split."""
    set_seed(training.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.model_name_or_path, config=config, ignore_mismatched_sizes=arguments.new_head
    )
    if arguments.new_head:  # where the sizes match, the old one has been loaded
        fresh = type(model)(config)
        for name, parameter in model.named_parameters():
            if not name.startswith(f"{model.base_model_prefix}."):
                parameter.data.copy_(fresh.get_parameter(name))
    # Trainer takes any model with **kwargs for one that divides its loss by `num_items_in_batch`; BERT's does not.
    model.accepts_loss_kwargs = False
    metrics = [metric() for metric in task.metrics]

    def to_numbers(values: np.ndarray) -> np.ndarray:
        """The model's outputs in the task's numbers."""
        return values.squeeze(-1) if to_task is None else to_task[values.argmax(-1)]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        references = prediction.label_ids if to_task is None else to_task[prediction.label_ids]
        values: dict[str, float] = {}
        for metric in metrics:
            computed = metric.compute(predictions=to_numbers(prediction.predictions), references=references)
            values.update(computed or {})
        return values

    optimizer = None
    if arguments.pool_learning_rate is not None and training.do_train:
        groups = param_groups(model, training.learning_rate, arguments.pool_learning_rate, training.weight_decay)
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training, model)
        optimizer = optimizer_class(groups, **options)
    trainer = Trainer(
        model,
        training,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get(task.validation[0]) if task.validation else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        optimizers=(optimizer, None),
    )
    if arguments.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    folder = Path(training.output_dir)
    if training.do_train:
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        trainer.save_model()

    # Trainer would sort or cut off what is evaluated and predicted, too.
    trainer.args.train_sampling_strategy, trainer.args.dataloader_drop_last = "random", False
    values: dict[str, dict[str, float]] = {}
    if training.do_eval:
        for split in task.validation:
            measured = trainer.evaluate(encoded[split])
            names = ["loss", *(type(metric).__name__.lower() for metric in metrics)]
            values[split] = {name: measured[f"eval_{name}"] for name in names}
    if training.do_predict:
        for split, name in task.server_files.items():
            predicted = to_numbers(trainer.predict(encoded[split]).predictions)
            if trainer.is_world_process_zero():
                write_predictions(folder / "predictions" / f"{name}.tsv", predicted, task)
    return values


def _last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint of Trainer in a folder: one that was being written when its run was killed lacks its
    state, which is written last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _finished(path: Path, asked: dict[str, Any]) -> dict[str, dict[str, float]] | None:
    """The metrics of a run that was asked for the same and is finished."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return results["metrics"] if results.get("asked") == asked else None


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


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers glue`, and scripts/run_glue.py."""
    parser = ArgumentParser(
        [GlueArguments, TrainingArguments],
        prog="cp-transformers glue",
        description="Fine-tune, evaluate and predict on a GLUE task, with a CP or a stock checkpoint.",
    )
    arguments, training = parser.parse(args)
    results = run(arguments, training)
    if training.process_index == 0:
        if results["metrics"]:
            print("\n" + report(results))
        print(f"\nWritten to {training.output_dir}.")
