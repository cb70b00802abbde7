# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pages: their code runs as it stands, their tables are those of the files, and their links lead somewhere."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from cp_transformers import CPBertConfig, CPResNetConfig, CPViTConfig
from cp_transformers.demo import digits as demo_digits, image as demo_image, text as demo_text
from experiments import tables
from experiments.grids import paired_interval, values
from experiments.tasks import TASKS


ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in tables.pages()}
PAGES["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

# Pages whose snippets continue one another, and what they print.
SNIPPETS = {
    ("README.md",): ["0.0\n[8, 8, 8, 5, 5, 5, 8]\n"],
    ("docs/quick_tour.md", "docs/sharing.md", "docs/onnx.md"): [
        "{'max_abs_difference': 0.0, 'dtype': 'float32'}",
        "torch.Size([2, 4, 9])",  # the support sizes of two sentences, four heads, nine tokens
        "\nTrue\ntorch.Size([1, 4, 8, 10])",  # equal logits; the pools of a larger image
    ],
    ("docs/faster_models.md",): ["[8, 8, 8, 5, 5, 5, 8]\ntorch.Size([1, 8, 384])"],
    ("docs/inspect.md",): ["layer 2 (4, 4, 7) (4, 4)\n[0 1] "],
    ("docs/from_scratch.md", "docs/own_architecture.md"): [
        "torch.Size([1, 4, 6, 6])",  # of an image, four heads, six by six patches
        "[torch.Size([1, 512, 12, 8]), torch.Size([1, 2048, 3, 2])]",
        "torch.Size([2, 49, 256]) torch.Size([2, 4, 49])",
    ],
}


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("pages", SNIPPETS, ids=lambda pages: pages[0])
def test_the_code_runs(pages, tmp_path):
    code = "\n".join(block for page in pages for block in snippets(page))
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [each for each in SNIPPETS[pages] if each not in result.stdout] == []


def test_no_page_has_code_that_is_not_run():
    run = {page for pages in SNIPPETS for page in pages} | {"docs/adding_a_family.md"}  # which shows what to write
    assert {page for page in PAGES if snippets(page)} == run


def test_the_readme_is_short():
    assert len(PAGES["README.md"].encode()) <= 8192


def test_the_tables_are_those_of_the_files():
    assert [page for page in PAGES if tables.renewed(PAGES[page]) != PAGES[page]] == []


def test_every_table_has_a_page():
    found = {name for text in PAGES.values() for _, name, *_ in tables.BLOCK.findall(text)}
    assert found == set(tables.TABLES)


def test_a_stale_table_is_named_and_made_anew(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    page = tmp_path / "README.md"
    page.write_text("Before.\n\n<!-- table core hours -->\n| old |\n<!-- end -->\n\nAfter.\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "pages", lambda: [page])
    assert tables.main(["--check"]) == 1 and "| old |" in page.read_text()
    assert "README.md" in capsys.readouterr().out
    assert tables.main([]) == 0 and tables.core_hours_table() in page.read_text()
    assert page.read_text().startswith("Before.") and page.read_text().endswith("After.\n")
    assert tables.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table no such -->\n<!-- end -->", "There is no table 'no such'"),
        ("<!-- table core hours -->\nno end", "has no '<!-- end -->'"),
    ],
)
def test_a_table_that_cannot_be_made_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        tables.renewed(text)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page])):
        if target.startswith("https://"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(str(path.resolve().relative_to(ROOT))), f"{target}#{anchor}"


def test_the_site_has_every_page():
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert [page for page in PAGES if f'"{page}"' not in config] == []


def test_the_table_of_fields_is_complete_and_right():
    rows = re.findall(r"^\| `(pool_\w+)` \| (.*?) \| (.*?) \| (.*?) \|", PAGES["docs/method.md"], flags=re.MULTILINE)
    for column, config in enumerate((CPBertConfig(), CPViTConfig(), CPResNetConfig()), start=1):
        fields = {row[0]: row[column].strip('`"') for row in rows if row[column] != "-"}
        expected = {name: getattr(config, name) for name in vars(config) if name.startswith("pool_")}
        assert fields == {name: str(value) for name, value in expected.items()}


@cache
def differences(name: str) -> set[tuple[str, str]]:
    """All differences and halves of intervals in the tables of an experiment, as they may be rounded."""
    experiment, runs = tables.experiment(name)
    found = set()
    for arms in experiment.comparisons:
        for metric in TASKS[experiment.task].metrics:
            for size in experiment.train_samples:
                ours, control = (values(runs, metric, arm, size) for arm in arms)
                if ours and control:
                    mean, half, _ = paired_interval(ours, control)
                    found |= {(f"{abs(mean):.{digits}f}", f"{half:.{digits}f}") for digits in (1, 2, 4)}
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- table experiment" in PAGES[page]])
def test_every_difference_that_is_said_beside_the_tables_is_in_them(page):
    names = re.findall(r"<!-- table experiment (\w+) -->", PAGES[page])
    known = set.union(*(differences(name) for name in names), *(differences("texts_ablation"),))
    said = tables.BLOCK.sub("", PAGES[page])
    told = re.findall(r"(\d+\.\d+)\s±\s(\d+\.\d+)", said)
    assert told and [each for each in told if each not in known] == []


@pytest.mark.parametrize(
    ("name", "metric", "form"),
    [("text", "error", "{:.4f}"), ("image", "error", "{:.4f}"), ("digits", "accuracy", "{:.2%}")],
)
def test_a_demo_shows_what_was_recorded_beside_its_own_figures(name, metric, form):
    demo = {"text": demo_text, "image": demo_image, "digits": demo_digits}[name]
    results = json.loads((ROOT / "results" / f"demo_{name}.json").read_text())
    recorded = demo.RECORDED
    assert recorded[metric] == {arm["model"]: arm[metric] for arm in results["arms"]}
    assert recorded["settings"].items() <= results["settings"].items()
    assert recorded["torch"] == results["versions"]["torch"]
    then = results["arms"][-1][metric]
    results["arms"][-1][metric] += 0.001
    told = f"{form.format(then + 0.001):>9}{form.format(then):>9}"
    assert told in demo.report(results) and "on another processor" in demo.report(results)
    for change in ({"quick": True}, {"settings": {**results["settings"], "seed": 1}}):
        assert "on another processor" not in demo.report({**results, **change})


@pytest.mark.parametrize("name", ["text", "text_seed_1", "image", "image_seed_1", "digits"])
def test_what_the_demos_have_recorded_was_no_quick_run_and_began_exactly(name):
    results = json.loads((ROOT / "results" / f"demo_{name}.json").read_text())
    assert not results["quick"]
    assert results["parity"] in (0.0, {"ViT, 4 layers": 0.0, "ResNet": 0.0})
    assert results["settings"]["seed"] == int(name.endswith("seed_1"))
