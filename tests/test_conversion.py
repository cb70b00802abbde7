# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Conversion: every head, the checks, what is written, and what is refused."""

import errno
import hashlib
import json
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import transformers
from datasets import DatasetDict
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessorPil,
    pipeline,
)

import cp_transformers.checkpoints as checkpoints
import cp_transformers.conversion as conversion
from cp_transformers import CPBertForPreTraining, CPBertModel
from cp_transformers.checkpoints import aligned
from cp_transformers.cli import main as cli
from cp_transformers.context_pool import BaseContextPool
from cp_transformers.conversion import (
    FAMILIES,
    CheckpointError,
    convert_checkpoint,
    convert_model,
    cut_layers,
    parity,
    parse_layers,
)
from cp_transformers.hub import export_checkpoint
from cp_transformers.tasks.comparison import make_trainer
from cp_transformers.tasks.demo_image import encode, make_model, make_processor
from cp_transformers.tasks.demo_text import minilm_folder
from cp_transformers.tasks.digits import load_digits


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "bad"]


def tiny_config(**kwargs) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
    return BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **{**sizes, **kwargs})


def tiny_stock(name: str) -> transformers.PreTrainedModel:
    """A new model of the upstream class `name`."""
    if name.startswith("Bert"):
        config = tiny_config()
    elif name.startswith("ViT"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
        config = ViTConfig(image_size=8, patch_size=2, encoder_stride=2, **sizes)
    else:
        config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2])
    return getattr(transformers, name)(config)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small stock checkpoint with its tokenizer."""
    folder = tmp_path / "source"
    BertModel(tiny_config()).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


@pytest.mark.parametrize("name", ["BertForPreTraining", "ViTForMaskedImageModeling", "ResNetForImageClassification"])
def test_parity_sees_any_open_gate(name):
    stock = tiny_stock(name)
    options = {"pool_global": True} if name.startswith("ResNet") else {"pool_range": 0.5}
    converted = convert_model(stock, **options)
    gates = [module.gate for module in converted.modules() if isinstance(module, BaseContextPool)]
    assert len(gates) == (2 if name.startswith("ResNet") else 4)
    assert parity(stock, converted) == 0.0
    for gate in gates:
        with torch.no_grad():
            gate[0] = 0.1
            assert parity(stock, converted) > 0.0
            gate[0] = 0.0


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


def test_the_image_processor_comes_along_as_it_is(tmp_path):
    tiny_stock("ViTModel").save_pretrained(tmp_path / "source")
    ViTImageProcessorPil(size={"height": 8, "width": 8}, resample=3).save_pretrained(tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    name = "preprocessor_config.json"
    assert (tmp_path / "cp" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "cp", backend="pil")
    assert (processor.size["height"], int(processor.resample)) == (8, 3)


def test_a_checkpoint_with_all_pretraining_heads_keeps_them_all(tmp_path):
    """As bert-base-uncased: the config names one head, the weights hold both and the pooler."""
    transformers.BertForPreTraining(tiny_config()).save_pretrained(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    _, info = CPBertForPreTraining.from_pretrained(tmp_path / "cp", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("name", "options", "lacks"),
    [
        ("BertModel", {"add_pooling_layer": False}, "pooler"),
        ("ViTModel", {"add_pooling_layer": False}, "pooler"),  # DINO's
        ("ViTModel", {"use_mask_token": True}, None),
    ],
)
def test_bare_models_keep_what_they_were_made_with(name, options, lacks, tmp_path):
    stock = getattr(transformers, name)(tiny_stock(name).config, **options)
    stock.save_pretrained(tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "cp", layers="first:2")
    exported = export_checkpoint(tmp_path / "cp", tmp_path / "export")
    loaded, info = AutoModel.from_pretrained(tmp_path / "export", output_loading_info=True, **options)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for model in (exported, loaded, convert_model(stock, [0, 1])):
        assert parity(cut_layers(stock, [0, 1]), model) == 0.0
        assert not any(key.startswith("pooler") for key in model.state_dict()) or lacks is None
        assert ("embeddings.mask_token" in model.state_dict()) is ("use_mask_token" in options)


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


def test_labels_and_tokenizer_come_along(source, tmp_path):
    config = tiny_config(id2label={0: "bad", 1: "good", 2: "neither"}, problem_type="single_label_classification")
    transformers.BertForSequenceClassification(config).save_pretrained(source)
    convert_checkpoint(source, tmp_path / "cp")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cp")
    assert loaded.config.id2label == {0: "bad", 1: "good", 2: "neither"}
    assert loaded.config.problem_type == "single_label_classification"
    assert (tmp_path / "cp" / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "cp").tokenize("a good film") == ["a", "good", "film"]


SENTENCE_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.fixture
def sentence_source(source) -> Path:
    """As a model of sentence-transformers is saved."""
    (source / "modules.json").write_text(json.dumps(SENTENCE_MODULES))
    (source / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 3, "do_lower_case": False}))
    (source / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return source


def test_sentence_transformers_gives_the_embeddings_of_the_source(sentence_source, tmp_path):
    SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
    record = convert_checkpoint(sentence_source, tmp_path / "cp")
    assert {"modules.json", "1_Pooling/config.json"} < {*record["processor_files"]}
    convert_checkpoint(sentence_source, tmp_path / "cp", overwrite=True)
    export_checkpoint(tmp_path / "cp", tmp_path / "export")
    texts = ["a good film good bad", "bad"]
    expected = SentenceTransformer(str(sentence_source), device="cpu").encode(texts)
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1)
    for folder in (tmp_path / "cp", tmp_path / "export"):
        model = SentenceTransformer(str(folder), device="cpu")
        assert "CPBertModel" in str(model)
        assert np.abs(model.encode(texts) - expected).max() < 1e-6


@pytest.mark.parametrize(
    "module", [{"type": "evil.Transformer"}, {"path": "../1_Pooling"}, {"path": "1_Pooling/../.."}, {"type": None}]
)
def test_modules_that_are_not_those_of_sentence_transformers_are_left(module, sentence_source, tmp_path):
    modules = [*SENTENCE_MODULES[:2], {**SENTENCE_MODULES[2], **module}]
    (sentence_source / "modules.json").write_text(json.dumps(modules))
    convert_checkpoint(sentence_source, tmp_path / "cp")
    names = {path.name for path in (tmp_path / "cp").iterdir()}
    assert not names & {"modules.json", "sentence_bert_config.json", "1_Pooling"}


def test_the_record_and_the_card_name_no_path_of_this_machine(source, tmp_path):
    convert_checkpoint(source, tmp_path / "cp")
    for name in ("conversion.json", "README.md", "config.json"):
        assert str(tmp_path) not in (tmp_path / "cp" / name).read_text()


def test_a_source_on_the_hub_is_recorded_with_its_commit(source, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    source.rename(tmp_path / commit)
    asked = {}

    def snapshot_download(repo_id, **kwargs):
        asked.update(repo_id=repo_id, **kwargs)
        return str(tmp_path / commit)

    monkeypatch.setattr(checkpoints, "snapshot_download", snapshot_download)
    record = convert_checkpoint("someone/bert", tmp_path / "cp", revision="v1")
    assert (asked["repo_id"], asked["revision"]) == ("someone/bert", "v1")
    assert (record["source"], record["revision"], record["commit"]) == ("someone/bert", "v1", commit)
    assert "base_model: someone/bert" in (tmp_path / "cp" / "README.md").read_text()


# What is refused


def write_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def drop_key(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add_key(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "adapter.weight": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["pooler.dense.weight"] = torch.ones(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


REFUSED = {
    "an unsupported type": (lambda folder: write_config(folder, model_type="gpt2"), "bert"),
    "an unknown type": (lambda folder: write_config(folder, model_type="frobnicate"), "frobnicate"),
    "a decoder": (lambda folder: write_config(folder, is_decoder=True), "decoder"),
    "an unknown class": (lambda folder: write_config(folder, architectures=["BertForPoetry"]), "BertForPoetry"),
    "no class": (lambda folder: write_config(folder, architectures=None), "architectures"),
    "an invalid config": (lambda folder: write_config(folder, hidden_size="wide"), "config.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "a broken config": (lambda folder: truncate(folder / "config.json", 20), "config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "only pickle": (only_pickle, "pickle"),
    "truncated weights": (lambda folder: truncate(folder / "model.safetensors", 5000), "truncated"),
    "a truncated header": (lambda folder: truncate(folder / "model.safetensors", 20), "truncated"),
    "empty weights": (lambda folder: truncate(folder / "model.safetensors", 0), "truncated"),
    "a missing key": (drop_key, "encoder.layer.1.output.dense.weight"),
    "an unexpected key": (add_key, "adapter.weight"),
    "a wrong shape": (wrong_shape, "cannot be loaded"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_bad_source_gives_one_sentence_and_no_output(reason, source, tmp_path, capsys):
    spoil, words = REFUSED[reason]
    spoil(source)
    assert cli(["convert", str(source), str(tmp_path / "cp")]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("cp-transformers: ") and words in message and "Traceback" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers", "0,9"], "no layer 9"),
        (["--layers", "0,0"], "only once"),
        (["--layers", "some"], "first:4"),
        (["--pool-layers", "4"], "no layer 4"),
        (["--pool-num-heads", "3"], "pool_num_heads (3) must divide hidden_size (16)"),
        (["--pool-kernel-size", "2"], "odd"),
        (["--pool-range", "nan"], "pool_range"),
        (["--revision", "main"], "--revision"),
    ],
)
def test_bad_options_give_one_sentence_and_no_output(options, words, source, tmp_path, capsys):
    assert cli(["convert", str(source), str(tmp_path / "cp"), *options]) == 1
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("BertModel", ["--pool-global"], "no field pool_global"),
        ("ViTModel", ["--pool-window", "5"], "no field pool_window"),
        ("ViTModel", ["--layers", "0,9"], "There is no layer 9"),
        ("ResNetModel", ["--layers", "first:1"], "differ in shape"),
        ("ResNetModel", ["--pool-layers", "0"], "no field pool_layers"),
        ("ResNetModel", ["--pool-window", "4"], "pool_window must be odd"),
        ("ResNetModel", ["--pool-num-heads", "3"], "must divide embedding_size"),
    ],
)
def test_options_that_a_family_has_not_are_refused_before_its_weights_are_read(name, options, words, tmp_path, capsys):
    tiny_stock(name).save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp"), *options]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "cp").exists()


def test_a_resnet_keeps_the_pooling_that_is_not_replaced(tmp_path):
    tiny_stock("ResNetModel").save_pretrained(tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp"), "--no-pool-stem", "--pool-global"]) == 0
    record = json.loads((tmp_path / "cp" / "conversion.json").read_text())
    assert (record["pool_config"]["pool_stem"], record["pool_config"]["pool_global"]) == (False, True)
    assert record["layers"] is None and record["parity"]["max_abs_difference"] == 0.0
    pools = {
        key.split(".context_pool.")[0] for key in load_file(tmp_path / "cp" / "model.safetensors") if "pool." in key
    }
    assert pools == {"pooler"}


def test_a_converted_checkpoint_is_not_converted_again(source, tmp_path):
    convert_checkpoint(source, tmp_path / "cp")
    with pytest.raises(CheckpointError, match="already"):
        convert_checkpoint(tmp_path / "cp", tmp_path / "cp2")


def test_fields_that_are_not_the_poolings_are_refused(source):
    with pytest.raises(CheckpointError, match="hidden_size"):
        convert_model(BertModel.from_pretrained(source), hidden_size=8)


@pytest.mark.parametrize(("name", "words"), [("someone/bert", "cannot be reached"), ("no such//name", "neither")])
def test_without_network_a_hub_id_gives_one_sentence(name, words, tmp_path, capsys):
    assert cli(["convert", name, str(tmp_path / "cp")]) == 1  # the tests run with the Hub switched off
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# How it is written


def test_an_existing_output_needs_overwrite(source, tmp_path, capsys):
    convert_checkpoint(source, tmp_path / "cp", layers="first:2")
    before = snapshot(tmp_path / "cp")
    assert cli(["convert", str(source), str(tmp_path / "cp")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert snapshot(tmp_path / "cp") == before
    assert cli(["convert", str(source), str(tmp_path / "cp"), "--overwrite"]) == 0
    assert AutoModel.from_pretrained(tmp_path / "cp").config.num_hidden_layers == 4


def test_overwrite_spares_what_is_no_checkpoint(source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="not a checkpoint"):
        convert_checkpoint(source, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"


@pytest.mark.parametrize("more", ["checkpoint-8/config.json", ".git/HEAD", "arguments.yaml"])
def test_overwrite_spares_what_is_more_than_a_checkpoint(more, source, tmp_path):
    convert_checkpoint(source, tmp_path / "run")
    for name in (more, ".eval_results/glue.yaml"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("precious")
    before = snapshot(tmp_path / "run")
    with pytest.raises(FileExistsError, match=f"more than a checkpoint .{more.split('/')[0]}"):
        convert_checkpoint(source, tmp_path / "run", overwrite=True)
    assert snapshot(tmp_path / "run") == before
    (tmp_path / "run" / more).unlink()
    if "/" in more:
        (tmp_path / "run" / more).parent.rmdir()
    convert_checkpoint(source, tmp_path / "run", overwrite=True)


def test_a_mount_point_is_refused_before_any_work(source, capsys):
    assert cli(["convert", str(source), "/"]) == 1
    assert "/ is a mount point, which cannot be replaced; choose a folder in it." in capsys.readouterr().err


def test_what_is_changed_in_memory_does_not_bear_the_name_of_its_source(source):
    """By which peft would take the source for the base of an adapter."""
    stock = BertModel.from_pretrained(source)
    assert stock.name_or_path == str(source)
    assert convert_model(stock).name_or_path == cut_layers(stock, [0]).name_or_path == ""


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "ViTForImageClassification"])
def test_what_is_frozen_stays_frozen_and_the_pooling_is_trained(name):
    stock = tiny_stock(name)
    stock.base_model.requires_grad_(False)
    for parameter in next(
        each for each in stock.modules() if type(each).__name__ in ("BertLayer", "ViTLayer")
    ).parameters():
        parameter.requires_grad_(True)  # of the first layer
    trained = {key for key, each in stock.named_parameters() if each.requires_grad}
    moved = {key.replace("layer.0.", "layer.1.").replace("layers.0.", "layers.1.") for key in trained}
    for model in (cut_layers(stock, [2, 0]), convert_model(stock, [2, 0])):
        found = {key for key, each in model.named_parameters() if each.requires_grad}
        assert {key for key in found if ".context_pool." not in key} == moved
        pools = {key for key, _ in model.named_parameters() if ".context_pool." in key}
        assert pools <= found


def test_models_stay_on_their_device(source):
    model = AutoModel.from_pretrained(source).to("meta")
    for made in (conversion.cut_layers(model, [0]), conversion.convert_model(model, [0])):
        assert {parameter.device.type for parameter in made.parameters()} == {"meta"}


def test_the_source_is_not_overwritten_by_its_own_conversion(source):
    before = snapshot(source)
    with pytest.raises(CheckpointError, match="source"):
        convert_checkpoint(source, source, overwrite=True)
    assert snapshot(source) == before


def test_a_failed_check_leaves_the_old_output_whole(source, tmp_path, monkeypatch):
    convert_checkpoint(source, tmp_path / "cp")
    before = snapshot(tmp_path / "cp")
    for difference in (1e-7, float("nan")):
        monkeypatch.setattr(conversion, "parity", lambda *models, difference=difference: difference)
        with pytest.raises(CheckpointError, match="differ"):
            convert_checkpoint(source, tmp_path / "cp", overwrite=True)
        assert snapshot(tmp_path / "cp") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cp", "source"]


def test_weights_that_are_written_wrongly_are_noticed(source, tmp_path, monkeypatch):
    save = CPBertModel.save_pretrained

    def save_badly(model, folder, **kwargs):
        save(model, folder, **kwargs)
        weights = load_file(folder / "model.safetensors")
        weights["encoder.layer.0.output.dense.bias"] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(CPBertModel, "save_pretrained", save_badly)
    with pytest.raises(CheckpointError, match="cannot be loaded as it was saved"):
        convert_checkpoint(source, tmp_path / "cp")
    assert not (tmp_path / "cp").exists()


def test_an_unwritable_output_gives_one_sentence(source, tmp_path, capsys, monkeypatch):
    def mkdtemp(**kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")  # as for everybody but root in a closed folder

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    assert cli(["convert", str(source), str(tmp_path / "cp")]) == 1
    assert "cp cannot be written (Permission denied); choose another output." in capsys.readouterr().err


def test_a_full_disk_gives_one_sentence_and_no_output(source, tmp_path, capsys, monkeypatch):
    def save_pretrained(*args, **kwargs):
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(CPBertModel, "save_pretrained", save_pretrained)
    assert cli(["convert", str(source), str(tmp_path / "cp")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_an_output_below_a_file_gives_one_sentence(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli(["convert", str(source), str(tmp_path / "file" / "cp")]) == 1
    assert "cp-transformers: " in capsys.readouterr().err


def test_an_interrupted_run_leaves_the_old_output_whole(source, tmp_path):
    convert_checkpoint(source, tmp_path / "cp")
    before = snapshot(tmp_path / "cp")
    # The process stops itself in the middle of writing, as Ctrl-C would.
    program = f"""
import os, signal, sys
import cp_transformers.checkpoints as checkpoints
import cp_transformers.conversion as conversion
from cp_transformers.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
conversion.check_written = lambda *args: os.kill(os.getpid(), signal.SIGINT)
sys.exit(main(["convert", {str(source)!r}, {str(tmp_path / "cp")!r}, "--overwrite", "--layers", "first:1"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 130 and "Traceback" not in result.stderr
    assert snapshot(tmp_path / "cp") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cp", "source"]


def test_the_script_is_the_same_command(source, tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "convert.py"
    subprocess.run([sys.executable, script, source, tmp_path / "cp", "--layers", "last:2"], check=True)
    assert json.loads((tmp_path / "cp" / "conversion.json").read_text())["layers"] == [2, 3]
