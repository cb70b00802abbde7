# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The numbers of a model's pools, and the page that tells them."""

import base64
import hashlib
import html
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conversion_cases import make_source, tiny_stock
from image_cases import HALF, as_bytes, picture
from model_cases import BARE_MODELS, CASES, context_pools, every_family, over_variants, tiny_tokenizer
from transformers import BitImageProcessorPil, ViTImageProcessorPil

from cp_transformers import convert_checkpoint, convert_model, inspect_pools
from cp_transformers.inspection import page, pictures, pools as inspection_pools
from cp_transformers.inspection.command import main
from cp_transformers.inspection.page import make_page


BERT, VIT, RESNET = (CASES[name][0] for name in ("bert", "vit", "resnet"))
ARRAYS = ("weights", "sigma", "offsets", "p", "token_in", "token_out")
every_bare_variant = over_variants(BARE_MODELS)


def one(inputs: dict[str, torch.Tensor], row: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in inputs.items()}


def assert_same(pool, other, atol: float = 1e-5):
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(pool, name), getattr(other, name), atol=atol, err_msg=name)


# ------------------------------------------------------------------------------------------------------- the arrays


@pytest.mark.parametrize("row", [0, 1], ids=["whole", "padded"])
@every_bare_variant
@torch.no_grad()
def test_what_p_makes_of_the_tokens_is_what_the_pool_gives(case, variant, row):
    """Whatever the family and the form of its pools."""
    model, inputs = case.model(**variant), one(case.inputs(), row)
    calls = []
    modules = context_pools(model)
    for module in modules:
        module.register_forward_hook(lambda module, args, output: calls.append((args, output)))
    pools = inspect_pools(model, inputs).pools
    assert len(pools) == len(calls) == len(modules)
    for pool, module, ((states, *rest), output) in zip(pools, modules, calls):
        output = output[0] if isinstance(output, tuple) else output
        # What is padded comes last.
        states = (states[0].flatten(1).T if states.ndim == 4 else states[0])[: pool.weights.shape[1]]
        output = (output[0].flatten(1).T if output.ndim == 4 else output[0])[: pool.num_pools]
        p = np.stack([[pool.row(each, head) for each in range(pool.num_pools)] for head in range(pool.num_heads)])
        slices = states.unflatten(1, (pool.num_heads, -1)).transpose(0, 1)
        mixed = (torch.from_numpy(p) @ slices).transpose(0, 1).flatten(1)
        if module.gate is not None:
            before = rest[0][0].flatten(1).T if rest else states
            mixed = before + module.gate * (mixed - before)
        torch.testing.assert_close(mixed, output, rtol=0, atol=1e-5)
        np.testing.assert_allclose(p.sum(axis=-1), 1, atol=1e-5)


@every_bare_variant
@torch.no_grad()
def test_sizes_are_those_that_the_model_puts_out(case, variant):
    model, inputs = case.model(**variant), one(case.inputs(), 1)
    sizes = model(**inputs, output_support_sizes=True).support_sizes
    pools = [pool for pool in inspect_pools(model, inputs).pools if pool.sigma is not None]
    assert len(pools) == len(sizes) or case.model_class.__name__.startswith("CPResNet")
    for pool, size in zip(pools, sizes):
        size = size[0].flatten(1)
        begin = int(pool.grid_in is None and not model.config.pool_class_token)
        np.testing.assert_allclose(pool.sigma, size[:, begin : begin + pool.num_pools], atol=1e-6)


STRIDES = {"pool_range": 0.5, "pool_num_heads": 2, "num_hidden_layers": 5, "pool_strides": [1, 2, 1, 2, 1]}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("more", [{}, {"pool_class_token": True}, {"pool_restore_layer": 4}], ids=str)
def test_padding_on_either_side_tells_nothing_else(more, side):
    model = BERT.model(**STRIDES, pool_layers=[0, 2, 4], **more)
    ids = torch.randint(1, 99, (1, 11))
    alone = inspect_pools(model, {"input_ids": ids})
    before = 5 if side == "left" else 0
    around = (before, 5 - before)
    padded = inspect_pools(
        model,
        {
            "input_ids": torch.nn.functional.pad(ids, around),
            "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), around),
            "position_ids": torch.nn.functional.pad(torch.arange(11)[None], around),
        },
    )
    assert padded.tokens == alone.tokens == tuple(map(str, ids[0].tolist()))
    for pool, other in zip(padded.pools, alone.pools):
        assert_same(pool, other)


def test_what_each_kept_token_stands_for():
    model = BERT.model(**STRIDES, pool_layers=[0, 2, 4], pool_restore_layer=4)
    pools = inspect_pools(model, {"input_ids": torch.randint(1, 99, (1, 8))}).pools
    each, pairs, fours = [-1, 0, 1, 2, 3, 4, 5, 6], [-1, 0, 0, 1, 1, 2, 2, 3], [-1, 0, 0, 0, 0, 1, 1, 1]
    expected = {"layer 0": (each, each), "layer 1": (each, pairs), "layer 2": (pairs, pairs)}
    expected |= {"layer 3": (pairs, fours), "layer 4": (each, each)}
    assert {pool.name: (pool.token_in.tolist(), pool.token_out.tolist()) for pool in pools} == expected
    assert [pool.stride for pool in pools] == [1, 2, 1, 2, 1]
    assert [pools[1].members(pool).tolist() for pool in range(4)] == [[0, 1], [2, 3], [4, 5], [6]]
    assert [pools[3].members(pool).tolist() for pool in range(2)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("strides", [None, [2, 1]])
def test_packed_texts_pool_themselves_alone(strides):
    model = BERT.model(pool_range=0.5, pool_strides=strides)
    segments = torch.tensor([[1] * 4 + [2] * 5])
    inputs = {
        "input_ids": torch.randint(1, 99, (1, 9)),
        "pool_segments": segments,
        "attention_mask": (segments[:, None, :, None] == segments[:, None, None, :]),
    }
    pool = inspect_pools(model, inputs).pools[0]
    # Each begins with a class token, which is not pooled.
    assert (pool.token_in < 0).tolist() == [True, False, False, False, True, False, False, False, False]
    first = pool.token_out[1:4].max() + 1
    np.testing.assert_allclose(pool.p[:, :first, :3].sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(pool.p[:, first:, 3:].sum(axis=-1), 1, atol=1e-6)


def test_squares_of_a_grid_with_a_rest():
    model = VIT.model(pool_range=0.5, pool_strides=[2, 1])
    pool = inspect_pools(model, one(VIT.inputs())).pools[0]
    assert (pool.grid_in, pool.grid_out) == ((5, 4), (3, 2))
    assert [pool.members(each).tolist() for each in (0, 5)] == [[0, 1, 4, 5], [18, 19]]
    members = [pool.members(each) for each in range(6)]
    assert all((pool.token_out[own] == each).all() for each, own in enumerate(members))
    assert sorted(np.concatenate(members)) == list(range(20))


def test_patches_that_are_masked_are_in_no_pool():
    mask = torch.ones(1, 21)
    mask[0, [3, 9]] = 0
    pool = inspect_pools(VIT.model(pool_range=0.5), {**one(VIT.inputs()), "attention_mask": mask}).pools[0]
    assert np.flatnonzero(pool.token_in < 0).tolist() == [2, 8]
    assert not pool.p[:, :, [2, 8]].any() and not pool.p[:, [2, 8]].any() and not pool.sigma[:, [2, 8]].any()


def test_how_far_pools_are_from_the_mean_of_what_they_stand_for():
    model = BERT.model(pool_range=0.5, pool_strides=[2, 1], pool_num_heads=2)
    pool = inspect_pools(model, {"input_ids": torch.randint(1, 99, (1, 9))}).pools[0]
    p = pool.p.mean(axis=0)
    expected = [1 - sum(min(p[each, token], 0.5) for token in (2 * each, 2 * each + 1)) for each in range(4)]
    np.testing.assert_allclose(pool.apart(), expected, atol=1e-6)


def test_shares_are_weights_by_their_mean():
    pool = inspect_pools(BERT.model(pool_range=0.5), {"input_ids": torch.randint(1, 99, (1, 9))}).pools[0]
    np.testing.assert_allclose(pool.shares.mean(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.diff(np.log(pool.shares)), np.diff(pool.weights), atol=1e-5)


@every_family
def test_predictors_that_were_trained_are_told_from_those_that_were_not(case):
    model = case.model(**case.variants["heads"])
    inputs = one(case.inputs())
    known = [pool for pool in inspect_pools(model, inputs).pools if pool.sigma is not None]
    assert known and all(pool.is_untrained for pool in known)
    for module in context_pools(model):
        if module.proj.bias is not None:
            torch.nn.init.constant_(module.proj.bias, 0.1)
    assert not any(pool.is_untrained for pool in inspect_pools(model, inputs).pools)


def test_gates_are_told_by_heads():
    model = BERT.fresh_model(**BERT.variants["heads"])
    for module in context_pools(model):
        torch.nn.init.constant_(module.gate[:16], -0.5)
    assert inspect_pools(model, one(BERT.inputs())).pools[0].gate.tolist() == [0.5, 0.0]


def test_a_model_is_left_as_it_was():
    model = BERT.model().train()
    with pytest.raises(ValueError, match="pool_mask"):
        inspect_pools(
            model, {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 1, 4, 4)}
        )
    inspect_pools(model, one(BERT.inputs()))
    assert model.training and not any("predict" in vars(pool) for pool in context_pools(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_half_precision_and_heads():
    case = next(case for case in CASES["bert"] if case.model_class.__name__ == "CPBertForSequenceClassification")
    model = case.model(pool_range=0.5).to(torch.bfloat16)
    pool = inspect_pools(model, one(case.inputs())).pools[0]
    assert pool.p.dtype == np.float32 and np.isfinite(pool.p).all()


def test_what_cannot_be_inspected_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="BertModel does not pool: convert it first"):
        inspect_pools(tiny_stock("BertModel"), {"input_ids": torch.ones(1, 4, dtype=torch.long)})
    with pytest.raises(ValueError, match="does not pool"):
        inspect_pools(BERT.model(pool_layers=[]), one(BERT.inputs()))
    with pytest.raises(
        ValueError, match=r"one input at a time: input_ids must be of one text or image, not \(3, 12\)"
    ):
        inspect_pools(BERT.model(), BERT.inputs())
    with pytest.raises(ValueError, match="not nothing"):
        inspect_pools(BERT.model(), {})
    monkeypatch.setattr(inspection_pools, "MAX_NUMBERS", 100)
    with pytest.raises(ValueError, match=r"give a shorter text or a smaller image\.$"):
        inspect_pools(BERT.model(), one(BERT.inputs()))


def test_tokens_have_the_names_that_their_tokenizer_gives():
    tokenizer = tiny_tokenizer()
    model = BERT.model(vocab_size=8)
    inspection = inspect_pools(model, tokenizer("a good film", return_tensors="pt"), tokenizer)
    assert inspection.tokens == ("[CLS]", "a", "good", "film", "[SEP]")
    assert inspection_pools._readable("", "\u0120") == inspection_pools._readable("\ufffd", "\u0120") == "\u0120"


def test_a_picture_is_what_the_model_sees_of_it():
    image = picture(rows=11, columns=9)
    processor = BitImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=HALF["mean"], image_std=HALF["std"]
    )
    model = CASES["dinov2"][0].model(pool_range=0.5)
    inputs = processor(image, return_tensors="pt")
    seen = inspect_pools(model, inputs, processor).picture
    rows, columns = inputs["pixel_values"].shape[-2:]
    assert seen.shape == (rows - rows % 2, columns - columns % 2, 3)
    assert (seen == np.asarray(image)[: seen.shape[0], : seen.shape[1]]).all()
    # Without the processor from the smallest value to the largest.
    assert (inspect_pools(model, inputs).picture.min(), inspect_pools(model, inputs).picture.max()) == (0, 255)


# --------------------------------------------------------------------------------------------------------- the page

HOSTILE = "</script><img src=x onerror=alert(1)><!--"


class Elements(HTMLParser):
    """The elements of a page, and what is in its scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[str, list[str]] = {"script": [], "style": [], "meta": []}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] in self.contents and data.strip():
            self.contents[self.elements[-1][0]].append(data)


def data_of(text: str) -> list[dict]:
    return json.loads(Elements(text).contents["script"][0])


def unpacked(layer: dict) -> list[dict[int, float]]:
    """The parts of each pool, head by head, as the page's script reads them."""
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(layer["parts"])), "<u4")
    rows = layer["heads"] * layer["count"]
    keys, values = numbers[rows:].reshape(2, -1)
    ends = numbers[:rows].cumsum()
    return [
        dict(zip(keys[end - count : end].tolist(), (values[end - count : end] / 1e5).tolist()))
        for count, end in zip(numbers[:rows], ends)
    ]


@every_bare_variant
def test_the_page_s_numbers_are_the_model_s(case, variant):
    inspection = inspect_pools(case.model(**variant), one(case.inputs(), 1))
    (told,) = data_of(make_page([inspection]))
    for layer, pool in zip(told["pools"], inspection.pools, strict=True):
        assert (layer["name"], layer["stride"]) == (pool.name, pool.stride)
        parts = unpacked(layer)
        for head in range(pool.num_heads):
            for each in range(pool.num_pools):
                row = np.zeros(pool.weights.shape[1])
                for key, part in parts[head * pool.num_pools + each].items():
                    row[key] = part
                np.testing.assert_allclose(row, pool.row(each, head), atol=0.00051)
        for name, array in (("sigma", pool.sigma), ("offsets", pool.offsets), ("shares", pool.shares)):
            assert (layer[name] is None) == (array is None)
            if array is not None:
                np.testing.assert_allclose(layer[name], array, atol=0.00051)
        for name, array in (("tokenIn", pool.token_in), ("tokenOut", pool.token_out)):
            assert layer[name] == (None if array is None else array.tolist())


def hostile_page() -> str:
    inspection = inspect_pools(BERT.model(), one(BERT.inputs()))
    tokens = (HOSTILE, *inspection.tokens[1:])
    inspection = inspection_pools.Inspection(HOSTILE, inspection.pools, tokens)
    return make_page([inspection, inspection], [HOSTILE, HOSTILE])


def test_nothing_that_a_checkpoint_or_a_text_says_becomes_markup():
    text = hostile_page()
    elements = Elements(text)
    names = [name for name, _ in elements.elements]
    assert names.count("script") == 2 and not {"img", "iframe", "link"} & {*names}
    assert not any(
        name.startswith("on") or name in ("href", "src") for _, found in elements.elements for name in found
    )
    assert data_of(text)[0]["tokens"][0] == HOSTILE
    assert html.escape(HOSTILE, quote=False) in text and HOSTILE not in text


def test_the_page_lets_no_script_run_but_its_own_and_asks_nobody():
    elements = Elements(hostile_page())
    policy = next(found["content"] for name, found in elements.elements if "http-equiv" in found)
    digests = dict(re.findall(r"(script|style)-src 'sha256-([^']+)'", policy))
    for name, content in (("script", elements.contents["script"][1]), ("style", elements.contents["style"][0])):
        assert digests[name] == base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_a_hundred_tokens_in_twelve_layers_make_a_small_page():
    model = BERT.model(num_hidden_layers=12, pool_num_heads=4, pool_range=0.1, max_position_embeddings=128)
    text = make_page([inspect_pools(model, {"input_ids": torch.randint(1, 99, (1, 100))})])
    assert len(text) < 700_000


def test_a_pool_of_many_small_parts_is_told():
    p = np.full((1, 1, 4096), 1 / 4096, dtype=np.float32)
    pool = inspection_pools.Pool(
        "last map", 64, None, np.zeros((1, 4096)), None, None, p, (64, 64), (1, 1), None, None, None, False
    )
    (told,) = data_of(make_page([inspection_pools.Inspection("a", (pool,), picture=np.zeros((64, 64, 3), np.uint8))]))
    assert unpacked(told["pools"][0]) == [dict.fromkeys(range(4096), pytest.approx(1 / 4096, abs=1e-5))]


def test_what_no_page_can_show_is_refused(monkeypatch):
    inspection = inspect_pools(BERT.model(), one(BERT.inputs()))
    monkeypatch.setattr(page, "MAX_PARTS", 10)
    with pytest.raises(ValueError, match="give fewer or shorter texts, or fewer or smaller images"):
        make_page([inspection])


def test_the_figures_are_there_without_a_script():
    inspection = inspect_pools(BERT.model(**STRIDES), one(BERT.inputs()))
    text = make_page([inspection])
    table = re.search("<tbody>.*</tbody>", text, re.DOTALL).group()
    for pool in inspection.pools:
        assert f'<th scope="row">{pool.name}</th><td>{pool.num_pools} of {pool.weights.shape[1]}</td>' in table
        assert f"<td>{pool.sigma.mean():.2f} ({pool.sigma.min():.2f} to {pool.sigma.max():.2f})</td>" in table


def test_notes_say_what_is_not_to_be_read_as_meaning():
    untrained, closed = "<strong>Untrained", "<strong>Closed gates"
    inputs = one(BERT.inputs())
    model = BERT.fresh_model(pool_gate=True)
    text = make_page([inspect_pools(model, inputs)])
    assert f"{untrained}.</strong>" in text and f"{closed}.</strong>" in text
    first, second = context_pools(model)
    torch.nn.init.ones_(first.proj.bias)
    torch.nn.init.ones_(second.gate)
    text = make_page([inspect_pools(model, inputs)])
    assert f"{untrained} in layer 1.</strong>" in text and f"{closed} in layer 0.</strong>" in text
    torch.nn.init.ones_(second.proj.bias)
    torch.nn.init.ones_(first.gate)
    text = make_page([inspect_pools(model, inputs)])
    assert untrained not in text and closed not in text


def test_a_notebook_shows_the_page_as_a_document_of_its_own():
    inspection = inspect_pools(BERT.model(), one(BERT.inputs()))
    ((name, attributes),) = Elements(inspection._repr_html_()).elements
    assert name == "iframe" and attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == make_page([inspection])


@pytest.mark.parametrize(("case", "name"), [(BERT, "strided"), (BERT, "heads"), (VIT, "strided"), (RESNET, "heads")])
def test_pictures_are_png_files(case, name):
    content = pictures.draw(inspect_pools(case.model(**case.variants[name]), one(case.inputs())))
    assert content.startswith(b"\x89PNG") and len(content) > 5000


def test_a_picture_of_a_long_text_is_refused():
    model = BERT.model(max_position_embeddings=128)
    inspection = inspect_pools(model, {"input_ids": torch.randint(1, 99, (1, 65))})
    with pytest.raises(ValueError, match="texts of up to 64 tokens, and this one has 65"):
        pictures.draw(inspection)


# ------------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of a model of texts, of one of images, and of one that does not pool."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    make_source(folder / "stock")
    convert_checkpoint(folder / "stock", folder / "texts", halve_before=[1])
    convert_model(tiny_stock("ViTModel"), pool_range=0.5).save_pretrained(folder / "images")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "images")
    return folder


def test_the_command_writes_a_page_and_pictures(checkpoints, tmp_path, capsys):
    output = tmp_path / "new" / "pools.html"
    main([str(checkpoints / "texts"), "--text", "a film", "good film bad", "--output", str(output), "--png"])
    assert sorted(path.name for path in output.parent.iterdir()) == ["pools-0.png", "pools-1.png", "pools.html"]
    assert f"Open {output} in a browser" in capsys.readouterr().out
    text = output.read_text(encoding="utf-8")
    assert [each["tokens"][1:-1] for each in data_of(text)] == [["a", "film"], ["good", "film", "bad"]]
    assert "<h1>What texts pools</h1>" in text and str(checkpoints) not in text

    (tmp_path / "texts.txt").write_text("a film\n\n  \ngood\n", encoding="utf-8")
    main([str(checkpoints / "texts"), "--file", str(tmp_path / "texts.txt"), "--output", str(output), "--overwrite"])
    assert [each["tokens"][1:-1] for each in data_of(output.read_text(encoding="utf-8"))] == [["a", "film"], ["good"]]

    (tmp_path / "<b>.png").write_bytes(as_bytes(picture()))
    main([str(checkpoints / "images"), "--image", str(tmp_path / "<b>.png"), "--output", str(output), "--overwrite"])
    (told,) = data_of(output.read_text(encoding="utf-8"))
    assert told["caption"] == "<b>.png" and told["picture"].startswith("data:image/png;base64,")
    assert [layer["gridIn"] for layer in told["pools"]] == [[4, 4]] * 4


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        ("texts", ["--text", "good", "--output", "there.html"], FileExistsError, "there.html exists; choose another"),
        ("texts", ["--text", "good", "--output", "folder.html"], FileExistsError, "is a folder"),
        ("texts", ["--text", "good", "--output", "pools.htm"], ValueError, "must end in .html"),
        ("texts", ["--text", "good", "--output", "there.html/a.html"], OSError, "cannot be written"),
        ("texts", ["--text", " "], ValueError, "The text ' ' has no tokens"),
        ("texts", ["--text", "good " * 39], ValueError, "has 41 tokens, and the model positions for 40: shorten it"),
        ("texts", ["--text", *["good"] * 51], ValueError, "at most 50 inputs, not 51"),
        ("texts", ["--file", "blank.txt"], ValueError, "holds no text"),
        ("texts", ["--file", "latin.txt"], ValueError, "not a text file in UTF-8"),
        ("texts", ["--file", "missing.txt"], OSError, "cannot be read"),
        ("texts", ["--image", "good.png"], ValueError, "reads texts: give --text or --file"),
        ("images", ["--text", "good"], ValueError, "reads images: give --image"),
        ("images", ["--image", "missing.png"], OSError, "An image cannot be read: .*missing.png"),
        ("images", ["--image", "good.png", "latin.txt"], OSError, "latin.txt: no image of a known kind"),
        ("stock", ["--text", "good"], ValueError, "of type bert, which does not pool: convert it first"),
        ("nowhere", ["--text", "good"], ValueError, "nowhere"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(
    checkpoints, tmp_path, monkeypatch, model, options, error, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("übel".encode("latin-1"))
    (tmp_path / "good.png").write_bytes(as_bytes(picture()))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words) as raised:
        main([str(checkpoints / model), *options])
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.html").read_text() == "mine"
