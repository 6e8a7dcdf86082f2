"""A bundle as one ONNX graph, memory in and memory out, for runtimes that are not ours.

    write_onnx("runs/lstm/bundle", "policy.onnx")      needs pip install himari-rl[onnx]

Inputs `state` (B, F) and, where the policy remembers, `memory` (B, S); outputs `multipliers` (B, A) and `memory_out`.
The flat memory is the numpy runtime's own: zeros start an episode, either runtime may continue what the other began.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from himari_rl.errors import BundleError
from himari_rl.features.contract import ACTION_BUY, ACTION_HOLD, ACTION_SELL, POSITION_SIDE, POSITION_SIZE, WIDTH
from himari_rl.policy.bundle import read_bundle, read_manifest
from himari_rl.policy.manifest import Manifest
from himari_rl.policy.network import F32, HALF_LOG_MAX, HALF_LOG_MIN, HALF_UNIT
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import MAX_MULTIPLIER
from himari_rl.storage import write_atomic

OPSET, IR_VERSION = 17, 9
PARITY = 1e-5
PARITY_STEPS, PARITY_LANES = 64, 8


class Graph:
    """Nodes and constants, added in run order; a value is the name of what a node puts out."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, to: str | None = None, **attributes: Any) -> str:
        """Appends a node; with several outputs their names are `name:0`, `name:1`, ..."""
        name = to or f"{op.lower()}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return name

    def columns(self, x: str, begin: int, end: int, axis: int = 1) -> str:
        span = (self.constant(v, np.int64) for v in ([begin], [end], [axis]))
        return self.add("Slice", x, *span)

    def clip(self, x: str, low: float, high: float) -> str:
        return self.add("Clip", x, self.constant(low), self.constant(high))


def to_onnx(manifest: Manifest, tensors: Mapping[str, F32]) -> onnx.ModelProto:
    """The graph of a bundle: normaliser, members, head, mean over members.

    Raises:
        BundleError: a policy with beliefs, whose slow volatility and evidence this graph does not compute.
    """
    if manifest.beliefs is not None:
        found = f"{manifest.version} has beliefs (slow volatility, evidence)"
        raise BundleError(found, "a policy of the network alone", "serve it with himari serve, or train on raw returns")
    graph, normaliser = Graph(), manifest.normaliser
    x = graph.add("Sub", "state", graph.constant(normaliser.mean))
    x = graph.clip(graph.add("Div", x, graph.constant(normaliser.std)), -normaliser.clip, normaliser.clip)
    x = graph.add("Mul", x, graph.constant(normaliser.keep))
    held = previous_multipliers(graph, manifest.action_dim) if manifest.network.head == "band" else ""
    answers: list[str] = []
    after: list[str] = []
    for i in range(len(manifest.seeds)):
        answers.append(head(graph, manifest, member(graph, manifest, tensors, i, x, after), held))
    graph.add("Mean", *answers, to="multipliers")

    def value(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    inputs, outputs = [value("state", manifest.state_dim)], [value("multipliers", manifest.action_dim)]
    if after:
        graph.add("Concat", *after, to="memory_out", axis=1)
        size = len(after) * manifest.network.lstm_hidden
        inputs.append(value("memory", size))
        outputs.append(value("memory_out", size))
    body = helper.make_graph(graph.nodes, manifest.kind, inputs, outputs, graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, {"model_version": manifest.version, "encoder_hash": manifest.encoder_hash})
    onnx.checker.check_model(model)
    return model


def member(graph: Graph, manifest: Manifest, tensors: Mapping[str, F32], i: int, x: str, after: list[str]) -> str:
    """Output (B, K) of one seed; appends each layer's h and c to `after`, in the order of the flat memory."""
    network = manifest.network
    for k in range(network.lstm_layers):
        weight_ih, weight_hh, bias = (tensors[f"{i}.lstm.{k}.{part}"] for part in ("weight_ih", "weight_hh", "bias"))
        x = lstm(graph, weight_ih, weight_hh, bias, x, after)
    layers = [f"{i}.trunk.{k}" for k in range(len(network.hidden))] + [f"{i}.out"]
    for layer in layers:
        matrix, offset = (graph.constant(tensors[f"{layer}.{part}"]) for part in ("weight", "bias"))
        x = graph.add("Gemm", x, matrix, offset, transB=1)
        x = x if layer.endswith("out") else graph.add("Tanh", x)
    return x


def lstm(graph: Graph, weight_ih: F32, weight_hh: F32, bias: F32, x: str, after: list[str]) -> str:
    """One layer, one step. ONNX keeps its gates in the order i, o, f, g; torch, and the bundle, in i, f, g, o."""

    def reordered(weight: F32) -> F32:
        i, f, g, o = np.split(weight, 4)
        return np.concatenate([i, o, f, g])[None]

    size = weight_hh.shape[1]
    first = graph.constant([0], np.int64)
    offset = len(after) * size
    h, c = (
        graph.add("Unsqueeze", graph.columns("memory", begin, begin + size), first) for begin in (offset, offset + size)
    )
    biases = graph.constant(np.concatenate([reordered(bias), np.zeros((1, 4 * size), np.float32)], axis=1))
    step = graph.add(
        "LSTM", graph.add("Unsqueeze", x, first), graph.constant(reordered(weight_ih)),
        graph.constant(reordered(weight_hh)), biases, "", h, c, outputs=3, hidden_size=size,
    )  # fmt: skip
    new_h, new_c = (graph.add("Squeeze", f"{step}:{part}", first) for part in (1, 2))
    after += [new_h, new_c]
    return new_h


def head(graph: Graph, manifest: Manifest, out: str, held: str) -> str:
    """Multipliers (B, A) from the last layer's output; the three heads of policy/network.py."""
    assets, one = manifest.action_dim, graph.constant(1.0)
    if manifest.network.head == "squash":
        return graph.add("Add", one, graph.add("Tanh", out))
    if manifest.network.head == "centre":
        return graph.clip(graph.add("Add", one, out), 0.0, MAX_MULTIPLIER)
    centre = graph.add("Add", one, graph.columns(out, 0, assets))
    width = graph.add("Exp", graph.clip(graph.columns(out, assets, 2 * assets), HALF_LOG_MIN, HALF_LOG_MAX))
    half = graph.add("Mul", width, graph.constant(HALF_UNIT))
    low, high = (graph.clip(graph.add(op, centre, half), 0.0, MAX_MULTIPLIER) for op in ("Sub", "Add"))
    return graph.add("Min", graph.add("Max", held, low), high)


def previous_multipliers(graph: Graph, assets: int) -> str:
    """(B, A) the held position in multiplier units, from the raw state."""
    shape = graph.constant([-1, assets, WIDTH], np.int64)
    blocks = graph.add("Reshape", graph.columns("state", 0, WIDTH * assets), shape)
    last = graph.constant([2], np.int64)

    def column(index: int) -> str:
        return graph.add("Squeeze", graph.columns(blocks, index, index + 1, axis=2), last)

    sell, hold, buy = (column(i) for i in (ACTION_SELL, ACTION_HOLD, ACTION_BUY))
    side, size = column(POSITION_SIDE), column(POSITION_SIZE)
    direction = graph.add("Add", graph.add("Sub", buy, sell), graph.add("Mul", hold, side))
    signed = graph.add("Mul", graph.add("Mul", size, side), direction)
    return graph.add("Mul", signed, graph.constant(MAX_MULTIPLIER))


def check_onnx(model: onnx.ModelProto, policy: Policy, seed: int = 0) -> float:
    """The largest difference between onnxruntime and the numpy runtime over 64 steps of 8 sequences.

    Raises:
        BundleError: it exceeds 1e-5.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    mean, std = (np.array(part) for part in (policy.manifest.normaliser.mean, policy.manifest.normaliser.std))
    ours = theirs = policy.initial_memory(PARITY_LANES)
    worst = 0.0
    for _ in range(PARITY_STEPS):
        states = (mean + std * rng.standard_normal((PARITY_LANES, len(mean)))).astype(np.float32)
        expected, ours = policy.decide_batch(states, ours)
        given = {"state": states} | ({"memory": theirs} if policy.memory_size else {})
        found, *memory = session.run(None, given)
        theirs = memory[0] if memory else theirs
        worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= PARITY:
        raise BundleError(f"the ONNX graph and the runtime differ by {worst:.2e}", f"at most {PARITY:.0e}")
    return worst


def write_onnx(bundle: str | Path, path: str | Path) -> float:
    """Writes a bundle's graph and returns how far onnxruntime is from the numpy runtime.

    Raises:
        BundleError: the bundle is damaged, or the two differ by more than 1e-5: nothing is written.
    """
    manifest = read_manifest(bundle)
    if manifest.kind == "external":
        raise BundleError(f"{manifest.version} is code and no network", "a bundle of this project's agents")
    policy = load_policy(bundle)
    model = to_onnx(*read_bundle(bundle))
    worst = check_onnx(model, policy)
    write_atomic(path, model.SerializeToString())
    return worst
