# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""GLUE's tasks, and other sets of labelled sentences or pairs of them: their data, from the Hub or from files, and the
GLUE server's prediction files."""

import copy
import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from ..files import write_whole
from .arguments import check_positive
from .data_files import EXTENSIONS, load_by_name, load_file
from .distillation import TEACHERS
from .loading import load_config
from .metrics import F1, Accuracy, Matthews, Pearson, Spearman
from .names import fold, match_names


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Task:
    """A task, as GLUE or the options describe it.

    Args:
        columns: of the sentence or the two sentences.
        labels: their names, in the order of their numbers; None where the label is a number on a scale, empty where
            they are still to be found in the data.
        metrics: those that GLUE reports.
        server_files: for each test split, the name of the file that the GLUE server takes.
        server_words: whether the server takes the names of the labels, and not their numbers.
        validation: the validation splits.
        label_column: of the labels.
        numbered: whether the data may have the numbers of the labels in place of their names.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[type, ...]
    server_files: dict[str, str]
    server_words: bool = False
    validation: tuple[str, ...] = ("validation",)
    label_column: str = "label"
    numbered: bool = True


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


@dataclass
class GlueArguments:
    """The options of the command besides transformers' TrainingArguments."""

    model_name_or_path: str = field(metadata={"help": "a checkpoint's folder or its id on the Hub, CP or stock"})
    task: str | None = field(
        default=None,
        metadata={
            "help": f"one of {', '.join(TASKS)} (for prediction with an MNLI model), or all; leave it out for a data "
            "set of your own, given by --text_columns and --data_dir or --dataset_name"
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder with train, validation and test (for mnli: train, validation_matched, ...) as .parquet, "
            ".jsonl or .csv, in GLUE's columns; with --task all one such folder for each task, under its name; "
            "default: nyu-mll/glue on the Hub, or --dataset_name"
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "another data set, instead of GLUE: on the Hub, or film-reviews"}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "its configuration"})
    text_columns: list[str] = field(default_factory=list, metadata={"help": "of its sentence or two sentences"})
    label_column: str = field(default="label", metadata={"help": "of its labels"})
    regression: bool = field(default=False, metadata={"help": "its labels are numbers on a scale, not classes"})
    validation_split: str = field(default="validation", metadata={"help": "the split to evaluate on"})
    test_split: str = field(default="test", metadata={"help": "the split to predict"})
    seeds: list[int] = field(
        default_factory=list,
        metadata={"help": "run once for each of them, each in a folder of its own, not for `seed`"},
    )
    max_length: int = field(default=128, metadata={"help": "tokens after which a text is cut off, which is said"})
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
        if self.task is not None and self.task not in (*TASKS, "all"):
            raise ValueError(f"There is no task {self.task}; the tasks are {', '.join(TASKS)}, and all.")
        own = ("dataset_name", "dataset_config_name", "text_columns", "regression", "label_column")
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        for name in (*own, "validation_split", "test_split"):
            if self.task is not None and getattr(self, name) not in (defaults[name], []):
                raise ValueError(f"{name} is for a data set of your own; leave out --task {self.task}.")
        if self.task is None and not (len(self.text_columns) in (1, 2) and (self.data_dir or self.dataset_name)):
            raise ValueError(
                "Give a --task; or for a data set of your own one or two --text_columns, and --data_dir or "
                "--dataset_name."
            )
        if self.data_dir:
            self.dataset_name = self.dataset_config_name = None
        elif self.dataset_config_name and not self.dataset_name:
            raise ValueError("dataset_config_name is of a data set on the Hub: give its --dataset_name.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names a seed twice: {self.seeds}.")
        limits = ("max_length", "max_train_samples", "max_eval_samples", "max_predict_samples")
        check_positive(self, *limits, "pool_learning_rate", "early_stopping_patience")

    def find_task(self) -> Task:
        if self.task is not None:
            return TASKS[self.task]
        return Task(
            tuple(self.text_columns),
            None if self.regression else (),
            (Pearson, Spearman) if self.regression else (Accuracy,),
            {self.test_split: self.test_split},
            server_words=True,
            validation=(self.validation_split,),
            label_column=self.label_column,
            numbered=False,
        )


def load_task(arguments: GlueArguments, training: TrainingArguments) -> tuple[Task, dict[tuple[str, str], Dataset]]:
    """The task, and the splits that the run needs, by what it does with them ("train", "eval" or "predict") and their
    names: each checked to be not empty, with the task's columns, and with labels in the task's numbers, as `label`;
    those to predict need have none (there they are dropped)."""
    task = arguments.find_task()
    needed: dict[tuple[str, str], int | None] = {}
    if training.do_train:
        needed["train", "train"] = arguments.max_train_samples
    if training.do_eval or training.eval_strategy != "no":
        needed.update({("eval", split): arguments.max_eval_samples for split in task.validation})
    if training.do_predict:
        needed.update({("predict", split): arguments.max_predict_samples for split in task.server_files})
    parts = {split: _load_split(arguments, split) for split in dict.fromkeys(split for _, split in needed)}
    for use, split in needed:
        part, where = parts[split]
        columns = list(task.columns) if use == "predict" else [*task.columns, task.label_column]
        missing = [column for column in columns if column not in part.column_names]
        if missing:
            raise ValueError(f"{where} has no column {missing[0]}; its columns are {', '.join(part.column_names)}.")
        if not len(part):
            raise ValueError(f"{where} is empty.")
    if task.labels == ():
        labelled = [parts[split] for use, split in needed if use != "predict"]
        names = _find_labels(arguments, labelled, training.do_train)
        unnamed = names == tuple(f"LABEL_{index}" for index in range(len(names)))
        task = dataclasses.replace(task, labels=names, numbered=unnamed)
    data = {}
    for (use, split), limit in needed.items():
        part, where = parts[split]
        if limit is not None:
            part = part.select(range(min(limit, len(part))))
        data[use, split] = _checked(part, where, task, labelled=use != "predict")
    return task, data


def _find_labels(arguments: GlueArguments, labelled: list[tuple[Dataset, str]], train: bool) -> tuple[str, ...]:
    """The names of the labels of a data set that is not GLUE's: those it declares, or that its training split has, or,
    without training, the checkpoint's.

    Raises:
        ValueError: to train on, there is a label that is none, a single one, or as many numbers as on a scale.
        OSError: the checkpoint cannot be read.
    """
    feature = labelled[0][0].features[arguments.label_column] if labelled else None
    if not train:
        if isinstance(feature, ClassLabel):
            return tuple(feature.names)
        config = load_config(arguments.model_name_or_path, AutoModelForSequenceClassification)
        return tuple(str(config.id2label[index]) for index in range(config.num_labels))
    data, where = labelled[0]
    if isinstance(feature, ClassLabel):
        found = tuple(feature.names)
    else:
        labels = list(data[arguments.label_column])
        for row, label in enumerate(labels):
            if _is_missing(label) or not isinstance(label, (str, int, float)):
                raise ValueError(
                    f"{where} has the label {label!r} in row {row} (the first is 0); a label is a name or a number."
                )
        names = set(map(_name, labels))
        if len(names) > max(10, len(labels) // 2) and all(map(_is_number, names)):
            raise ValueError(
                f"{arguments.label_column} has {len(names)} different values in {len(labels)} rows; if they are "
                "numbers on a scale, give --regression true."
            )
        found = tuple(sorted(names, key=lambda name: (0, float(name), name) if _is_number(name) else (1, 0.0, name)))
    if len(found) < 2:
        raise ValueError(f"{where} has only one label, {', '.join(found)}; training needs two or more.")
    if alike := [name for name, times in Counter(map(fold, found)).items() if times > 1]:
        spellings = ", ".join(repr(name) for name in found if fold(name) == alike[0])
        logger.warning(f"{where} has the labels {spellings}, which are taken for different ones.")
    return found


def _load_split(arguments: GlueArguments, split: str) -> tuple[Dataset, str]:
    """A split, and where it is from."""
    if arguments.data_dir is None:
        name, config_name = arguments.dataset_name, arguments.dataset_config_name
        if name is None:
            name, config_name = "nyu-mll/glue", arguments.task
        return load_by_name(name, config_name, split), f"{split} of {config_name or name}"
    names = [f"{split}{extension}" for extension in EXTENSIONS if extension != ".txt"]
    paths = [path for path in (Path(arguments.data_dir) / name for name in names) if path.is_file()]
    if len(paths) > 1:
        raise ValueError(f"{paths[0]} and {paths[1].name} are both of the split {split}: take one of them out.")
    if paths:
        return load_file(paths[0]), str(paths[0])
    raise FileNotFoundError(
        f"{arguments.data_dir} has none of {', '.join(names)}, which {arguments.task or 'the run'} needs."
    )


def encode(
    data: Dataset,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    to_task: np.ndarray | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Dataset:
    """Token ids, labels in the model's numbers, and `cut`, whether a text had more than `max_length` tokens; and what
    a teacher's tokenizer makes of the texts, for `TaughtCollator`.

    Raises:
        ValueError: the teacher's tokenizer makes other tokens of a text.
    """
    task_to_model = None if to_task is None else np.argsort(to_task)
    tokenizer = copy.deepcopy(tokenizer)  # where it has cut would be saved with it

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        texts = [batch[column] for column in task.columns]
        encoded = {**tokenizer(*texts, truncation=True, max_length=max_length)}
        encoded["cut"] = [len(ids) == max_length for ids in encoded["input_ids"]]
        for row in (row for row, full in enumerate(encoded["cut"]) if full):
            whole = tokenizer(*(column[row] for column in texts), truncation=False, verbose=False)
            encoded["cut"][row] = len(whole["input_ids"]) > max_length
        if teacher_tokenizer is not None:
            theirs = {**teacher_tokenizer(*texts, truncation=True, max_length=max_length)}
            if theirs["input_ids"] != encoded["input_ids"]:
                raise ValueError("The teacher's tokenizer makes other tokens of the texts than the model's does.")
            encoded |= {f"{TEACHERS}{name}": values for name, values in theirs.items()}
        if "label" in batch:
            encoded["labels"] = batch["label"] if task_to_model is None else task_to_model[batch["label"]].tolist()
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


def _checked(data: Dataset, where: str, task: Task, labelled: bool) -> Dataset:
    """A split's texts and, as numbers of the task, its labels."""
    for column in task.columns:
        row = next((row for row, text in enumerate(data[column]) if not isinstance(text, str)), None)
        if row is not None:
            raise ValueError(f"{where} has no text in column {column} of row {row} (the first is 0).")
    if not labelled:
        return data.select_columns(list(task.columns))
    feature, labels = data.features[task.label_column], list(data[task.label_column])
    declared = isinstance(feature, ClassLabel)
    if declared:
        name_of = dict(enumerate(feature.names))
        labels = [name_of.get(label, label) for label in labels]
    names = feature.names if declared else list(dict.fromkeys(map(_name, labels)))
    known = dict(zip(names, match_names(names, task.labels or (), apart=declared)))
    numbers = [_number(label, task, known) for label in labels]
    if None in numbers:
        row = numbers.index(None)
        allowed = "numbers" if task.labels is None else ", ".join(task.labels)
        if task.labels is not None and task.numbered:
            allowed += f", or 0 to {len(task.labels) - 1}"
        raise ValueError(f"{where} has the label {labels[row]!r} in row {row} (the first is 0); it must be {allowed}.")
    if "label" in task.columns:
        raise ValueError(f"{where} has texts in a column named label, as the labels are named here: rename it.")
    return data.select_columns(list(task.columns)).add_column("label", numbers)


def _number(label: Any, task: Task, known: dict[str, int | None]) -> float | int | None:
    """A label as the task's number, by those `known` of its name; None for one that it has not."""
    if _is_missing(label):
        return None
    try:
        if task.labels is not None and (number := known.get(_name(label))) is not None:
            return number
        value = float(label)
        if task.labels is None:
            return value if np.isfinite(value) else None
        return int(value) if task.numbered and value.is_integer() and 0 <= value < len(task.labels) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _is_missing(label: Any) -> bool:
    """Whether a label is missing, and null, NaN, or in .csv nothing stands in its place."""
    return label is None or label != label or (isinstance(label, str) and not label.strip())


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _name(label: Any) -> str:
    """A label as its name, the same for 1, 1.0 and "1"."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label).strip()
