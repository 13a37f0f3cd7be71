"""A stand-in for CUDA graphs on a CPU, with the memory that they have.

A graph that was recorded on a GPU reads its weights and writes its results where they lay then, whenever it is
replayed. So a result is overwritten when the next step begins, whoever still has it, and a weight that lies elsewhere
by now is not seen. Here a compiled network (`Replay`) or a whole function (`record`) writes its results into such
memory, which the next step fills with NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.cudagraphs import find_input_mutations, get_device_node_mapping
from torch._dynamo.backends.debugging import boxed_nop
from torch._inductor.utils import get_first_incompatible_cudagraph_node
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Boxed = Callable[[list[Any]], list[Any]]


class MovedError(Exception):
    """A weight does not lie where it lay when the graph was recorded."""


class Replay:
    """A back end for `torch.compile`.

    Attributes:
        graphs: how many were recorded, forward and backward ones.
    """

    def __init__(self) -> None:
        self.graphs = 0
        self._results: list[Tensor] = []

    def __call__(self, module: GraphModule, inputs: Sequence[Tensor]) -> Any:
        def forward(graph: GraphModule, _: Any) -> Boxed:
            return self._record(graph, begins=True)

        def backward(graph: GraphModule, _: Any) -> Boxed:
            return self._record(graph, begins=False)

        return aot_autograd(fw_compiler=forward, bw_compiler=backward, inference_compiler=forward)(module, inputs)

    def _record(self, graph: GraphModule, *, begins: bool) -> Boxed:
        """The graph; `begins` is whether a step does with it."""
        self.graphs += 1
        places: dict[int, Tensor] = {}
        addresses: dict[int, int] = {}

        def replay(boxed: list[Any]) -> list[Any]:
            given = [*boxed]
            boxed.clear()
            if begins:
                for one in self._results:
                    one.fill_(torch.nan if one.is_floating_point() else 1)
            for number, weight in enumerate(given):
                if isinstance(weight, nn.Parameter) and addresses.setdefault(number, weight.data_ptr()) != (
                    weight.data_ptr()
                ):
                    raise MovedError(number)
            theirs = {one.untyped_storage().data_ptr() for one in given if isinstance(one, Tensor)}
            found = enumerate(graph(*given))
            return [self._place(places, number, one, theirs) for number, one in found]

        replay._boxed_call = True  # type: ignore[attr-defined]
        return replay

    def _place(self, places: dict[int, Tensor], number: int, result: Any, theirs: set[int]) -> Any:
        """The result in its graph's memory, but for one that is a weight or lies in another graph's."""
        if not isinstance(result, Tensor) or result.untyped_storage().data_ptr() in theirs:
            return result
        if number not in places:
            places[number] = torch.empty_like(result)
            self._results.append(places[number])
        places[number].copy_(result)
        return places[number].data  # a replay is not noticed by autograd


def what_keeps_it_from_being_recorded(network: nn.Module, *shape: int) -> list[str]:
    """Why PyTorch would not make CUDA graphs of a network: what its own back end `cudagraphs` looks at.

    Forward and backward in training, forward in validation, on the device `meta`, which has no values to wait for: what
    looks at one, or is not one graph, is an error.
    """
    found: list[str] = []

    def look(graph: GraphModule, inputs: Any) -> Any:
        found.extend(f"on {one}" for one in get_device_node_mapping(graph) if one.type != "meta")
        found.extend(f"changes input {one}" for one in find_input_mutations(graph.graph))
        if node := get_first_incompatible_cudagraph_node(graph):
            found.append(f"{node}")
        return boxed_nop(graph, inputs)

    torch.compiler.reset()
    compiler = aot_autograd(fw_compiler=look, bw_compiler=look, inference_compiler=look)
    network.to("meta").compile(backend=compiler, dynamic=False, fullgraph=True)
    network.train()(torch.empty(shape, device="meta")).square().mean().backward()
    with torch.no_grad():
        network.eval()(torch.empty(shape, device="meta"))
    return found


class HostLooksError(RuntimeError):
    """The host looks at a value, which does not exist while a graph is recorded."""


class _Recorder(TorchDispatchMode):
    """Writes down what is computed: what changes something that was there before is undone at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self._new: set[int] = set()
        self.kept: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise HostLooksError(function)
        written = [
            one
            for argument, given in zip(function._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for one in tree_leaves(given)
        ]
        for one in written:
            if one.untyped_storage().data_ptr() not in self._new:
                self.before.setdefault(id(one), (one, one.clone()))
        given = function(*args, **kwargs)
        results = [one for one in tree_leaves(given) if isinstance(one, Tensor)]
        if not function.is_view and not written:
            self._new |= {one.untyped_storage().data_ptr() for one in results}
        if not function.is_view:
            self.calls.append((function, args, kwargs, [] if written else results))
        self.kept.append((args, given))
        return given


def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """In place of `zssmnet.training.step.record`; each replay begins with memory full of NaN."""
    recorder = _Recorder()
    with recorder:
        result = function()
    for one, value in recorder.before.values():
        one.copy_(value)

    def replay() -> None:
        with torch.no_grad():
            for *_, results in recorder.calls:
                for one in results:
                    one.detach().fill_(torch.nan if one.is_floating_point() else 1)
            for call, args, kwargs, results in recorder.calls:
                given = [one for one in tree_leaves(call(*args, **kwargs)) if isinstance(one, Tensor)]
                for place, value in zip(results, given, strict=False):
                    place.detach().copy_(value)

    return replay, result
