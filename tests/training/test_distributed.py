# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The models under FSDP2, in two gloo processes, and the configurations for several processes.

Trainer itself shards nothing on a CPU, so that FSDP through it is not tested here.
"""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from model_cases import CASES, ModelCase

from cp_transformers.families import FAMILIES


ROOT = Path(__file__).parents[2]


def case_of(model_type: str) -> ModelCase:
    """A head of a family that gives a loss which is the mean over the tokens or images; without any its bare model."""
    end = "ForMaskedLM" if FAMILIES[model_type].is_text else "ForImageClassification"
    return next((case for case in CASES[model_type] if str(case).endswith(end)), CASES[model_type][0])


def make(model_type: str):
    """A model and a batch of four, the same in every process."""
    torch.manual_seed(0)
    case = case_of(model_type)
    model = case.model(**case.variants["heads"], **case.no_dropout)
    if case.has_layers:  # batch statistics would be those of a process's own images
        model.train()
    inputs = {**case.inputs(), **(case.labels() if case.labels is not None else {})}
    return model, {name: torch.cat([value[:2], value[:2].flip(-1)]) for name, value in inputs.items()}


def step(model, inputs) -> dict[str, torch.Tensor]:
    """The parameters after a step of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = model(**inputs)
    (outputs.loss if "loss" in outputs else outputs.last_hidden_state.square().mean()).backward()
    optimizer.step()
    return {name: whole(parameter).detach() for name, parameter in model.named_parameters()}


def whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def sharded_equals_whole(model_type: str, mesh) -> None:
    """The body of each process: both halves of the batch, split over two processes, make the step of the whole."""
    from torch.distributed.fsdp import fully_shard

    rank = torch.distributed.get_rank()
    model, inputs = make(model_type)
    expected = step(model, inputs)
    model, inputs = make(model_type)
    layers = [module for module in model.modules() if type(module).__name__ == case_of(model_type).layer_class_name]
    assert len(layers) == 2
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    parameters = step(model, {name: value[2 * rank : 2 * rank + 2] for name, value in inputs.items()})
    for name, value in expected.items():
        torch.testing.assert_close(parameters[name], value, rtol=1e-4, atol=1e-6, msg=name)


def main() -> None:
    """Every family in turn, and a line of each that went well: starting two processes takes most of the time."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for model_type in FAMILIES:
        try:
            sharded_equals_whole(model_type, mesh)
        except Exception:
            traceback.print_exc()
        else:
            print(f"rank {torch.distributed.get_rank()}: {model_type} is well", flush=True)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes() -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    paths = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))  # of the shared cases
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_step_of_sharded_layers_is_that_of_the_whole_model(model_type, two_processes):
    for rank in range(2):
        assert f"rank {rank}: {model_type} is well" in two_processes.stdout, two_processes.stderr[-3000:]
    assert two_processes.returncode == 0, two_processes.stderr[-3000:]


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_the_configurations_for_several_processes_are_accelerate_s(name):
    config = load_config_from_file(str(ROOT / "configs" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8 and (name == "ddp" or config.fsdp_config["fsdp_version"] == 2)


if __name__ == "__main__":
    main()
    # Without the interpreter's end, in which gloo's threads may abort: github.com/pytorch/pytorch/issues/190489.
    os._exit(0)
