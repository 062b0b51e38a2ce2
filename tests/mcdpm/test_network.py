from typing import Any

import pytest
import torch

from common.errors import MedpairError

MODES = ("channels", "2p1d")
B, K = 2, 6


def window(slices: int = 6, channels: int = K) -> torch.Tensor:
    return torch.randn(B, slices, channels + 1, 8, 6, generator=torch.Generator().manual_seed(0))


TIME, PLACE = torch.tensor([10.0, 700.0]), torch.tensor([[0.25, 0.02], [0.5, 0.02]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code_channels", [1, K])
def test_every_slice_gets_its_code(mode: str, code_channels: int, make: Any) -> None:
    network = make.denoiser(slice_mode=mode, code_channels=code_channels)
    output = network(window(channels=code_channels), TIME, PLACE)
    assert output.shape == (B, 6, code_channels, 8, 6)


@pytest.mark.parametrize("mode", MODES)
def test_slices_of_a_window_see_each_other_and_windows_do_not(mode: str, make: Any) -> None:
    network, x = make.denoiser(slice_mode=mode), window()
    disturbed = x.clone()
    disturbed[0, 1] += torch.randn(K + 1, 8, 6)
    change = (network(x, TIME, PLACE) - network(disturbed, TIME, PLACE)).abs().amax((2, 3, 4))
    assert (change[0] > 1e-5).all()
    assert change[1].max() < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_time_place_and_thickness_count(mode: str, make: Any) -> None:
    network, x = make.denoiser(slice_mode=mode), window()
    base = network(x, TIME, PLACE)
    for time, place in ((TIME + 30, PLACE), (TIME, PLACE + 0.1), (TIME, PLACE * 1.1)):
        assert (network(x, time, place) - base).abs().max() > 1e-4


def test_relative_position_alone_ignores_the_depth(make: Any) -> None:
    network, x = make.denoiser(position="first_slice"), window()
    thicker = PLACE * torch.tensor([1.0, 2.0])
    assert torch.equal(network(x, TIME, PLACE), network(x, TIME, thicker))


@pytest.mark.parametrize("slices", [2, 4, 6, 9])
def test_2p1d_takes_windows_of_any_length(slices: int, make: Any) -> None:
    assert make.denoiser(slice_mode="2p1d")(window(slices), TIME, PLACE).shape[1] == slices


def test_2p1d_tells_slices_apart_by_their_own_place(make: Any) -> None:
    """Equal slices differ in the output by (z+k)/D; slice k of z is slice 0 of z+k."""
    network = make.denoiser(slice_mode="2p1d")
    for name, parameter in network.named_parameters():
        if "slice_attention.out" in name:
            parameter.data.zero_()
        if "slice_conv.conv.weight" in name:
            torch.nn.init.dirac_(parameter)
    x = window()[:1, :1].expand(1, 6, -1, -1, -1)
    place = torch.tensor([[0.2, 0.05]])
    output = network(x, TIME[:1], place)
    assert (output[0, 1:] - output[0, :-1]).abs().amax((1, 2, 3)).min() > 1e-4
    later = network(x, TIME[:1], torch.tensor([[0.2 + 3 * 0.05, 0.05]]))
    torch.testing.assert_close(output[0, 3], later[0, 0], atol=1e-4, rtol=1e-4)


def test_settings_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(MedpairError, match="slice_mode is '3d'; use 'channels' or '2p1d'"):
        make.denoiser(slice_mode="3d")
    with pytest.raises(MedpairError, match="position is 'none'; use 'absolute' or"):
        make.denoiser(position="none")


def test_inputs_that_do_not_fit_are_refused(make: Any) -> None:
    wanted = r"wanted 6 and 6; make window, label_code and num_classes fit"
    with pytest.raises(MedpairError, match=rf"5 slices with 6 code channels, {wanted}"):
        make.denoiser()(window(5), TIME, PLACE)
    for mode in MODES:
        with pytest.raises(MedpairError, match=rf"6 slices with 4 code channels, {wanted}"):
            make.denoiser(slice_mode=mode)(window(channels=4), TIME, PLACE)
    with pytest.raises(MedpairError, match=r"slices of 8x6, wanted multiples of 4; change size"):
        make.denoiser(unshuffle=4)(window(), TIME, PLACE)
