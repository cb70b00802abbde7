# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Tokenizers, image processors and the files of sentence-transformers: copied beside a model of this package, without
code and without pickles."""

import re
from pathlib import Path

from transformers.utils import CONFIG_NAME, logging

from ..families import FAMILIES, family_of
from ..files import SENTENCE_MODULE, write_json
from .reading import (
    IMAGE_PROCESSOR,
    PROCESSOR_CONFIG,
    PROCESSOR_FILES,
    SENTENCE_FILES,
    SENTENCE_MODULE_FILES,
    copy_files,
    read_json,
    shortened_list,
)


logger = logging.get_logger(__name__)

# The files that tell the class of a tokenizer or image processor, and the fields that do, there or in the model's
# configuration.
CLASS_FIELDS = {
    "tokenizer_config.json": ("tokenizer_class",),
    "preprocessor_config.json": ("image_processor_type", "feature_extractor_type"),
}


def copy_processor(source: Path, folder: Path) -> list[str]:
    """Copies the files of a tokenizer or image processor, and those of sentence-transformers, to the folder of a model
    of this package.

    The copies name the processor's class also where the source leaves it to the model's type, since transformers alone
    does not know the types of this package. They name no modules that `trust_remote_code` would run: these are not
    copied, or lie in somebody else's repository.

    Returns:
        The names of the files that `folder` then has.

    Raises:
        CheckpointError: a file is a link out of the source's folder, or is damaged.
    """
    copy_files(source, folder, PROCESSOR_FILES)
    if source.resolve() != folder.resolve():
        copy_files(source, folder, [PROCESSOR_CONFIG])
        _take_image_processor(folder / PROCESSOR_CONFIG)
    copy_sentence_files(source, folder)
    for file in (folder / name for name in CLASS_FIELDS):
        content = read_json(file) if file.is_file() else {}
        if isinstance(content, dict) and content.pop("auto_map", None) is not None:
            write_json(file, content)
    if any((folder / name).is_file() for name in PROCESSOR_FILES):
        config = read_json(folder / CONFIG_NAME)
        name, class_name = _processor_of_type(config["model_type"])
        content, fields = read_json(folder / name) if (folder / name).is_file() else {}, CLASS_FIELDS[name]
        if isinstance(content, dict) and not any(each.get(field) for each in (content, config) for field in fields):
            write_json(folder / name, {**content, fields[0]: class_name})
    names = [*PROCESSOR_FILES, *_sentence_files(folder)]
    return [name for name in names if (folder / name).is_file()]


def _take_image_processor(file: Path) -> None:
    """Puts the image processor of two towers into a file of its own, in the place of that of both towers."""
    if not file.is_file():
        return
    content = read_json(file)
    file.unlink()
    if isinstance(content, dict) and isinstance(content.get(IMAGE_PROCESSOR), dict):
        write_json(file.with_name("preprocessor_config.json"), content[IMAGE_PROCESSOR])


def copy_sentence_files(source: Path, folder: Path) -> None:
    """Copies the files by which sentence-transformers makes an embedding of a model's hidden states, and limits the
    length of a text. The log names modules that would be code or a pickle, which are not copied.

    Raises:
        CheckpointError: a file is a link out of the source's folder, or is damaged.
    """
    names = _sentence_files(source)
    copy_files(source, folder, names)
    if not names and (source / "modules.json").is_file():
        logger.warning(f"{source} has modules that are not sentence-transformers' own, which are not copied.")
    parts = sorted({Path(name).parent for name in names} - {Path()})
    if left := [f"{part}/{file.name}" for part in parts for file in (source / part).glob("*.bin")]:
        logger.warning(f"{source} has weights of modules as pickle, which are not copied: {shortened_list(left)}.")


def _processor_of_type(model_type: str) -> tuple[str, str]:
    """The file that names the class of a processor, and the class that the Auto classes have for a model type, CP or
    stock, of one of the families.

    Raises:
        ValueError: no family has this model type.
    """
    family = family_of(model_type) or FAMILIES.get(model_type)
    if family is None:
        raise ValueError(f"{model_type} is not a model type of this package.")
    return f"{'tokenizer' if family.is_text else 'preprocessor'}_config.json", family.processor


def _sentence_files(folder: Path) -> list[str]:
    """The files of sentence-transformers that a folder may hold; none where `modules.json` is missing, or names other
    modules than sentence-transformers' own."""
    try:
        modules = read_json(folder / "modules.json")
    except FileNotFoundError:
        return []
    paths = []
    for module in modules if isinstance(modules, list) else [None]:
        kind, path = (str(module.get(field)) for field in ("type", "path")) if isinstance(module, dict) else ("", "")
        if not kind.startswith("sentence_transformers.") or not re.fullmatch(f"({SENTENCE_MODULE})?", path):
            return []
        paths += [f"{path}/{name}" for name in SENTENCE_MODULE_FILES] if path else []
    return [*SENTENCE_FILES, *paths]


def sentence_pooling(folder: Path) -> str | None:
    """How a checkpoint of sentence-transformers makes an embedding of its hidden states: `mean` of the tokens, `cls`
    (the class token) or another of its modes, several joined by "and"; None for any other checkpoint.

    Raises:
        CheckpointError: a file is damaged.
    """
    modules = read_json(folder / "modules.json") if _sentence_files(folder) else []
    path = next((each["path"] for each in modules if each["type"].endswith(".Pooling")), None)
    if path is None or not (folder / path / CONFIG_NAME).is_file():
        return None
    options = read_json(folder / path / CONFIG_NAME)
    # Version 6 has the names of the modes in one field, earlier ones a switch for each, such as `mean_tokens`.
    prefix = "pooling_mode_"
    switched = [name.removeprefix(prefix) for name in options if name.startswith(prefix) and options[name]]
    modes = options.get("pooling_mode") or [name.split("_token")[0] for name in switched] or "mean"
    return modes if isinstance(modes, str) else " and ".join(modes)
