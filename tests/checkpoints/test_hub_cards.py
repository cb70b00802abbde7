# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Model cards: what is on them comes from the checkpoint's own files, and the Hub's tools can read it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from model_cases import MODELS, TINY_BERT, over, tiny_tokenizer
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

import cp_transformers
from cp_transformers import CPBertConfig, CPBertForMaskedLM, CPBertForSequenceClassification
from cp_transformers.checkpoints.conversion import convert_checkpoint
from cp_transformers.checkpoints.model_card import PIPELINE_TAGS, TEMPLATE, digests, is_made, read_card, write_card
from cp_transformers.checkpoints.reading import CheckpointError
from cp_transformers.cli import main as cli


ROOT = Path(__file__).parents[2]


def classifier(folder: Path) -> Path:
    CPBertForSequenceClassification(CPBertConfig(**TINY_BERT, pool_num_heads=2)).save_pretrained(folder)
    return folder


def give_record(folder: Path, figures: dict[str, float], **data) -> dict:
    """The record of a run with these figures of its validation split."""
    evaluations = [{"split": "validation", "metric": m, "name": m, "value": value} for m, value in figures.items()]
    record = {
        "weights_sha256": digests(folder),
        "model": {"name": "me/bert", "on_the_hub": True, "commit": "0" * 40},
        "data": {"name": "nyu-mll/glue", "on_the_hub": True, "config": "sst2", **data},
        "options": {"learning_rate": 3e-5, "seed": 1},
        "evaluations": evaluations,
    }
    (folder / "training.json").write_text(json.dumps(record))
    return record


FIGURES = {"loss": 0.25, "accuracy": 0.875}


def figures(text: str) -> set[str]:
    """The rows of the card's table of results."""
    return set(re.findall(r"^\| .* \| .* \| .* \| [\d.]+(?: ± [\d.]+)? \|$", text, re.MULTILINE))


def test_every_figure_of_a_run_is_on_its_card_in_each_form(tmp_path):
    give_record(classifier(tmp_path), FIGURES)
    card = write_card(tmp_path, "me/bert-sst2")
    assert figures(card.text) == {
        "| nyu-mll/glue | validation | loss | 0.2500 |",
        "| nyu-mll/glue | validation | accuracy | 0.8750 |",
    }
    read = ModelCard.load(tmp_path / "README.md").data
    values = {(each.metric_type, each.metric_value) for each in read.eval_results}
    assert values == {("loss", 0.25), ("accuracy", 0.875)}
    assert {(each.dataset_type, each.dataset_config, each.dataset_split) for each in read.eval_results} == {
        ("nyu-mll/glue", "sst2", "validation")
    }
    assert (read.datasets, read.base_model, read.base_model_relation) == (["nyu-mll/glue"], "me/bert", "finetune")
    assert "Fine-tuned from `me/bert` on `nyu-mll/glue`" in card.text and "| learning_rate | 3e-05 |" in card.text
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "glue.yaml").read_text()))
    assert entries == [EvalResultEntry("nyu-mll/glue", "sst2", 0.875, notes="validation, accuracy")]


def test_a_figure_of_a_part_of_the_split_is_not_the_data_set_s(tmp_path):
    record = give_record(classifier(tmp_path), FIGURES)
    record["options"]["max_eval_samples"] = 100
    (tmp_path / "training.json").write_text(json.dumps(record))
    card = write_card(tmp_path, "me/bert-sst2")
    assert "| max_eval_samples | 100 |" in card.text and not (tmp_path / ".eval_results").exists()


@pytest.mark.parametrize(("split", "task"), [("test", "sst2"), ("train[:100]", None)])
def test_a_figure_of_a_slice_is_not_the_data_set_s(split, task, tmp_path):
    record = give_record(classifier(tmp_path), FIGURES)
    for each in record["evaluations"]:
        each["split"] = split
    (tmp_path / "training.json").write_text(json.dumps(record))
    write_card(tmp_path, "me/bert-sst2")
    file = tmp_path / ".eval_results" / "glue.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(file.read_text())) if file.exists() else []
    assert [entry.task_id for entry in entries] == ([] if task is None else [task])


def test_of_several_splits_each_has_its_main_figure(tmp_path):
    record = give_record(classifier(tmp_path), {}, config="mnli")
    for split, value in (("validation_matched", 0.5), ("validation_mismatched", 0.25)):
        for metric, each in (("loss", 1.0), ("accuracy", value)):
            record["evaluations"].append({"split": split, "metric": metric, "name": metric, "value": each})
    (tmp_path / "training.json").write_text(json.dumps(record))
    write_card(tmp_path, "me/mnli")
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "glue.yaml").read_text()))
    assert {entry.task_id: entry.value for entry in entries} == {"mnli_matched": 0.5, "mnli_mismatched": 0.25}


def test_figures_on_data_of_ones_own_name_no_data_set_of_the_hub(tmp_path):
    give_record(classifier(tmp_path), FIGURES, name="films", on_the_hub=False, config=None)
    card = write_card(tmp_path, "mine")
    assert "| films | validation | accuracy | 0.8750 |" in figures(card.text)
    assert card.data.datasets is None and not (tmp_path / ".eval_results").exists()


SENTENCES = "sentence,label\na good film,positive\na film,negative\n"


def test_runs_of_every_task_make_their_card_and_name_no_path(tmp_path, capsys):
    data, here = tmp_path / "private" / "films", str(tmp_path)
    data.mkdir(parents=True)
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text(SENTENCES)
        (data / f"{split}.txt").write_text("a good film\na film\n" * 20)
    start = tmp_path / "private" / "start"
    CPBertForMaskedLM(CPBertConfig(**TINY_BERT)).save_pretrained(start)
    tiny_tokenizer().save_pretrained(start)
    common = ["--model_name_or_path", start, "--use_cpu", "--max_steps", "1", "--do_train", "--do_eval"]
    common += ["--max_length", "8", "--save_strategy", "no"]
    glue = ["glue", *common, "--data_dir", data, "--text_columns", "sentence", "--output_dir", tmp_path / "glue"]
    mlm = ["mlm", *common, "--train_file", data / "train.txt", "--validation_file", data / "validation.txt"]
    mlm += ["--output_dir", tmp_path / "mlm"]
    images = ["imagenet", "--config", ROOT / "configs" / "imagenet" / "tiny.yaml", "--max_train_samples", "32"]
    images += ["--max_eval_samples", "20", "--max_steps", "1", "--use_cpu", "--output_dir", tmp_path / "imagenet"]
    for command, data_name in ((glue, "films"), (mlm, "validation.txt"), (images, "digits")):
        assert cli([str(each) for each in command]) == 0, capsys.readouterr().err
        folder = tmp_path / command[0]
        results = json.loads((folder / "results.json").read_text())
        card = ModelCard.load(folder / "README.md")
        values = {each.metric_value for each in card.data.eval_results}
        if command[0] == "imagenet":
            assert values == {results["results"][0][name] for name in ("top1", "top5", "loss")}
        else:
            metrics = results["metrics"]["validation"] if command[0] == "glue" else results["metrics"]
            assert values <= set(metrics.values()) and metrics["accuracy"] in values
        assert {each.dataset_name for each in card.data.eval_results} == {data_name}
        assert card.data.datasets is None and card.data.base_model is None
        started = "Trained from scratch" if command[0] == "imagenet" else "Fine-tuned from local files named `start`"
        assert started in card.text
        for name in ("README.md", "training.json"):
            assert here not in (folder / name).read_text() and "private" not in (folder / name).read_text()
        # An export has the same card but for the name, and so has the export of an export.
        assert cli(["export", str(folder), str(tmp_path / "one"), "--overwrite", "--name", folder.name]) == 0
        assert cli(["export", str(tmp_path / "one"), str(tmp_path / "two"), "--overwrite", "--name", folder.name]) == 0
        assert (tmp_path / "two" / "README.md").read_text() == (folder / "README.md").read_text()
        for path in (tmp_path / "two").iterdir():
            assert here.encode() not in path.read_bytes()


def test_of_weights_of_unknown_origin_nothing_is_claimed(tmp_path):
    card = write_card(classifier(tmp_path), "new")
    assert "is not recorded" in card.text
    assert "not been trained" not in card.text and "rained from scratch" not in card.text


def test_without_results_there_is_no_figure(tmp_path):
    card = write_card(classifier(tmp_path), "new")
    assert not figures(card.text) and "None is recorded" in card.text and card.data.eval_results is None
    assert "± " not in card.text and "## Training" not in card.text and "## Conversion" not in card.text


def test_the_conversion_is_on_the_card_and_the_base_model_in_its_metadata(tmp_path):
    BertModel(BertConfig(**TINY_BERT)).save_pretrained(tmp_path / "bert")
    record = convert_checkpoint(tmp_path / "bert", tmp_path / "cp", layers="first:1")
    card = ModelCard.load(tmp_path / "cp" / "README.md")
    assert record["source_sha256"]["model.safetensors"] in card.text and "layers 0;" in card.text
    assert "was 0.0 in float32" in card.text and "have not been trained" in card.text
    assert card.data.base_model is None  # a folder's name is no model's
    options = ["--base-model", "google/bert", "--license", "mit", "--name", "me/cp"]
    assert cli(["card", str(tmp_path / "cp"), *options]) == 0
    data = ModelCard.load(tmp_path / "cp" / "README.md").data
    assert (data.base_model, data.get("base_model_relation"), data.license) == ("google/bert", None, "mit")
    assert data.model_name == "cp" and data.library_name == "transformers" and data.tags == ["context-pool", "cp_bert"]


@over(MODELS)
def test_the_lines_that_load_the_model_load_it(case, tmp_path, monkeypatch):
    case.model().save_pretrained(tmp_path / "model")
    card = write_card(tmp_path / "model", "model")
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    namespace: dict = {}
    monkeypatch.chdir(tmp_path)
    if "AutoBackbone" in code:
        assert f"{case}.from_pretrained" in code
        return
    exec(code, namespace)
    assert type(namespace["model"]) is case.model_class
    without = (
        "CPBertForNextSentencePrediction",
        "CPElectraForPreTraining",
        "CPBeitForMaskedImageModeling",
        "CPDeiTForMaskedImageModeling",
        "CPViTForMaskedImageModeling",
    )  # nameless there
    tags = {*PIPELINE_TAGS.values(), "feature-extraction"}
    assert (card.data.pipeline_tag in tags) != (str(case) in without)


def test_the_number_of_parameters_is_the_models(tmp_path):
    model = CPBertForSequenceClassification.from_pretrained(classifier(tmp_path))
    assert f"| parameters | {model.num_parameters():,} |" in write_card(tmp_path, "x").text


def test_a_card_can_be_read_and_written_again_by_the_hubs_tools(tmp_path):
    give_record(classifier(tmp_path), FIGURES)
    card = write_card(tmp_path, "me/x")
    again = ModelCard(card.content)
    assert again.data.to_dict() == card.data.to_dict()
    index = eval_results_to_model_index(again.data.model_name, again.data.eval_results)
    assert model_index_to_eval_results(index) == ("x", again.data.eval_results)
    assert str(again) == card.content
    for table in re.findall(r"(?:^\|.*\n)+", card.text, re.MULTILINE):  # of as many cells in every row
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1


def test_a_card_that_was_written_or_changed_by_hand_is_replaced_only_when_asked(tmp_path, capsys):
    classifier(tmp_path)
    card = tmp_path / "README.md"
    assert cli(["card", str(tmp_path)]) == 0 and cli(["card", str(tmp_path)]) == 0
    for content in ("Mine.", card.read_text() + "One more word.", card.read_text().replace("tags:", "tags:\n- mine")):
        card.write_text(content)
        assert not is_made(read_card(tmp_path))
        assert cli(["card", str(tmp_path)]) == 1
        assert "replace it with --overwrite" in capsys.readouterr().err
        assert cli(["export", str(tmp_path), str(tmp_path / "out"), "--overwrite"]) == 0
        assert (tmp_path / "out" / "README.md").read_text() == card.read_text() == content
        assert cli(["card", str(tmp_path), "--overwrite"]) == 0
        assert is_made(read_card(tmp_path))


@pytest.mark.parametrize(
    ("head", "license"),
    [
        ("license: mit", "mit"),
        ("license: 2024-01-01", "2024-01-01"),
        ("license: 2.0", "2.0"),
        ("license: no", "no"),
        ("license: 010", "010"),
        ("license: 1:30", "1:30"),
        ("license: &name mit\nbase_model: x/y\nlicence: *name", "mit"),
        ("license: [mit, 2.0]", ["mit", "2.0"]),
        ("license: ~", None),
        ("license:", None),
        ("license: {name: mit}", None),
        ("tags: 2024\nlicense: mit", "mit"),
        ("tags: no", None),
        ("no: norsk\nlicense: mit", "mit"),
        ("2024-01-01: 1", None),
        ("", None),
    ],
)
def test_a_card_s_licence_is_what_stands_there_whatever_yaml_takes_it_for(head, license, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\nA model.\n")
    assert read_card(tmp_path).license == license


@pytest.mark.parametrize("head", ["license: [mit", "- license", "license: &a [*a]", "a: *b"])
def test_a_card_whose_head_is_not_valid_is_refused_in_a_sentence(head, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\nA model.\n")
    with pytest.raises(CheckpointError, match=r"README\.md is not valid"):
        read_card(tmp_path)


def test_a_line_in_a_card_s_text_is_no_head(tmp_path):
    (tmp_path / "README.md").write_text("A model.\n\n---\nlicense: mit\n---\n")
    assert read_card(tmp_path).license is None


def test_what_a_card_was_given_is_kept_when_it_is_made_anew(tmp_path):
    classifier(tmp_path)
    assert cli(["card", str(tmp_path), "--base-model", "google/bert", "--license", "mit"]) == 0
    assert cli(["card", str(tmp_path), "--name", "me/other"]) == 0
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.license, data.model_name) == ("google/bert", "mit", "other")
    assert cli(["card", str(tmp_path), "--base-model", "not an id!"]) == 1
    assert cli(["card", str(tmp_path), "--license", "apache-2.0"]) == 0
    assert ModelCard.load(tmp_path / "README.md").data.license == "apache-2.0"


def test_the_record_of_other_weights_is_none_of_these(tmp_path):
    give_record(classifier(tmp_path), FIGURES)
    classifier(tmp_path)  # others are drawn
    card = write_card(tmp_path, "x")
    assert not figures(card.text) and "is not recorded" in card.text
    assert not (tmp_path / ".eval_results").exists()


def test_a_card_tells_the_labels_and_how_to_prepare_the_inputs(tmp_path):
    labels = {0: "bad", 1: "good"}
    CPBertForSequenceClassification(CPBertConfig(**TINY_BERT, id2label=labels)).save_pretrained(tmp_path)
    assert "AutoTokenizer" not in write_card(tmp_path, "me/x").text
    tiny_tokenizer().save_pretrained(tmp_path)
    text = write_card(tmp_path, "me/x").text
    assert "| labels | bad, good |" in text
    assert 'AutoTokenizer.from_pretrained("me/x", trust_remote_code=True)' in text
    assert '`pipeline("text-classification", "me/x", trust_remote_code=True)`' in text


def test_trainers_own_card_is_kept(tmp_path, capsys):
    model = CPBertForSequenceClassification(CPBertConfig(**TINY_BERT))
    trainer = Trainer(model, TrainingArguments(tmp_path / "run", use_cpu=True))
    trainer.save_model()
    trainer.create_model_card()
    theirs = (tmp_path / "run" / "README.md").read_text()
    assert cli(["card", str(tmp_path / "run")]) == 1 and "--overwrite" in capsys.readouterr().err
    assert cli(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == theirs


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("conversion.json", "{", "conversion.json is damaged"),
        ("training.json", "{", "training.json is damaged"),
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
    assert TEMPLATE.parent == Path(cp_transformers.__file__).parent / "checkpoints"


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
    record = json.loads((ROOT / "results" / "checkpoints" / f"{path.stem}.json").read_text())
    card = ModelCard.load(path)
    expected = {(each["name"], each["value"]) for each in record["evaluations"]}
    assert {(each.metric_name, each.metric_value) for each in card.data.eval_results} == expected
    assert {f"{value:.4f}" for _, value in expected} == {row.split("|")[4].strip() for row in figures(card.text)}
    for name, value in record["options"].items():
        assert value in (-1, False) or f"| {name} | {value} |" in card.text
    assert card.data.license == "apache-2.0" and is_made(card)
