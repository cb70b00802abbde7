# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The Trainer of every command: its optimiser, its checkpoints, and the metrics by which it chooses the best."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoints.processors import copy_sentence_files
from ..checkpoints.reading import fetch
from .optimizer import param_groups, pool_parameters
from .rows import DrawnAnew, random_seed


# Metrics of which the best is the lowest.
LOWER_IS_BETTER = {"loss", "perplexity", "hidden", "embedding", "class_token", "logits"}


def check_metrics(training: TrainingArguments, names: Sequence[str]) -> None:
    """Refuses options that would spoil the metrics of these names, or the choice of the best checkpoint by them.

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


def trainer_arguments(training: TrainingArguments) -> TrainingArguments:
    """A copy of a run's arguments as Trainer is to have them.

    Trainer would push paths of this machine and a pickle, which [`RunFolder.finish`] does not. Trainer guesses from a
    metric's name which way is better, and does not tell the schedules that look at the metric.
    """
    training = copy.copy(training)
    training.push_to_hub = False
    if training.metric_for_best_model is not None:
        training.greater_is_better = training.metric_for_best_model.removeprefix("eval_") not in LOWER_IS_BETTER
        if training.greater_is_better and training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            training.lr_scheduler_kwargs = {"mode": "max", **(training.lr_scheduler_kwargs or {})}
    return training


def only_logits(outputs: torch.Tensor | tuple, labels: torch.Tensor | None = None) -> torch.Tensor:
    """The first output of a model besides its loss; for Trainer's `preprocess_logits_for_metrics`."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


class BestCallback(TrainerCallback):
    """Finds the best checkpoint of a run that goes on where the output folder lies now: Trainer looks for it by the
    name that the folder was given when the run began."""

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
        if data is not None and not isinstance(data, IterableDataset) and not len(train_dataloader):
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
    """A Trainer with learning rates for the pooling and by the depth, see [`make_optimizer`], and with checkpoints
    that it finds again.

    Args:
        model, args, kwargs: as Trainer takes them; the arguments are changed as [`trainer_arguments`] says.
        pool_learning_rate: of the pooling modules; None: that of the rest.
        layer_decay: factor of the learning rates from a layer to the one below; None: all layers have the same.
        source: the checkpoint that the run begins with; its files for sentence-transformers are kept.
        callbacks: besides [`EpochCallback`] and [`BestCallback`].
    """

    args: TrainingArguments
    optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        pool_learning_rate: float | None = None,
        layer_decay: float | None = None,
        source: str | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ):
        callbacks = [EpochCallback(), BestCallback(), *callbacks]
        super().__init__(model, trainer_arguments(args), callbacks=callbacks, **kwargs)
        self.pool_learning_rate, self.layer_decay = pool_learning_rate, layer_decay
        self.source = None if source is None else fetch(source)[0]

    def train_and_save(self) -> None:
        """Trains, from the checkpoint in `args.resume_from_checkpoint` on where there is one, and saves the model."""
        self.train(resume_from_checkpoint=self.args.resume_from_checkpoint)
        self.save_and_wait()

    def save_and_wait(self) -> None:
        """Saves the model, and returns when every process can read it."""
        self.save_model()
        self.accelerator.wait_for_everyone()

    def _run_epoch(self, **kwargs: Any) -> None:
        """Makes no step where a run goes on that has made all: amid an epoch Trainer would make one more."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)
        else:
            self.control.should_training_stop = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser of [`make_optimizer`]; Trainer's constructor is not given it, as with FSDP it takes none."""
        if self.optimizer is None:
            trained = self.model if model is None else model
            self.optimizer = make_optimizer(trained, self.args, self.pool_learning_rate, self.layer_decay)
        return super().create_optimizer(model)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """A loader of all rows, in their order: Trainer would cut and sort them as it does the training data."""
        with self._in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """A loader of all rows, in their order; see [`get_eval_dataloader`]."""
        with self._in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        """Has Trainer make loaders of all rows in their order."""
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
    depth; None, for Trainer's own, where neither is given. A model without pooling does without a rate for it, as one
    of the two that a configuration serves."""
    if pool_learning_rate is None and layer_decay is None:
        return None
    if pool_learning_rate is not None and not pool_parameters(model)[0]:
        if training.process_index == 0:
            print(f"{type(model).__name__} has no pooling, and makes no use of --pool_learning_rate.")
        pool_learning_rate = None
    groups = param_groups(model, training.learning_rate, pool_learning_rate, training.weight_decay, layer_decay or 1.0)
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training, model)
    return optimizer_class(groups, **options)
