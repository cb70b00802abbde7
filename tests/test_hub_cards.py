# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Model cards: what is on them comes from the checkpoint's own files, and the Hub's tools can read it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from model_cases import MODELS, over
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

import cp_transformers
from cp_transformers import CPBertConfig, CPBertForMaskedLM, CPBertForSequenceClassification
from cp_transformers.cli import main as cli
from cp_transformers.conversion import convert_checkpoint
from cp_transformers.model_card import MARKER, PIPELINE_TAGS, TEMPLATE, write_card


ROOT = Path(__file__).parents[1]
SIZES = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def classifier(folder: Path) -> Path:
    CPBertForSequenceClassification(CPBertConfig(**SIZES, pool_num_heads=2)).save_pretrained(folder)
    return folder


def give_run(folder: Path, results: dict, **arguments) -> None:
    (folder / "arguments.yaml").write_text(yaml.safe_dump({"do_train": True, "learning_rate": 3e-5, **arguments}))
    (folder / "results.json").write_text(json.dumps(results))


GLUE = {
    "task": "sst2",
    "data": "nyu-mll/glue",
    "metrics": {"validation": {"loss": 0.25, "accuracy": 0.875}},
    "runs": {"1": {}, "2": {}},
    "std": {"validation": {"loss": 0.01, "accuracy": 0.0125}},
}
IMAGENET = {"results": [{"model": "out", "top1": 0.5, "top5": 0.75, "real_top1": None, "loss": 1.5}]}
MLM = {"metrics": {"loss": 2.0, "perplexity": 7.389, "accuracy": 0.5, "tokens": 100}}


def figures(text: str) -> set[str]:
    """The rows of the card's table of results."""
    return set(re.findall(r"^\| .* \| .* \| .* \| [\d.]+(?: ± [\d.]+)? \|$", text, re.MULTILINE))


def test_every_figure_of_a_glue_run_is_on_its_card_in_each_form(tmp_path):
    give_run(classifier(tmp_path), GLUE, seeds=[1, 2], model_name_or_path="/home/me/bert")
    card = write_card(tmp_path, "me/bert-sst2")
    assert figures(card.text) == {
        "| nyu-mll/glue | validation | loss | 0.2500 ± 0.0100 |",
        "| nyu-mll/glue | validation | accuracy | 0.8750 ± 0.0125 |",
    }
    read = ModelCard.load(tmp_path / "README.md").data
    values = {(each.metric_type, each.metric_value) for each in read.eval_results}
    assert values == {("loss", 0.25), ("accuracy", 0.875)}
    assert {(each.dataset_type, each.dataset_config, each.dataset_split) for each in read.eval_results} == {
        ("nyu-mll/glue", "sst2", "validation")
    }
    assert read.datasets == ["nyu-mll/glue"]
    entries = yaml.safe_load((tmp_path / ".eval_results" / "glue.yaml").read_text())
    assert {"dataset": {"id": "nyu-mll/glue", "task_id": "sst2"}, "value": 0.875, "notes": "validation, accuracy"} in (
        entries
    )
    assert all(EvalResultEntry(each["dataset"]["id"], each["dataset"]["task_id"], each["value"]) for each in entries)
    assert "/home/me" not in card.content and "| learning_rate | 3e-05 |" in card.content


def test_figures_on_data_of_ones_own_name_no_data_set_of_the_hub(tmp_path):
    data = tmp_path / "secret" / "films"
    data.mkdir(parents=True)
    folder = classifier(tmp_path / "run")
    give_run(folder, {**GLUE, "task": None, "data": str(data), "std": {}}, data_dir=str(data))
    card = write_card(folder, "mine")
    assert "| films | validation | accuracy | 0.8750 |" in figures(card.text)
    assert "secret" not in card.content and card.data.datasets is None
    assert not (folder / ".eval_results").exists()


def test_figures_of_the_other_tasks(tmp_path):
    case = next(case for case in MODELS if str(case) == "CPViTForImageClassification")
    case.model().save_pretrained(tmp_path / "vit")
    give_run(tmp_path / "vit", IMAGENET, dataset_name="ILSVRC/imagenet-1k")
    assert figures(write_card(tmp_path / "vit", "vit").text) == {
        "| ILSVRC/imagenet-1k | validation | accuracy | 0.5000 |",
        "| ILSVRC/imagenet-1k | validation | top-5 accuracy | 0.7500 |",
        "| ILSVRC/imagenet-1k | validation | loss | 1.5000 |",
    }
    assert (tmp_path / "vit" / ".eval_results" / "imagenet-1k.yaml").is_file()
    CPBertForMaskedLM(CPBertConfig(**SIZES)).save_pretrained(tmp_path / "mlm")
    give_run(tmp_path / "mlm", MLM, dataset_name="review-texts")
    assert figures(write_card(tmp_path / "mlm", "mlm").text) == {
        "| review-texts | validation | perplexity | 7.3890 |",
        "| review-texts | validation | accuracy | 0.5000 |",
        "| review-texts | validation | loss | 2.0000 |",
    }


def test_without_results_there_is_no_figure(tmp_path):
    card = write_card(classifier(tmp_path), "new")
    assert not figures(card.text) and "None is on record" in card.text and card.data.eval_results is None
    assert "± " not in card.text and "## Training" not in card.text and "## Conversion" not in card.text


def test_the_conversion_is_on_the_card_and_the_base_model_in_its_metadata(tmp_path):
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    record = convert_checkpoint(tmp_path / "bert", tmp_path / "cp", layers="first:1")
    card = ModelCard.load(tmp_path / "cp" / "README.md")
    assert record["source_sha256"]["model.safetensors"] in card.text and "layers 0;" in card.text
    assert "by more than 0 in float32" in card.text and "have not been trained" in card.text
    assert card.data.base_model is None  # a folder's name is no model's
    options = ["--base-model", "google/bert", "--license", "mit", "--name", "me/cp"]
    assert cli(["card", str(tmp_path / "cp"), *options]) == 0
    data = ModelCard.load(tmp_path / "cp" / "README.md").data
    assert (data.base_model, data.base_model_relation, data.license) == ("google/bert", "finetune", "mit")
    assert data.model_name == "cp" and data.library_name == "transformers" and data.tags == ["context-pool", "cp_bert"]


@over(MODELS)
def test_the_lines_that_load_the_model_load_it(case, tmp_path, monkeypatch):
    case.model().save_pretrained(tmp_path / "model")
    card = write_card(tmp_path / "model", "model")
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    namespace: dict = {}
    monkeypatch.chdir(tmp_path)
    if "AutoBackbone" in code:
        assert "on the Hub alone" in code
        return
    exec(code, namespace)
    assert type(namespace["model"]) is case.model_class
    without = (
        "CPBertForNextSentencePrediction",
        "CPViTForMaskedImageModeling",
    )  # nameless there
    assert (card.data.pipeline_tag in PIPELINE_TAGS.values()) != (str(case) in without)


def test_the_number_of_weights_is_that_of_the_files(tmp_path):
    classifier(tmp_path)
    counted = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert f"| weights | {counted:,} numbers, float32 |" in write_card(tmp_path, "x").text


def test_a_card_can_be_read_and_written_again_by_the_hubs_tools(tmp_path):
    give_run(classifier(tmp_path), GLUE)
    card = write_card(tmp_path, "me/x")
    again = ModelCard(card.content)
    assert again.data.to_dict() == card.data.to_dict()
    index = eval_results_to_model_index(again.data.model_name, again.data.eval_results)
    assert model_index_to_eval_results(index) == ("x", again.data.eval_results)
    assert str(again) == card.content
    for table in re.findall(r"(?:^\|.*\n)+", card.text, re.MULTILINE):  # of as many cells in every row
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1


def test_a_card_that_somebody_has_written_is_replaced_only_when_asked(tmp_path, capsys):
    classifier(tmp_path)
    assert cli(["card", str(tmp_path)]) == 0 and cli(["card", str(tmp_path)]) == 0
    assert MARKER in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("Mine.")
    assert cli(["card", str(tmp_path)]) == 1
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "Mine."
    assert cli(["card", str(tmp_path), "--overwrite"]) == 0
    assert MARKER in (tmp_path / "README.md").read_text()


def test_trainers_own_card_is_taken_for_nobodys(tmp_path):
    model = CPBertForSequenceClassification(CPBertConfig(**SIZES))
    trainer = Trainer(model, TrainingArguments(tmp_path, use_cpu=True))
    trainer.save_model()
    trainer.create_model_card()
    assert cli(["card", str(tmp_path)]) == 0
    assert MARKER in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("conversion.json", "{", "conversion.json is damaged"),
        ("results.json", "[]", "results.json is damaged"),
        ("arguments.yaml", "a: [", "arguments.yaml is damaged"),
        ("config.json", '{"model_type": "bert"}', "convert it first"),
        ("model.safetensors", "", "truncated or corrupted"),
    ],
)
def test_what_is_damaged_is_said_and_no_card_is_written(file, content, message, tmp_path, capsys):
    (classifier(tmp_path) / file).write_text(content)
    assert cli(["card", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()


# ------------------------------------------------------------------------------------------------- in this repository


def test_the_template_is_the_one_that_the_package_brings():
    assert (ROOT / "model_cards" / "template.md").resolve() == TEMPLATE.resolve()
    assert TEMPLATE.parent == Path(cp_transformers.__file__).parent


CARDS = sorted(path for path in (ROOT / "model_cards").glob("*.md") if path.name != "template.md")


def test_there_is_a_card_for_each_checkpoint_of_the_script():
    assert [path.stem for path in CARDS] == [
        "cp-minilm-l4-film-reviews",
        "cp-minilm-l6-film-reviews",
        "cp-resnet-digits",
        "cp-vit-digits",
    ]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_the_figures_of_the_published_cards_are_in_results(path):
    results = json.loads((ROOT / "results" / "checkpoints" / f"{path.stem}.json").read_text())
    card = ModelCard.load(path)
    if "metrics" in results:
        expected = {(name, value) for metrics in results["metrics"].values() for name, value in metrics.items()}
    else:
        (row,) = results["results"]
        expected = {("accuracy", row["top1"]), ("top-5 accuracy", row["top5"]), ("loss", row["loss"])}
    assert {(each.metric_type, each.metric_value) for each in card.data.eval_results} == expected
    assert {f"{value:.4f}" for _, value in expected} == {row.split("|")[4].strip() for row in figures(card.text)}
    assert card.data.license == "apache-2.0" and MARKER in card.text
