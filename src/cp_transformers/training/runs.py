# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What every training task shares: where a run writes, how it goes on, its optimiser, and the files it reads."""

import copy
import dataclasses
import hashlib
import inspect
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils.data import Dataset as TorchDataset, IterableDataset as TorchIterableDataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..checkpoints.reading import (
    PROCESSOR_FILES,
    UNTRUSTED,
    CheckpointError,
    check_tokenizer,
    copy_sentence_files,
    fetch,
    first_line,
    forget_code,
    read_json,
    read_model_type,
    reading,
    weight_files,
)
from ..families import family_of
from .arguments import as_mapping, resolve, save_arguments
from .optimizer import param_groups, pool_parameters


logger = logging.get_logger(__name__)

# What a run is asked for; one that is finished with other values of these is gone on with.
ASKED = ("do_train", "do_eval", "do_predict", "max_steps", "num_train_epochs")
# Of TrainingArguments, what else decides what a training ends in: a run that goes on must have the same.
DECIDING = """
seed data_seed learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm optim lr_scheduler_type
warmup_steps per_device_train_batch_size gradient_accumulation_steps label_smoothing_factor bf16 fp16 optim_args
lr_scheduler_kwargs neftune_noise_alpha dataloader_drop_last train_sampling_strategy load_best_model_at_end
metric_for_best_model greater_is_better
""".split()
# Metrics of which the best is the lowest.
LOWER_IS_BETTER = {"loss", "perplexity", "hidden", "embedding", "class_token", "logits"}
# Of so many texts one is held out, where there is one file to train and to evaluate on.
HELD_OUT = 20
# Of the tasks' own arguments, what training has nothing to do with.
OF_EVALUATION = """
max_eval_samples max_predict_samples real_labels crop_pct validation_split validation_file test_split seeds
""".split()


def check_positive(arguments: Any, *names: str) -> None:
    """Raises a ValueError that names the first of these fields that is set and not positive."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, not {value}.")


def check_metrics(training: TrainingArguments, names: Sequence[str]) -> None:
    """Refuses what would spoil the metrics, which have these names, or the choice of the best checkpoint by them.

    Raises:
        ValueError: the metrics would lack predictions or labels, or `metric_for_best_model` is none of them, or some
            of the steps that are evaluated would not be saved, so that the best might be lost.
    """
    if training.prediction_loss_only or training.batch_eval_metrics or not training.eval_do_concat_batches:
        raise ValueError(
            "The metrics need all predictions: leave out prediction_loss_only, batch_eval_metrics and "
            "eval_do_concat_batches."
        )
    in_steps = training.eval_strategy == training.save_strategy == "steps"
    if training.load_best_model_at_end and in_steps and training.save_steps != training.eval_steps:
        raise ValueError(
            f"The best model may be at any evaluation: with --load_best_model_at_end give --save_steps "
            f"{training.eval_steps:g}, as --eval_steps, or --save_strategy best."
        )
    if training.label_names is not None:
        raise ValueError("The labels are known here: leave out --label_names.")
    name = (training.metric_for_best_model or names[0]).removeprefix("eval_")
    if name not in names:
        raise ValueError(f"There is no metric {name} for metric_for_best_model; there are {', '.join(names)}.")


def for_trainer(training: TrainingArguments) -> TrainingArguments:
    """The arguments of a run as Trainer is to have them. They are a copy, since those of the run are kept as they were
    given, and compared when it goes on.

    Trainer would push paths of this machine and a pickle, which [`finish`][cp_transformers.training.records.finish]
    does not. It guesses which way is better from a metric's name (and, for the schedules that look at it, does not).
    """
    training = copy.copy(training)
    training.push_to_hub = False
    if training.metric_for_best_model is not None:
        training.greater_is_better = training.metric_for_best_model.removeprefix("eval_") not in LOWER_IS_BETTER
        if training.greater_is_better and training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            training.lr_scheduler_kwargs = {"mode": "max", **(training.lr_scheduler_kwargs or {})}
    return training


def only_logits(outputs: torch.Tensor | tuple, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Of what a model returns besides its loss, the first; for Trainer's `preprocess_logits_for_metrics`."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def check_finite(values: Any) -> None:
    """Raises a ValueError where a number of an evaluation is none: the largest of NaNs would count as an answer."""
    if not np.isfinite(values).all():
        raise ValueError(
            "The model's outputs are not finite numbers: its training has diverged. Start anew with a lower "
            "--learning_rate, or without fp16."
        )


def check_output(training: TrainingArguments, *arguments: Any) -> None:
    """Refuses an `output_dir` that is not a folder, or that has another run than this: one which is not to be gone on
    with, or cannot be since its training was configured otherwise.

    Raises:
        FileExistsError: it is not a folder, or has a run that is not to be gone on with.
        ValueError: an option is not that of the run which is to be gone on with, or is the Hub's token, or makes no
            sense.
    """
    output = Path(training.output_dir)
    check_positive(training, "gradient_accumulation_steps")
    if training.accelerator_config.dispatch_batches:
        raise ValueError("Each process reads its own rows: leave dispatch_batches out of --accelerator_config.")
    if training.hub_token is not None:
        raise ValueError(
            "Trainer would write --hub_token into the output folder: set HF_TOKEN, or log in with `hf auth login`."
        )
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is not a folder; choose another --output_dir.")
    earlier = [path for name in ("results.json", "checkpoint-*") for path in output.glob(name)]
    earlier += [path for name in ("results.json", "checkpoint-*") for path in output.glob(f"seed-*/{name}")]
    if earlier and training.resume_from_checkpoint is None:
        raise FileExistsError(
            f"{earlier[0]} is of an earlier run; choose another --output_dir, or go on with that run by "
            "--resume_from_checkpoint last."
        )
    if training.resume_from_checkpoint is None or not (output / "arguments.yaml").is_file():
        return
    before = read_arguments(output)
    now = resolve(*arguments, training)
    if not (training.do_train and before.get("do_train")):
        return
    if holds_out(before) != holds_out(now):
        raise ValueError(
            "The run that is to be gone on with has trained on other texts, since those to evaluate on are held out "
            "of them where there is no --validation_file: evaluate as it did, or choose another --output_dir."
        )
    own = [each.name for part in arguments for each in dataclasses.fields(part) if each.name not in OF_EVALUATION]
    for name in (*DECIDING, *own):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{name} is {now.get(name)}, but it was {before.get(name)} in the run that is to be gone on with: "
                "give it the same, or choose another --output_dir."
            )


def holds_out(values: Mapping[str, Any]) -> bool:
    """Whether a run with these options, see [`resolve`][cp_transformers.training.arguments.resolve], holds some of the
    texts that it trains on out, since it evaluates and has no other file for that."""
    evaluates = values.get("do_eval") or values.get("eval_strategy", "no") != "no"
    alone = values.get("train_file") and not values.get("validation_file")
    return bool(values.get("do_train") and evaluates and alone)


def read_arguments(output: Path) -> dict[str, Any]:
    """The arguments that an earlier run has written to its `output_dir`.

    Raises:
        ValueError: they are damaged.
    """
    file = output / "arguments.yaml"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} does not hold the arguments of a run; choose another --output_dir.")
    return values


def start_output(training: TrainingArguments, *arguments: Any) -> TrainingArguments:
    """Makes `output_dir`, writes the resolved arguments there, and returns the training arguments for this machine.

    Raises:
        OSError: the folder cannot be written.
    """
    output = Path(training.output_dir)
    training = copy.copy(training)
    training.dataloader_pin_memory &= torch.accelerator.is_available()
    # Rows that are streamed are of several lengths: each process takes its own, instead of a part of the first one's.
    training.accelerator_config = copy.copy(training.accelerator_config)
    training.accelerator_config.dispatch_batches = False
    try:
        output.mkdir(parents=True, exist_ok=True)
        if training.process_index == 0:
            file = "evaluation.yaml" if evaluates_a_run(training) else "arguments.yaml"
            save_arguments(output / file, *arguments, training)
    except OSError as error:
        raise OSError(f"{output} cannot be written ({error.strerror}); choose another --output_dir.") from error
    return training


def evaluates_a_run(training: TrainingArguments) -> bool:
    """Whether a run evaluates in the folder of a training, which goes on by its `arguments.yaml` and `results.json`:
    these are left as they are, and `evaluation.yaml` and `evaluation.json` written."""
    output = Path(training.output_dir)
    if training.do_train or not (output / "arguments.yaml").is_file():
        return False
    return bool(read_arguments(output).get("do_train"))


def results_file(training: TrainingArguments) -> Path:
    """Where a run's results go."""
    return Path(training.output_dir) / ("evaluation.json" if evaluates_a_run(training) else "results.json")


def check_free_space(training: TrainingArguments, model: nn.Module) -> None:
    """Refuses to train a model whose checkpoints would not fit on the disk.

    Raises:
        OSError: there is less room than one checkpoint (and its successor, before it is deleted) takes.
    """
    if not training.do_train:
        return
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    saves = training.save_strategy != "no"
    with_optimizer = 1 if training.save_only_model else 3  # AdamW keeps two numbers a weight
    needed = weights * (1 + saves * with_optimizer * (2 if training.save_total_limit else 1))
    free = shutil.disk_usage(training.output_dir).free
    if free < needed:
        raise OSError(
            f"{training.output_dir} has {free / 1e9:.2f} GB left, and the run's checkpoints take {needed / 1e9:.2f} "
            "GB; choose another --output_dir, or save less (--save_strategy no, or --save_only_model true, from which "
            "a run cannot go on)."
        )


def last_checkpoint(folder: Path, *also: str) -> str | None:
    """The last whole checkpoint of Trainer in a folder: one that was being written when its run was killed lacks its
    state, which is written last, or has a part of it, or lacks a file that is written after it."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    whole = [path for path in whole if all((path / name).is_file() for name in also)]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _is_json(file: Path) -> bool:
    try:
        read_json(file)
    except CheckpointError:
        return False
    return True


def resume(training: TrainingArguments, folder: Path, *also: str) -> None:
    """Puts the last whole checkpoint in a folder in the place of `--resume_from_checkpoint last`; see
    [`last_checkpoint`].

    Raises:
        ValueError: the checkpoint holds the model alone, so that the learning rate would start anew; or is of another
            number of processes, among which the rows would be shared in another way; or has gone further than this
            run is to go.
    """
    if training.resume_from_checkpoint == "last":
        training.resume_from_checkpoint = last_checkpoint(folder, *also)
        if training.do_train and training.resume_from_checkpoint is None:
            logger.warning(f"There is no checkpoint in {folder} to go on from: this run starts at the beginning.")
    checkpoint = training.resume_from_checkpoint
    if training.do_train and checkpoint is not None and training.deepspeed is None:
        if Path(checkpoint).is_dir() and not (Path(checkpoint) / "scheduler.pt").is_file():
            raise ValueError(
                f"{checkpoint} holds the model alone (--save_only_model true), so that its training cannot go on: "
                "choose another --output_dir, and fine-tune it with --model_name_or_path."
            )
        state = Path(checkpoint) / "trainer_state.json"
        done = read_json(state) if state.is_file() else {"global_step": 0, "epoch": 0}
        steps, epoch = done["global_step"], done["epoch"] or 0
        before_last = epoch - epoch / max(steps, 1)  # the last step may go beyond a fraction of an epoch
        if steps > training.max_steps > 0 or training.max_steps <= 0 < before_last >= training.num_train_epochs:
            raise ValueError(
                f"{checkpoint} has gone {steps} steps ({epoch:g} epochs) already, more than this run is to go: ask "
                "for more, or choose another --output_dir."
            )
        processes = len(list(Path(checkpoint).glob("rng_state*.pth")))  # Trainer writes one for each
        if processes not in (0, training.world_size):
            raise ValueError(
                f"{checkpoint} is of a run with {processes} process{'es' * (processes > 1)}, and this one has "
                f"{training.world_size}: go on with as many, or choose another --output_dir."
            )


def asked_for(training: TrainingArguments, *arguments: Any) -> dict[str, Any]:
    """What a run is asked for: how long, and a digest of all that decides what comes of it; where it only evaluates,
    of the files that it reads as well."""
    values = resolve(*arguments, training)
    own = [each.name for part in arguments for each in dataclasses.fields(part) if each.name != "seeds"]
    names = sorted([*DECIDING, *own, "bf16_full_eval", "fp16_full_eval"])
    compared = [(name, values.get(name)) for name in names]
    # A number that has been read from a file may have become a fraction.
    compared = [(name, float(value) if isinstance(value, int) else value) for name, value in compared]
    if not training.do_train:  # which is not done again because a file has another time
        compared += [(name, _content(path)) for name in own for path in _paths(values.get(name))]
    digest = hashlib.blake2b(repr(compared).encode(), digest_size=8).hexdigest()
    return {**{name: getattr(training, name) for name in ASKED}, "arguments": digest}


def _paths(value: Any) -> Iterator[Path]:
    """The files and folders that an option names."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and each and os.path.exists(each):
            yield Path(each)


def _content(path: Path) -> list[tuple[str, int, int]]:
    """What tells whether a file or folder has been changed since: names, sizes and times; of a checkpoint those of its
    weights, configurations and vocabulary, of other folders those of two levels."""
    files = [path]
    if path.is_dir():
        of_checkpoint = ["*.safetensors", "config.json", *PROCESSOR_FILES]
        patterns = of_checkpoint if (path / "config.json").is_file() else ["*", "*/*"]
        files = sorted(file for pattern in patterns for file in path.glob(pattern) if file.exists())
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def finished(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The results of a run that was asked for the same and is finished.

    Raises:
        CheckpointError: they are damaged.
    """
    results = read_json(path) if path.is_file() else {}
    return results if results.get("asked") == asked else None


def random_seed(*of: Any) -> int:
    """A seed that is made of numbers and names, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(of).encode(), digest_size=7).digest(), "big")


class Drawn(TorchDataset):
    """Rows that are changed at random, the same way whenever they are drawn with the same seed.

    Args:
        rows: anything with a length and an index.
        draw: makes an example from a row and a seed.
        seed: of the run.
    """

    def __init__(self, rows: Any, draw: Callable[[Any, int], Any], seed: int):
        self.rows, self.draw, self.seed = rows, draw, seed
        self.epoch = torch.zeros(1, dtype=torch.long).share_memory_()  # so that workers that persist see it, too

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.draw(self.rows[index], random_seed(self.seed, int(self.epoch), index))


class DrawnAnew(Drawn):
    """The same, anew in each epoch: however many workers or processes draw the rows, and whether or not the run was
    stopped in between."""

    def set_epoch(self, epoch: int) -> None:
        """For accelerate's data loaders."""
        self.epoch.fill_(epoch)


class Stream(TorchIterableDataset):
    """The same of rows that are streamed, over and over: Trainer goes on from the middle of one endless epoch, but not
    from the middle of a later one.

    Args:
        rows, draw, seed: see [`Drawn`].
        report: is called where `draw` raises `skipped`; the row is then left out.
    """

    def __init__(
        self,
        rows: IterableDataset,
        draw: Callable[[Any, int], Any],
        seed: int,
        skipped: type[Exception] | tuple = (),
        report: Callable[[str], Any] = str,
    ):
        self.rows, self.draw, self.seed, self.skipped, self.report = rows, draw, seed, skipped, report

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        number = 0 if worker is None else worker.id
        for epoch in itertools.count():
            self.rows.set_epoch(epoch)
            any_left = False
            for index, row in enumerate(self.rows):
                try:
                    example = self.draw(row, random_seed(self.seed, epoch, number, index))
                except self.skipped as error:
                    self.report(str(error))
                    continue
                any_left = True
                yield example
            if not any_left:
                return


class BestCallback(TrainerCallback):
    """Finds the best checkpoint of a run that goes on where it lies now: Trainer looks where it was, by the name that
    the output folder was given then."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)


class EpochCallback(TrainerCallback):
    """Tells the training data which epoch it is: accelerate does not where the sampler takes the epoch, too. And has a
    sampler by length draw each epoch's order from a generator of its own: torch's is another when a run goes on.

    Raises:
        ValueError: the data fill no batch, so that Trainer would make no step, and say so in its log alone.
    """

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs) -> None:
        data = getattr(train_dataloader, "dataset", None)
        if data is not None and not isinstance(data, TorchIterableDataset) and not len(train_dataloader):
            raise ValueError(
                f"The {len(data)} rows to train on fill no batch of {args.train_batch_size} in each process: leave "
                "out --dataloader_drop_last, or give a smaller --per_device_train_batch_size."
            )

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs) -> None:
        data = getattr(train_dataloader, "dataset", None)
        epoch = int(state.epoch)
        if isinstance(data, DrawnAnew):
            data.set_epoch(epoch)
        batches: Any = getattr(train_dataloader, "batch_sampler", None)
        while hasattr(batches, "batch_sampler"):  # accelerate's, around it
            batches = batches.batch_sampler
        if isinstance(sampler := getattr(batches, "sampler", None), LengthGroupedSampler):
            sampler.generator = torch.Generator().manual_seed(random_seed(args.seed, epoch))


class TaskTrainer(Trainer):
    """A Trainer with learning rates of their own, see [`make_optimizer`], and with checkpoints that it finds again.

    Args:
        source: the checkpoint that the run begins with; what it has for sentence-transformers is kept.
    """

    args: TrainingArguments
    optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        *args: Any,
        pool_learning_rate: float | None = None,
        layer_decay: float | None = None,
        source: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.pool_learning_rate, self.layer_decay = pool_learning_rate, layer_decay
        self.source = None if source is None else fetch(source)[0]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Not given to Trainer, which with FSDP takes none."""
        if self.optimizer is None:
            of_model = self.model if model is None else model
            self.optimizer = make_optimizer(of_model, self.args, self.pool_learning_rate, self.layer_decay)
        return super().create_optimizer(model)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """With all rows, and in their order: Trainer cuts and sorts what is evaluated as it does the training data."""
        with self._in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        with self._in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        given: TrainingArguments = self.args
        self.args = copy.copy(given)
        self.args.dataloader_drop_last, self.args.train_sampling_strategy = False, "random"
        try:
            yield
        finally:
            self.args = given

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints have the names that the weights have in memory, the only ones under which Trainer finds them
        when it goes on or takes the best: of some models, such as ViT, upstream saves others."""
        own_names = _internal_call and isinstance(self.model, PreTrainedModel)
        if own_names:
            self.model.save_pretrained = partial(self.model.save_pretrained, save_original_format=False)
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            if own_names:
                del self.model.save_pretrained
        if self.source is not None and self.args.should_save:
            copy_sentence_files(self.source, Path(output_dir or self.args.output_dir))


def make_optimizer(
    model: nn.Module,
    training: TrainingArguments,
    pool_learning_rate: float | None = None,
    layer_decay: float | None = None,
) -> torch.optim.Optimizer | None:
    """The optimiser that the arguments name, with a learning rate of the pooling's own or one that decays with the
    depth; None, for Trainer's own, where neither is asked for. A model without pooling does without a rate for it, as
    one of the two that a configuration serves."""
    if pool_learning_rate is None and layer_decay is None:
        return None
    if pool_learning_rate is not None and not pool_parameters(model)[0]:
        if training.process_index == 0:
            print(f"{type(model).__name__} has no pooling, and makes no use of --pool_learning_rate.")
        pool_learning_rate = None
    groups = param_groups(model, training.learning_rate, pool_learning_rate, training.weight_decay, layer_decay or 1.0)
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training, model)
    return optimizer_class(groups, **options)


def load_config(name: str, auto_class: Any, **options: Any) -> PreTrainedConfig:
    """The configuration of a checkpoint for one of the Auto classes.

    Raises:
        CheckpointError: there is none, or it cannot be had, or is damaged, or needs code of its own or pickles.
        ValueError: it is of a kind of model that the Auto class has not.
    """
    folder = fetch(name)[0]
    read_model_type(folder)
    weight_files(folder)
    with reading(f"{name}: config.json"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    if type(config) not in auto_class._model_mapping:
        raise ValueError(
            f"{name} is a model of type {config.model_type}, for which there is no {auto_class.__name__}."
        )
    return config


def load_model(name: str, auto_class: Any, **options: Any) -> PreTrainedModel:
    """A checkpoint's model in float32, whatever it is stored in; without code of its own, and not from pickles. Its
    configuration is to be read by [`load_config`], which looks at the files, first.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    with reading(name):
        model = auto_class.from_pretrained(fetch(name)[0], dtype=torch.float32, **UNTRUSTED, **options)
    forget_code(model.config)
    return model


def load_tokenizer(name: str | os.PathLike) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer, without code of its own.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if Path(name).is_dir():
        check_tokenizer(Path(name))
    with reading(f"The tokenizer of {name}"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    tokenizer.init_kwargs.pop("auto_map", None)  # as [`forget_code`] of a model
    return tokenizer


def new_config(classes: Mapping[str, type], arguments: Any, **fields: Any) -> PreTrainedConfig:
    """The configuration of a new model by the options `model_type`, `model_config` and `pool_config`, the last for CP
    models alone; they come before `fields`.

    Raises:
        ValueError: there is no such field, or its value does not fit.
    """
    config_class: Any = classes[arguments.model_type]
    given = as_mapping("model_config", arguments.model_config)
    if family_of(arguments.model_type) is not None:
        given.update(as_mapping("pool_config", arguments.pool_config))
    known = {*config_class().to_dict(), *config_class.attribute_map, "num_labels"}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"A {arguments.model_type} model has no field {unknown[0]}.")
    try:
        return config_class(**{**fields, **given})
    except StrictDataclassError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        raise ValueError(f"A {arguments.model_type} model cannot be made so: {reason}") from error


def fixed_image_size(model: PreTrainedModel) -> int | list[int] | None:
    """The size of the images that a model takes unless it is asked to interpolate its position embeddings, in pixels;
    None for a model that takes images of any size."""
    asked = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return getattr(model.config, "image_size", None) if asked else None


def draw_new_head(model: PreTrainedModel) -> PreTrainedModel:
    """Gives a model a new head, also where one of the same size has been loaded."""
    fresh = type(model)(model.config)
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{model.base_model_prefix}."):
            parameter.data.copy_(fresh.get_parameter(name))
    return model
