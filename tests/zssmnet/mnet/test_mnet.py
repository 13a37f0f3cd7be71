import json
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zssmnet.mnet import MNet, head_sizes
from zssmnet.mnet.blocks import ConvNormAct, Merge, convolve, merge_streams, pool

SMALL = (4, 6, 8, 10, 12)
MERGES: tuple[Merge, ...] = ("sub", "sum", "cat")


def wave(numel: int, parameter: int) -> np.ndarray:
    return np.sin(0.7 * np.arange(numel) + 1.3 * parameter)


def set_weights_by_formula(model: nn.Module) -> None:
    """The weights with which the golden outputs were made (METHOD.md, section 7)."""
    for i, (name, tensor) in enumerate(model.state_dict().items()):
        values = wave(tensor.numel(), i)
        if name.endswith("norm.weight"):
            values = 1 + 0.1 * values
        elif name.endswith(("norm.bias", "conv.bias")):
            values = 0.1 * values
        else:
            values = values / np.sqrt(max(1, tensor.numel() / tensor.shape[0]))
        tensor.copy_(torch.from_numpy(values.reshape(tensor.shape)))


def input_by_formula(shape: list[int]) -> Tensor:
    j = np.arange(prod(shape))
    values = 0.5 + 0.5 * np.sin(0.013 * j) * np.cos(0.0007 * j)
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def golden_model(archive: np.lib.npyio.NpzFile, **arguments) -> MNet:
    model = MNet(6, 3, tuple(archive["kn"].tolist()), **arguments)
    set_weights_by_formula(model)
    return model


def assert_golden(output: Tensor, sample: np.ndarray, mean: float, std: float) -> None:
    values = output.numpy().astype(np.float64)
    np.testing.assert_allclose(values.ravel()[::97], sample, rtol=0, atol=1e-4 * np.abs(sample).max())
    np.testing.assert_allclose([values.mean(), values.std()], [mean, std], rtol=1e-4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far so on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small() -> MNet:
    torch.manual_seed(0)
    return MNet(6, 3, SMALL)


class TestGolden:
    def test_parameters_have_the_published_names_order_and_shapes(self, golden: Path) -> None:
        published = json.loads((golden / "mnet_state_dict.json").read_text())
        model = MNet(6, 3)
        assert [(name, list(t.shape)) for name, t in model.state_dict().items()] == list(published.items())
        assert sum(p.numel() for p in model.parameters()) == 8_781_024

    @pytest.mark.parametrize(("name", "merge"), [("small", "sub"), ("odd", "sub"), ("sum", "sum"), ("cat", "cat")])
    def test_forward(self, golden: Path, name: str, merge: Merge) -> None:
        archive = np.load(golden / f"mnet_forward_{name}.npz")
        shape = archive["input_shape"].tolist()
        with torch.no_grad():
            output = golden_model(archive, merge=merge)(input_by_formula(shape))
        assert list(output.shape) == [shape[0], 3, *shape[2:]]
        assert_golden(output, archive["sample"], archive["mean"], archive["std"])

    def test_forward_with_deep_supervision(self, golden: Path) -> None:
        archive = np.load(golden / "mnet_forward_deep_segmentation.npz")
        with torch.no_grad():
            outputs = golden_model(archive, deep_supervision=True)(input_by_formula(archive["input_shape"].tolist()))
        assert len(outputs) == 7
        for i, output in enumerate(outputs):
            assert list(output.shape) == archive[f"shape_{i}"].tolist()
            assert_golden(output, archive[f"sample_{i}"], archive[f"mean_{i}"], archive[f"std_{i}"])

    def test_cost_of_one_cube_is_the_published_one_and_no_tensor_value_decides_what_is_computed(self) -> None:
        with torch.device("meta"):  # no values, so that any look at one fails
            model, cube = MNet(6, 3), torch.empty(1, 6, 16, 64, 64)
            with FlopCounterMode(display=False) as counter:
                model(cube)
        of_convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
        assert of_convolutions / 1e9 == pytest.approx(46.4, abs=0.05)
        assert counter.get_total_flops() < 1.03 * of_convolutions  # products that up-sample


class TestParameters:
    @pytest.mark.parametrize("deep", [False, True])
    @pytest.mark.parametrize("merge", MERGES)
    def test_the_gradient_reaches_all_but_unused_heads(self, merge: Merge, deep: bool) -> None:
        torch.manual_seed(0)
        model = MNet(2, 2, (2, 3, 4, 5, 6), merge, deep)
        outputs = model(torch.rand(1, 2, 8, 32, 32))
        sum(output.square().sum() for output in (outputs if deep else (outputs,))).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        unused = set() if deep else {f"outputs.{i}.weight" for i in range(1, 7)}
        # Instance norm takes the mean away, and with it the bias before it, which is not computed.
        unused |= {name for name in gradients if name.endswith("conv.bias")}
        assert {name for name, gradient in gradients.items() if gradient is None} == unused
        assert [name for name in gradients if name not in unused and not gradients[name].any()] == []

    @pytest.mark.parametrize("merge", MERGES)
    def test_a_bias_before_a_norm_changes_nothing(self, merge: Merge) -> None:
        """It is kept for checkpoints: with it computed, as published programs do, the outputs are the same."""
        torch.manual_seed(0)
        model, x = MNet(6, 3, SMALL, merge).double(), torch.rand(2, 6, 9, 20, 24, dtype=torch.float64)
        biases = [bias for name, bias in model.named_parameters() if name.endswith("conv.bias")]
        assert len(biases) == 84 and not any(bias.requires_grad for bias in biases)
        with torch.no_grad():
            without = model(x)
            for module in model.modules():
                if isinstance(module, ConvNormAct):
                    module.forward = partial(_with_bias, module)
            torch.testing.assert_close(model(x), without)

    def test_no_layer_is_registered_twice(self, small: MNet) -> None:
        state = small.state_dict()
        assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
        modules = [module for _, module in small.named_modules(remove_duplicate=False)]
        assert len({id(module) for module in modules}) == len(modules)

    @pytest.mark.parametrize("merge", MERGES)
    def test_there_are_as_many_tensors_under_every_merge(self, merge: Merge) -> None:
        assert len(MNet(6, 3, SMALL, merge).state_dict()) == 343


def _with_bias(module: ConvNormAct, x: Tensor) -> Tensor:
    """A block as published."""
    return nn.functional.leaky_relu(module.norm(module.conv(x)), 0.01)


class TestForward:
    def test_a_batch_equals_its_elements_one_by_one(self, small: MNet) -> None:
        small.double()
        batch = torch.rand(3, 6, 9, 20, 24, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(small(batch), torch.cat([small(x[None]) for x in batch]))

    def test_sum_and_difference_give_different_outputs_from_the_same_weights(self, small: MNet) -> None:
        other = MNet(6, 3, SMALL, "sum")
        other.load_state_dict(small.state_dict())
        x = torch.rand(1, 6, 8, 16, 16)
        with torch.no_grad():
            assert (small(x) - other(x)).abs().max() > 0.01

    @pytest.mark.parametrize(
        ("slices", "row2", "row3", "row4"),
        [(33, 16, 8, 4), (17, 8, 4, 4), (16, 8, 4, 4), (15, 7, 7, 7), (8, 4, 4, 4), (7, 7, 7, 7), (2, 2, 2, 2)],
    )
    def test_slices_are_pooled_until_fewer_than_eight_are_left(
        self, small: MNet, slices: int, row2: int, row3: int, row4: int
    ) -> None:
        small.deep_supervision = True
        with torch.no_grad():
            shapes = [tuple(output.shape[2:]) for output in small(torch.rand(1, 6, slices, 35, 31))]
        assert head_sizes((slices, 35, 31)) == shapes
        assert shapes == [
            *((slices, 35, 31), (row2, 17, 15), (slices, 17, 15), (row3, 8, 7), (slices, 8, 7)),
            *((row4, 4, 3), (slices, 4, 3)),
        ]

    def test_the_first_of_seven_outputs_is_the_one_without_deep_supervision(self, small: MNet) -> None:
        x = torch.rand(1, 6, 8, 16, 16)
        with torch.no_grad():
            alone = small(x)
            small.deep_supervision = True
            assert torch.equal(small(x)[0], alone)

    def test_bfloat16_autocast_trains(self, small: MNet) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            output = small(torch.rand(2, 6, 8, 16, 16))
        assert output.dtype is torch.bfloat16
        output.float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in small.parameters() if p.grad is not None)

    def test_channels_last_gives_the_same(self, small: MNet) -> None:
        small.double()
        x = torch.rand(2, 6, 8, 16, 16, dtype=torch.float64)
        with torch.no_grad():
            expected = small(x)
            small.to(memory_format=torch.channels_last_3d)
            output = small(x.to(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(output, expected)


class TestBadUse:
    @pytest.mark.parametrize("size", [(2, 16, 16), (1, 32, 16), (1, 16, 32), (3, 31, 17)])
    @pytest.mark.parametrize("training", [True, False])
    def test_the_smallest_inputs_work(self, small: MNet, size: tuple[int, int, int], training: bool) -> None:
        output = small.train(training)(torch.rand(1, 6, *size))
        assert output.shape == (1, 3, *size)
        output.sum().backward()

    @pytest.mark.parametrize("size", [(1, 16, 16), (1, 31, 31), (2, 15, 16), (2, 16, 15), (0, 32, 32), (40, 64, 15)])
    def test_a_smaller_input_is_refused(self, small: MNet, size: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match=r"\(Z, Y, X\) of at least \(2, 16, 16\).*not \("):
            small(torch.rand(1, 6, *size))

    def test_a_wrong_number_of_axes_or_channels_is_refused(self, small: MNet) -> None:
        with pytest.raises(ValueError, match=r"\(N, C, Z, Y, X\), five axes, not .*\(6, 16, 32, 32\)"):
            small(torch.rand(6, 16, 32, 32))
        with pytest.raises(ValueError, match=r"takes 6 channels, not .*\(1, 4, 16, 32, 32\)"):
            small(torch.rand(1, 4, 16, 32, 32))

    @pytest.mark.parametrize("kind", ["ndarray", "torch.int16"])
    def test_what_is_no_tensor_of_floats_is_refused(self, small: MNet, kind: str) -> None:
        x = torch.zeros(1, 6, 16, 32, 32)
        with pytest.raises(ValueError, match=rf"a tensor \(N, C, Z, Y, X\) of a float dtype, not {kind}"):
            small(x.numpy() if kind == "ndarray" else x.short())

    def test_numbers_of_numpy_are_integers(self) -> None:
        network = MNet(np.int64(6), np.int64(3), np.array(SMALL))
        assert (network.in_channels, network.num_classes, network.channels) == (6, 3, SMALL)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0, 3), "in_channels must be an integer of at least 1, not 0"),
            ((6, -1), "num_classes must be an integer of at least 1, not -1"),
            ((True, 3), "in_channels must be an integer of at least 1, not True"),
            ((6, 3, 32), "five integers"),
            ((6, 2.0), "num_classes must be an integer of at least 1, not 2.0"),
            ((6, 3, (32, 48, 64, 80)), "five integers"),
            ((6, 3, (32, 48, 64, 80, 0)), "five integers"),
            ((6, 3, SMALL, "max"), "merge must be one of sub, sum, cat, not 'max'"),
        ],
    )
    def test_arguments_that_make_no_network_are_refused(self, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MNet(*arguments)


class TestBlocks:
    def test_merging_unit(self) -> None:
        a, b = torch.rand(2, 1, 3, 2, 2, 2)
        assert torch.equal(merge_streams(a, b, "sub"), merge_streams(b, a, "sub"))
        assert not merge_streams(a, a, "sub").any()
        assert torch.equal(merge_streams(a, b, "sum"), a + b)
        both = merge_streams(a, b, "cat")
        assert torch.equal(both[:, :3], a)
        assert torch.equal(both[:, 3:], b)

    @pytest.mark.parametrize("size", [(5, 9, 8), (1, 4, 4), (6, 1, 3)])
    @pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3)])
    def test_convolution_within_slices_or_across_them(self, kernel: tuple[int, ...], size: tuple[int, ...]) -> None:
        padding = tuple(length // 2 for length in kernel)
        weight, found = torch.rand(4, 3, *kernel, dtype=torch.float64), []
        x = torch.rand(2, 3, *size, dtype=torch.float64)
        for way in (convolve, partial(nn.functional.conv3d, padding=padding)):
            leaves = [one.contiguous(memory_format=torch.channels_last_3d).requires_grad_() for one in (x, weight)]
            features = way(*leaves)
            features.square().sum().backward()
            found.append([features.detach(), *(one.grad for one in leaves)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)
        x, weight = (one.float().contiguous(memory_format=torch.channels_last_3d) for one in (x, weight))
        assert convolve(x, weight).is_contiguous(memory_format=torch.channels_last_3d)

    def test_pooling_takes_the_largest_within_slices_or_across_them(self) -> None:
        x = torch.arange(8.0 * 4).reshape(1, 1, 8, 2, 2)
        assert pool(x, "2d").ravel().tolist() == [3, 7, 11, 15, 19, 23, 27, 31]
        assert pool(x, "3d").ravel().tolist() == [7, 15, 23, 31]
        assert torch.equal(pool(x[:, :, :7], "3d"), pool(x[:, :, :7], "2d"))
