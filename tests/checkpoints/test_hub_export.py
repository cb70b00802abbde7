# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints that need no package: what is saved, and what a process can do with it that has transformers alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from model_cases import (
    BARE_MODELS,
    MODELS,
    TINY_BERT,
    ModelCase,
    aligned,
    assert_same_outputs,
    every_family,
    every_model,
    over,
    tiny_tokenizer,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertTokenizer,
    Trainer,
    TrainingArguments,
    ViTImageProcessorPil,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_imports

from cp_transformers import (
    CPBertConfig,
    CPBertForMaskedLM,
    CPBertForSequenceClassification,
    CPBertModel,
    CPViTConfig,
    CPViTForImageClassification,
)
from cp_transformers.checkpoints.hub import export_checkpoint, load_checkpoint
from cp_transformers.checkpoints.reading import CheckpointError
from cp_transformers.cli import main as cli
from cp_transformers.families import family_of
from cp_transformers.models.configuration_context_pool import FORMAT_VERSION


SHARED_MODULES = {
    "configuration_context_pool",
    "context_pool",
    "linear_pool",
    "pool_implementation",
    "pool_inputs",
    "support_sizes",
    "token_groups",
    "modeling_context_pool",
    "triton_pool",
}
OLD_CHECKPOINTS = sorted((Path(__file__).parents[1] / "data" / "checkpoints").iterdir())
# What a process runs first in which there is transformers, but not this package.
WITHOUT_THE_PACKAGE = "import sys; sys.modules['cp_transformers'] = None\n"


def run_without_the_package(code: str, *args: object) -> str:
    """Runs code in a process of its own, and returns what that prints."""
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE + dedent(code), *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def modules_of(case) -> set[str]:
    """The modules that a saved model or configuration of a family carries."""
    family = case.config().model_type.replace("-", "_")
    own = set() if case.has_layers else {"feature_map_pool"}
    return SHARED_MODULES | own | {f"configuration_{family}", f"modeling_{family}"}


def modules_in(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.py")}


# ------------------------------------------------------------------------------------------------- what is saved


@every_model
def test_the_modules_of_the_family_are_saved_with_a_model(case, tmp_path):
    case.model().save_pretrained(tmp_path)
    assert modules_in(tmp_path) == modules_of(case)


@every_family
def test_and_with_a_configuration(case, tmp_path):
    case.config().save_pretrained(tmp_path)
    assert modules_in(tmp_path) == modules_of(case)


@every_model
def test_the_auto_map_names_every_class_of_the_family(case, tmp_path):
    case.model().save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    expected = {auto.__name__: models[0].__name__ for auto, models in family_of(case.config()).auto_models.items()}
    expected[case.auto_class.__name__] = str(case)
    expected["AutoConfig"] = type(case.config()).__name__
    assert {auto: name.split(".")[1] for auto, name in auto_map.items()} == expected
    for reference in auto_map.values():
        loaded = get_class_from_dynamic_module(reference, tmp_path)
        assert loaded.__name__ == reference.split(".")[1]
        assert not loaded.__module__.startswith("cp_transformers")


@every_model
def test_the_saved_modules_compute_the_same(case, tmp_path):
    model = case.model(**case.variants["heads"])
    model.save_pretrained(tmp_path)
    reference = next(each for each in model.config.auto_map.values() if each.endswith("." + type(model).__name__))
    exported = aligned(get_class_from_dynamic_module(reference, tmp_path).from_pretrained(tmp_path)).eval()
    assert type(exported) is not type(model)
    inputs = case.inputs()
    assert_same_outputs(exported(**inputs, output_support_sizes=True), model(**inputs, output_support_sizes=True))


@every_family
def test_code_in_a_checkpoint_is_not_needed_where_the_package_is(case, tmp_path):
    case.model().save_pretrained(tmp_path)
    for module in tmp_path.glob("*.py"):
        module.write_text("raise RuntimeError('run')")
    assert type(case.load(tmp_path)) is case.model_class
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)) is case.model_class.config_class


@every_family
def test_what_the_saved_modules_import_is_with_transformers(case, tmp_path):
    # All that is imported outside of a `try`, also what is imported late: transformers asks for it before it runs any.
    case.model().save_pretrained(tmp_path)
    imported = {name for file in tmp_path.glob("*.py") for name in get_imports(file)}
    assert imported - sys.stdlib_module_names <= {"torch", "transformers", "huggingface_hub"}


def test_of_a_class_that_is_derived_elsewhere_no_module_is_saved(tmp_path):
    class Derived(CPBertConfig):
        model_type = "derived"

    class DerivedModel(CPBertModel):
        config_class = Derived

    assert not hasattr(Derived(), "auto_map")
    model = DerivedModel(Derived(**TINY_BERT)).eval()
    model.save_pretrained(tmp_path)
    assert not modules_in(tmp_path) and "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(DerivedModel.from_pretrained(tmp_path)(ids)[0], model(ids)[0])


WITHOUT_PILLOW = """
import importlib.util, sys
found = importlib.util.find_spec
def find_spec(name, *args):
    return None if name.split(".")[0] in ("PIL", "torchvision") else found(name, *args)
importlib.util.find_spec = find_spec
sys.modules["PIL"] = None
from transformers.utils import is_vision_available
assert not is_vision_available()
import cp_transformers
from transformers import AutoConfig, AutoModel
print(type(AutoModel.from_config(AutoConfig.for_model("cp_vit", num_hidden_layers=1))).__name__)
"""


@pytest.mark.slow
def test_pillow_is_not_needed_for_models():
    done = subprocess.run([sys.executable, "-c", WITHOUT_PILLOW], capture_output=True, text=True)
    assert done.stdout.strip() == "CPViTModel", done.stderr[-2000:]


def test_an_auto_map_of_another_is_not_saved_again(tmp_path):
    assert "evil" not in str(CPBertConfig(auto_map={"AutoModel": "evil.Model"}).auto_map)


@every_family
def test_the_configuration_is_stamped_with_its_format(case, tmp_path):
    case.config().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["context_pool_version"] == FORMAT_VERSION


@every_family
def test_a_newer_format_is_refused_by_name(case, tmp_path):
    case.model().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content.update(context_pool_version=FORMAT_VERSION + 1, pool_of_the_future=1)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"format {FORMAT_VERSION + 1}.*install a newer one"):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="install a newer one"):
        load_checkpoint(tmp_path)


# What configurations lacked that are of the format, and what models did then.
OLD_FORMATS = {1: {"pool_factored": False, "pool_class_token": True}, 2: {"pool_class_token": True}}


@pytest.mark.parametrize("version", OLD_FORMATS)
@every_family
def test_a_checkpoint_of_an_older_format_computes_what_it_was_saved_with(version, case, tmp_path):
    then = {name: value for name, value in OLD_FORMATS[version].items() if hasattr(case.config(), name)}
    model = case.model(**then)
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content = {name: value for name, value in content.items() if name not in then}
    (tmp_path / "config.json").write_text(json.dumps({**content, "context_pool_version": version}))
    assert_same_outputs(aligned(load_checkpoint(tmp_path))(**case.inputs()), model.eval()(**case.inputs()))


# -------------------------------------------------------------------------------------- export_checkpoint, export


@pytest.fixture
def converted(tmp_path, capsys) -> Path:
    """A converted BERT with its tokenizer."""
    source = tmp_path / "bert"
    BertModel(BertConfig(**TINY_BERT)).save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    assert cli(["convert", str(source), str(tmp_path / "converted")]) == 0
    capsys.readouterr()
    return tmp_path / "converted"


def test_an_export_has_the_model_its_tokenizer_record_and_card(converted, tmp_path):
    (converted / "optimizer.pt").write_text("of the run")
    (converted / "arguments.yaml").write_text("do_train: true\ndata_dir: /home/me/secret\n")
    assert cli(["export", str(converted), str(tmp_path / "out")]) == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    modules = {f"{name}.py" for name in modules_of(BARE_MODELS[0])}
    expected = {"config.json", "model.safetensors", "README.md", "conversion.json", *modules}
    assert files == expected | {"tokenizer.json", "tokenizer_config.json"}
    assert "me/secret" not in (tmp_path / "out" / "README.md").read_text()
    assert_same_outputs(
        aligned(AutoModel.from_pretrained(tmp_path / "out"))(torch.arange(8)[None]),
        aligned(AutoModel.from_pretrained(converted))(torch.arange(8)[None]),
    )


@over(MODELS)
def test_a_model_in_memory_is_exported_as_it_is(case: ModelCase, tmp_path):
    model = case.model(**case.variants["heads"]).train()
    memory = [each.data_ptr() for each in (*model.parameters(), *model.buffers())]
    export_checkpoint(model, tmp_path / "out")
    assert model.training
    assert memory == [each.data_ptr() for each in (*model.parameters(), *model.buffers())]
    assert_same_outputs(aligned(load_checkpoint(tmp_path / "out"))(**case.inputs()), model.eval()(**case.inputs()))


def test_a_tokenizer_is_exported_with_a_model_in_memory(tmp_path):
    model = CPBertForSequenceClassification(CPBertConfig(**TINY_BERT))
    export_checkpoint(model, tmp_path / "out", processing_class=tiny_tokenizer())
    assert BertTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_export_keeps_the_dtype(dtype, tmp_path):
    export_checkpoint(BARE_MODELS[0].model().to(dtype), tmp_path / "out")
    assert load_checkpoint(tmp_path / "out").dtype == dtype


def test_a_sharded_checkpoint_is_exported(tmp_path):
    model = BARE_MODELS[0].model()
    model.save_pretrained(tmp_path / "source", max_shard_size="10kB")
    assert (tmp_path / "source" / "model.safetensors.index.json").is_file()
    export_checkpoint(tmp_path / "source", tmp_path / "out")
    exported, inputs = aligned(load_checkpoint(tmp_path / "out")), BARE_MODELS[0].inputs()
    assert_same_outputs(exported(**inputs), model(**inputs))


def test_a_card_that_somebody_has_written_is_kept_and_another_is_made_anew(converted, tmp_path):
    made = (converted / "README.md").read_text()
    export_checkpoint(converted, tmp_path / "out", name="me/mine")
    assert 'from_pretrained("me/mine"' in (tmp_path / "out" / "README.md").read_text()
    written = made.replace("<!-- Made by", "<!-- Once made by") + "\nMy words.\n"
    (converted / "README.md").write_text(written)
    export_checkpoint(converted, tmp_path / "out", name="me/mine", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == written


def refused(capsys, *args: object) -> str:
    """The one sentence with which a command fails."""
    assert cli([str(arg) for arg in args]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("cp-transformers: ")
    return message


def test_what_cannot_be_exported_is_said_in_a_sentence(converted, tmp_path, capsys):
    out = tmp_path / "out"
    assert "is not a folder" in refused(capsys, "export", tmp_path / "none", out)
    assert "convert it first" in refused(capsys, "export", tmp_path / "bert", out)
    assert "is the source itself" in refused(capsys, "export", converted, converted)
    assert "exists" in refused(capsys, "export", converted, tmp_path)
    config = json.loads((converted / "config.json").read_text())
    (converted / "config.json").write_text(json.dumps({**config, "architectures": ["CPBertForMaskedLM"]}))
    assert "missing cls.predictions" in refused(capsys, "export", converted, out)
    (converted / "config.json").write_text(json.dumps({**config, "architectures": ["Unheard"]}))
    assert "it names Unheard" in refused(capsys, "export", converted, out)
    (converted / "config.json").write_text(json.dumps({**config, "pool_range": -1}))
    assert "pool_range must be positive" in refused(capsys, "export", converted, out)
    assert not out.exists()


def test_a_model_whose_outputs_are_not_finite_is_not_exported(converted, tmp_path, capsys):
    weights = load_file(converted / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] = float("nan")
    save_file(weights, converted / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in refused(capsys, "export", converted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_what_was_there(converted, tmp_path, monkeypatch):
    export_checkpoint(converted, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("cp_transformers.checkpoints.hub._check_self_contained", fail)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(converted, tmp_path / "out", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not list(tmp_path.glob(".out*"))


def test_an_export_whose_code_computes_something_else_is_not_kept(converted, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    copy = dynamic_module_utils.shutil.copyfile

    def copy_changed(source, target):
        copy(source, target)
        if Path(target).name == "context_pool.py" and "out" in str(target):
            Path(target).write_text(Path(target).read_text().replace("MIN_SIGMA = 0.1", "MIN_SIGMA = 0.9"))

    monkeypatch.setattr(dynamic_module_utils.shutil, "copyfile", copy_changed)
    model = BARE_MODELS[0].model(pool_range=0.01)
    with pytest.raises(CheckpointError, match="differ from those of its export"):
        export_checkpoint(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------- a process that has transformers alone


@pytest.mark.slow
def test_processors_that_the_type_of_the_model_told_are_those_of_the_source(tmp_path):
    """In the source's files no class is named, as in google-bert/bert-base-uncased's, or there is no such file."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"]
    for name, files in {"named": ("vocab.txt", "tokenizer_config.json"), "bare": ("vocab.txt",)}.items():
        CPBertForMaskedLM(CPBertConfig(**TINY_BERT)).save_pretrained(tmp_path / name)
        contents = {"vocab.txt": "\n".join(words), "tokenizer_config.json": '{"do_lower_case": true}'}
        for file in files:
            (tmp_path / name / file).write_text(contents[file])
        export_checkpoint(tmp_path / name, tmp_path / f"{name}-export")
    CPViTForImageClassification(
        CPViTConfig(image_size=8, patch_size=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 9, "width": 5}}))
    export_checkpoint(tmp_path / "vit", tmp_path / "vit-export")
    code = """
        import sys
        from transformers import AutoImageProcessor, AutoTokenizer
        for name in ("named", "bare"):
            tokenizer = AutoTokenizer.from_pretrained(f"{sys.argv[1]}/{name}-export", trust_remote_code=True)
            print(tokenizer.mask_token, tokenizer("A FILM", "a")["token_type_ids"])
        print(AutoImageProcessor.from_pretrained(f"{sys.argv[1]}/vit-export", trust_remote_code=True).size)
    """
    lines = run_without_the_package(code, tmp_path).splitlines()
    assert lines == [*["[MASK] [0, 0, 0, 0, 1, 1]"] * 2, lines[2]]
    assert "9" in lines[2] and "5" in lines[2]


@pytest.mark.slow
def test_without_the_package_an_old_checkpoint_that_was_saved_again_computes_what_it_did(tmp_path):
    for folder in OLD_CHECKPOINTS:
        texts = "bert" in folder.name
        auto_class = AutoModelForSequenceClassification if texts else AutoModelForImageClassification
        auto_class.from_pretrained(folder).save_pretrained(tmp_path / folder.name)
        shutil.copy(folder / "expected.safetensors", tmp_path / folder.name)
    checked = run_without_the_package(
        """
        from pathlib import Path
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

        for folder in sorted(Path(sys.argv[1]).iterdir()):
            recorded = load_file(folder / "expected.safetensors")
            images = "pixel_values" in recorded
            auto_class = AutoModelForImageClassification if images else AutoModelForSequenceClassification
            model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
            names = ("input_ids", "attention_mask", "pixel_values")
            logits = model(**{name: recorded[name] for name in names if name in recorded}).logits
            # What float32 loses of them differs between processors, see test_old_checkpoints.
            torch.testing.assert_close(logits, recorded["logits"], rtol=1e-5, atol=1e-3)
            print(folder.name)
        """,
        tmp_path,
    )
    assert checked.split() == [folder.name for folder in OLD_CHECKPOINTS]


@pytest.mark.slow
def test_without_the_package_every_model_loads_and_saves_again_with_equal_outputs(tmp_path):
    for case in MODELS:
        model = case.model(**case.variants["heads"])
        model.save_pretrained(tmp_path / str(case))
        inputs, outputs = case.inputs(), {}
        for name, value in model(**inputs).items():
            if isinstance(value, torch.Tensor):
                outputs[f"output.{name}"] = value.detach().contiguous()
        inputs = {name: value.contiguous() for name, value in inputs.items()}
        save_file({**inputs, **outputs}, tmp_path / f"{case}.safetensors")
        (tmp_path / f"{case}.auto").write_text(case.auto_class.__name__)
    checked = run_without_the_package(
        """
        from pathlib import Path
        import torch, transformers
        from safetensors.torch import load_file

        def check(folder, auto_class, tensors):
            model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
            inputs = {name: each for name, each in tensors.items() if not name.startswith("output.")}
            outputs = model(**inputs)
            for name, expected in tensors.items():
                if name.startswith("output."):
                    actual = outputs[name.removeprefix("output.")]
                    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
            return model

        for path in sorted(Path(sys.argv[1]).glob("*.auto")):
            tensors = load_file(path.with_suffix(".safetensors"))
            auto_class = getattr(transformers, path.read_text())
            if auto_class is transformers.AutoBackbone:  # which looks on the Hub alone
                continue
            model = check(path.with_suffix(""), auto_class, tensors)
            again = path.with_suffix(".again")
            model.save_pretrained(again)
            check(again, auto_class, tensors)
            ours = {file.name: file.read_bytes() for file in path.with_suffix("").iterdir()}
            theirs = {file.name: file.read_bytes() for file in again.iterdir()}
            assert ours == theirs, path
            transformers.AutoConfig.from_pretrained(again, trust_remote_code=True).save_pretrained(again / "config")
            assert {file.name for file in (again / "config").iterdir()} == set(ours) - {"model.safetensors"}
            print(path.stem)
        """,
        tmp_path,
    )
    assert set(checked.split()) == {str(case) for case in MODELS if case.auto_class is not AutoBackbone}


@pytest.mark.slow
def test_without_the_package_pipelines_work(tmp_path):
    from PIL import Image

    text = CPBertForSequenceClassification(CPBertConfig(**TINY_BERT, initializer_range=1.0)).eval()
    export_checkpoint(text, tmp_path / "text", processing_class=tiny_tokenizer())
    case = next(case for case in MODELS if case.model_class is CPViTForImageClassification)
    vit = case.model()
    size = dict(zip(("height", "width"), vit.config.image_size))
    export_checkpoint(vit, tmp_path / "images", processing_class=ViTImageProcessorPil(size=size))
    case = next(case for case in MODELS if str(case) == "CPResNetForImageClassification")
    resnet = case.model()
    export_checkpoint(resnet, tmp_path / "resnet", processing_class=ViTImageProcessorPil(size=size))
    Image.new("RGB", (20, 20), (200, 30, 90)).save(tmp_path / "image.png")

    from transformers import pipeline

    image = Image.open(tmp_path / "image.png")
    expected = [
        pipeline("text-classification", str(tmp_path / "text"))("a good film"),
        pipeline("image-classification", str(tmp_path / "images"))(image),
        pipeline("image-classification", str(tmp_path / "resnet"))(image),
    ]
    printed = run_without_the_package(
        """
        import json
        from pathlib import Path
        from PIL import Image
        from transformers import pipeline

        folder, trust = Path(sys.argv[1]), {"trust_remote_code": True}
        image = Image.open(folder / "image.png")
        results = [
            pipeline("text-classification", str(folder / "text"), **trust)("a good film"),
            pipeline("image-classification", str(folder / "images"), **trust)(image),
            pipeline("image-classification", str(folder / "resnet"), **trust)(image),
        ]
        print(json.dumps(results))
        """,
        tmp_path,
    )
    assert json.loads(printed.splitlines()[-1]) == expected


TRAIN = """
    import torch
    from transformers import Trainer, TrainingArguments

    def trainer(model, inputs, output):
        rows = [{**{name: each[i] for name, each in inputs.items()}, "labels": i} for i in range(3)] * 4
        arguments = TrainingArguments(
            output, max_steps=4, save_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
            disable_tqdm=True, remove_unused_columns=False,
        )
        return Trainer(model, arguments, train_dataset=rows)
"""


@pytest.mark.slow
def test_without_the_package_a_run_of_trainer_goes_on(tmp_path):
    namespace: dict = {}
    exec(dedent(TRAIN), namespace)
    for name in ("CPBertForSequenceClassification", "CPViTForImageClassification", "CPResNetForImageClassification"):
        case = next(case for case in MODELS if str(case) == name)
        # Batch norm's statistics, too, must be those of the checkpoint.
        trainer: Trainer = namespace["trainer"](case.model(), case.inputs(), tmp_path / name)
        assert isinstance(trainer.args, TrainingArguments)
        trainer.train()
        case.model().save_pretrained(tmp_path / f"{name}-start")
        save_file({key: each.contiguous() for key, each in case.inputs().items()}, tmp_path / f"{name}.safetensors")
        checkpoint = tmp_path / name / "checkpoint-2"
        assert modules_in(checkpoint) == modules_of(case)
    run_without_the_package(
        dedent(TRAIN)
        + dedent("""
        import transformers
        from pathlib import Path
        from safetensors.torch import load_file

        for file in sorted(Path(sys.argv[1]).glob("*.safetensors")):
            folder = file.with_suffix("")
            auto = getattr(transformers, "AutoModelFor" + folder.name.split("For")[1])
            model = auto.from_pretrained(folder / "checkpoint-2", trust_remote_code=True)
            trained = trainer(model, load_file(file), file.with_suffix(".resumed"))
            trained.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
            ended = load_file(folder / "checkpoint-4" / "model.safetensors")
            resumed = file.with_suffix(".resumed") / "checkpoint-4"
            again = load_file(resumed / "model.safetensors")
            assert ended.keys() == again.keys()
            assert all(torch.equal(ended[name], again[name]) for name in ended), folder
            assert {each.name for each in resumed.glob("*.py")} == {
                each.name for each in (folder / "checkpoint-4").glob("*.py")
            }
        """),
        tmp_path,
    )
