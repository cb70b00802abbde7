# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Names of labels that come from two places, such as the data and a checkpoint."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence


def fold(name: str) -> str:
    """A name without what is written in several ways: capitals, blanks, underscores for blanks, and numbers."""
    plain = " ".join(name.lower().replace("_", " ").split())
    return str(float(plain)) if re.fullmatch(r"[-+]?\d+(\.\d+)?", plain) else plain


def match_names(names: Sequence[str], known: Sequence[str], apart: bool = False) -> list[int | None]:
    """For each name its place among those that are known: that of the equal one, or else that of the only one that is
    equal when both are folded, see [`fold`]. None: there is none, or more than one.

    Args:
        names: as they are written here.
        known: as they are written there.
        apart: whether each of `names` is a thing of its own, so that no two may have one place; of those that would,
            the equal one has it.
    """
    equal, folded = defaultdict(list), defaultdict(list)
    for place, name in enumerate(known):
        equal[name].append(place)
        folded[fold(name)].append(place)
    found = [_only(equal[name] or folded[fold(name)]) for name in names]
    if not apart:
        return found
    times = Counter(found)
    return [
        place if place is None or times[place] == 1 or known[place] == name else None
        for name, place in zip(names, found)
    ]


def _only(places: Sequence[int]) -> int | None:
    return places[0] if len(places) == 1 else None
