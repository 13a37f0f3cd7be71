import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.zssmnet.interruption import traces
from zssmnet.errors import CheckpointError, StorageError
from zssmnet.handoff.load import load_pretrained
from zssmnet.handoff.package import write_package
from zssmnet.mnet import MNet
from zssmnet.storage import open_storage

from .conftest import with_record

SMALL = (2, 3, 4, 5, 6)
FIRST = "down11.CB2d.conv1.conv.weight"


class Code:
    """What a pickle can do: calling anything on loading."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


def write(path: Path, weights: object, key: str = "state_dict") -> Path:
    torch.save({"epoch": 3, key: weights, "optimizer_state_dict": {"state": {}}}, path)
    return path


def body(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("outputs.")}


def refusal(path: Path, **arguments) -> str:
    """The message with which a file is refused: one line that begins with the file's name."""
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(path, **({"num_classes": 2} | arguments))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far so on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pretrained() -> MNet:
    torch.manual_seed(0)
    return MNet(6, 3, SMALL)


@pytest.fixture
def weights(pretrained: MNet) -> dict[str, Tensor]:
    return dict(pretrained.state_dict())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ssl_mnet_zonal.model"


class TestLoading:
    def test_all_but_the_heads_come_from_the_file_and_the_log_says_so(
        self, path: Path, weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "zssmnet.handoff.load"):
            model = load_pretrained(str(write(path, weights)), num_classes=2)
        assert (model.in_channels, model.num_classes, model.channels) == (6, 2, SMALL)
        for name, tensor in body(model.state_dict()).items():
            assert torch.equal(tensor, weights[name]), name
        heads = "outputs.0.weight, outputs.1.weight, outputs.2.weight and 4 more"
        assert caplog.messages == [
            f"336 of 343 tensors loaded from {path}; 7 initialised anew ({heads}); "
            f"7 left out ({heads}): heads belong to another task; those of 2 classes are new"
        ]

    def test_heads_are_new_even_for_as_many_classes(self, path: Path, weights: dict[str, Tensor]) -> None:
        model = load_pretrained(write(path, weights), num_classes=3)
        assert not any(torch.equal(model.outputs[i].weight, weights[f"outputs.{i}.weight"]) for i in range(7))

    def test_features_are_those_of_pretraining(self, path: Path, pretrained: MNet) -> None:
        model = load_pretrained(write(path, pretrained.state_dict()), num_classes=2, deep_supervision=True)
        features: list[Tensor] = []
        pretrained.deep_supervision = True
        for network in (pretrained, model):
            for head in network.outputs:
                head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        x = torch.rand(1, 6, 8, 16, 16)
        with torch.no_grad():
            pretrained(x)
            assert [output.shape[1] for output in model(x)] == [2] * 7
        assert all(torch.equal(a, b) for a, b in zip(features[:7], features[7:], strict=True))

    @pytest.mark.parametrize("merge", ["sum", "cat"])
    def test_other_merges(self, path: Path, merge: str) -> None:
        other = MNet(1, 1, SMALL, merge)
        model = load_pretrained(write(path, other.state_dict()), num_classes=2, merge=merge, in_channels=1)
        assert (model.merge, model.in_channels) == (merge, 1)
        assert torch.equal(model.up14.CB3d.conv1.conv.weight, other.up14.CB3d.conv1.conv.weight)

    @pytest.mark.parametrize("wrapping", ["module.", "_orig_mod.", "module._orig_mod."])
    def test_wrappers_prefixes_are_stripped_and_logged(
        self, path: Path, weights: dict[str, Tensor], wrapping: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(path, {wrapping + name: tensor for name, tensor in weights.items()})
        with caplog.at_level(logging.INFO, "zssmnet.handoff.load"):
            model = load_pretrained(path, num_classes=2)
        assert torch.equal(model.state_dict()[FIRST], weights[FIRST])
        prefix = wrapping.rstrip(".").replace(".", ", ")
        assert caplog.messages[0].endswith(f"2 classes are new; wrapper's prefix {prefix} stripped from the names")

    def test_a_file_of_nnunet_v2_and_one_without_heads(self, path: Path, weights: dict[str, Tensor]) -> None:
        model = load_pretrained(write(path, body(weights), "network_weights"), num_classes=2)
        assert torch.equal(model.state_dict()[FIRST], weights[FIRST])

    @pytest.mark.parametrize("noted", ["sum", "cat"])
    def test_the_merge_that_a_file_notes_is_taken(self, path: Path, noted: str) -> None:
        torch.save({"network_weights": MNet(6, 3, SMALL, noted).state_dict(), "zssmnet": {"merge": noted}}, path)
        assert load_pretrained(path, num_classes=2).merge == noted

    def test_the_shapes_of_concatenation_are_recognised(self, path: Path) -> None:
        assert load_pretrained(write(path, MNet(6, 3, SMALL, "cat").state_dict()), num_classes=2).merge == "cat"

    def test_the_home_may_be_written_as_a_tilde(
        self, path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(write(path, weights).parent))
        assert torch.equal(load_pretrained(f"~/{path.name}", num_classes=2).state_dict()[FIRST], weights[FIRST])

    def test_reading_writes_nothing(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Not even into a record whose versions of files are old, as in a root that was copied."""
        with_record(write(path, weights), "sum")
        os.utime(path, ns=(1, 1))
        before = traces(path.parent)
        assert load_pretrained(path, num_classes=2).merge == "sum"
        assert traces(path.parent) == before

    def test_from_a_bucket_with_the_record_beside_it_and_from_a_package_there(
        self, path: Path, weights: dict[str, Tensor], s3_root: str, tmp_path: Path
    ) -> None:
        with_record(write(path, weights), "sum")
        package = write_package(path, tmp_path / "package")
        bucket = open_storage(s3_root)
        for file in (path, path.parent / "records" / f"{path.name}.json", *package.iterdir()):
            bucket.publish_bytes(file.relative_to(tmp_path).as_posix(), file.read_bytes())
        for address in (bucket.where(path.name), bucket.where("package")):
            model = load_pretrained(address, num_classes=2)
            assert model.merge == "sum"
            assert torch.equal(model.state_dict()[FIRST], weights[FIRST])
        with pytest.raises(StorageError, match=r"none\.model: no such file"):
            load_pretrained(bucket.where("none.model"), num_classes=2)

    def test_the_present_folder_may_be_a_package(
        self, path: Path, weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(write_package(write(path, weights), tmp_path / "package"))
        for here in (".", "../package", "../package/."):
            assert torch.equal(load_pretrained(here, num_classes=2).state_dict()[FIRST], weights[FIRST])

    def test_half_precision_becomes_single(self, path: Path, weights: dict[str, Tensor]) -> None:
        model = load_pretrained(write(path, {n: t.bfloat16() for n, t in weights.items()}), num_classes=2)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert torch.equal(model.state_dict()[FIRST], weights[FIRST].bfloat16().float())

    def test_wrong_arguments_are_value_errors(self, path: Path, weights: dict[str, Tensor]) -> None:
        write(path, weights)
        with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, not 0"):
            load_pretrained(path, num_classes=0)
        with pytest.raises(ValueError, match="merge must be one of sub, sum, cat"):
            load_pretrained(path, num_classes=2, merge="max")
        with pytest.raises(ValueError, match="merge must be one of sub, sum, cat"):
            load_pretrained(path, num_classes=2, merge="")  # type: ignore[arg-type]


class TestMisfits:
    def test_missing(self, path: Path, weights: dict[str, Tensor]) -> None:
        gone = [name for name in weights if name.startswith("up14.CB3d")]
        message = refusal(write(path, {n: t for n, t in weights.items() if n not in gone}))
        assert f"of 336 tensors 8 missing ({', '.join(gone[:3])} and 5 more); " in message

    def test_unexpected(self, path: Path, weights: dict[str, Tensor]) -> None:
        assert "1 unexpected (aspp.weight)" in refusal(write(path, weights | {"aspp.weight": torch.ones(1)}))

    def test_of_another_shape(self, path: Path, weights: dict[str, Tensor]) -> None:
        name = "up31.CB2d.conv2.norm.bias"
        message = refusal(write(path, weights | {name: torch.zeros(7)}))
        assert f"1 of another shape ({name} (7,) for (5,))" in message

    def test_all_three_at_once(self, path: Path, weights: dict[str, Tensor]) -> None:
        name = "up31.CB2d.conv2.norm.bias"
        changed = weights | {name: torch.zeros(7), "aspp": torch.ones(1)}
        del changed["up41.CB3d.conv1.norm.bias"]
        message = refusal(write(path, changed))
        assert all(part in message for part in ("1 missing (", "1 unexpected (", "1 of another shape ("))

    @pytest.mark.parametrize(
        ("written", "asked", "advice"),
        [("cat", "sub", 'pass merge="cat"'), ("sub", "cat", 'pass merge="sub" or "sum", as in pre-training')],
    )
    def test_another_merge_is_named(self, path: Path, written: str, asked: str, advice: str) -> None:
        write(path, MNet(6, 3, SMALL, written).state_dict())
        assert refusal(path, merge=asked).endswith(advice)

    def test_other_input_channels_are_named(self, path: Path, weights: dict[str, Tensor]) -> None:
        message = refusal(write(path, weights), in_channels=3)
        assert message.endswith("pass in_channels=6, or leave it out")

    def test_the_weights_of_another_network(self, path: Path) -> None:
        assert f"lacks {FIRST}, so it is no MNet" in refusal(write(path, nn.Conv3d(1, 1, 1).state_dict()))

    def test_a_name_with_and_without_prefix(self, path: Path, weights: dict[str, Tensor]) -> None:
        assert f"{FIRST} twice" in refusal(write(path, weights | {f"module.{FIRST}": weights[FIRST]}))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, path: Path, weights: dict[str, Tensor], value: float) -> None:
        weights["up22.CB2d.conv1.norm.weight"][1] = value
        message = refusal(write(path, weights))
        assert "1 of 336 tensors hold NaN or infinity (up22.CB2d.conv1.norm.weight)" in message

    @pytest.mark.parametrize(
        "value",
        [
            1.0,
            torch.ones(2, 6, 1, 3, 3, dtype=torch.int64),
            torch.empty(2, 6, 1, 3, 3, device="meta"),
            torch.ones(2, 6, 1, 3, 3).to_sparse(),
            torch.ones(1).expand(2, 6, 1, 3, 3),  # one value in the file for all: a small file, and a huge tensor
        ],
        ids=["number", "integers", "without values", "sparse", "expanded"],
    )
    def test_entries_that_are_no_weights(self, path: Path, weights: dict[str, Tensor], value: object) -> None:
        message = refusal(write(path, weights | {FIRST: value}))
        assert f"1 of 343 entries of its state_dict are no dense floating-point tensors ({FIRST})" in message


class TestForeignFiles:
    def test_missing_file(self, path: Path) -> None:
        assert "no such file" in refusal(path)

    def test_folder(self, tmp_path: Path) -> None:
        assert "is a folder" in refusal(tmp_path)

    @pytest.mark.parametrize("kept", [0, 1, 100, 5000, 0.5, 0.99])
    def test_truncated(self, path: Path, weights: dict[str, Tensor], kept: float) -> None:
        whole = write(path, weights).read_bytes()
        path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
        assert "no checkpoint written by torch.save, or damaged or cut short" in refusal(path)

    @pytest.mark.parametrize("content", [b"<html>404</html>", b"epoch,loss\n1,0.5\n", b"\x80\x04", bytes(5000)])
    def test_no_checkpoint(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert "no checkpoint written by torch.save" in refusal(path)

    @pytest.mark.parametrize("seed", range(10))
    def test_damaged_bytes_never_end_in_another_error(self, path: Path, weights: dict[str, Tensor], seed: int) -> None:
        """Where damage meets the values of a tensor alone it may go unseen."""
        damaged = bytearray(write(path, weights).read_bytes())
        rng = np.random.default_rng(seed)
        for position in rng.integers(0, len(damaged), 200):
            damaged[position] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            load_pretrained(path, num_classes=2)
        except CheckpointError as error:
            assert "\n" not in str(error)

    def test_code_is_never_run(self, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        write(path, {"a": Code()})
        assert "holds a Python object (" in refusal(path)
        path.write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2))
        refusal(path)
        assert not Path("ran").exists()

    def test_objects_beside_the_weights_are_named(self, path: Path, weights: dict[str, Tensor]) -> None:
        """As in a full checkpoint of nnU-Net v2, whose log holds NumPy scalars."""
        torch.save({"network_weights": weights, "logging": {"ema": np.float64(0.5)}}, path)
        assert "numpy._core.multiarray.scalar" in refusal(path)

    def test_no_weights_in_it(self, path: Path) -> None:
        torch.save({"epoch": 1, "model": {}}, path)
        assert "holds the keys epoch, model, no state_dict" in refusal(path)
        torch.save([1, 2], path)
        assert "holds a list, no state_dict" in refusal(path)
        assert "its state_dict is no dict of named tensors" in refusal(write(path, [1, 2]))
        assert "its state_dict is no dict of named tensors" in refusal(write(path, {1: torch.ones(1)}))
