# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command `cp-transformers inspect`."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModel

from cp_transformers_cli.inspection import make_parser

from ..checkpoints.parity import quiet
from ..checkpoints.reading import CheckpointError
from ..families import family_of, max_tokens
from ..training.image_data import CorruptImage, decode, load_processor
from ..training.loading import load_config, load_model, load_tokenizer
from .page import make_page
from .pools import Inspection, inspect_pools


MAX_INPUTS = 50  # of a page


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers inspect`."""
    options = make_parser().parse_args(args)
    given = options.image or read_texts(options.text, options.file)
    if len(given) > MAX_INPUTS:
        raise ValueError(f"A page shows at most {MAX_INPUTS} inputs, not {len(given)}: give fewer.")
    output = options.output
    if output.suffix != ".html":
        raise ValueError(f"--output must end in .html, which {output} does not.")
    pictures = [output.with_name(f"{output.stem}-{index}.png") for index in range(len(given) if options.png else 0)]
    check_outputs([output, *pictures], options.overwrite)
    if options.png:
        from .pictures import draw  # before any work, so that a missing package is found now
    images = [read_image(path) for path in options.image or []]

    with quiet():
        inspections = inspect_checkpoint(options.checkpoint, given if not images else [], images)
        captions = [path.name for path in options.image] if images else None
        contents: dict[Path, bytes] = {output: make_page(inspections, captions).encode("utf-8", "replace")}
        for path, inspection in zip(pictures, inspections):
            contents[path] = draw(inspection)
    write_together(contents)
    print(f"Written: {', '.join(map(str, contents))}. Open {output} in a browser.")


def read_texts(texts: Sequence[str] | None, file: Path | None) -> list[str]:
    """Those that are given, or the lines of a file that are not blank.

    Raises:
        ValueError: there is none, or the file is not in UTF-8.
        OSError: it cannot be read.
    """
    if texts is not None or file is None:
        return list(texts or [])
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8.") from error
    except OSError as error:
        raise OSError(f"{file} cannot be read ({error.strerror}).") from error
    if not (found := [line for line in lines if line.strip()]):
        raise ValueError(f"{file} holds no text: give one a line.")
    return found


def read_image(path: Path) -> Any:
    try:
        return decode({"path": str(path)})
    except CorruptImage as error:
        raise OSError(f"An image cannot be read: {error}.") from error


def inspect_checkpoint(checkpoint: str, texts: Sequence[str], images: Sequence[Any]) -> list[Inspection]:
    """Records what the pools of a checkpoint do with each of the texts or images.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or does not pool.
        ValueError: it reads texts and is given images or the reverse, a text has no tokens or too many, or see
            [`inspect_pools`].
        OSError: it has no image processor.
    """
    config = load_config(checkpoint, AutoModel)
    family = family_of(config)
    if family is None:
        raise CheckpointError(
            f"{checkpoint} is a model of type {config.model_type}, which does not pool: convert it first "
            "(cp-transformers convert)."
        )
    if family.is_text != bool(texts):
        reads = "texts: give --text or --file" if family.is_text else "images: give --image"
        raise ValueError(f"{checkpoint} reads {reads}.")
    processor = load_tokenizer(checkpoint) if family.is_text else load_processor(checkpoint)
    encoded = [encode(text, processor, max_tokens(config)) for text in texts] or [
        {"pixel_values": processor(image, return_tensors="pt")["pixel_values"]} for image in images
    ]
    model = load_model(checkpoint, AutoModel)
    name = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint
    return [replace(inspect_pools(model, inputs, processor), model=name) for inputs in encoded]


def encode(text: str, tokenizer: Any, most: int) -> Mapping[str, Any]:
    """Encodes a text for a model, none of it cut off.

    Raises:
        ValueError: it has no tokens, or more than `most`, where that is above 0.
    """
    shown = repr(text if len(text) < 60 else f"{text[:60]}...")
    if not tokenizer(text, add_special_tokens=False)["input_ids"]:
        raise ValueError(f"The text {shown} has no tokens: give one with words.")
    inputs = tokenizer(text, return_tensors="pt")
    if 0 < most < (number := inputs["input_ids"].shape[1]):
        raise ValueError(f"The text {shown} has {number} tokens, and the model positions for {most}: shorten it.")
    return inputs


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """
    Raises:
        FileExistsError: a file stands there, and is not to be overwritten; or a folder does.
        OSError: the files could not be written.
    """
    for path in paths:
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder; choose another --output.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; choose another --output, or replace it with --overwrite.")
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=paths[0].parent).close()
    except OSError as error:
        raise OSError(f"{paths[0]} cannot be written ({error.strerror}); choose another --output.") from error


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files of one folder, none of which is seen before all are whole."""
    with tempfile.TemporaryDirectory(prefix=".inspect.", dir=next(iter(contents)).parent) as folder:
        for path, content in contents.items():
            (Path(folder) / path.name).write_bytes(content)
        for path in contents:
            os.replace(Path(folder) / path.name, path)
