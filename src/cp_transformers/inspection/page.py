# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The page that shows what a model pools: one HTML file, without a server or the network."""

import base64
import hashlib
import io
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from .pools import Inspection, Pool


# The smallest part of a pool that the page tells; in a pool of many small ones, a hundredth of its largest.
SMALLEST = 0.0005
UNIT = 1e-5  # of the parts
# Of such parts, on one page: about 20 MB.
MAX_PARTS = 8_000_000


def make_page(inspections: Sequence[Inspection], captions: Sequence[str] | None = None) -> str:
    """The page of a model's inputs.

    Of a pool, whose parts add up to one, those under [`SMALLEST`] are left out, see [`pack`].

    Args:
        inspections: of one model, at least one.
        captions: what to call each input. Default: its number.

    Raises:
        ValueError: the pools have more parts than [`MAX_PARTS`].
    """
    parts = sum(int(_told(pool).sum()) for each in inspections for pool in each.pools)
    if parts > MAX_PARTS:
        raise ValueError(
            f"These pools have {parts / 1e6:.0f} million parts, more than the {MAX_PARTS / 1e6:.0f} million that a "
            "page can show: give fewer or shorter texts, or fewer or smaller images."
        )
    kind = "Text" if inspections[0].tokens is not None else "Image"
    if captions is None:
        captions = [f"{kind} {index}" for index in range(len(inspections))] if len(inspections) > 1 else [kind]
    pools = [pool for each in inspections for pool in each.pools]
    folder = files(__package__)
    script, style = ((folder / f"page.{end}").read_text(encoding="utf-8") for end in ("js", "css"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=f"What {inspections[0].model} pools",
        kind=kind.lower(),
        unit="patch" if pools[0].token_in is not None else "position of a feature map",
        inputs=list(zip(captions, inspections)),
        data=[_input(caption, each) for caption, each in zip(captions, inspections)],
        untrained=sorted({pool.name for pool in pools if pool.is_untrained}),
        all_untrained=all(pool.is_untrained for pool in pools),
        closed=sorted({pool.name for pool in pools if pool.gate is not None and not pool.gate.any()}),
        all_closed=all(pool.gate is not None and not pool.gate.any() for pool in pools),
        figures=figures,
        script=script,
        style=style,
        script_digest=_digest(script),
        style_digest=_digest(style),
    )


def figures(pool: Pool) -> dict[str, str]:
    """Figures for the page's table, over heads and pools: the sizes, the number of equal parts that are as varied as a
    pool's own (the exponential of their entropy), the weights and the gate."""
    sigma = pool.sigma
    parts = np.exp(-(pool.p * np.log(np.maximum(pool.p, 1e-30))).sum(axis=-1))
    return {
        "sizes": "none" if sigma is None else f"{sigma.mean():.2f} ({sigma.min():.2f} to {sigma.max():.2f})",
        "parts": f"{parts.mean():.1f} ({parts.min():.1f} to {parts.max():.1f})",
        "weights": f"{pool.shares.min():.2f} to {pool.shares.max():.2f}",
        "gate": "none" if pool.gate is None else f"{pool.gate.mean():.3f}",
    }


def _digest(text: str) -> str:
    """By which the page's policy knows its own script, and lets no other run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _input(caption: str, inspection: Inspection) -> dict[str, Any]:
    return {
        "caption": caption,
        "tokens": inspection.tokens,
        "picture": None if inspection.picture is None else _as_address(inspection.picture),
        "pools": [_pool(pool, inspection.tokens is not None) for pool in inspection.pools],
    }


def _pool(pool: Pool, is_text: bool) -> dict[str, Any]:
    unit = "position" if pool.token_in is None else "token" if is_text else "patch"
    if pool.token_in is not None and len(np.unique(pool.token_in[pool.token_in >= 0])) < (pool.token_in >= 0).sum():
        unit = f"kept {unit}"
    return {
        "name": pool.name,
        "unit": unit,
        "stride": pool.stride,
        "heads": pool.num_heads,
        "count": pool.num_pools,
        "gridIn": pool.grid_in,
        "gridOut": pool.grid_out,
        "tokenIn": None if pool.token_in is None else pool.token_in.tolist(),
        "tokenOut": None if pool.token_out is None else pool.token_out.tolist(),
        "shares": _rounded(pool.shares),
        "sigma": _rounded(pool.sigma),
        "offsets": _rounded(pool.offsets),
        "parts": pack(pool),
    }


def _rounded(numbers: np.ndarray | None) -> Any:
    return None if numbers is None else numbers.astype(float).round(3).tolist()


def pack(pool: Pool) -> str:
    """The parts of all pools, head by head and pool by pool, as 32-bit integers: how many there are in each; then of
    each part the index of the token that comes in; then each part, in [`UNIT`]s. Compressed, and in base 64."""
    told = _told(pool)
    rows, columns = np.nonzero(told.reshape(-1, told.shape[-1]))
    counts = np.bincount(rows, minlength=pool.num_heads * pool.num_pools)
    if pool.window is not None:
        indices = np.stack([pool.window_indices(each)[0] for each in range(pool.num_pools)])
        columns = indices[rows % pool.num_pools, columns]
    numbers = np.concatenate([counts, columns, (pool.p[told] / UNIT).round()]).astype("<u4")
    return base64.b64encode(zlib.compress(numbers.tobytes(), 9)).decode()


def _told(pool: Pool) -> np.ndarray:
    """Whether the page tells a part, for each in a pool's `p`."""
    return pool.p >= np.clip(0.01 * pool.p.max(axis=-1, keepdims=True), UNIT, SMALLEST)


def _as_address(picture: np.ndarray) -> str:
    import PIL.Image

    file, kind = io.BytesIO(), "png" if max(picture.shape) < 64 else "jpeg"
    PIL.Image.fromarray(picture).save(file, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
