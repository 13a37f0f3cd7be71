"""Tiny synthetic examinations on disk, for tests. Arrays have axes (z, y, x); sizes, spacings and origins (x, y, z)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.archive import Case, take_inventory
from zssmnet.storage import LocalStorage

SIZE = (24, 20, 8)
SPACING = (0.6, 0.55, 3.3)
ORIGIN = (-50.5, 12.25, 7.0)
CASE = "10001_1000001"
NNUNET = ("_0000.nii.gz", "_0001.nii.gz", "_0002.nii.gz")
PICAI = ("_t2w.mha", "_adc.mha", "_hbv.mha")

Array = npt.NDArray[Any]


def oblique(degrees_x: float, degrees_y: float = 0.0, degrees_z: float = 0.0) -> tuple[float, ...]:
    """Direction cosines, row by row, of axes turned about x, then y, then z."""
    a, b, c = np.radians([degrees_x, degrees_y, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tuple((about_z @ about_y @ about_x).ravel().tolist())


DIRECTION = oblique(20)


def as_image(
    array_ZYX: Array,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    direction: Sequence[float] = DIRECTION,
) -> sitk.Image:
    """An image of an array, in space."""
    image = sitk.GetImageFromArray(array_ZYX)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def as_array(image: sitk.Image) -> Array:
    """A copy of the image's voxels."""
    return sitk.GetArrayFromImage(image)


def read(path: Path) -> sitk.Image:
    """An image file, under a name that ITK cannot misunderstand."""
    with TemporaryDirectory() as folder:
        link = Path(folder, "image.mha" if path.suffix == ".mha" else "image.nii.gz")
        link.symlink_to(path.absolute())
        return sitk.ReadImage(str(link))


def write(image: sitk.Image, path: Path) -> Path:
    """Write an image file, and the folders above it; see :func:`read`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder, "image" + "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]))
        sitk.WriteImage(image, str(plain), useCompression=True)
        return plain.rename(path)


def noise(seed: int = 0, size: tuple[int, int, int] = SIZE) -> Array:
    """An array of noise as an MRI scanner stores it, 0 to 999."""
    return np.random.default_rng(seed).integers(0, 1000, size[::-1]).astype(np.uint16)


def gland(size: tuple[int, int, int] = SIZE, dtype: str = "uint8") -> Array:
    """A mask with an ellipsoid in the middle: label 1 behind (large y), label 2 before it."""
    z, y, x = np.indices(size[::-1])
    inside = sum(((axis - n / 2) / (n / 4)) ** 2 for axis, n in zip((x, y, z), size, strict=True)) < 1
    return np.where(inside, np.where(y > size[1] / 2, 1, 2), 0).astype(dtype)


@dataclass
class Archive:
    """An archive in a folder, ``images`` and ``masks`` below it."""

    root: Path

    @property
    def images(self) -> LocalStorage:
        return LocalStorage(self.root / "images")

    @property
    def masks(self) -> LocalStorage:
        return LocalStorage(self.root / "masks")

    def image_path(self, channel: int, case_id: str = CASE) -> Path:
        return self.root / "images/imagesTr" / f"{case_id}{NNUNET[channel]}"

    def mask_path(self, case_id: str = CASE) -> Path:
        return self.root / "masks" / f"{case_id}.nii.gz"

    def add(
        self,
        case_id: str = CASE,
        t2w: sitk.Image | None = None,
        adc: sitk.Image | None = None,
        dwi: sitk.Image | None = None,
        mask: sitk.Image | None = None,
        seed: int = 0,
    ) -> None:
        """Write a case in nnU-Net's form; what is not given is made."""
        for channel, image in enumerate((t2w, adc, dwi)):
            write(image or as_image(noise(3 * seed + channel)), self.image_path(channel, case_id))
        write(mask or as_image(gland()), self.mask_path(case_id))

    def add_picai(self, case_id: str, images: Sequence[sitk.Image], mask: sitk.Image) -> None:
        """Write a case in PI-CAI's form."""
        for image, suffix in zip(images, PICAI, strict=True):
            write(image, self.root / "images" / case_id.split("_")[0] / f"{case_id}{suffix}")
        write(mask, self.mask_path(case_id))

    def case(self, case_id: str = CASE) -> Case:
        """The case as the inventory finds it."""
        found = take_inventory(self.images, self.masks)
        return next(case for case in found.cases if case.id == case_id)
