# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Models as ONNX graphs: written by transformers' exporter, run by ONNX Runtime alone, on batches of other shapes."""

import numpy as np
import onnxruntime
import pytest
import torch
from model_cases import CASES, ModelCase, every_family, images, over, text_inputs
from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

from cp_transformers import CPResNetConfig, CPResNetModel


pytestmark = [
    pytest.mark.slow,
    # What the exporter itself calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def exported(model, folder, inputs, **options):
    """The session that runs the model's graph."""
    OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True, **options)).save_pretrained(folder)
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def outputs_of(session, inputs):
    values = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip([output.name for output in session.get_outputs()], values))


def batches(case: ModelCase):
    """Batches of another size than the exported one, and of other lengths or, for feature maps, other heights and
    widths; ViT has as many position embeddings as it has patches."""
    if "input_ids" in (inputs := case.inputs()):
        longer = {name: torch.cat([each, each], dim=-1) for name, each in text_inputs(5).items() if name in inputs}
        return [case.smaller(case.inputs()), longer]
    return [case.smaller(case.inputs())] + ([] if case.has_layers else [{"pixel_values": images(40, 28)}])


@every_family
def test_the_graph_computes_what_the_model_does_for_other_shapes(case, tmp_path):
    # The graph of one layer, or of a small window, has fewer nodes, and is made in less time.
    smaller = {"num_hidden_layers": 1} if case.has_layers else {"pool_window": 3, "pool_max_offset": 1.0}
    assert_the_graph_computes_what_the_model_does(case, case.model(**{**case.variants["heads"], **smaller}), tmp_path)


@over([CASES[name][0] for name in ("bert", "modernbert", "vit", "dinov3_vit")])
def test_the_graph_of_a_model_that_drops_tokens_takes_other_shapes(case, tmp_path):
    model = case.model(**{**case.variants["strided"], "num_hidden_layers": 1, "pool_strides": [2]})
    assert_the_graph_computes_what_the_model_does(case, model, tmp_path)


def assert_the_graph_computes_what_the_model_does(case: ModelCase, model, folder) -> None:
    session = exported(model, folder, case.inputs())
    for inputs in [case.inputs(), *batches(case)]:
        with torch.no_grad():
            expected = model(**inputs)
        actual = outputs_of(session, inputs)
        assert set(actual) == set(expected)
        for name, tensor in expected.items():
            np.testing.assert_allclose(actual[name], tensor.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_torch_s_older_exporter_takes_the_windowed_pooling(tmp_path):
    config = CPResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", pool_window=3)
    model = CPResNetModel(config).eval()
    model.config.return_dict = False
    axes = {name: {0: "batch", 2: "rows", 3: "columns"} for name in ("images", "features")}
    names = {"input_names": ["images"], "output_names": ["features", "pooled"], "dynamic_axes": axes}
    torch.onnx.export(model, (images(32, 32),), tmp_path / "model.onnx", dynamo=False, **names)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for pixel_values in (images(32, 32), images(40, 28)):
        with torch.no_grad():
            expected = model(pixel_values)[0]
        actual = outputs_of(session, {"images": pixel_values})["features"]
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_graph_for_all_lengths_is_right_at_all_lengths_whatever_the_implementation(tmp_path):
    case = CASES["bert"][0]
    model = case.model(max_position_embeddings=700, pool_implementation="linear", pool_range=0.5)
    with torch.no_grad():  # sizes near the top of their range
        for name, parameter in model.named_parameters():
            if name.endswith("proj.bias"):
                parameter.add_(4)
    session = exported(model, tmp_path, case.inputs())
    for length in (5, 100, 600):
        inputs = {
            "input_ids": torch.randint(5, 90, (2, length)),
            "attention_mask": torch.ones(2, length, dtype=torch.int64),
        }
        inputs = {name: inputs.get(name, torch.zeros(2, length, dtype=torch.int64)) for name in case.inputs()}
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state.numpy()
        np.testing.assert_allclose(outputs_of(session, inputs)["last_hidden_state"], expected, rtol=1e-3, atol=1e-4)


def test_int8_halves_the_file_and_stays_near(tmp_path):
    case = CASES["bert"][0]
    model = case.model(hidden_size=128, intermediate_size=512, **case.variants["heads"])
    # With all 8 bits of the weights, sums overflow on processors without VNNI.
    options = {"op_types_to_quantize": ["MatMul"], "per_channel": True, "reduce_range": True}
    dynamic = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(**options))
    inputs = case.inputs()
    session = exported(model, tmp_path / "int8", inputs, quantizer=dynamic)
    assert "MatMulInteger" in (tmp_path / "int8" / "model.onnx").read_text(encoding="latin-1")
    exported(model, tmp_path / "float32", inputs)
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("*.onnx*")) for name in ("int8", "float32")]
    assert sizes[0] < sizes[1] / 2
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state.numpy()
    valid = inputs["attention_mask"].bool().numpy()
    error = np.abs(outputs_of(session, inputs)["last_hidden_state"] - expected)[valid]
    assert 0 < error.max() < 0.1 * np.abs(expected[valid]).max()
