# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Push and pull against a server on this machine that speaks the Hub's API, by processes of their own: an author with
the package, and strangers with transformers alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hub_server import Hub, running
from model_cases import TINY_BERT, tiny_tokenizer
from transformers import BertConfig, BertModel

from cp_transformers import CPBertConfig, CPBertForSequenceClassification


AUTHOR, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"  # the server's tokens

# Runs one request after another; what libraries print in the meantime goes to stderr.
CLIENT = """
import json, os, sys
replies, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    request = json.loads(line)
    namespace = request["values"]
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": request["token"]} if request["token"] else {})
    try:
        exec(request["code"], namespace)
        reply = {"result": namespace.get("result")}
    except BaseException as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(reply), file=replies, flush=True)
"""


class Failed(Exception):
    """The end of a client's request: `error: message`."""


@dataclass
class Client:
    """A process that lives as long as the tests, so that it imports its libraries once; and who it acts for."""

    process: subprocess.Popen
    log: Path
    token: str | None = None

    def of(self, token: str | None) -> "Client":
        """This process, asked by somebody else."""
        return replace(self, token=token)

    def run(self, code: str, **values: Any) -> Any:
        """Runs the code, and returns what it leaves in `result`."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"code": dedent(code), "values": values, "token": self.token}) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        if "error" in reply:
            raise Failed(f"{reply['error']}: {reply['message']}")
        return reply["result"]

    def cli(self, *args: object) -> tuple[int, str, str]:
        """The exit status of a command, what it prints and what it complains of."""
        return self.run(
            """
            import io
            from contextlib import redirect_stderr, redirect_stdout
            from cp_transformers.cli import main
            out, errors = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(errors):
                status = main(args)
            result = status, out.getvalue(), errors.getvalue()
            """,
            args=[str(arg) for arg in args],
        )

    def refused(self, *args: object) -> str:
        """The sentence with which a command fails."""
        status, _, errors = self.cli(*args)
        assert status == 1, errors
        message = errors.strip().splitlines()[-1]
        assert message.startswith("cp-transformers: ")
        return message


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@contextmanager
def client(hub: Hub, folder: Path, first: str) -> Iterator[Client]:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", first + CLIENT],
            env=hub.environment(folder / "home"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
        )
    try:
        yield Client(process, folder / "log")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def somebody(hub, tmp_path_factory) -> Iterator[Client]:
    """With the package, and without a token."""
    with client(hub, tmp_path_factory.mktemp("somebody"), "import cp_transformers.cli\n") as made:
        yield made


@pytest.fixture(scope="module")
def author(somebody) -> Client:
    return somebody.of(AUTHOR)


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory) -> Iterator[Client]:
    """Without the package, and without a token."""
    without = "import sys; sys.modules['cp_transformers'] = None\nimport transformers\n"
    with client(hub, tmp_path_factory.mktemp("stranger"), without) as made:
        yield made


@pytest.fixture(autouse=True)
def no_faults(hub):
    hub.control("DELETE", "faults")
    hub.control("DELETE", "requests")


SCORE = """
    import torch
    from transformers import AutoModelForSequenceClassification
    options = {"trust_remote_code": True, **options}
    model = AutoModelForSequenceClassification.from_pretrained(repo, **options).eval()
    result = model(torch.arange(8)[None]).logits.tolist()
"""


def make_model(folder: Path, **fields) -> Path:
    """A classifier with its tokenizer."""
    CPBertForSequenceClassification(CPBertConfig(**TINY_BERT, initializer_range=1.0, **fields)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def score(client: Client, repo: str | Path, **options: Any) -> list[list[float]]:
    return client.run(SCORE, repo=str(repo), options=options)


def files(author: Client, repo: str, revision: str | None = None) -> list[str]:
    code = "from huggingface_hub import HfApi; result = HfApi().list_repo_files(repo, revision=revision)"
    return author.run(code, repo=repo, revision=revision)


def commits(author: Client, repo: str) -> int:
    return author.run("from huggingface_hub import HfApi; result = len(HfApi().list_repo_commits(repo))", repo=repo)


def sent(hub: Hub) -> list[str]:
    """The paths of the large files that were sent."""
    return [each["path"] for each in hub.control("GET", "requests") if each["method"] == "PUT"]


# ---------------------------------------------------------------------------------------------------- push, pull


def test_a_pushed_model_works_for_a_stranger_who_has_transformers_alone(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model")
    status, printed, _ = author.cli("push", folder, "tester/first", "--no-private")
    assert status == 0
    url, summary = printed.splitlines()
    assert url.endswith("/tester/first (public)") and "files uploaded and verified; commit" in summary
    assert score(stranger, "tester/first") == score(author, folder)
    classify = "from transformers import pipeline; result = pipeline('text-classification', repo, **options)(text)"
    theirs = stranger.run(classify, repo="tester/first", text="a good film", options={"trust_remote_code": True})
    assert theirs == author.run(classify, repo=str(folder), text="a good film", options={})
    card = "from huggingface_hub import ModelCard; result = ModelCard.load('tester/first').content"
    assert 'from_pretrained("tester/first", trust_remote_code=True)' in stranger.run(card)


def test_with_the_package_no_remote_code_is_asked_for_or_run(author, tmp_path):
    folder = make_model(tmp_path / "model")
    assert author.cli("push", folder, "tester/trusted")[0] == 0
    assert score(author, "tester/trusted", trust_remote_code=None) == score(author, folder)
    assert author.run(SCORE + "\n    result = type(model).__module__", repo="tester/trusted", options={}) == (
        "cp_transformers.models.modeling_cp_bert"
    )


def test_a_model_on_the_hub_shows_what_it_pools(author, tmp_path):
    author.cli("push", make_model(tmp_path / "model"), "tester/shown", "--no-private")
    status, printed, _ = author.cli(
        "inspect", "tester/shown", "--text", "a good film", "--output", tmp_path / "a.html"
    )
    assert status == 0 and printed.startswith("Written: ")
    assert "<title>What tester/shown pools</title>" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "neither a folder nor a model on the Hub" in author.refused("inspect", "tester/none", "--text", "good")


def test_a_new_repository_is_private_unless_it_is_to_be_public(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model")
    assert author.cli("push", folder, "tester/secret")[0] == 0
    for token in (None, STRANGER):
        with pytest.raises(Failed, match=r"OSError.*tester/secret"):
            score(stranger.of(token), "tester/secret")
    assert score(stranger.of(READER), "tester/secret") == score(author, folder)
    assert "is private; change that" in author.refused("push", folder, "tester/secret", "--no-private")
    assert author.cli("push", folder, "tester/secret", "--private")[0] == 0


def test_a_commit_keeps_giving_the_same_model_after_a_later_push(author, stranger, tmp_path):
    first, second = make_model(tmp_path / "first"), make_model(tmp_path / "second")
    commit = author.cli("push", first, "tester/pinned", "--no-private")[1].split()[-1]
    author.cli("push", second, "tester/pinned")
    assert score(stranger, "tester/pinned", revision=commit) == score(author, first)
    assert score(stranger, "tester/pinned") == score(author, second) != score(author, first)


def test_a_branch_and_a_pull_request_leave_main_as_it_is(author, stranger, tmp_path):
    first, second = make_model(tmp_path / "first"), make_model(tmp_path / "second")
    author.cli("push", first, "tester/branched", "--no-private")
    url = author.cli("push", second, "tester/branched", "--revision", "trial")[1].split()[0]
    assert url.endswith("/tester/branched/tree/trial")
    status, printed, _ = author.cli("push", second, "tester/branched", "--create-pr", "--message", "Better")
    assert status == 0 and "/discussions/1" in printed
    assert score(stranger, "tester/branched") == score(author, first)
    assert score(stranger, "tester/branched", revision="trial") == score(author, second)
    assert score(stranger, "tester/branched", revision="refs/pr/1") == score(author, second)


def test_a_second_push_sends_only_what_has_changed(author, hub, tmp_path):
    folder = make_model(tmp_path / "model")
    author.cli("push", folder, "tester/twice")
    before = commits(author, "tester/twice")
    assert len(sent(hub)) == 1  # the weights
    hub.control("DELETE", "requests")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    assert author.cli("push", folder, "tester/twice")[0] == 0
    assert sent(hub) == []
    assert commits(author, "tester/twice") == before + 1
    read = "from huggingface_hub import ModelCard; result = ModelCard.load('tester/twice').text"
    assert author.run(read).strip() == "Mine."


def test_a_name_alone_is_the_tokens_own(author, tmp_path):
    status, printed, _ = author.cli("push", make_model(tmp_path / "model"), "own")
    assert status == 0 and printed.splitlines()[0].endswith("/tester/own (private)")


def test_a_pull_request_of_nothing_new_is_refused(author, tmp_path):
    folder = make_model(tmp_path / "model")
    assert author.cli("push", folder, "tester/same")[0] == 0
    assert "no pull request was opened" in author.refused("push", folder, "tester/same", "--create-pr")


def test_a_card_with_broken_metadata_is_refused_before_anything_is_sent(author, hub, tmp_path):
    folder = make_model(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "README.md is not valid" in author.refused("push", folder, "tester/card")
    assert {each["method"] for each in hub.control("GET", "requests")} == {"GET"}


def test_a_link_out_of_the_folder_is_not_followed(author, hub, tmp_path):
    folder = make_model(tmp_path / "model")
    (tmp_path / "secret").write_text("secret")
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    assert "outside the folder" in author.refused("push", folder, "tester/link")


def test_a_run_that_is_to_be_pushed_elsewhere_is_refused_before_it_is_trained(author, tmp_path):
    folder = make_model(tmp_path / "model")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(SENTENCES)
    options = ["--model_name_or_path", folder, "--data_dir", tmp_path, "--text_columns", "sentence", "--do_train"]
    options += ["--new_head", "true", "--use_cpu", "--max_steps", 1, "--output_dir", tmp_path / "output"]
    assert "who is not another" in author.refused("glue", *options, "--push_to_hub", "--hub_model_id", "another/run")
    assert not list((tmp_path / "output").glob("*.safetensors"))


def test_what_an_earlier_push_has_left_is_removed(author, tmp_path):
    folder = make_model(tmp_path / "model")
    author.cli("push", folder, "tester/pieces")
    author.run(
        """
        from huggingface_hub import HfApi
        for name in ("model-00001-of-00002.safetensors", "vocab.txt", "conversion.json", "theirs.txt"):
            HfApi().upload_file(path_or_fileobj=b"old", path_in_repo=name, repo_id=repo)
        """,
        repo="tester/pieces",
    )
    author.cli("push", folder, "tester/pieces")
    there = files(author, "tester/pieces")
    assert [name for name in there if name.endswith(".safetensors")] == ["model.safetensors"]
    assert "theirs.txt" in there and not {"vocab.txt", "conversion.json"} & set(there)


def test_a_push_leaves_out_what_belongs_to_the_run(author, tmp_path):
    folder = make_model(tmp_path / "model")
    expected = {".gitattributes", "README.md", "modeling_cp_bert.py", *(path.name for path in folder.iterdir())}
    for name in ("optimizer.pt", "training_args.bin", "arguments.yaml", "checkpoint-2/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    author.cli("push", folder, "tester/run")
    assert set(files(author, "tester/run")) == expected


def test_a_model_pushes_itself(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model")
    push = """
        from transformers import AutoConfig, AutoModelForSequenceClassification
        AutoModelForSequenceClassification.from_pretrained(folder).push_to_hub("tester/itself", private=False)
    """
    author.run(push, folder=str(folder))
    assert score(stranger, "tester/itself") == score(author, folder)


def test_and_so_it_does_without_the_package(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model")
    stranger.of(AUTHOR).run(
        """
        from transformers import AutoModelForSequenceClassification as Auto
        Auto.from_pretrained(folder, trust_remote_code=True).push_to_hub("tester/again", private=False)
        """,
        folder=str(folder),
    )
    assert score(stranger, "tester/again") == score(author, folder)


def test_trainer_pushes_a_model_that_works_without_the_package(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model")
    author.run(
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        arguments = TrainingArguments(output, hub_model_id="tester/trained", max_steps=1, use_cpu=True)
        rows = [{"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": 1}] * 8
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        trainer.push_to_hub()
        """,
        folder=str(folder),
        output=str(tmp_path / "output"),
    )
    assert score(stranger, "tester/trained") == score(author, tmp_path / "output") != score(author, folder)


SENTENCES = "sentence,label\na good film,positive\na film,negative\n"


def test_a_run_of_glue_pushes_the_model_its_results_and_its_card(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model", num_labels=2)
    for split in ("train", "validation"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.csv").write_text(SENTENCES)
    output = tmp_path / "output"
    options = ["--text_columns", "sentence", "--do_train", "--do_eval", "--new_head", "true", "--use_cpu"]
    options += ["--save_strategy", "steps", "--save_steps", "1", "--num_train_epochs", "2", "--report_to", "none"]
    options += ["--push_to_hub", "--hub_model_id", "tester/glue", "--hub_private_repo", "false"]
    status, _, errors = author.cli(
        *["glue", "--model_name_or_path", folder, "--data_dir", tmp_path / "data", "--output_dir", output, *options]
    )
    assert status == 0, errors
    assert score(stranger, "tester/glue") == score(author, output)
    results = json.loads((output / "results.json").read_text())
    card = stranger.run("from huggingface_hub import ModelCard; result = ModelCard.load('tester/glue').content")
    assert f"| data | validation | accuracy | {results['metrics']['validation']['accuracy']:.4f} |" in card
    there = files(author, "tester/glue")
    assert {"modeling_cp_bert.py", "training.json", "tokenizer.json"} <= set(there)
    # Neither a pickle nor what names paths of this machine.
    assert not {"training_args.bin", "arguments.yaml", "results.json"} & set(there)


def test_a_run_that_cannot_be_pushed_is_finished_all_the_same(author, hub, tmp_path):
    folder, output = make_model(tmp_path / "model"), tmp_path / "output"
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(SENTENCES)
    options = ["--model_name_or_path", folder, "--data_dir", tmp_path, "--text_columns", "sentence", "--do_train"]
    options += ["--do_eval", "--new_head", "true", "--use_cpu", "--max_steps", 1, "--output_dir", output]
    fault = {"method": "POST", "path": ".*/commit/.*", "times": 1, "kind": "status", "status": 500}
    hub.control("POST", "faults", [fault])
    message = author.refused("glue", *options, "--push_to_hub", "--hub_model_id", "tester/later")
    assert f"push it with `cp-transformers push {output} tester/later`" in message
    assert (output / "results.json").is_file()
    assert author.cli("push", output, "tester/later")[0] == 0
    assert score(author, "tester/later") == score(author, output)


def test_a_checkpoint_on_the_hub_is_converted_trained_and_its_record_kept(author, tmp_path):
    BertModel(BertConfig(**TINY_BERT)).save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "README.md").write_text("---\nlicense: mit\n---\n")
    commit = author.run(
        """
        from huggingface_hub import HfApi
        HfApi().create_repo("tester/bert")
        result = HfApi().upload_folder(repo_id="tester/bert", folder_path=folder).oid
        """,
        folder=str(tmp_path / "bert"),
    )
    assert author.cli("convert", "tester/bert", tmp_path / "converted", "--revision", commit)[0] == 0
    record = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert (record["source"], record["commit"], record["license"]) == ("tester/bert", commit, "mit")
    author.cli("push", tmp_path / "converted", "tester/cp-bert", "--no-private")
    data = author.run(
        "from huggingface_hub import ModelCard; result = ModelCard.load('tester/cp-bert').data.to_dict()"
    )
    assert (data["base_model"], data["license"]) == ("tester/bert", "mit")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(SENTENCES)
    options = ["--data_dir", tmp_path, "--text_columns", "sentence", "--do_train", "--use_cpu", "--max_steps", 1]
    output = tmp_path / "output"
    status, _, errors = author.cli("glue", "--model_name_or_path", "tester/cp-bert", "--output_dir", output, *options)
    assert status == 0, errors
    assert json.loads((output / "conversion.json").read_text()) == record


def test_a_model_of_sentence_transformers_is_one_on_the_hub(author, stranger, tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = tmp_path / "sentences"
    BertModel(BertConfig(**{**TINY_BERT, "initializer_range": 0.5})).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16}))
    embed = """
        from sentence_transformers import SentenceTransformer
        model = SentenceTransformer(source, device="cpu", trust_remote_code=True)
        result = [type(model[0].auto_model).__name__, model.encode(["a good film", "a film"]).tolist()]
    """
    author.run(
        """
        from huggingface_hub import HfApi
        HfApi().create_repo("tester/sentences")
        HfApi().upload_folder(repo_id="tester/sentences", folder_path=folder)
        result = None
        """,
        folder=str(folder),
    )
    status, _, errors = author.cli("convert", "tester/sentences", tmp_path / "cp")
    assert status == 0, errors
    author.cli("push", tmp_path / "cp", "tester/cp-sentences", "--no-private")
    expected, found = (stranger.run(embed, source=source) for source in (str(folder), "tester/cp-sentences"))
    assert (expected[0], found[0]) == ("BertModel", "CPBertModel")
    assert [sum(x * x for x in each) for each in expected[1]] == pytest.approx([1, 1])
    for one, other in zip(expected[1], found[1], strict=True):
        assert other == pytest.approx(one, abs=1e-5)


def test_snapshots_and_data_sets_come_from_the_same_place(author, stranger, tmp_path):
    folder = make_model(tmp_path / "model")
    author.cli("push", folder, "tester/snapshot", "--no-private")
    snapshot = stranger.run(
        "from huggingface_hub import snapshot_download; result = snapshot_download(repo)", repo="tester/snapshot"
    )
    assert score(stranger, snapshot) == score(author, folder)
    rows = author.run(
        """
        from datasets import Dataset, load_dataset
        Dataset.from_dict({"sentence": ["a good film", "a film"], "label": [1, 0]}).push_to_hub("tester/films")
        streamed = [row["label"] for row in load_dataset("tester/films", split="train", streaming=True)]
        result = [load_dataset("tester/films", split="train")["sentence"][:], streamed]
        """
    )
    assert rows == [["a good film", "a film"], [1, 0]]


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_push_that_the_hub_refuses_says_why(author, somebody, tmp_path):
    folder = make_model(tmp_path / "model")
    assert "There is no Hub token" in somebody.refused("push", folder, "tester/refused")
    assert "must be one that can write" in somebody.of(READER).refused("push", folder, "tester/refused")
    assert "the token is of tester, who is not another" in author.refused("push", folder, "another/refused")
    assert "the token is not valid" in somebody.of("hf_invalid").refused("push", folder, "tester/refused")
    for name in ("tester/not valid", "tester/..", "tester/", "a/b/c"):
        assert "must be of the form" in author.refused("push", folder, name)
    assert "leave out --revision" in author.refused("push", folder, "tester/x", "--create-pr", "--revision", "other")
    assert author.cli("push", folder, "tester/known")[0] == 0
    assert "has no revision" in author.refused("convert", "tester/known", tmp_path / "out", "--revision", "none")
    assert "neither a folder nor a model on the Hub" in author.refused("convert", "tester/none", tmp_path / "out")


def test_a_checkpoint_that_is_not_whole_is_not_sent(author, hub, tmp_path):
    folder = make_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    assert "truncated or corrupted" in author.refused("push", folder, "tester/broken")
    BertModel(BertConfig(**TINY_BERT)).save_pretrained(tmp_path / "bert")
    assert "convert it first" in author.refused("push", tmp_path / "bert", "tester/broken")
    assert "is not a folder" in author.refused("push", tmp_path / "none", "tester/broken")
    assert {each["path"] for each in hub.control("GET", "requests")} <= {"/api/whoami-v2"}


def test_the_token_is_nowhere_to_be_seen(author, hub, tmp_path):
    folder = make_model(tmp_path / "model")
    status, printed, errors = author.cli("push", folder, "tester/token")
    assert status == 0 and AUTHOR not in printed + errors + author.log.read_text()
    hub.control(
        "POST", "faults", [{"method": "POST", "path": ".*/commit/.*", "times": 1, "kind": "status", "status": 500}]
    )
    (folder / "README.md").write_text("Changed.")
    assert AUTHOR not in author.refused("push", folder, "tester/token")
    everything = [path for path in [*tmp_path.rglob("*"), *author.log.parent.rglob("*")] if path.is_file()]
    assert everything and not any(AUTHOR.encode() in path.read_bytes() for path in everything)
    options = ["--task", "sst2", "--model_name_or_path", folder, "--do_train", "--output_dir", tmp_path / "o"]
    assert "--hub_token" in author.refused("glue", *options, "--hub_token", AUTHOR)
    assert not (tmp_path / "o").exists()


# ---------------------------------------------------------------------------------------------------------- faults


UPLOAD = r"/_lfs/.*"
BROKEN = {
    "500": {"kind": "status", "status": 500},
    "429": {"kind": "status", "status": 429, "headers": {"Retry-After": "0"}},
    "dropped": {"kind": "drop", "after": 2000},
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_an_upload_that_breaks_off_is_taken_up_again(author, stranger, hub, tmp_path, fault, request):
    folder, repo = make_model(tmp_path / "model"), f"tester/{request.node.callspec.id}"
    hub.control("POST", "faults", [{"method": "PUT", "path": UPLOAD, "times": 1, **fault}])
    assert author.cli("push", folder, repo, "--no-private")[0] == 0
    assert len(sent(hub)) == 2
    assert score(stranger, repo) == score(author, folder)


COMMITS = {
    "500": {"kind": "status", "status": 500},
    "409": {"kind": "status", "status": 409},
    "dropped": {"kind": "drop", "after": 10},
    "lost": {"kind": "lost"},
}


@pytest.mark.parametrize("fault", COMMITS.values(), ids=COMMITS)
def test_a_push_that_fails_shows_nothing_half_and_goes_on(author, hub, tmp_path, fault, request):
    repo = f"tester/commit-{request.node.callspec.id}"
    hub.control("POST", "faults", [{"method": "POST", "path": ".*/commit/.*", "times": 1, **fault}])
    folder = make_model(tmp_path / "model")
    assert repo in author.refused("push", folder, repo)
    there = files(author, repo)
    assert there == [".gitattributes"] or ("lost" in repo and len(there) > 5)  # the commit, or what a commit has
    hub.control("DELETE", "requests")
    assert author.cli("push", folder, repo)[0] == 0
    assert sent(hub) == []  # the weights are there already
    assert score(author, repo) == score(author, folder)


@pytest.mark.parametrize(
    "fault", [{"kind": "status", "status": 500}, {"kind": "drop", "after": 2000}], ids=["500", "dropped"]
)
def test_a_download_that_breaks_off_leaves_nothing_half(author, hub, tmp_path, fault, request):
    BertModel(BertConfig(**TINY_BERT)).save_pretrained(tmp_path / "bert")
    repo = f"tester/down-{request.node.callspec.id}"
    author.run(
        """
        from huggingface_hub import HfApi
        HfApi().create_repo(repo, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=folder)
        """,
        repo=repo,
        folder=str(tmp_path / "bert"),
    )
    path = ".*/resolve/.*/model.safetensors"
    hub.control("POST", "faults", [{"method": "GET", "path": path, "times": 1, **fault}])
    status, _, errors = author.cli("convert", repo, tmp_path / "out")
    if fault["kind"] == "drop":  # huggingface_hub goes on where it broke off
        assert status == 0, errors
    else:
        assert status == 1 and repo in errors and not (tmp_path / "out").exists()
        assert author.cli("convert", repo, tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["parity"]["max_abs_difference"] == 0.0


def test_bytes_that_were_damaged_on_the_way_are_refused_and_not_kept(author, hub, tmp_path):
    folder = make_model(tmp_path / "model", num_labels=2)
    author.cli("push", folder, "tester/damaged", "--no-private")
    (tmp_path / "validation.csv").write_text(SENTENCES)
    evaluate = ["glue", "--model_name_or_path", "tester/damaged", "--data_dir", tmp_path, "--text_columns", "sentence"]
    evaluate += ["--do_eval", "--use_cpu", "--output_dir", tmp_path / "output"]
    path = ".*/resolve/.*/model.safetensors"
    hub.control("POST", "faults", [{"method": "GET", "path": path, "times": 1, "kind": "corrupt"}])
    assert "model.safetensors of tester/damaged was damaged on its way" in author.refused(*evaluate)
    assert not (tmp_path / "output").exists()
    hub.control("DELETE", "faults")
    message = author.refused(*evaluate)
    assert "LABEL_0" in message or "label" in message  # it gets as far as the labels, which are others


def test_a_push_that_arrived_damaged_is_noticed(author, hub, tmp_path):
    folder = make_model(tmp_path / "model")
    author.cli("push", folder, "tester/arrived")
    noticed = author.run(
        """
        from pathlib import Path
        from huggingface_hub import HfApi
        from cp_transformers.checkpoints.hub import _check_arrived
        commit = HfApi().model_info("tester/arrived").sha
        (Path(folder) / "config.json").write_text("{}")
        try:
            _check_arrived(HfApi(), "tester/arrived", commit, Path(folder))
        except ValueError as error:
            result = str(error)
        """,
        folder=str(folder),
    )
    assert "another config.json" in noticed or "lacks" in noticed
