# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Writing files and folders whole or not at all."""

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# The folder of a module in a checkpoint of sentence-transformers.
SENTENCE_MODULE = r"\d+_\w+"


@contextmanager
def new_checkpoint_folder(output: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `output`, which takes the name `output` when the block ends without an error.

    Until then nothing can be seen at `output`; an existing folder there stays whole until it is replaced, and an error
    or an interruption leaves it as it was.

    Raises:
        FileExistsError: `output` is a mount point; or it exists and is not an empty folder, and `overwrite` is False;
            or it is True, but what stands there is no checkpoint (it has no `config.json`), or more than one (the
            output of a run, a folder with others in it), so that a slip of the hand deletes nothing else.
        OSError: `output` cannot be written.
    """
    output = Path(output).resolve()
    if output.is_mount():
        raise FileExistsError(f"{output} is a mount point, which cannot be replaced; choose a folder in it.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{output} exists; choose another output, or replace it with --overwrite.")
        if not (output / "config.json").is_file():
            raise FileExistsError(f"{output} is not a checkpoint, so it is not overwritten; choose another output.")
        for path in sorted(output.iterdir()):
            part = re.fullmatch(rf"\.eval_results|__pycache__|{SENTENCE_MODULE}", path.name)
            if path.name == "arguments.yaml" or (path.is_dir() and not part):
                raise FileExistsError(
                    f"{output} holds more than a checkpoint ({path.name}), so it is not overwritten; choose another "
                    "output."
                )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise OSError(f"{output} cannot be written ({error.strerror}); choose another output.") from error
    with _sigterm_as_exception():
        try:
            folder = work / "new"
            folder.mkdir()
            yield folder
            if output.exists():
                output.rename(work / "old")
            try:
                folder.rename(output)
            except BaseException:
                if (work / "old").exists():
                    (work / "old").rename(output)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Lets SIGTERM, with which schedulers and containers end a process, end the block as Ctrl-C does; where somebody
    else handles it, or in another thread than the main one, it is left alone."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, seen at `path` only when it is whole; its folder is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def check_csv(path: Path) -> None:
    """Refuses a file into which the figures of long work, and a picture beside it, could not be written.

    Raises:
        ValueError: it is not named as a CSV file.
        OSError: it cannot be written.
    """
    if path.suffix != ".csv":
        raise ValueError(f"{path} must end in .csv; a picture is drawn beside it.")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}); choose another --output.") from error


def write_csv(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_whole(path, text.getvalue())


def write_json(path: str | os.PathLike, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def rounded(value: Any) -> Any:
    """To four digits that mean something; what is not finite stays as it is."""
    if not isinstance(value, float) or not value or not math.isfinite(value):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))
