"""Phantom cases on disk: as an nnU-Net raw archive or as PI-CAI's MHA archive, with zonal masks."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from zssmnet.data.archive import ArchiveFormat
from zssmnet.data.examination import onto_grid
from zssmnet.data.image_io import write_image
from zssmnet.data.splits import SUBSETS, stable_subset
from zssmnet.errors import ConfigError, InputError
from zssmnet.phantom.gland import zonal_mask
from zssmnet.phantom.grid import DEMO_GRIDS, GridSpec
from zssmnet.phantom.signals import Examination, examination

_IMAGES: dict[ArchiveFormat, str] = {"nnunet": "nnunet_raw", "picai": "picai_mha"}


@dataclass(frozen=True)
class PhantomCase:
    """A synthetic case.

    Attributes:
        mask: its zonal mask, on T2W's grid.
        examination: its images, each on its own grid.
    """

    id: str
    mask: sitk.Image
    examination: Examination


def phantom_case(
    case_id: str, seed: int = 0, grids: Sequence[GridSpec] = DEMO_GRIDS, subtle: bool = False
) -> PhantomCase:
    """Draw a case; its id and the seed alone decide the grid, the patient and the noise.

    Args:
        seed: another seed gives other patients under the same ids.
        grids: T2W's grid is one of these.
        subtle: see `examination`.
    """
    digest = hashlib.sha256(case_id.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest)])
    grid = grids[int(rng.integers(len(grids)))]
    mask = zonal_mask(grid, rng)
    return PhantomCase(case_id, mask, examination(mask, rng, subtle))


def phantom_around(case_id: str, mask: sitk.Image, subtle: bool = False) -> PhantomCase:
    """Draw a case around a zonal mask that is given, a real one say; its id decides the rest."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(case_id.encode()).digest()))
    return PhantomCase(case_id, mask, examination(mask, rng, subtle))


def case_ids(count: int) -> list[str]:
    """Ids in PI-CAI's form, ``<patient>_<study>``, that no case of PI-CAI has."""
    return [f"{90001 + i}_{9000001 + i}" for i in range(count)]


def evenly_split_cases(count: int) -> list[str]:
    """Ids of synthetic cases that the stable split spreads evenly over the six subsets.

    Raises:
        ConfigError: fewer cases than subsets.
    """
    if count < len(SUBSETS):
        raise ConfigError(f"{count} cases: at least {len(SUBSETS)} are needed, one for each subset")
    most = -(-count // len(SUBSETS))
    chosen: dict[int, list[str]] = {subset: [] for subset in SUBSETS}
    for case_id in case_ids(100 * count):
        chosen[stable_subset(case_id)].append(case_id)
    rounds = zip(*(ids[:most] for ids in chosen.values()), strict=True)
    return sorted(itertools.islice(itertools.chain.from_iterable(rounds), count))


def write_archive(
    folder: Path,
    cases: int | Sequence[str],
    seed: int = 0,
    grids: Sequence[GridSpec] = DEMO_GRIDS,
    layout: ArchiveFormat = "nnunet",
    subtle: bool = False,
) -> tuple[Path, Path]:
    """Write an archive of phantom cases.

    Args:
        folder: where to; made if need be.
        cases: their number, or their ids.
        seed: see `phantom_case`; a case does not depend on the others.
        grids: see `phantom_case`.
        layout: ``nnunet`` (``imagesTr/<case>_000{0,1,2}.nii.gz``, all on T2W's grid) or ``picai``
            (``<patient>/<patient>_<study>_{t2w,adc,hbv}.mha``, each on its own).
        subtle: see `examination`; then the maps of the lesions are kept as well, in ``lesions/<case>.nii.gz``.

    Returns:
        The folders of the images, ``nnunet_raw`` or ``picai_mha``, and of the zonal masks, ``zonal_masks``.

    Raises:
        InputError: an id that is not ``<patient>_<study>`` in the layout ``picai``.
    """
    ids = case_ids(cases) if isinstance(cases, int) else list(cases)
    for case_id in ids:  # one case in memory at a time
        write_case(folder, phantom_case(case_id, seed, grids, subtle), layout, with_lesions=subtle)
    return folder / _IMAGES[layout], folder / "zonal_masks"


def write_case(folder: Path, case: PhantomCase, layout: ArchiveFormat = "nnunet", with_lesions: bool = True) -> None:
    """Write one case into an archive as that of `write_archive`."""
    write = write_nnunet_raw if layout == "nnunet" else write_picai
    write(folder / _IMAGES[layout], [case])
    write_masks(folder / "zonal_masks", [case])
    if with_lesions:
        _write(case.examination.lesions, folder / "lesions" / f"{case.id}.nii.gz")


def write_nnunet_raw(folder: Path, cases: Iterable[PhantomCase]) -> None:
    """Write ``imagesTr/<case>_000{0,1,2}.nii.gz``: T2W, and ADC and DWI brought onto its grid."""
    for case in cases:
        reference = case.examination.t2w
        images = (reference, *(onto_grid(image, reference) for image in (case.examination.adc, case.examination.dwi)))
        for channel, image in enumerate(images):
            _write(image, folder / "imagesTr" / f"{case.id}_{channel:04d}.nii.gz")


def write_picai(folder: Path, cases: Iterable[PhantomCase]) -> None:
    """Write ``<patient>/<patient>_<study>_{t2w,adc,hbv}.mha``, each image on its own grid.

    Raises:
        InputError: an id that is not ``<patient>_<study>``.
    """
    for case in cases:
        patient, underscore, study = case.id.partition("_")
        if not (patient and underscore and study):
            raise InputError(f"case {case.id}: PI-CAI's archive needs ids of the form <patient>_<study>")
        images = case.examination.t2w, case.examination.adc, case.examination.dwi
        for name, image in zip(("t2w", "adc", "hbv"), images, strict=True):
            _write(image, folder / patient / f"{case.id}_{name}.mha")


def write_masks(folder: Path, cases: Iterable[PhantomCase]) -> None:
    """Write ``<case>.nii.gz``, the zonal masks."""
    for case in cases:
        _write(case.mask, folder / f"{case.id}.nii.gz")


def _write(image: sitk.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, file)
