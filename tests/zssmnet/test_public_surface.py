"""The library as a notebook uses it: its names, and the way from files to weights without Prefect."""

import doctest
import importlib
import pickle
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import zssmnet
from tests.phantoms import small_archive
from tests.zssmnet.training.examples import COUNTS, SIZE, cubes_file, cubes_of, small_config, write_cubes
from zssmnet.config import CubesConfig, PreparationConfig
from zssmnet.data.image_io import array_of, read_image
from zssmnet.errors import CubesError, InputError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("zssmnet", "tasks", "flows", "deployments")
SERVICE = ("prefect", "fastapi", "sqlalchemy", "uvicorn", "supervisor", "yaml", "httpx", "distributed", "s3fs")
"""What only the extras bring."""


def test_public_names() -> None:
    assert zssmnet.__all__ == [
        "Corruption",
        "CorruptionConfig",
        "CubesConfig",
        "CubesDataset",
        "MNet",
        "PreparationConfig",
        "PretrainConfig",
        "ZssmnetError",
        "__version__",
        "export_nnunet_v2",
        "generate_cubes",
        "load_pretrained",
        "load_restoration",
        "network_input",
        "prepare_archive",
        "prepare_case",
        "pretrain",
        "retrain",
        "run_pipeline",
        "segment_zones",
        "train_zones",
    ]
    assert all(getattr(zssmnet, name).__doc__ for name in zssmnet.__all__)
    assert set(zssmnet.__all__) <= set(dir(zssmnet))
    assert zssmnet.__version__ == version("zssmnet")
    with pytest.raises(AttributeError, match="has no attribute 'corrupt'"):
        zssmnet.corrupt  # noqa: B018


def test_the_wheel_has_the_library_the_commands_and_what_they_read(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("zssmnet-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    data = {"zssmnet/py.typed", "deployments/prefect.yaml", "deployments/job_templates/kubernetes-gpu.json"}
    assert modules | data <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
    metadata = zipfile.ZipFile(wheel).read(f"zssmnet-{zssmnet.__version__}.dist-info/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needed
    assert not [line for line in needed if any(name in line for name in SERVICE)]


def test_every_command_of_the_package_is_there() -> None:
    for command in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values():
        module, _, function = command.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def python(code: str, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_importing_it_imports_nothing_slow(tmp_path: Path) -> None:
    done = python(
        "import sys, zssmnet; print(*{'torch', 'SimpleITK', 'pydantic', 'numpy'} & set(sys.modules))", tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


BLOCKED = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in {SERVICE} or name in ("tasks", "flows", "deployments"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_needs_nothing_of_the_service(tmp_path: Path) -> None:
    """Every name is there and a cube is restored, in a folder with modules of misleading names."""
    for name in ("flows", "tasks", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the current folder was imported')\n")
    use = """
import zssmnet
for name in zssmnet.__all__: getattr(zssmnet, name)
import torch
seen, target = zssmnet.Corruption()(torch.rand(1, 4, 2, 16, 16), torch.Generator().manual_seed(0))
print(zssmnet.MNet(6, 3, (1, 1, 1, 1, 1))(seen).shape == target.shape)
try: zssmnet.CubesDataset("s3://bucket/cubes")
except zssmnet.ZssmnetError as error: print(error)
from flows.cli import main
"""
    done = python(BLOCKED + use, tmp_path, "-P")
    assert done.stdout.splitlines() == [
        "True",
        "s3://bucket/cubes: S3 needs s3fs; install it with: pip install 'zssmnet[s3]'",
    ]
    assert "ModuleNotFoundError: No module named 'flows'" in done.stderr


def test_commands_need_the_service_only_for_prefect(tmp_path: Path) -> None:
    blocked = BLOCKED.replace('"tasks", "flows", "deployments"', '"nothing",')
    arguments = ["zssmnet", "cubes", "--data", str(tmp_path), "--save", "b"]
    for more, said in (
        ([], f"{tmp_path}: no prepared case in the folders subset0 to subset5; prepare cases first"),
        (["--prefect"], "this command needs prefect: pip install 'zssmnet[service]'"),
    ):
        done = python(f"{blocked}sys.argv = {arguments + more}\nfrom flows.cli import main\nmain()", tmp_path, "-P")
        assert done.returncode == 1
        assert done.stderr == f"zssmnet: error: {said}\n"


def test_examples_in_the_docstring() -> None:
    assert doctest.testmod(zssmnet).failed == 0


class TestCubesDataset:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_items_are_the_cubes_of_the_training_subsets_in_z_y_x(self, tmp_path: Path, dtype: str) -> None:
        write_cubes(tmp_path, dtype=dtype)
        cubes = zssmnet.CubesDataset(tmp_path)
        expected = np.concatenate([cubes_of(count, subset, dtype=dtype) for subset, count in enumerate(COUNTS[:5])])
        assert len(cubes) == len(expected)
        for item, cube in zip((cubes[index] for index in range(len(cubes))), expected, strict=True):
            assert (item.dtype, item.shape) == (torch.float32, (4, *SIZE[::-1]))
            np.testing.assert_array_equal(item, cube.astype("float32").transpose(0, 3, 2, 1))

    def test_chosen_subsets_negative_indices_and_the_end(self, tmp_path: Path) -> None:
        write_cubes(tmp_path)
        cubes = zssmnet.CubesDataset(str(tmp_path), subsets=[5])
        assert len(cubes) == COUNTS[5] == len(list(cubes))
        assert torch.equal(cubes[-1], cubes[COUNTS[5] - 1])
        with pytest.raises(IndexError, match="cube 3 of 3"):
            cubes[3]

    def test_goes_to_a_worker_as_a_path_and_through_a_loader_into_the_corruption(self, tmp_path: Path) -> None:
        write_cubes(tmp_path)
        cubes = zssmnet.CubesDataset(tmp_path)
        content = pickle.dumps(cubes)
        assert len(content) < 1000
        (batch,) = DataLoader(pickle.loads(content), batch_size=len(cubes))  # noqa: S301
        assert torch.equal(batch, torch.stack(list(cubes)))
        seen, target = zssmnet.Corruption()(batch, torch.Generator().manual_seed(0))
        assert (seen.shape, target.shape) == ((5, 6, *SIZE[::-1]), (5, 3, *SIZE[::-1]))

    def test_cubes_of_another_size_are_refused(self, tmp_path: Path) -> None:
        write_cubes(tmp_path)
        np.save(cubes_file(tmp_path, 4), cubes_of(1, size=(16, 16, 8)))
        with pytest.raises(CubesError, match="cubes of 16 x 16 x 8 voxels in float32, but those of"):
            zssmnet.CubesDataset(tmp_path)


class TestStages:
    def test_from_examinations_to_weights(self, tmp_path: Path) -> None:
        folder, masks = small_archive(tmp_path / "archive")
        images = folder / "imagesTr"
        (masks / "phantom_of_nobody.nii.gz").write_bytes(b"")
        (images / "7_7_0000.nii.gz").write_bytes(b"no image")
        prepared = zssmnet.prepare_archive(images, masks, tmp_path / "data")
        assert (prepared.prepared, set(prepared.left_out)) == (6, {"7_7"})

        first = min(masks.glob("*_*.nii.gz")).name.removesuffix(".nii.gz")
        files = [images / f"{first}_000{channel}.nii.gz" for channel in range(3)]
        alone = zssmnet.prepare_case(files, masks / f"{first}.nii.gz")
        published = sorted((tmp_path / "data").glob(f"subset*/{first}*.nii.gz"))
        order = [file.name.removeprefix(first).removesuffix(".nii.gz") for file in published]
        assert order == ["", "_0000", "_0001", "_0002"]
        for ours, theirs in zip((alone.mask, *alone.images), map(read_image, published), strict=True):
            np.testing.assert_array_equal(array_of(ours), array_of(theirs))

        config = CubesConfig(cubes_per_case=2, size=(16, 16, 4))
        cut = zssmnet.generate_cubes(tmp_path / "data", tmp_path / "cubes", config)
        assert [(one.cases, one.cubes) for one in cut.subsets] == [(1, 2)] * 6
        trained = zssmnet.pretrain(tmp_path / "cubes", tmp_path / "weights", small_config(epochs=1))
        assert (trained.best_epoch, trained.is_new) == (1, True)
        model = zssmnet.load_pretrained(trained.model, num_classes=2)
        assert model(torch.zeros(1, 6, 4, 16, 16)).shape == (1, 2, 4, 16, 16)
        again = zssmnet.pretrain(str(tmp_path / "cubes"), str(tmp_path / "weights"), small_config(epochs=1))
        assert again == trained.model_copy(update={"is_new": False})

    def test_what_is_no_case(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="2 images: name those of T2W, ADC and DWI, in this order"):
            zssmnet.prepare_case(["a", "b"], "m", PreparationConfig())
