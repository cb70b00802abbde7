# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Model cards, made from what a checkpoint's folder holds: its configuration, the record of its conversion, and the
arguments and results of the run that trained it. A figure that no file holds is on no card.

The parts follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, and the metadata the Hub's
specification.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import PreTrainedConfig

from .checkpoints import CheckpointError, first_line, read_model_type, weight_files
from .files import write_whole
from .registration import AUTO_MODELS


TEMPLATE = Path(__file__).with_name("model_card_template.md")
MARKER = "<!-- Made by `cp-transformers card`, which makes it anew; delete this line to keep your changes. -->"
# By these a card is known that nobody has written, so that it may be made anew; the second is Trainer's.
MADE = (MARKER, "<!-- This model card has been generated automatically according to the information the Trainer")
# The end of a class's name -> the Hub's name of its task
PIPELINE_TAGS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForImageClassification": "image-classification",
    "CPBertModel": "feature-extraction",
    "CPViTModel": "image-feature-extraction",
    "CPResNetModel": "image-feature-extraction",
    "Backbone": "image-feature-extraction",
}
# Of a run's arguments, those that a reader of the card asks for.
TRAINING_OPTIONS = """
seed seeds num_train_epochs max_steps learning_rate pool_learning_rate layer_decay weight_decay lr_scheduler_type
warmup_steps per_device_train_batch_size gradient_accumulation_steps max_length max_train_samples
label_smoothing_factor mixup cutmix ema_decay bf16 fp16 mlm_probability whole_word_mask
""".split()


@dataclass(frozen=True)
class Evaluation:
    """One figure of a run.

    Attributes:
        data: what was evaluated on: an id on the Hub, or another name.
        config: the data set's configuration, if it has several.
        value: as the run has written it; the standard deviation over its seeds in `std`.
    """

    data: str
    config: str | None
    split: str
    metric: str
    value: float
    std: float | None = None

    @property
    def shown(self) -> str:
        return f"{self.value:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")

    @property
    def on_the_hub(self) -> bool:
        return self.data.count("/") == 1


def make_card(
    folder: str | os.PathLike,
    name: str,
    base_model: str | None = None,
    license: str | None = None,
    results: dict[str, Any] | None = None,
) -> tuple[ModelCard, list[Evaluation]]:
    """The card of a checkpoint, and the figures on it.

    Args:
        folder: the checkpoint, as `convert`, `glue`, `imagenet` or `mlm` has written it.
        name: the id on the Hub, or another name that the card gives to the model.
        base_model: the id on the Hub of the model that it was made from; default: what the conversion's record says.
        license: of the checkpoint, as the Hub names licences; default: its source's, as the record has it.
        results: of the run that trained it; default: what `results.json` holds.

    Raises:
        CheckpointError: the folder is no checkpoint of this package, or a file in it is damaged.
    """
    folder = Path(folder)
    config, class_name = read_config(folder)
    conversion = _read(folder / "conversion.json")
    if base_model is None and conversion.get("commit") is not None:
        base_model = conversion["source"]
    arguments = _read(folder / "arguments.yaml")
    evaluations = _evaluations(_read(folder / "results.json") if results is None else results, arguments)
    auto_class = next(auto for auto, each in config.auto_models.items() if each == class_name)
    pipeline_tag = next((tag for end, tag in PIPELINE_TAGS.items() if class_name.endswith(end)), None)
    trained = arguments.get("do_train", False)
    data = ModelCardData(
        model_name=name.split("/")[-1],
        library_name="transformers",
        license=license or conversion.get("license"),
        base_model=base_model,
        base_model_relation=None if base_model is None else "finetune",
        datasets=sorted({each.data for each in evaluations if each.on_the_hub}) or None,
        pipeline_tag=pipeline_tag,
        tags=["context-pool", config.model_type],
        eval_results=[
            EvalResult(
                task_type=pipeline_tag or "other",
                dataset_type=each.data,
                dataset_name=each.data,
                dataset_config=each.config,
                dataset_split=each.split,
                metric_type=each.metric,
                metric_value=each.value,
            )
            for each in evaluations
        ]
        or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        marker=MARKER,
        name=name.split("/")[-1],
        summary=_summary(class_name, base_model, conversion, trained, arguments),
        load=f"from transformers import {auto_class}\n\n"
        + (
            "# its configuration is found on the Hub alone, and the package installed\n"
            if auto_class == "AutoBackbone"
            else ""
        )
        + f'model = {auto_class}.from_pretrained("{name}", trust_remote_code=True)',
        intended_use=_intended_use(class_name, trained),
        model=_model_table(folder, config, class_name),
        conversion=_conversion(conversion),
        training={name: _cell(arguments[name]) for name in TRAINING_OPTIONS if name in arguments} if trained else {},
        evaluations=evaluations,
        evaluation_note=_evaluation_note(evaluations, arguments),
        limits=_limits(trained, config),
    )
    return card, evaluations


def write_card(folder: str | os.PathLike, name: str, **options: Any) -> ModelCard:
    """Writes a checkpoint's card, see [`make_card`], to its `README.md`; figures on data of the Hub to
    `.eval_results/` as well.

    Raises:
        CheckpointError: see [`make_card`].
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    card, evaluations = make_card(folder, name, **options)
    for data in sorted({each.data for each in evaluations if each.on_the_hub}):
        entries = [
            EvalResultEntry(
                dataset_id=data,
                task_id=each.config or "default",
                value=each.value,
                notes=f"{each.split}, {each.metric}",
            )
            for each in evaluations
            if each.data == data
        ]
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        write_whole(folder / ".eval_results" / f"{data.split('/')[-1]}.yaml", text)
    write_whole(folder / "README.md", str(card))
    return card


def renew_card(folder: str | os.PathLike, source: str | os.PathLike, name: str) -> None:
    """Gives a copy of a checkpoint the card of its source: as it is, where its author has written it, else made anew
    for the copy's name, with the source's base model and licence."""
    folder, source = Path(folder), Path(source)
    card = source / "README.md"
    if is_written(card):
        write_whole(folder / "README.md", card.read_text(encoding="utf-8"))
        return
    data = ModelCard.load(card).data if card.is_file() else ModelCardData()
    made, _ = make_card(source, name, data.get("base_model"), data.get("license"))
    write_whole(folder / "README.md", str(made))


def is_written(card: Path) -> bool:
    """Whether there is a card that somebody has written: none is made over it unasked."""
    return card.is_file() and not any(mark in card.read_text(encoding="utf-8") for mark in MADE)


def read_config(folder: Path) -> tuple[PreTrainedConfig, str]:
    """The configuration of a checkpoint of this package, and the name of its model's class.

    Raises:
        CheckpointError: it is no such checkpoint, or not valid.
    """
    families = {config_class.model_type: config_class for config_class in AUTO_MODELS}
    model_type = read_model_type(folder)
    if model_type not in families:
        raise CheckpointError(
            f"{folder} is a {model_type} checkpoint, not one of ContextPool ({', '.join(families)}); convert it "
            "first, with `cp-transformers convert`."
        )
    try:
        config = families[model_type].from_pretrained(folder)
    except (StrictDataclassError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} is not valid: {first_line(error.__cause__ or error)}"
        ) from error
    class_name = (config.architectures or [None])[0]
    if class_name not in config.auto_models.values():
        raise CheckpointError(
            f'{folder / "config.json"} must name the model\'s class under "architectures", one of '
            f"{', '.join(config.auto_models.values())}; it names {class_name}."
        )
    return config, class_name


def _read(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping; an empty one where there is no file."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no mapping.")
    return content


def _evaluations(results: dict[str, Any], arguments: dict[str, Any]) -> list[Evaluation]:
    """The figures in the `results.json` of a run of `glue`, `imagenet` or `mlm`."""
    named = arguments.get("data_dir") or arguments.get("dataset_name") or arguments.get("validation_file")
    data = str(results.get("data") or named or "unnamed data")
    config = arguments.get("dataset_config_name")
    if Path(data).exists() or os.sep == data[:1]:
        data = Path(data).name  # the folder is the machine's own affair
    split = str(arguments.get("validation_split", "validation"))
    if "runs" in results or "seed" in results:  # glue
        return [
            Evaluation(data, results.get("task") or config, split, metric, value, _std(results, split, metric))
            for split, metrics in results["metrics"].items()
            for metric, value in metrics.items()
        ]
    if "results" in results:  # imagenet
        rows = results["results"]
        metrics = {name: rows[0][key] for key, name in IMAGE_METRICS.items()} if len(rows) == 1 else {}
    else:  # mlm
        metrics = {name: results.get("metrics", {}).get(name) for name in ("perplexity", "accuracy", "loss")}
    return [Evaluation(data, config, split, name, value) for name, value in metrics.items() if value is not None]


IMAGE_METRICS = {"top1": "accuracy", "top5": "top-5 accuracy", "real_top1": "ReaL accuracy", "loss": "loss"}


def _std(results: dict[str, Any], split: str, metric: str) -> float | None:
    return results.get("std", {}).get(split, {}).get(metric)


def _evaluation_note(evaluations: Sequence[Evaluation], arguments: dict[str, Any]) -> str:
    notes = ["As the run that trained these weights has written it to its `results.json`."]
    if any(each.std is not None for each in evaluations):
        notes.append("± is the standard deviation over its seeds.")
    if arguments.get("max_eval_samples") is not None:
        notes.append(f"Counted are the first {arguments['max_eval_samples']} examples alone.")
    return " ".join(notes)


def _summary(
    class_name: str, base_model: str | None, conversion: dict[str, Any], trained: bool, arguments: dict[str, Any]
) -> str:
    text = f"`{class_name}`, a ContextPool model: before attention, every token pools its neighbours with learned "
    text += "weights over a learned support size."
    if class_name.startswith("CPResNet"):
        text = f"`{class_name}`, a ContextPool model: a ResNet that pools by learned weights over a learned support "
        text += "size in place of conventional pooling."
    if conversion:
        text += f" Converted from `{base_model or conversion['source']}`"
        text += " and trained further." if trained else "; its pooling modules have not been trained."
    elif trained and arguments.get("model_name_or_path"):
        text += " Fine-tuned."
    elif trained:
        text += " Trained from scratch."
    return text


def _intended_use(class_name: str, trained: bool) -> str:
    if not trained:
        return (
            "To be fine-tuned. Until its pooling has been trained it has no advantage over the model that it was made "
            "from."
        )
    if class_name.endswith("ForMaskedLM"):
        return "To be fine-tuned, or to fill in masked words of texts like those it was trained on."
    return (
        "Experiments with adaptive context pooling, and inputs like those it was trained on. It has not been examined "
        "for decisions about people."
    )


def _model_table(folder: Path, config: PreTrainedConfig, class_name: str) -> dict[str, str]:
    parameters = 0
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    table = {"class": f"`{class_name}`", "weights": f"{parameters:,} numbers, {config.dtype}".replace("torch.", "")}
    for name in ("num_hidden_layers", "hidden_size", "depths", "hidden_sizes", "image_size", "patch_size"):
        if hasattr(config, name):
            table[name] = _cell(getattr(config, name))
    pool = {name: value for name, value in config.to_dict().items() if name.startswith("pool_")}
    return {**table, **{name: _cell(value) for name, value in sorted(pool.items())}}


def _conversion(record: dict[str, Any]) -> str:
    if not record:
        return ""
    layers = "all layers" if record["layers"] is None else f"layers {', '.join(map(str, record['layers']))}"
    commit = "" if record["commit"] is None else f" at commit `{record['commit']}`"
    digests = ", ".join(f"`{name}` has SHA-256 `{digest}`" for name, digest in record["source_sha256"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"From `{record['source']}`{commit}, `{record['source_class']}`, {layers}; {digests}. On the conversion's "
        f"seeded inputs no output differed from the source's (cut to the same layers) by more than "
        f"{record['parity']['max_abs_difference']:.3g} in float32"
        + ("" if record["pool_config"]["pool_gate"] else ", as is to be expected without a gate")
        + f". {versions}. `conversion.json` has the whole record."
    )


def _limits(trained: bool, config: PreTrainedConfig) -> str:
    limits = []
    if config.model_type == "cp_bert":
        limits.append(f"Texts of up to {config.max_position_embeddings} tokens; it reads, and does not write.")
    if trained:
        limits.append(
            "Trained and evaluated on the data named above alone: nothing is known of other data, and the biases of "
            "its data and of the model that it was made from are its own."
        )
    else:
        limits.append("The limits and biases of the model that it was made from are its own.")
    limits.append("The pooling is this project's own definition of the paper's method; no figure here is the paper's.")
    return " ".join(limits)


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value).replace("|", "\\|")


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers card`."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers card",
        description="Write a checkpoint's model card to its README.md, from its own files: config.json, "
        "conversion.json, and arguments.yaml and results.json of the run that trained it.",
    )
    parser.add_argument("folder", help="a CP checkpoint, as convert, glue, imagenet or mlm has written it")
    parser.add_argument("--name", help="the model's id on the Hub, or another name (default: the folder's)")
    parser.add_argument("--base-model", help="id on the Hub of the model that it was made from, if it is on no record")
    parser.add_argument("--license", help="of the checkpoint, as the Hub names it, for example apache-2.0")
    parser.add_argument("--overwrite", action="store_true", help="replace a card that somebody has written")
    options = parser.parse_args(args)
    folder = Path(options.folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder.")
    card = folder / "README.md"
    if is_written(card) and not options.overwrite:
        raise FileExistsError(f"{card} was not made by this command; replace it with --overwrite.")
    transformers.logging.set_verbosity_error()
    write_card(folder, options.name or folder.resolve().name, base_model=options.base_model, license=options.license)
    print(f"Written to {card}.")
