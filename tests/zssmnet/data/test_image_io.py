import gzip
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import as_array, as_image, noise, write
from zssmnet.data.image_io import check_values, read_image, write_image
from zssmnet.errors import CaseError, StorageError, UnreadableFileError


def reason(path: Path) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        read_image(path)
    assert caught.value.file == str(path)
    assert caught.value.reason.isprintable()
    assert "0x" not in caught.value.reason  # an address in memory
    return caught.value.reason


COMPRESSED = ["compressed.nii.gz", "compressed.mha"]
PLAIN = ["plain.nii", "plain.nii.gz", "plain.mha"]


@pytest.fixture(params=[*COMPRESSED, *PLAIN])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A whole file of each kind; some tools write plain NIfTI under the name of a compressed one."""
    path = tmp_path / request.param
    written = path.with_name("plain.nii") if request.param == "plain.nii.gz" else path
    sitk.WriteImage(as_image(noise()), str(written), useCompression=request.param.startswith("compressed"))
    return written.rename(path)


class TestKinds:
    def test_whole(self, whole: Path):
        assert np.array_equal(as_array(read_image(whole)), noise())

    def test_cut_anywhere(self, whole: Path):
        """ITK takes a NIfTI file that ends too early, or a compressed one without its checksum, without an error."""
        content = whole.read_bytes()
        ends = [0, 1, 2, 10, 100, 348, 352, 353, 400, len(content) // 3, len(content) // 2]
        for end in [*ends, *(len(content) - missing for missing in (100, 9, 8, 7, 4, 1))]:
            whole.write_bytes(content[:end])
            assert reason(whole)

    def test_cut_is_called_truncated(self, whole: Path):
        content = whole.read_bytes()
        whole.write_bytes(content[:-1000])
        assert "truncated" in reason(whole)

    @pytest.mark.parametrize("whole", COMPRESSED, indirect=True)
    def test_damaged_where_there_is_a_checksum(self, whole: Path):
        content = whole.read_bytes()
        for place in (0.5, 0.9, 0.99):
            damaged = bytearray(content)
            damaged[int(len(content) * place)] ^= 0xFF
            whole.write_bytes(damaged)
            assert reason(whole)

    @pytest.mark.parametrize("slices", [1, 7, 9, 800, 30_000])
    def test_header_that_lies_about_the_size(self, whole: Path, slices: int):
        is_compressed = whole.name == "compressed.nii.gz"
        content = gzip.decompress(whole.read_bytes()) if is_compressed else whole.read_bytes()
        if whole.suffix == ".mha":
            content = content.replace(b"DimSize = 24 20 8", f"DimSize = 24 20 {slices}".encode())
        else:
            content = content[:46] + slices.to_bytes(2, "little") + content[48:]
        whole.write_bytes(gzip.compress(content) if is_compressed else content)
        assert "bytes of voxels, not" in reason(whole)

    def test_header_that_asks_for_more_than_the_memory(self, whole: Path):
        is_compressed = whole.name == "compressed.nii.gz"
        content = gzip.decompress(whole.read_bytes()) if is_compressed else whole.read_bytes()
        content = content.replace(b"DimSize = 24 20 8", b"DimSize = 32767 32767 32767")
        if whole.suffix != ".mha":
            content = content[:42] + b"\xff\x7f" * 3 + content[48:]
        whole.write_bytes(gzip.compress(content) if is_compressed else content)
        assert "asks for (32767, 32767, 32767) voxels" in reason(whole)


NAMES = ["image.nii.gz", "image.mha"]
NIFTI_HEADER = np.dtype(
    "<i4, S10, S18, <i4, <i2, S1, S1, 8<i2, 3<f4, 4<i2, 8<f4, <f4, <f4, <f4, <i2, S1, S1, 4<f4, 2<i4, S80, S24, 2<i2, "
    "6<f4, 12<f4, S16, S4"
)


def test_no_place_for_temporary_files(whole: Path, monkeypatch: pytest.MonkeyPatch):
    """That is no fault of the file."""
    monkeypatch.setattr("tempfile.tempdir", str(whole.parent / "missing"))
    with pytest.raises(StorageError, match="missing: cannot be written: No such file") as caught:
        read_image(whole)
    assert not isinstance(caught.value, UnreadableFileError)


@pytest.mark.parametrize("name", NAMES)
class TestContents:
    @pytest.mark.parametrize(
        "content", [b"", b"hello\nworld", b"<html>404</html>", gzip.compress(b"no image" * 99, mtime=0)]
    )
    def test_no_image_at_all(self, tmp_path: Path, name: str, content: bytes):
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name) == "is no readable image: it is neither a NIfTI nor a MetaImage file"

    def test_missing(self, tmp_path: Path, name: str):
        assert reason(tmp_path / name)

    def test_2_d(self, tmp_path: Path, name: str):
        write(sitk.GetImageFromArray(noise()[0]), tmp_path / name)
        assert reason(tmp_path / name) == "is 2-D with size (24, 20); a 3-D image is needed"

    def test_4_d(self, tmp_path: Path, name: str):
        write(sitk.JoinSeries([as_image(noise()), as_image(noise())]), tmp_path / name)
        assert reason(tmp_path / name) == "is 4-D with size (24, 20, 8, 2); a 3-D image is needed"

    def test_vectors(self, tmp_path: Path, name: str):
        write(sitk.Compose([as_image(noise())] * 3), tmp_path / name)
        assert reason(tmp_path / name) == "has 3 values a voxel; one is needed"

    @pytest.mark.parametrize("pixel_type", [sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkFloat64])
    def test_pixel_types(self, tmp_path: Path, name: str, pixel_type: int):
        write(sitk.Cast(as_image(noise() % 100), pixel_type), tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.GetPixelID() == pixel_type
        assert np.array_equal(as_array(image), noise() % 100)


@pytest.mark.parametrize("folder", [".", "-odd name é"])
def test_a_plain_file_beside_the_compressed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str):
    """As ``gunzip --keep`` leaves it. ITK would take the header from the one and the voxels from the other."""
    write(as_image(noise(1)), tmp_path / folder / "image.nii")
    write(as_image(noise(0)), tmp_path / folder / "image.nii.gz")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / folder / "image.nii.gz", Path(folder) / "image.nii.gz"):
        assert np.array_equal(as_array(read_image(path)), noise(0))
    assert np.array_equal(as_array(read_image(tmp_path / folder / "image.nii")), noise(1))


@pytest.mark.parametrize(
    "name", ["a.nii.nii.gz", "a.hdr.nii.gz", "a.gz.nii.gz", "a.nii.gz.nii.gz", "a.mha.mha", ".nii.gz", "é 前.b.nii.gz"]
)
def test_names_with_several_endings(tmp_path: Path, name: str):
    """ITK takes off as many as it finds."""
    write_image(as_image(noise()), str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert np.array_equal(as_array(read_image(tmp_path / name)), noise())


def test_complex_numbers(tmp_path: Path):
    write(sitk.Cast(as_image(noise()), sitk.sitkComplexFloat32), tmp_path / "image.nii.gz")
    assert reason(tmp_path / "image.nii.gz") == "has 2 values a voxel; one is needed"


def test_scaled_nifti(tmp_path: Path):
    """Voxels may be stored as whole numbers with a slope, and read as fractions of another size."""
    path = write(as_image(noise()), tmp_path / "image.nii.gz")
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[112:120] = np.array([0.5, 10], "<f4").tobytes()
    path.write_bytes(gzip.compress(header))
    assert np.array_equal(as_array(read_image(path)), noise() * 0.5 + 10)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
def test_nifti_values_that_are_not_finite(tmp_path: Path, byte_order: str, dtype: str, name: str):
    """ITK reads them as 0."""
    array = noise(size=(80, 70, 60)).astype(dtype)
    path = write(as_image(array), tmp_path / "header.nii")
    header = np.frombuffer(path.read_bytes()[:348], NIFTI_HEADER)
    for values in ([], [np.nan], [np.inf, -np.inf, np.nan]):
        array.flat[-len(values) or array.size :] = values
        content = header.astype(header.dtype.newbyteorder(byte_order)).tobytes() + bytes(4)
        content += array.astype(byte_order + dtype).tobytes()
        (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
        if values:
            expected = f"has {len(values)} values that are not finite (NaN or infinite)"
            assert reason(tmp_path / name) == expected
        else:
            assert np.array_equal(as_array(read_image(tmp_path / name)), array)


def test_another_kind_of_file(tmp_path: Path):
    sitk.WriteImage(as_image(noise())[:, :, :1], str(tmp_path / "slice.dcm"))
    (tmp_path / "slice.dcm").rename(tmp_path / "slice.nii.gz")
    assert reason(tmp_path / "slice.nii.gz") == "is no readable image: it is neither a NIfTI nor a MetaImage file"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ElementSpacing", "0 0.55 3.3", "has the spacing"),
        ("ElementSpacing", "-0.6 0.55 3.3", "has the spacing"),
        ("ElementSpacing", "0.6 0.55 33000", "has the spacing"),
        ("TransformMatrix", "1 0.5 0 0 1 0 0 0 1", "not at right angles"),
        ("TransformMatrix", "0 0 0 0 0 0 0 0 0", "not at right angles"),
        ("DimSize", "0 20 8", "asks for (0, 20, 8) voxels"),
        ("DimSize", "-24 20 8", "asks for"),
        ("DimSize", "a b c", "is no readable image"),
        ("NDims", "17", "is no readable image"),
        ("ElementType", "MET_STRANGE", "is no readable image"),
        ("ElementDataFile", "/etc/hostname", "is no readable image"),
    ],
)
def test_damaged_header(tmp_path: Path, field: str, value: str, expected: str):
    path = tmp_path / "image.mha"
    sitk.WriteImage(as_image(noise(), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), str(path), useCompression=False)
    lines = path.read_bytes().split(b"\n", 14)
    changed = [f"{field} = {value}".encode() if line.startswith(field.encode()) else line for line in lines]
    assert changed != lines
    path.write_bytes(b"\n".join(changed))
    assert expected in reason(path)


def test_origin_that_is_no_number(tmp_path: Path):
    path = write(as_image(noise()), tmp_path / "image.nii.gz")
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[268:272] = header[292:296] = np.array(np.nan, "<f4").tobytes()  # qoffset_x, srow_x[3]
    path.write_bytes(gzip.compress(header))
    assert reason(path) == "is no readable image: its header cannot be true: origin (qoffset) is nan -12.25 7"


class TestWrite:
    def test_the_same_bytes_every_time(self, tmp_path: Path):
        for name in ("one.nii.gz", "two.nii.gz"):
            write_image(as_image(noise()), str(tmp_path / name))
        assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("room", [lambda size: 0, lambda size: 500, lambda size: size // 2, lambda size: size - 1])
    def test_a_full_disk_is_an_error(self, tmp_path: Path, name: str, room: Callable[[int], int]):
        """ITK writes NIfTI to a full disk without one."""
        path = tmp_path / name
        write_image(as_image(noise()), str(path))
        size = path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room(size), hard))
        try:
            with pytest.raises(OSError, match="disk") as caught:
                write_image(as_image(noise()), str(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(caught.value).isprintable()

    def test_no_folder(self, tmp_path: Path):
        with pytest.raises(OSError, match="No such file or directory"):
            write_image(as_image(noise()), str(tmp_path / "missing/image.nii.gz"))


@pytest.mark.parametrize("value", [1e39, -1e39, np.nan])
def test_values_that_float32_cannot_hold_are_refused(value: float):
    with pytest.raises(CaseError, match="values that are not finite in float32"):
        check_values("c", "file", sitk.GetImageFromArray(np.array([[[0.0, value]]])), "the image")
