# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The models under FSDP2, in two gloo processes, and the configurations for several processes.

Trainer itself shards nothing on a CPU, so that FSDP through it is not tested here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from cp_transformers import (
    CPBertConfig,
    CPBertForMaskedLM,
    CPResNetConfig,
    CPResNetForImageClassification,
    CPViTConfig,
    CPViTForImageClassification,
)


ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"pool_range": 0.5, "pool_num_heads": 2, "pool_max_offset": 1.0, "hidden_dropout_prob": 0.0}


LAYERS = {"bert": "CPBertLayer", "vit": "CPViTLayer", "resnet": "CPResNetStage"}


def make(family: str):
    """A model and its inputs, the same in every process."""
    torch.manual_seed(0)
    if family == "bert":
        config = CPBertConfig(**SIZES, vocab_size=50, attention_probs_dropout_prob=0.0)
        tokens = torch.randint(1, 50, (4, 9))
        return CPBertForMaskedLM(config), {"input_ids": tokens, "labels": tokens}
    pixels, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    if family == "vit":
        config = CPViTConfig(**SIZES, image_size=16, patch_size=4, num_labels=4)
        return CPViTForImageClassification(config), {"pixel_values": pixels, "labels": labels}
    config = CPResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    # Batch statistics would be those of a process's own images.
    return CPResNetForImageClassification(config).eval(), {"pixel_values": pixels, "labels": labels}


def step(model, inputs) -> dict[str, torch.Tensor]:
    """The parameters after a step of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs).loss.backward()
    optimizer.step()
    return {name: whole(parameter).detach() for name, parameter in model.named_parameters()}


def whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def sharded_equals_whole(family: str) -> None:
    """The body of each process: both halves of the batch, split over two processes, make the step of the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    model, inputs = make(family)
    expected = step(model, inputs)
    model, inputs = make(family)
    layers = [module for module in model.modules() if type(module).__name__ == LAYERS[family]]
    assert len(layers) == 2
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    parameters = step(model, {name: value[2 * rank : 2 * rank + 2] for name, value in inputs.items()})
    for name, value in expected.items():
        torch.testing.assert_close(parameters[name], value, rtol=1e-4, atol=1e-6, msg=name)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("family", ["bert", "vit", "resnet"])
def test_a_step_of_sharded_layers_is_that_of_the_whole_model(family):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [__file__, family]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_the_configurations_for_several_processes_are_accelerate_s(name):
    config = load_config_from_file(str(ROOT / "configs" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8 and (name == "ddp" or config.fsdp_config["fsdp_version"] == 2)


if __name__ == "__main__":
    sharded_equals_whole(sys.argv[1])
    # Without the interpreter's end, in which gloo's threads may abort: github.com/pytorch/pytorch/issues/190489.
    os._exit(0)
