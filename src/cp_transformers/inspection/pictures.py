# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Pictures of what a model pools, for a paper."""

import io
from typing import Any

import numpy as np

from .pools import Inspection, Pool


try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError as error:
    raise ImportError("Pictures need one more package: pip install 'cp-transformers[demo]'.") from error


# Tokens of a text: the labels of more would not be readable.
MAX_TOKENS = 64
EXAMPLES = 4  # pools of a layer that are drawn of an image


def draw(inspection: Inspection) -> bytes:
    """A PNG file. Of a text a table a layer: of what (columns) each pool (rows) is made, above it the tokens' weights
    and beside it the pools' sizes. Of an image a row a layer: the weights, the sizes, and the pools that are furthest
    from the mean of what they stand for. All are means of the heads.

    Raises:
        ValueError: a text has more than [`MAX_TOKENS`] tokens.
    """
    if inspection.tokens is None:
        figure = _draw_image(inspection)
    elif len(inspection.tokens) > MAX_TOKENS:
        raise ValueError(
            f"A picture (--png) shows texts of up to {MAX_TOKENS} tokens, and this one has {len(inspection.tokens)}: "
            "leave it to the page, or shorten it."
        )
    else:
        figure = _draw_text(inspection, inspection.tokens)
    if notes := _notes(inspection):
        figure.supxlabel(notes, fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _notes(inspection: Inspection) -> str:
    notes = []
    if all(pool.is_untrained for pool in inspection.pools):
        notes.append("Untrained: what random weights make of the features, not to be read as meaning.")
    if all(pool.gate is not None and not pool.gate.any() for pool in inspection.pools):
        notes.append("The gates are zero: nothing of this reaches the output.")
    return "\n".join(notes)


def _figure(size: tuple[float, float], layout: Any = "constrained") -> Any:
    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _title(pool: Pool) -> str:
    if pool.stride == 1:
        return pool.name
    return f"{pool.name}\nkeeps 1 of {pool.stride}" + (f" x {pool.stride}" if pool.grid_in is not None else "")


def _draw_text(inspection: Inspection, tokens: tuple[str, ...]) -> Any:
    across = min(3, len(inspection.pools))
    down = -(-len(inspection.pools) // across)
    # Matplotlib reads dollar signs as mathematics.
    words = [token.replace("$", r"\$") for token in tokens]
    side = 1.9 + 0.2 * len(tokens)
    height = sum(max(pool.num_pools for pool in inspection.pools[row * across :][:across]) for row in range(down))
    figure = _figure((across * side, down * 1.9 + 0.2 * height))
    for part, pool in zip(figure.subfigures(down, across, squeeze=False).flat, inspection.pools):
        assert pool.token_in is not None and pool.token_out is not None and pool.sigma is not None
        rows, columns = (
            [" ".join(words[index] for index in np.flatnonzero(places == each)) for each in range(number)]
            for places, number in ((pool.token_out, pool.num_pools), (pool.token_in, pool.weights.shape[1]))
        )
        ratios = {"width_ratios": [len(columns), 4], "height_ratios": [3, len(rows)]}
        ((above, corner), (table, beside)) = part.subplots(2, 2, gridspec_kw=ratios)
        corner.set_axis_off()
        heat = table.imshow(pool.p.mean(axis=0), cmap="Oranges", vmin=0, vmax=1, aspect="auto")
        table.set_xticks(range(len(columns)), columns, rotation=90, fontsize="small")
        table.set_yticks(range(len(rows)), rows, fontsize="small")
        above.bar(range(len(columns)), pool.shares.mean(axis=0), color="0.5")
        above.set(xlim=table.get_xlim(), xticks=[])
        above.set_ylabel("weight", fontsize="small")
        beside.barh(range(len(rows)), pool.sigma.mean(axis=0), color="tab:blue")
        beside.set(ylim=table.get_ylim(), yticks=[])
        beside.set_xlabel(r"$\sigma$", fontsize="small")
        for axis in (above, beside):
            axis.tick_params(labelsize="x-small")
            axis.spines[["top", "right"]].set_visible(False)
        part.suptitle(_title(pool).replace("\n", ", "), fontsize="medium")
        bar = part.colorbar(heat, cax=corner.inset_axes((0.1, 0.45, 0.9, 0.18)), orientation="horizontal")
        bar.ax.set_title("part of a pool", fontsize="x-small")
        bar.ax.tick_params(labelsize="x-small")
    return figure


def _draw_image(inspection: Inspection) -> Any:
    assert inspection.picture is not None
    down, across = len(inspection.pools), 3 + EXAMPLES
    figure = _figure((1.75 * across + 1.8, 0.3 + 1.85 * down), "compressed")
    grid = figure.subplots(down, across, squeeze=False)
    grey = inspection.picture.mean(axis=-1)
    sizes = [pool.sigma.max() for pool in inspection.pools if pool.sigma is not None]
    for row, pool in zip(grid, inspection.pools):
        assert pool.grid_in is not None and pool.grid_out is not None
        rows, columns = pool.grid_in
        extent = (0, columns, rows, 0)
        for axis in row:
            axis.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent)
            axis.set(xticks=[], yticks=[], xlim=(0, columns), ylim=(rows, 0))
        row[0].imshow(inspection.picture, extent=extent)
        row[0].set_ylabel(_title(pool), fontsize="small")
        shares = pool.shares.mean(axis=0).reshape(pool.grid_in)
        weights = row[1].imshow(shares, extent=extent, alpha=0.65, cmap="coolwarm", norm=LogNorm(1 / 3, 3))
        if pool.sigma is not None:
            out_rows, out_columns = pool.grid_out
            whole = (0, out_columns * pool.stride, out_rows * pool.stride, 0)
            size = pool.sigma.mean(axis=0).reshape(pool.grid_out)
            heat = row[2].imshow(size, extent=whole, alpha=0.65, vmin=0, vmax=max(sizes))
        for axis, index in zip(row[3:], _examples(pool)):
            part = pool.row(int(index)).reshape(pool.grid_in)
            orange = np.broadcast_to([1.0, 0.6, 0.16, 0.0], (rows, columns, 4)).copy()
            orange[..., 3] = 0.9 * np.sqrt(part / part.max())
            axis.imshow(orange, extent=extent)
            place = [pool.stride * each for each in divmod(int(index), pool.grid_out[1])]
            sides = [min(pool.stride, length - each) for each, length in zip(place, pool.grid_in)]
            axis.add_patch(Rectangle((place[1], place[0]), sides[1], sides[0], fill=False, color="white", linewidth=1))
    titles = ["picture", "weights", r"sizes $\sigma$", *["a pool"] * EXAMPLES]
    for axis, title in zip(grid[0], titles):
        axis.set_title(title, fontsize="small")
    bar = figure.colorbar(weights, ax=grid, shrink=0.8, aspect=12, pad=0.01, ticks=[1 / 3, 1, 3], format="{x:.2g}")
    bar.minorticks_off()
    bar.ax.set_title("weight", fontsize="small")
    if sizes:
        bar = figure.colorbar(heat, ax=grid, shrink=0.8, aspect=12, pad=0.01)
        bar.ax.set_title(r"size $\sigma$", fontsize="small")
    return figure


def _examples(pool: Pool) -> np.ndarray:
    """The pools that are furthest from the mean of what they stand for, in the order of the picture."""
    return np.sort(np.argsort(-pool.apart(), kind="stable")[:EXAMPLES])
