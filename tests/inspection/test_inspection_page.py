# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The page of what a model pools in a real browser: pointed at, typed at and looked at."""

import io
import re

import numpy as np
import PIL.Image
import pytest
import torch
from browser import CHROMIUM, browser
from model_cases import CASES, context_pools

from cp_transformers import inspect_pools
from cp_transformers.inspection.page import make_page
from cp_transformers.inspection.pools import Inspection


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)"),
]

WORDS = "It is not funny , it is not moving and far too long".split()
HOSTILE = "</script><img src=x onerror=document.title='run'>"
CELL = "document.querySelectorAll('#input-{input} .system tbody')[{row}].querySelectorAll('.pool')[{pool}]"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def varied(case, **options):
    """A model whose pools differ from token to token, and are trained, as far as the page can tell."""
    torch.manual_seed(3)
    model = case.model(pool_range=0.5, pool_num_heads=2, pool_max_offset=2.0, **options)
    for pool in context_pools(model):
        torch.nn.init.normal_(pool.proj.weight, std=1.0)
        if pool.proj.bias is not None:
            torch.nn.init.normal_(pool.proj.bias, std=0.5)
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Two texts and the file of their page: a layer that pools each token, one that keeps half, and one behind it."""
    model = varied(CASES["bert"][0], num_hidden_layers=3, pool_strides=[1, 2, 1], pool_layers=[0, 2])
    inspections = []
    for tokens in (["[CLS]", *WORDS], ["[CLS]", *WORDS[:5], HOSTILE]):
        inspection = inspect_pools(model, {"input_ids": torch.randint(1, 99, (1, len(tokens)))})
        inspections.append(Inspection("a model", inspection.pools, tuple(tokens)))
    file = tmp_path_factory.mktemp("text") / "pools.html"
    file.write_text(make_page(inspections), encoding="utf-8")
    return inspections, file


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    model = varied(CASES["vit"][0], pool_strides=[1, 2], pool_layers=[0])
    inspection = inspect_pools(model, {"pixel_values": CASES["vit"][0].inputs()["pixel_values"][:1]})
    file = tmp_path_factory.mktemp("image") / "pools.html"
    file.write_text(make_page([inspection], [HOSTILE]), encoding="utf-8")
    return inspection, file


def told(chromium) -> dict[str, float]:
    """Reads from the panel what has entered the pool, in per cent."""
    rows = chromium.evaluate(
        "[...document.querySelectorAll('#panel ol li:not(.rest)')].map((each) => [each.children[0].innerText,"
        " each.children[2].innerText])"
    )
    return {name: float(part.removesuffix("%")) for name, part in rows}


def words(chromium) -> str:
    return chromium.evaluate("document.getElementById('words').innerText").replace("\xa0", " ")


def names_of(inspection, pool, places) -> list[str]:
    return [
        " ".join(inspection.tokens[each] for each in np.flatnonzero(places == index))
        for index in range(places.max() + 1)
    ]


def assert_tells(chromium, names, row) -> None:
    """That the panel has the parts of a row of p; of tokens with one name the largest."""
    found = told(chromium)
    expected: dict[str, float] = {}
    for index in np.argsort(-row, kind="stable")[:6]:
        if row[index] >= 0.0006:
            expected.setdefault(names[index], 100 * row[index])
    assert found.keys() == expected.keys()
    assert [*found.values()] == sorted(found.values(), reverse=True)
    for name, part in found.items():
        if [*names].count(name) == 1:
            assert part == pytest.approx(expected[name], abs=0.56 if part >= 10 else 0.11)


def pixels(chromium) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(chromium.screenshot())).convert("RGB")).astype(int)


@pytest.mark.parametrize(("row", "pool"), [(0, 0), (0, 7), (1, 0), (1, 5), (2, 3)])
def test_pointing_at_a_token_shows_what_it_pooled(chromium, text, row, pool):
    (inspection, _), file = text
    chromium.open(file)
    chromium.point_at(*chromium.middle_of(CELL.format(input=0, row=row, pool=pool)))
    layer = inspection.pools[row]
    names = names_of(inspection, layer, layer.token_in)
    assert_tells(chromium, names, layer.row(pool))
    said = words(chromium)
    name = names_of(inspection, layer, layer.token_out)[pool]
    assert said.startswith(f"{layer.name}: “{name}”")
    assert f"size \N{GREEK SMALL LETTER SIGMA} is {layer.sigma[:, pool].mean():.2f}" in said
    offset = layer.offsets[:, pool].mean()
    assert f"its centre lies {abs(offset):.2f} {'after' if offset >= 0 else 'before'}" in said
    assert ("It stands for 2 tokens" in said) == (row == 1)
    assert not chromium.problems()


def test_pointing_elsewhere_shows_what_was_clicked(chromium, text):
    _, file = text
    chromium.open(file)
    chromium.point_at(*chromium.middle_of(CELL.format(input=0, row=0, pool=2)), click=True)
    chromium.point_at(*chromium.middle_of(CELL.format(input=0, row=0, pool=6)))
    assert words(chromium).startswith("layer 0: “is”")
    chromium.point_at(5, 5)
    assert words(chromium).startswith("layer 0: “not”")
    assert chromium.evaluate("location.hash") == "#input=0&layer=0&pool=2&head=mean"


def test_each_head_is_told(chromium, text):
    (inspection, _), file = text
    layer = inspection.pools[1]
    for head in range(2):
        chromium.open(file, f"input=0&layer=1&pool=3&head={head}")
        assert_tells(chromium, names_of(inspection, layer, layer.token_in), layer.row(3, head))
        assert f"head {head}." in words(chromium)
        cells = chromium.evaluate(
            f"[...document.querySelectorAll('.heads tbody tr')[{head}].children].map((each) => each.innerText)"
        )
        assert cells[:2] == [str(head), f"{layer.sigma[head, 3]:.2f}"]
        offset = layer.offsets[head, 3, 0]
        assert cells[2] == f"{'←' if offset < 0 else '→'} {abs(offset):.2f}"


def test_keys_go_from_pool_to_pool_and_from_layer_to_layer(chromium, text):
    _, file = text
    chromium.open(file, "input=0&layer=0&pool=4&head=mean")
    chromium.evaluate("document.querySelector('.pool[tabindex=\"0\"]').focus()")
    seen = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp"):
        chromium.press(key)
        seen.append(re.match(r"layer (\d): “(.*)”", words(chromium)).groups())
    assert seen == [("0", "it"), ("1", ", it"), ("1", "not funny"), ("0", "not"), ("0", "not")]
    assert chromium.evaluate("document.activeElement.getAttribute('aria-label')").startswith("layer 0: “not”. Holds ")


def test_a_screen_reader_is_told_the_same(chromium, text):
    _, file = text
    chromium.open(file)
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    names = [node["name"]["value"] for node in nodes if node["role"]["value"] == "gridcell" and not node["ignored"]]
    assert {"banner", "main", "complementary", "heading", "columnheader"} <= {*roles}
    found = [name for name in names if name.startswith("layer 1: “not funny”")]
    assert len(found) == 2 and "It stands for 2 tokens from here on." in found[0]


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_those_of_the_sizes_and_parts(chromium, text, dark):
    """In a screenshot: a larger size is nearer to one end of the scale, and a larger part is more orange."""
    (inspection, _), file = text
    chromium.open(file, "input=0&layer=0&pool=4&head=mean", dark=dark)
    chromium.point_at(5, 5)
    seen = pixels(chromium)
    assert (seen[2, 2].mean() < 60) == dark
    layer = inspection.pools[0]
    light = []
    for pool in range(layer.num_pools):
        box = f"{CELL.format(input=0, row=0, pool=pool)}.getBoundingClientRect()"
        x, y = chromium.evaluate(f"(() => {{ const box = {box}; return [box.x + box.width / 2, box.y + 7]; }})()")
        light.append(seen[int(y), int(x)].mean())
    order = np.argsort(layer.sigma.mean(axis=0))
    steps = np.diff(np.array(light)[order]) * (1 if dark else -1)
    assert (steps >= -2).all() and steps.sum() > 10

    orange = []
    for token in range(1, len(inspection.tokens)):
        box = f"document.querySelectorAll('#input-0 th.token')[{token}].getBoundingClientRect()"
        x, y = chromium.evaluate(f"(() => {{ const box = {box}; return [box.x + 3, box.y + 3]; }})()")
        red, _, blue = seen[int(y) + 1, int(x) + 1]
        orange.append(red - blue)
    row = layer.row(4)
    steps = np.diff(np.array(orange)[np.argsort(row)])
    assert (steps >= -4).all() and steps.sum() > 60


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_no_page_is_wider_than_its_window(chromium, text, image, width):
    for file in (text[1], image[1]):
        chromium.open(file, "input=0&layer=1&pool=1", width=width)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        assert not chromium.problems()


def test_hostile_text_is_shown_and_not_run(chromium, text, image):
    for file in (text[1], image[1]):
        chromium.open(file)
        assert chromium.evaluate("document.title").startswith("What ")
        assert HOSTILE in chromium.evaluate("document.body.innerText")
        assert chromium.evaluate("document.images.length + document.querySelectorAll('[onerror]').length") == 0
        assert not chromium.problems()


@pytest.mark.parametrize(("number", "pool"), [(0, 0), (0, 13), (1, 3)])
def test_pointing_at_a_patch_draws_its_pool(chromium, image, number, pool):
    inspection, file = image
    layer = inspection.pools[number]
    chromium.open(file, height=1600)  # so that the panel does not lie over the picture
    chromium.point_at(*chromium.middle_of(f"document.querySelectorAll('.thumbs button')[{number}]"), click=True)
    (left, top, width, height) = chromium.evaluate(
        "(() => { const box = document.querySelector('.stage canvas').getBoundingClientRect();"
        " return [box.x, box.y, box.width, box.height]; })()"
    )
    rows, columns = layer.grid_in

    def middle(key: int) -> tuple[float, float]:
        row, column = divmod(int(key), columns)
        return left + (column + 0.5) * width / columns, top + (row + 0.5) * height / rows

    chromium.point_at(*middle(layer.members(pool)[-1]))
    names = [f"row {each // columns}, column {each % columns}" for each in range(rows * columns)]
    row = layer.row(pool)
    assert_tells(chromium, names, row)
    out = divmod(pool, layer.grid_out[1])
    assert words(chromium).startswith(f"{layer.name}: row {out[0]}, column {out[1]}")
    seen = pixels(chromium)
    orange = [seen[int(y), int(x), 0] - seen[int(y), int(x), 2] for x, y in map(middle, range(rows * columns))]
    # From nothing to 90 % of the colour, of which red and blue are 215 apart, over grey.
    expected = np.where(row >= 0.001, 215 * (0.12 + 0.78 * row / row.max()), 0)
    np.testing.assert_allclose(orange, expected, atol=28)
    assert not chromium.problems()


def test_keys_go_over_a_picture(chromium, image):
    _, file = image
    chromium.open(file, "input=0&layer=0&pool=5")
    chromium.evaluate("document.querySelector('.stage').focus()")
    seen = []
    for key in ("ArrowRight", "ArrowDown", "PageDown", "ArrowLeft", "ArrowUp"):
        chromium.press(key)
        seen.append(words(chromium).split("\n")[0])
    assert seen == [
        "layer 0: row 1, column 2",
        "layer 0: row 2, column 2",
        "layer 1: row 1, column 1",
        "layer 1: row 1, column 0",
        "layer 1: row 0, column 0",
    ]


def test_a_feature_map_is_drawn(chromium, tmp_path):
    case = CASES["resnet"][0]
    model = varied(case, pool_global=True)
    inspection = inspect_pools(model, {"pixel_values": case.inputs()["pixel_values"][:1]})
    file = tmp_path / "pools.html"
    file.write_text(make_page([inspection]), encoding="utf-8")
    for name, pool in (("stem", 7), ("last-map", 0)):
        chromium.open(file, f"input=0&layer={name}&pool={pool}&show=sizes")
        layer = inspection.pools[["stem", "last-map"].index(name)]
        columns = layer.grid_in[1]
        assert_tells(chromium, [f"row {e // columns}, column {e % columns}" for e in range(1000)], layer.row(pool))
        assert not chromium.problems()
