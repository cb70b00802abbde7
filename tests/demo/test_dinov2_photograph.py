# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The script that runs real weights of DINOv2 on photographs, here with a small graph in its package's place."""

import importlib.util
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from cp_transformers.demo import dinov2_small


pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "patch_size": 28,
    "image_size": 140,
    "use_mask_token": False,
}
HUB_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


class Saliency(torch.nn.Module):
    """A backbone, and something on top of it."""

    def __init__(self, backbone: Dinov2Model):
        super().__init__()
        self.backbone = backbone
        self.decoder = torch.nn.Linear(backbone.config.hidden_size, 1)

    def forward(self, input_image: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.backbone(input_image).last_hidden_state[:, 1:]).sigmoid()


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("dinov2_photograph", ROOT / "scripts" / "dinov2_photograph.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(dinov2_small, "DINOV2_SMALL", SMALL)
    return module


@pytest.fixture
def backbone() -> Dinov2Model:
    """Without two weights that are equal, since the exporter would store them once."""
    model = Dinov2Model(Dinov2Config(**SMALL)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


@pytest.fixture
def graph(backbone, tmp_path) -> Path:
    """The backbone in a graph that is laid out as the package's: by the older exporter, which leaves the weights of
    linear layers without names, and from a transformers that had the names on the Hub."""
    path = tmp_path / "graph.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and warns of what it cannot trace
        torch.onnx.export(
            Saliency(backbone).eval(),
            (torch.rand(1, 3, 224, 224),),
            path,
            dynamo=False,
            opset_version=14,
            input_names=["input_image"],
            dynamic_axes={"input_image": {0: "batch_size"}},
        )
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.name = hub_name(tensor.name)
    for node in model.graph.node:
        node.input[:] = [hub_name(name) for name in node.input]
    onnx.save(model, path)
    return path


def hub_name(name: str) -> str:
    """The name of an initializer on the Hub; what is computed begins with a slash and keeps its name."""
    for own, hub in HUB_NAMES.items():
        name = name if name.startswith("/") else name.replace(own, hub)
    return name


def test_the_graph_of_these_tests_is_laid_out_as_the_package_s(graph):
    names = [tensor.name for tensor in onnx.load(graph).graph.initializer]
    assert "backbone.encoder.layer.3.attention.attention.query.bias" in names
    assert not [name for name in names if re.search(r"(dense|fc1|fc2|query|key|value)\.weight", name)]
    assert len([name for name in names if name.startswith("onnx::MatMul_")]) == 6 * 4 + 1  # the decoder's is the last


def test_the_weights_are_those_of_the_model_that_was_exported(script, backbone, graph, tmp_path):
    script.save_stock(graph, tmp_path / "stock")
    loaded = Dinov2Model.from_pretrained(tmp_path / "stock")
    expected = backbone.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_onnx_runtime_gives_the_hidden_states_below_the_decoder(script, backbone, graph):
    pixel_values = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = backbone(pixel_values).last_hidden_state
    torch.testing.assert_close(script.onnx_hidden_states(graph, pixel_values), expected, rtol=0, atol=1e-4)


def test_a_graph_of_another_model_is_refused(script, graph, tmp_path):
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("backbone.layernorm.weight", "backbone.norm.weight")
    onnx.save(model, graph)
    with pytest.raises(ValueError, match=r"is not the graph that was expected: layernorm\.weight is missing"):
        script.save_stock(graph, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


@pytest.mark.parametrize("missing", ["onnx", "matplotlib"])
def test_a_missing_package_is_named_with_what_to_install(script, missing, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ImportError, match=rf"^{missing}: not installed; .*: pip install .*\[demo,onnx,vision\]'$"):
        script.main(["--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_the_whole_script(script, graph, monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("torchvision")
    monkeypatch.setattr(script, "onnx_file", lambda: graph)
    monkeypatch.setattr(script, "version", lambda name: "1.0")
    script.main(["--output", str(tmp_path / "out"), "--results", str(tmp_path / "results")])
    results = json.loads((tmp_path / "results" / "dinov2_small.json").read_text())
    from_onnx_runtime, *from_stock = results["largest_differences"].values()
    assert from_onnx_runtime < 1e-4 and from_stock == [0.0, 0.0]
    assert len(results["layers"]) == 4 and results["possible_sizes"] == [0.1, 0.8]  # on 8 x 8 patches
    assert all(layer["smallest"] < layer["mean"] < layer["largest"] for layer in results["layers"])
    assert (tmp_path / "results" / "dinov2_photograph.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dinov2-small", "cp-dinov2-small"}
    assert "layer 4: smallest" in capsys.readouterr().out
