"""Fused convolutions give the output of the original network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.model import fused
from src.model.fused import fuse
from src.model.graphs import fold_batch_norms, in_bfloat16
from src.model.unet import UNet


def _network(features: tuple[int, ...], seed: int, extra_blocks: tuple[int, ...] = ()) -> nn.Module:
    """A network with random weights, biases and batch norms, after its batch norms were folded."""
    torch.manual_seed(seed)
    network = UNet(features, extra_blocks).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            for name, value in part.state_dict().items():
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) + 0.5 if name == "running_var" else torch.randn_like(value))
        elif isinstance(part, nn.Conv3d):
            nn.init.normal_(part.weight, std=0.1)
    return fold_batch_norms(network).to(memory_format=torch.channels_last_3d)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([(4,), (4, 4, 8), (2, 6, 6)]),
    st.sampled_from([(), (1,), (0, 2, 1)]),
    st.sampled_from([1, 2]),
)
@torch.inference_mode()
def test_the_fused_network_gives_the_output_of_the_original(
    seed: int, features: tuple[int, ...], extra_blocks: tuple[int, ...], count: int
) -> None:
    network = _network(features, seed, extra_blocks[: len(features)])
    side = 2 ** len(features)
    x = torch.randn(count, 1, 2 * side, side, 3 * side).contiguous(memory_format=torch.channels_last_3d)
    given_x = x.clone()
    torch.testing.assert_close(fuse(network)(x), network(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, given_x)


@torch.inference_mode()
def test_fusing_does_not_reduce_the_accuracy_of_half_precision() -> None:
    network = _network((8, 8), 1)
    x = torch.rand(1, 1, 32, 32, 32).contiguous(memory_format=torch.channels_last_3d)
    exact, half = network(x)[:, 0], in_bfloat16(network)
    plain, sooner = ((one(x)[:, 0] - exact).abs().max() for one in (half, fuse(half)))
    assert sooner <= 1.5 * plain + 1e-3


@torch.inference_mode()
def test_fusing_does_not_change_the_original_network() -> None:
    network = _network((4, 4), 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fuse(network)(torch.rand(1, 1, 8, 8, 8))
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_without_fused_operations_the_network_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network((4,), 3)
    monkeypatch.setattr(fused, "_available", lambda: False)
    assert [type(part) for part in fused.fuse(network).modules()] == [type(part) for part in network.modules()]


def test_every_convolution_is_fused_with_this_pytorch() -> None:
    assert not any(isinstance(part, nn.Conv3d | nn.ReLU) for part in fuse(_network((4, 4), 3)).modules())
