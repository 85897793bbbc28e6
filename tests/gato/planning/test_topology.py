"""Names of topologies, the table of chips, and what the network model says of meshes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gato.chips import CHIPS, find
from gato.planning.network import gpu_bandwidth, tpu_bandwidth
from gato.planning.topology import PlanError, describe, parse


@pytest.mark.parametrize(
    ("text", "chips", "devices", "tpu"),
    [("v3:16x16", 256, 512, True), ("v4:8x8x4", 256, 256, True), ("h200:8x8", 64, 64, False)],
)
def test_topologies(text: str, chips: int, devices: int, tpu: bool) -> None:
    topology = parse(text)
    assert (topology.name, topology.chips, topology.devices, topology.is_tpu) == (text, chips, devices, tpu)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5:16x16", "no chip 'v5' is known; did you mean"),
        ("v5e", "e.g. v5e:16x16"),
        ("v4:16x16", "e.g. v4:8x8x4"),
        ("h200:8x0", "nodes x GPUs of a node"),
    ],
)
def test_a_mistake_names_the_way_out(text: str, message: str) -> None:
    with pytest.raises(PlanError, match="--topology") as error:
        parse(text)
    assert message in str(error.value)


def test_without_a_compiler_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, extra in (("v5e:4x4", "tpu"), ("h200:1x8", "gpu")):
        with pytest.raises(PlanError, match=rf'--topology={name}: .* constraints.txt --editable "\.\[{extra}\]"'):
            describe(parse(name))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
    ],
)
def test_a_device_finds_its_chip(kind: str, name: str) -> None:
    found = find(kind)
    assert found is not None
    assert found.name == name


def test_every_chip_is_usable() -> None:
    for chip in CHIPS:
        assert 1 < chip.peak_flops / chip.memory_bandwidth < 1000, "FLOPs a byte: a wrong unit would show"
        assert 10 < chip.memory_bandwidth / chip.memory < 100, "times a second that the memory can be read"
    assert find("cpu") is None


def test_float32_has_the_rate_of_what_it_is_computed_in() -> None:
    """XLA's default precision: bfloat16 on a TPU, TF32 on a GPU."""
    tpu, gpu = find("TPU v5 lite"), find("NVIDIA A100-SXM4-80GB")
    assert tpu is not None
    assert gpu is not None
    assert tpu.peak("float32") == tpu.peak("bfloat16") == tpu.peak_flops
    assert (gpu.peak("bfloat16"), gpu.peak("float32")) == (312e12, 156e12)


@dataclasses.dataclass
class Device:
    coords: tuple[int, int, int]


def torus(data: int, fsdp: int, side: int) -> np.ndarray:
    """A mesh over a side x side torus, row by row."""
    places = [Device((x, y, 0)) for y in range(side) for x in range(side)]
    return np.array(places).reshape(data, fsdp, 1)


def test_an_axis_is_as_fast_as_the_links_that_it_lies_on() -> None:
    whole = parse("v5e:16x16")
    link = whole.chip.link_bandwidth
    assert tpu_bandwidth(whole, torus(16, 16, 16), [1]) == 2 * link, "a closed ring: both ways"
    assert tpu_bandwidth(whole, torus(16, 16, 16), [0, 1]) == 4 * link, "both sides of the torus at once"
    assert tpu_bandwidth(whole, torus(32, 8, 16), [1]) == link, "half a side is a line"
    assert tpu_bandwidth(whole, torus(32, 8, 16), [0]) == pytest.approx(2 * link + 2 / 9 * link), "every 8th, all rows"
    assert tpu_bandwidth(parse("v5e:4x4"), torus(4, 4, 4), [1]) == link, "too short to be closed"


def test_gpus_leave_their_node_where_the_axis_does() -> None:
    nodes = parse("h200:4x8")
    mesh = {"data": 4, "fsdp": 8, "tensor": 1}
    assert gpu_bandwidth(nodes, mesh, ["fsdp"]) == nodes.chip.link_bandwidth
    assert gpu_bandwidth(nodes, mesh, ["data"]) == nodes.chip.node_bandwidth
    assert gpu_bandwidth(nodes, {"data": 1, "fsdp": 32, "tensor": 1}, ["fsdp"]) == 8 * nodes.chip.node_bandwidth
    assert gpu_bandwidth(nodes, mesh, ["data", "fsdp"]) == 8 * nodes.chip.node_bandwidth, "a card a GPU"
    straddling = {"data": 8, "fsdp": 3, "tensor": 1}
    assert gpu_bandwidth(parse("h100:3x8"), straddling, ["fsdp"]) == nodes.chip.node_bandwidth
