# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""For the site of the docs: what stands in docstrings as [`name`] is linked where the reference has it."""

import re
from pathlib import Path
from typing import Any

import griffe


LINK = re.compile(r"\[`~?([\w.]+)`\](?:\[([\w.]+)\])?(?!\()")
REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8")
# By the last part of their names, the objects of which the reference has a section.
KNOWN = {name.rsplit(".", 1)[-1]: name for name in re.findall(r"^::: ([\w.]+)$", REFERENCE, flags=re.MULTILINE)}


def linked(text: str) -> str:
    """A docstring with a link to each object that the reference has, and the other names as code."""

    def link(found: re.Match[str]) -> str:
        name = found[1].rsplit(".", 1)[-1]
        return f"[`{name}`][{KNOWN[name]}]" if name in KNOWN else f"`{name}`"

    return LINK.sub(link, text)


class DocstringLinks(griffe.Extension):
    """Griffe's extension, by which mkdocstrings reads the package."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value)
