# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The folder that a run writes to: what the run was asked for, whether it is finished, where it goes on, and what it
leaves besides its model."""

import copy
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import logging

from ..checkpoints.hub import check_target, push_checkpoint
from ..checkpoints.model_card import read_record
from ..checkpoints.reading import PROCESSOR_FILES, CheckpointError, copy_files, fetch, first_line, read_json
from ..families import family_of
from ..files import write_json
from .arguments import check_positive, resolve, save_options
from .data_files import holds_out
from .record import source_of, write_record


logger = logging.get_logger(__name__)

# What a run does, and how long; one that is finished with other values of these is gone on with.
EXTENT = ("do_train", "do_eval", "do_predict", "max_steps", "num_train_epochs")
# The other options of TrainingArguments that decide what a training ends in: a run that goes on must have the same.
DECIDING = """
seed data_seed learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm optim lr_scheduler_type
warmup_steps per_device_train_batch_size gradient_accumulation_steps label_smoothing_factor bf16 fp16 optim_args
lr_scheduler_kwargs neftune_noise_alpha dataloader_drop_last train_sampling_strategy load_best_model_at_end
metric_for_best_model greater_is_better
""".split()
# The commands' own options that have no part in training.
EVALUATING = """
max_eval_samples max_predict_samples real_labels crop_pct validation_split validation_file test_split seeds
""".split()


class RunFolder:
    """The folder of a run, its `output_dir`.

    Every command makes one of its options as they were given, before anything derives from them: by these a run is
    known when it goes on. Then it calls `check`, `find_results`, `go_on`, `prepare` and `finish`, in this order.

    Args:
        training: the options of Trainer.
        arguments: the command's own options, one dataclass or several.

    Attributes:
        path: the folder.
        training: the options of Trainer; after `start` or `go_on` the copy that they have returned.
        options: all options as they were given, see [`resolve`].
        requested: what `results.json` has as `asked`: how long the run is, and a digest of all that decides what
            comes of it; of a run that only evaluates, also of the files that it reads.
    """

    def __init__(self, training: TrainingArguments, *arguments: Any):
        self.path, self.training, self.arguments = Path(training.output_dir), training, arguments
        self.options = resolve(*arguments, training)
        self._own_names = [field.name for part in arguments for field in fields(part)]
        self.requested = {name: self.options[name] for name in EXTENT} | {"arguments": self._digest()}

    def check(self) -> None:
        """Refuses a folder that has another run than this: one which is not to be gone on with, or cannot be since its
        training had other options.

        Raises:
            FileExistsError: the path is not a folder, or has a run that is not to be gone on with.
            ValueError: an option is not that of the run which is to be gone on with, or is the Hub's token, or makes
                no sense.
        """
        training = self.training
        check_positive(training, "gradient_accumulation_steps")
        if training.accelerator_config.dispatch_batches:
            raise ValueError("Each process reads its own rows: leave dispatch_batches out of --accelerator_config.")
        if training.hub_token is not None:
            raise ValueError(
                "Trainer would write --hub_token into the output folder: set HF_TOKEN, or log in with `hf auth login`."
            )
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is not a folder; choose another --output_dir.")
        if training.resume_from_checkpoint is not None:
            self._check_options()
            return
        names = ("results.json", "checkpoint-*", "seed-*/results.json", "seed-*/checkpoint-*")
        if earlier := [path for name in names for path in self.path.glob(name)]:
            raise FileExistsError(
                f"{earlier[0]} is of an earlier run; choose another --output_dir, or go on with that run by "
                "--resume_from_checkpoint last."
            )

    def _check_options(self) -> None:
        """Refuses to go on with a training that had other options.

        Raises:
            ValueError: an option differs that decides what the training ends in.
        """
        earlier, now = self._read_options(), self.options
        if not (now["do_train"] and earlier.get("do_train")):
            return
        if holds_out(earlier) != holds_out(now):
            raise ValueError(
                "The run that is to be gone on with has trained on other texts, since those to evaluate on are held "
                "out of them where there is no --validation_file: evaluate as it did, or choose another --output_dir."
            )
        for name in (*DECIDING, *(name for name in self._own_names if name not in EVALUATING)):
            if earlier.get(name) != now.get(name):
                raise ValueError(
                    f"{name} is {now.get(name)}, but it was {earlier.get(name)} in the run that is to be gone on "
                    "with: give it the same, or choose another --output_dir."
                )

    def _read_options(self) -> dict[str, Any]:
        """The options that an earlier run has written to the folder; none where there are none.

        Raises:
            ValueError: they are damaged.
        """
        file = self.path / "arguments.yaml"
        if not file.is_file():
            return {}
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is damaged: {first_line(error)}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} does not hold the arguments of a run; choose another --output_dir.")
        return values

    def _digest(self) -> str:
        """The digest of all options that decide what comes of the run."""
        # The seeds of several runs do not: each of them is a run by itself.
        own_names = [name for name in self._own_names if name != "seeds"]
        names = sorted([*DECIDING, *own_names, "bf16_full_eval", "fp16_full_eval"])
        compared = [(name, self.options.get(name)) for name in names]
        # A number that has been read from a file may have become a fraction.
        compared = [(name, float(value) if isinstance(value, int) else value) for name, value in compared]
        if not self.options["do_train"]:  # which is not done again because a file has another time
            compared += [(name, _content(path)) for name in own_names for path in _paths(self.options.get(name))]
        return hashlib.blake2b(repr(compared).encode(), digest_size=8).hexdigest()

    @property
    def evaluates_training(self) -> bool:
        """Whether the run evaluates in the folder of a training. That goes on by its `arguments.yaml` and
        `results.json`: these are left as they are, and `evaluation.yaml` and `evaluation.json` written."""
        return not self.options["do_train"] and bool(self._read_options().get("do_train"))

    @property
    def results_file(self) -> Path:
        """The file of the run's results."""
        return self.path / ("evaluation.json" if self.evaluates_training else "results.json")

    def find_results(self) -> dict[str, Any] | None:
        """The results of a run that was asked for the same and is finished, where this one is to go on from the last
        checkpoint; None: it is still to be run. The model that is found is pushed, if this run is to push it.

        Raises:
            CheckpointError: the results are damaged, or the model could not be pushed.
        """
        if self.training.resume_from_checkpoint != "last" or not self.results_file.is_file():
            return None
        results = read_json(self.results_file)
        if results.get("asked") != self.requested:
            return None
        self._push()
        return results

    def start(self) -> TrainingArguments:
        """Makes the folder, writes the options there, and returns a copy of Trainer's for this machine.

        Raises:
            OSError: the folder cannot be written.
        """
        training = copy.copy(self.training)
        training.dataloader_pin_memory &= torch.accelerator.is_available()
        # Rows that are streamed are of several lengths: each process takes its own, instead of a part of the first's.
        training.accelerator_config = copy.copy(training.accelerator_config)
        training.accelerator_config.dispatch_batches = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if training.process_index == 0:
                file = "evaluation.yaml" if self.evaluates_training else "arguments.yaml"
                save_options(self.path / file, self.options)
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror}); choose another --output_dir.") from error
        self.training = training
        return training

    def go_on(self, *needed_files: str) -> TrainingArguments:
        """Starts the run, see [`start`], and where it trains puts the folder's last whole checkpoint, see
        [`last_checkpoint`], in the place of `--resume_from_checkpoint last`.

        Raises:
            ValueError: the checkpoint holds the model alone, so that the learning rate would start anew; or is of
                another number of processes, among which the rows would be shared in another way; or has gone further
                than this run is to go.
            OSError: the folder cannot be written.
        """
        checkpoint = self.training.resume_from_checkpoint
        if self.training.do_train:
            if checkpoint == "last":
                checkpoint = last_checkpoint(self.path, *needed_files)
                if checkpoint is None:
                    logger.warning(
                        f"There is no checkpoint in {self.path} to go on from: this run starts at the beginning."
                    )
            if checkpoint is not None and self.training.deepspeed is None:
                self._check_checkpoint(Path(checkpoint))
        training = self.start()
        training.resume_from_checkpoint = checkpoint
        return training

    def _check_checkpoint(self, checkpoint: Path) -> None:
        """Raises the ValueErrors of [`go_on`]."""
        training = self.training
        if checkpoint.is_dir() and not (checkpoint / "scheduler.pt").is_file():
            raise ValueError(
                f"{checkpoint} holds the model alone (--save_only_model true), so that its training cannot go on: "
                "choose another --output_dir, and fine-tune it with --model_name_or_path."
            )
        state = checkpoint / "trainer_state.json"
        done = read_json(state) if state.is_file() else {"global_step": 0, "epoch": 0}
        steps, epoch = done["global_step"], done["epoch"] or 0
        before_last = epoch - epoch / max(steps, 1)  # the last step may go beyond a fraction of an epoch
        if steps > training.max_steps > 0 or training.max_steps <= 0 < before_last >= training.num_train_epochs:
            raise ValueError(
                f"{checkpoint} has gone {steps} steps ({epoch:g} epochs) already, more than this run is to go: ask "
                "for more, or choose another --output_dir."
            )
        processes = len(list(checkpoint.glob("rng_state*.pth")))  # Trainer writes one for each
        if processes not in (0, training.world_size):
            raise ValueError(
                f"{checkpoint} is of a run with {processes} process{'es' * (processes > 1)}, and this one has "
                f"{training.world_size}: go on with as many, or choose another --output_dir."
            )

    def prepare(self, model: PreTrainedModel) -> None:
        """Refuses to train a model that could not be saved or pushed in the end. And copies the record of a conversion
        that the run begins with.

        Raises:
            OSError: the disk has no room for the checkpoints.
            ValueError: a stock model is to be pushed, or to where the token's account has no place.
        """
        training = self.training
        if not training.do_train:
            return
        _check_free_space(training, model)
        if training.push_to_hub and family_of(model.config) is None:
            raise ValueError("--push_to_hub is for CP models; push another with `hf upload`.")
        if training.push_to_hub and training.process_index == 0:
            check_target(self._repository)
        source = source_of(self.options)
        if source is not None and training.process_index == 0:
            folder = fetch(source)[0]
            if read_record(folder, "conversion.json"):
                copy_files(folder, self.path, ["conversion.json"])

    def finish(self, results: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Writes the results of a run and, where it has trained, the record of it and a CP model's card; then pushes
        the model, where it is to be pushed.

        Args:
            results: what is measured, and of what.
            evaluations: the figures for the record, each with its `split`, `metric`, `name` and `value`.

        Returns:
            The content of `results.json`: the results, and what was asked for.

        Raises:
            CheckpointError: the model could not be pushed; everything else is written.
        """
        training = self.training
        if training.do_train and training.process_index == 0:
            write_record(self.path, resolve(*self.arguments, training), evaluations, training.world_size)
        results = self.write_results(results)  # last: by them a run is known to be finished
        self._push()
        return results

    def write_results(self, results: dict[str, Any]) -> dict[str, Any]:
        """Writes `results.json`, and returns its content: the results, and what was asked for."""
        results = {**results, "asked": self.requested}
        if self.training.process_index == 0:
            write_json(self.results_file, results)
        return results

    @property
    def _repository(self) -> str:
        """The repository that the model is to be pushed to."""
        return self.training.hub_model_id or self.path.resolve().name

    def _push(self) -> None:
        """Pushes the model of a run that is finished, where it is to be pushed.

        Raises:
            CheckpointError: the model could not be pushed.
        """
        training, repo = self.training, self._repository
        if not (training.do_train and training.push_to_hub and training.process_index == 0):
            return
        options = {"private": training.hub_private_repo, "revision": training.hub_revision}
        try:
            pushed = push_checkpoint(self.path, repo, **options)
        except CheckpointError as error:
            hint = f"The run is finished in {self.path}; push it with `cp-transformers push {self.path} {repo}`."
            raise CheckpointError(f"{error} {hint}") from error
        print(f"Pushed to {pushed.url}, commit {pushed.commit}.")


def last_checkpoint(folder: Path, *needed_files: str) -> str | None:
    """The last whole checkpoint of Trainer in a folder, which has all the needed files; None where there is none.

    A checkpoint that was being written when its run was killed lacks its state, which is written last, or has a part
    of it, or lacks a file that is written after it.
    """
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    whole = [path for path in whole if all((path / name).is_file() for name in needed_files)]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _is_json(file: Path) -> bool:
    """Whether a file is whole JSON."""
    try:
        read_json(file)
    except CheckpointError:
        return False
    return True


def _paths(value: Any) -> Iterator[Path]:
    """The files and folders that an option names."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and each and os.path.exists(each):
            yield Path(each)


def _content(path: Path) -> list[tuple[str, int, int]]:
    """The names, sizes and times by which it is seen whether a file or folder has been changed: of a checkpoint those
    of its weights, configurations and vocabulary, of other folders those of two levels."""
    files = [path]
    if path.is_dir():
        is_checkpoint = (path / "config.json").is_file()
        patterns = ["*.safetensors", "config.json", *PROCESSOR_FILES] if is_checkpoint else ["*", "*/*"]
        files = sorted(file for pattern in patterns for file in path.glob(pattern) if file.exists())
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _check_free_space(training: TrainingArguments, model: nn.Module) -> None:
    """Refuses to train a model whose checkpoints would not fit on the disk.

    Raises:
        OSError: there is less room than one checkpoint (and its successor, before it is deleted) takes.
    """
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
