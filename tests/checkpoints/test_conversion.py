# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Conversion: every head, the checks, and what comes out."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conversion_cases import snapshot, tiny_config, tiny_stock
from datasets import DatasetDict
from huggingface_hub import ModelCard
from model_cases import MODELS, aligned, context_pools, over
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    pipeline,
)

from cp_transformers import CPBeitForSemanticSegmentation, CPBertForPreTraining
from cp_transformers.checkpoints.conversion import (
    FAMILIES,
    CheckpointError,
    convert_checkpoint,
    convert_model,
    cut_layers,
    parse_layers,
)
from cp_transformers.checkpoints.parity import parity
from cp_transformers.cli import main as cli
from cp_transformers.demo.comparison import make_trainer
from cp_transformers.demo.digits import encode, make_model, make_processor
from cp_transformers.models.context_pool import BaseContextPool
from cp_transformers.training.digits import load_digits
from cp_transformers.training.packages import minilm_folder


# What comes out


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FAMILIES for name in FAMILIES[family].models]
)
def test_every_head_converts_with_equal_outputs(family, name, tmp_path):
    stock = tiny_stock(name)
    stock.save_pretrained(tmp_path / "source")
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp", pool_num_heads=2, pool_max_offset=2.0)
    assert record["parity"]["max_abs_difference"] == 0.0
    assert (record["source_class"], record["model_class"]) == (name, f"CP{name}")
    loaded, info = FAMILIES[family].models[name].from_pretrained(tmp_path / "cp", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert parity(stock, loaded) == 0.0


def test_a_source_that_returns_tuples_converts(tmp_path):
    stock = tiny_stock("BertForMaskedLM")
    stock.config.return_dict = False
    stock.save_pretrained(tmp_path / "source")
    assert convert_checkpoint(tmp_path / "source", tmp_path / "cp")["parity"]["max_abs_difference"] == 0.0
    converted = FAMILIES["bert"].models["BertForMaskedLM"].from_pretrained(tmp_path / "cp")
    assert isinstance(converted(torch.ones(1, 3, dtype=torch.long)), tuple)


@pytest.mark.parametrize(
    ("options", "pooled"), [([], False), (["--pool-class-token"], True), (["--no-pool-class-token"], False)]
)
def test_the_command_chooses_whether_the_class_token_is_pooled(options, pooled, source, tmp_path):
    assert cli(["convert", str(source), str(tmp_path / "cp"), *options]) == 0
    assert AutoModel.from_pretrained(tmp_path / "cp").config.pool_class_token is pooled


@pytest.mark.parametrize(
    ("options", "factored"), [([], True), (["--pool-factored"], True), (["--no-pool-factored"], False)]
)
def test_the_command_chooses_the_predictor(options, factored, tmp_path):
    tiny_stock("ViTModel").save_pretrained(tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp"), "--pool-num-heads", "2", *options]) == 0
    model = AutoModel.from_pretrained(tmp_path / "cp")
    assert model.config.pool_factored is factored
    assert all((pool.reduce is not None) is factored for pool in model.modules() if isinstance(pool, BaseContextPool))


def test_real_weights_convert_cut_and_load_through_auto_classes(tmp_path):
    record = convert_checkpoint(minilm_folder(), tmp_path / "cp", layers="first:4")
    assert record["parity"]["max_abs_difference"] == 0.0
    assert record["layers"] == [0, 1, 2, 3]
    assert record["source_sha256"]["model.safetensors"] == (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "cp"), AutoTokenizer.from_pretrained(tmp_path / "cp")
    source = cut_layers(AutoModel.from_pretrained(minilm_folder()), [0, 1, 2, 3]).eval()
    inputs = tokenizer(["A good film.", "Bad, and much, much longer."], padding=True, return_tensors="pt")
    assert torch.equal(aligned(model).eval()(**inputs).last_hidden_state, aligned(source)(**inputs).last_hidden_state)


@pytest.fixture(scope="module")
def digits() -> DatasetDict:
    return load_digits()


def trained_on_digits(name: str, digits: DatasetDict, folder: Path):
    """One of the demo's stock models, briefly trained on real images and saved with its processor."""
    processor, model = make_processor(), make_model(name, seed=0)
    train = encode(digits["train"].select(range(300)), processor)
    options = {"epochs": 12, "seed": 0, "learning_rate": 1e-3, "pool_learning_rate": None, "weight_decay": 0.0}
    make_trainer(model, train, processor, str(folder / "trainer"), **options).train()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT, 2 layers", {"pool_num_heads": 4, "pool_max_offset": 1.0, "pool_range": 0.3}),
        ("ResNet", {"pool_global": True, "pool_num_heads": 4}),
    ],
)
def test_real_image_weights_convert_and_give_equal_logits_and_predictions(name, options, digits, tmp_path):
    model = trained_on_digits(name, digits, tmp_path / "source")
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp", **options)
    assert record["parity"]["max_abs_difference"] == 0.0

    images = [image.convert("RGB") for image in digits["test"][:100]["image"]]
    inputs = AutoImageProcessor.from_pretrained(tmp_path / "cp")(images, return_tensors="pt")
    converted = aligned(AutoModelForImageClassification.from_pretrained(tmp_path / "cp")).eval()
    assert type(converted).__name__ == f"CP{type(model).__name__}"
    with torch.no_grad():
        logits, expected = converted(**inputs).logits, model(**inputs).logits
    assert torch.equal(logits, expected)
    hits = expected.argmax(-1) == torch.tensor(digits["test"][:100]["label"])
    assert hits.float().mean() > 0.3  # it has learned something: a tenth would be chance

    pipelines = [pipeline("image-classification", str(tmp_path / name)) for name in ("source", "cp")]
    source, converted = (classify(images[:3]) for classify in pipelines)
    assert source[0][0]["label"] in digits["test"].features["label"].names
    for prediction, expected in zip(chain(*converted), chain(*source), strict=True):
        assert prediction == {"label": expected["label"], "score": pytest.approx(expected["score"], rel=1e-5)}


@pytest.mark.slow
def test_layers_of_real_vit_weights_can_be_left_out(digits, tmp_path):
    model = trained_on_digits("ViT, 4 layers", digits, tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp"), "--layers", "0,3"]) == 0
    converted = aligned(AutoModelForImageClassification.from_pretrained(tmp_path / "cp")).eval()
    assert converted.config.num_hidden_layers == 2
    model.vit.layers = torch.nn.ModuleList([model.vit.layers[0], model.vit.layers[3]])
    inputs = encode(digits["test"].select(range(10)), make_processor())
    pixel_values = torch.stack([example["pixel_values"] for example in inputs])
    with torch.no_grad():
        assert torch.equal(converted(pixel_values).logits, model(pixel_values).logits)


def test_a_checkpoint_with_all_pretraining_heads_keeps_them_all(tmp_path):
    """As bert-base-uncased: the config names one head, the weights hold both and the pooler."""
    transformers.BertForPreTraining(tiny_config()).save_pretrained(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    _, info = CPBertForPreTraining.from_pretrained(tmp_path / "cp", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForQuestionAnswering", "BertForMaskedLM"])
def test_a_pooler_that_a_head_does_not_use_is_left_out_and_recorded(name, tmp_path, capsys):
    """As such models were saved with until transformers 4.0."""
    stock = tiny_stock(name)
    stock.save_pretrained(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    pooler = {f"bert.pooler.dense.{part}": torch.ones(size) for part, size in {"weight": (16, 16), "bias": 16}.items()}
    save_file({**load_file(file), **pooler}, file, metadata={"format": "pt"})
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp")]) == 0
    assert f"since {name} does not use it: bert.pooler.dense.bias" in capsys.readouterr().out
    record = json.loads((tmp_path / "cp" / "conversion.json").read_text())
    assert record["left_out"] == sorted(pooler)
    assert parity(stock, FAMILIES["bert"].models[name].from_pretrained(tmp_path / "cp")) == 0.0


def test_layers_are_taken_in_the_order_given(source):
    stock = BertModel.from_pretrained(source)
    converted = convert_model(stock, layers=[3, 1])
    weights = [layer.output.dense.weight for layer in stock.encoder.layer]
    assert torch.equal(converted.encoder.layer[0].output.dense.weight, weights[3])
    assert torch.equal(converted.encoder.layer[1].output.dense.weight, weights[1])
    assert parity(cut_layers(stock, [3, 1]), converted) == 0.0


def cut_of(model_type: str, layers: list[int]) -> list[int]:
    """The layers to keep, in an order that the family takes: ModernBERT's first has no norm, and stays the first."""
    return [0, *layers[:1]] if model_type == "modernbert" else layers


# Without pooling


@over([case for case in MODELS if case.has_layers and case.model_class is not CPBeitForSemanticSegmentation])
def test_without_pooling_a_cut_is_a_stock_checkpoint_of_the_source_s_class(case, tmp_path):
    stock = case.stock_class(case.stock_config(num_hidden_layers=3)).eval()
    stock.save_pretrained(tmp_path / "source")
    layers = cut_of(case.stock_class.config_class.model_type, [2, 0])
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cut", layers=layers, pool_layers=[])
    name = case.stock_class.__name__
    assert (record["source_class"], record["model_class"], record["pool_config"]) == (name, name, {})
    assert json.loads((tmp_path / "cut" / "config.json").read_text())["architectures"] == [name]
    cut = cut_layers(stock, layers)
    for model in (case.stock_class.from_pretrained(tmp_path / "cut"), convert_model(stock, layers, pool_layers=[])):
        assert type(model) is case.stock_class and not model.training and not context_pools(model)
        assert parity(cut, model) == 0.0


def test_the_command_cuts_without_pooling(source, tmp_path, capsys):
    """The folder that it writes needs nothing of this package, and keeps what belongs to the source."""
    assert cli(["convert", str(source), str(tmp_path / "cut"), "--layers", "first:2", "--no-pool"]) == 0
    assert "No layer pools: this is a stock model" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "cut")
    assert type(model) is BertModel and model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "cut")("a film")["input_ids"] == [2, 5, 6, 3]
    assert not [path.name for path in (tmp_path / "cut").iterdir() if path.suffix in (".py", ".md")]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("BertModel", ["--no-pool", "--pool-range", "0.3"], "Where nothing pools, pool_range cannot be set"),
        ("BertModel", ["--no-pool", "--no-gate"], "Where nothing pools, pool_gate cannot be set"),
        ("BertModel", ["--pool-layers", "none"], "give --no-pool"),
        ("ResNetModel", ["--no-pool"], "Without pooling a resnet would be the source itself"),
    ],
)
def test_what_means_nothing_without_pooling_is_refused(name, options, words, tmp_path, capsys):
    tiny_stock(name).save_pretrained(tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cut"), *options]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "cut").exists()


# What the command says of a cut


def said_of(tmp_path: Path, capsys, name: str, *options: str) -> str:
    tiny_stock(name).save_pretrained(tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cut"), "--pool-num-heads", "2", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("BertModel", "glue"),
        ("BertForSequenceClassification", "glue"),
        ("BertForPreTraining", "mlm"),
        ("ElectraForPreTraining", None),
        ("ViTForImageClassification", "imagenet"),
        ("BertForQuestionAnswering", None),
    ],
)
def test_after_a_cut_the_command_says_what_is_equal_and_what_comes_next(name, command, tmp_path, capsys):
    said = said_of(tmp_path, capsys, name, "--layers", "0,1")
    assert "2 of 4 layers: 0,1" in said
    assert "0.0, from the source cut to these layers, not from the whole source" in said
    assert f"cp-transformers distill --teacher {tmp_path / 'source'} --model_name_or_path {tmp_path / 'cut'}" in said
    named = [each for each in ("glue", "mlm", "imagenet") if f"cp-transformers {each} " in said]
    assert named == ([command] if command else [])
    rates = "1e-5 --pool_learning_rate 3e-3" if name.startswith("ViT") else "2e-4 --pool_learning_rate 1e-3"
    assert f"--learning_rate {rates} --warmup_steps" in said


def test_after_a_cut_without_pooling_no_rate_of_the_pooling_is_named(tmp_path, capsys):
    tiny_stock("BertModel").save_pretrained(tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cut"), "--layers", "0,1", "--no-pool"]) == 0
    assert "--learning_rate 2e-4 --warmup_steps" in capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("--layers", "first:4"), ("--layers", "0,1,2,3")])
def test_where_nothing_is_cut_the_outputs_are_the_source_s(options, tmp_path, capsys):
    said = said_of(tmp_path, capsys, "BertModel", *options)
    assert "0.0, from the source\n" in said and "distill" not in said


def test_other_layers_in_another_order_are_a_cut(tmp_path, capsys):
    assert "4 of 4 layers: 3,2,1,0" in said_of(tmp_path, capsys, "BertModel", "--layers", "3,2,1,0")


def test_a_single_number_is_told_from_that_many_layers(tmp_path, capsys):
    said = said_of(tmp_path, capsys, "BertModel", "--layers", "3", "--pool-layers", "0")
    assert "--layers 3 is the one layer of that number, counted from 0; the first 3 are first:3." in said
    assert "--pool-layers 0 is the one layer of that number, counted from 0." in said
    with pytest.raises(CheckpointError, match=r"There is no layer 4; .* The first 4 are first:4"):
        parse_layers("4", 4)


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.has_layers])
def test_layers_of_every_family_can_be_left_out(model_type):
    family = FAMILIES[model_type]
    stock = tiny_stock(next(iter(family.models)))
    layers = cut_of(model_type, [3, 1])
    converted = convert_model(stock, layers=layers, pool_num_heads=2)
    assert parity(cut_layers(stock, layers), converted) == 0.0
    assert converted.config.num_hidden_layers == len(family.layers(converted)[1]) == 2


def test_of_a_modernbert_each_layer_keeps_its_kind_of_attention_and_the_first_stays_first():
    stock = tiny_stock("ModernBertModel")
    assert stock.config.layer_types == ["full_attention", *["sliding_attention"] * 2, "full_attention"]
    for cut in (cut_layers(stock, [0, 3, 2]), convert_model(stock, [0, 3, 2])):
        assert cut.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
        assert [layer.attn.sliding_window is None for layer in cut.layers] == [True, True, False]
    for make in (cut_layers, convert_model):
        with pytest.raises(CheckpointError, match="Layer 2 of a modernbert cannot become layer 0"):
            make(stock, [2, 0])


@pytest.mark.parametrize(
    ("text", "layers"),
    [("0,1,2,3", [0, 1, 2, 3]), ("first:2", [0, 1]), ("last:2", [4, 5]), ("every:2", [0, 2, 4]), (" 5 , 0 ", [5, 0])],
)
def test_layer_notation(text, layers):
    assert parse_layers(text, 6) == layers


@pytest.mark.parametrize("text", ["", "6", "0,0", "-1", "first:7", "every:0", "middle:2", "0;1", "1-3"])
def test_wrong_layers_are_refused(text):
    with pytest.raises(CheckpointError):
        parse_layers(text, 6)


@pytest.mark.parametrize("layers", [range(2), (0, 1), {0, 1}, np.arange(2), torch.arange(2)])
def test_indices_of_layers_may_be_of_any_kind(layers):
    assert json.dumps(parse_layers(layers, 4)) == "[0, 1]"


@pytest.mark.parametrize("layers", [4, [0.5], ["a"], [None]])
def test_what_are_no_indices_is_refused(layers):
    with pytest.raises(CheckpointError, match="give the layers' indices"):
        parse_layers(layers, 4)


def test_half_precision_is_checked_in_float32_and_saved_in_half(source, tmp_path):
    record = convert_checkpoint(source, tmp_path / "cp", dtype="bfloat16")
    assert record["parity"] == {"max_abs_difference": 0.0, "dtype": "float32"}
    assert {tensor.dtype for tensor in load_file(tmp_path / "cp" / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModel.from_pretrained(tmp_path / "cp").dtype == torch.bfloat16


def test_the_dtype_of_the_source_is_kept(tmp_path):
    BertModel(tiny_config()).half().save_pretrained(tmp_path / "source")
    assert convert_checkpoint(tmp_path / "source", tmp_path / "cp")["dtype"] == "float16"
    assert AutoModel.from_pretrained(tmp_path / "cp").dtype == torch.float16


def test_without_gate_the_difference_is_recorded(source, tmp_path):
    record = convert_checkpoint(source, tmp_path / "cp", pool_gate=False)
    assert 0.0 < record["parity"]["max_abs_difference"] < float("inf")
    assert not any("gate" in key for key in load_file(tmp_path / "cp" / "model.safetensors"))


def test_the_same_source_gives_the_same_files(source, tmp_path):
    torch.manual_seed(1)
    convert_checkpoint(source, tmp_path / "a" / "cp")
    torch.manual_seed(2)
    convert_checkpoint(source, tmp_path / "b" / "cp")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_sharded_sources_convert(tmp_path):
    BertModel(tiny_config()).save_pretrained(tmp_path / "source", max_shard_size="10KB")
    assert (tmp_path / "source" / "model.safetensors.index.json").is_file()
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    assert len(record["source_sha256"]) > 1 and record["parity"]["max_abs_difference"] == 0.0


def test_a_source_in_float64_loses_nothing(tmp_path):
    BertModel(tiny_config()).double().save_pretrained(tmp_path / "source")
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    assert record["parity"] == {"max_abs_difference": 0.0, "dtype": "float64"}
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("source", "cp"))
    assert all(torch.equal(ours[name], each) for name, each in theirs.items())
    assert "was 0.0 in float64" in (tmp_path / "cp" / "README.md").read_text()


@pytest.mark.parametrize("license", ["no", "2024-01-01", "2.0"])
def test_a_licence_is_recorded_as_the_source_s_card_has_it(license, source, tmp_path):
    (source / "README.md").write_text(f"---\ntags: 2024\nno: norsk\nlicense: {license}\n---\nA model.\n")
    assert convert_checkpoint(source, tmp_path / "cp")["license"] == license
    assert ModelCard.load(tmp_path / "cp" / "README.md").data.license == license


def test_an_output_that_is_the_folder_where_one_is_has_its_name(source, tmp_path, monkeypatch):
    (tmp_path / "cp-film").mkdir()
    monkeypatch.chdir(tmp_path / "cp-film")
    convert_checkpoint(source, ".")
    assert "# cp-film" in (tmp_path / "cp-film" / "README.md").read_text().splitlines()


def test_labels_and_tokenizer_come_along(source, tmp_path):
    config = tiny_config(id2label={0: "bad", 1: "good", 2: "neither"}, problem_type="single_label_classification")
    transformers.BertForSequenceClassification(config).save_pretrained(source)
    convert_checkpoint(source, tmp_path / "cp")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cp")
    assert loaded.config.id2label == {0: "bad", 1: "good", 2: "neither"}
    assert loaded.config.problem_type == "single_label_classification"
    assert (tmp_path / "cp" / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "cp").tokenize("a good film") == ["a", "good", "film"]


def test_the_record_and_the_card_name_no_path_of_this_machine(source, tmp_path):
    convert_checkpoint(source, tmp_path / "cp")
    for name in ("conversion.json", "README.md", "config.json"):
        assert str(tmp_path) not in (tmp_path / "cp" / name).read_text()


def test_a_source_on_the_hub_is_recorded_with_its_commit(source, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    source.rename(tmp_path / commit)
    requested = {}

    def snapshot_download(repo_id, **kwargs):
        requested.update(repo_id=repo_id, **kwargs)
        return str(tmp_path / commit)

    monkeypatch.setattr("cp_transformers.checkpoints.reading.snapshot_download", snapshot_download)
    record = convert_checkpoint("someone/bert", tmp_path / "cp", revision="v1")
    assert (requested["repo_id"], requested["revision"]) == ("someone/bert", "v1")
    assert (record["source"], record["revision"], record["commit"]) == ("someone/bert", "v1", commit)
    assert "base_model: someone/bert" in (tmp_path / "cp" / "README.md").read_text()
