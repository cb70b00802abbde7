# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Conversion: what is refused, and how its output is written."""

import errno
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors
import torch
from conversion_cases import snapshot, tiny_stock
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertModel,
)

import cp_transformers.checkpoints.conversion as conversion
from cp_transformers import CPBertModel
from cp_transformers.checkpoints.conversion import (
    CheckpointError,
    convert_checkpoint,
    convert_model,
    cut_layers,
)
from cp_transformers.cli import main as cli
from cp_transformers.families import FAMILIES


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


@pytest.mark.parametrize(
    ("model_type", "nearest"),
    [
        ("roberta-prelayernorm", "roberta"),
        ("xlm-roberta-xl", "xlm-roberta"),
        ("siglip2", "siglip"),
        ("vit_mae", "vit"),
        ("t5", ""),
    ],
)
def test_of_another_type_the_nearest_is_named_and_the_guide(model_type, nearest, source, tmp_path):
    write_config(source, model_type=model_type)
    with pytest.raises(CheckpointError) as error:
        convert_checkpoint(source, tmp_path / "cp")
    message = str(error.value)
    assert all(f" {each}" in message for family in FAMILIES.values() for each in family.source_types)
    assert f"the nearest by name is {nearest};" in message if nearest else "nearest" not in message
    guide = "docs/adding_a_family.md"
    assert guide in message and any((folder / guide).is_file() for folder in Path(__file__).parents)


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


def test_layers_are_cut_before_conversion(source):
    converted = convert_model(BertModel.from_pretrained(source))
    with pytest.raises(CheckpointError, match="A cp_bert model keeps its layers: cut its source, and convert that"):
        cut_layers(converted, [0])


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


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_run_leaves_the_old_output_whole(sent, status, source, tmp_path):
    convert_checkpoint(source, tmp_path / "cp")
    before = snapshot(tmp_path / "cp")
    # The process stops itself in the middle of writing, as Ctrl-C would, or a scheduler.
    program = f"""
import os, signal, sys
import cp_transformers.checkpoints.conversion as conversion
from cp_transformers.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
conversion.check_written = lambda *args: os.kill(os.getpid(), signal.{sent})
sys.exit(main(["convert", {str(source)!r}, {str(tmp_path / "cp")!r}, "--overwrite", "--layers", "first:1"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == status and "Traceback" not in result.stderr
    assert snapshot(tmp_path / "cp") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cp", "source"]


@pytest.mark.slow
def test_the_script_is_the_same_command(source, tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "convert.py"
    subprocess.run([sys.executable, script, source, tmp_path / "cp", "--layers", "last:2"], check=True)
    assert json.loads((tmp_path / "cp" / "conversion.json").read_text())["layers"] == [2, 3]
