# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The graph that torch.compile captures of the Triton kernels, which it cannot run without a GPU."""

import pytest
import torch
import torch.utils._triton

import cp_transformers.models.context_pool as module
from cp_transformers.models.context_pool import ContextPool


pytest.importorskip("triton")


class CapturedError(Exception):
    """Ends the compilation."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"pool_num_heads": 4, "pool_max_offset": 2.0, "pool_gate": True}, {"stride": 2}]
)
def test_the_kernels_are_captured_whole(options, monkeypatch):
    monkeypatch.setattr(module, "choose_implementation", lambda *args: "triton")
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: True)  # as on a GPU, to know a kernel as such
    captured = []

    def backend(graph, inputs):
        bodies = dict(graph.named_children())
        for way in ("fwd", "bwd"):
            body = next(child for name, child in bodies.items() if name.startswith(way))
            captured.append([str(node.target) for node in body.graph.nodes].count("triton_kernel_wrapper_mutation"))
        raise CapturedError

    pool = ContextPool(16, **options)
    hidden_states, mask = torch.randn(2, 70, 16, requires_grad=True), torch.arange(70) < torch.tensor([[70], [50]])
    with pytest.raises(Exception, match="CapturedError"):
        torch.compile(pool, backend=backend, fullgraph=True)(hidden_states, mask=mask)
    assert captured == [1, 2]  # one kernel forward, two backward, and nothing that breaks the graph
