"""Phantom cases on disk: as an nnU-Net raw archive or as PI-CAI's MHA archive, with zonal masks."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from zssmnet.data.archive import IMAGE_SUFFIXES, MASK_SUFFIX, ArchiveFormat
from zssmnet.data.examination import onto_grid
from zssmnet.data.image_io import write_image
from zssmnet.data.splits import SUBSETS, stable_subset
from zssmnet.errors import ConfigError, InputError
from zssmnet.phantom.gland import zonal_mask
from zssmnet.phantom.grid import DEMO_GRIDS, GridSpec
from zssmnet.phantom.signals import PhantomCase, draw_case

_FOLDERS: dict[ArchiveFormat, str] = {"nnunet": "nnunet_raw", "picai": "picai_mha"}


def phantom_case(
    case_id: str,
    seed: int = 0,
    grids: Sequence[GridSpec] = DEMO_GRIDS,
    subtle: bool = False,
    contrast_spread: float = 0.0,
) -> PhantomCase:
    """Draw a case; its id and the seed alone decide the grid, the patient and the noise.

    Args:
        seed: another seed gives other patients under the same ids.
        grids: T2W's grid is one of these.
        subtle, contrast_spread: see `draw_case`.
    """
    digest = hashlib.sha256(case_id.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest)])
    grid = grids[int(rng.integers(len(grids)))]
    return draw_case(case_id, zonal_mask(grid, rng), rng, subtle, contrast_spread=contrast_spread)


def phantom_around(
    case_id: str,
    mask: sitk.Image,
    subtle: bool = False,
    lesions: sitk.Image | None = None,
    contrast_spread: float = 0.0,
) -> PhantomCase:
    """Draw a case around masks that are given, real ones say; see `draw_case`. Its id decides the rest."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(case_id.encode()).digest()))
    return draw_case(case_id, mask, rng, subtle, lesions, contrast_spread)


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
    contrast_spread: float = 0.0,
) -> tuple[Path, Path]:
    """Write an archive of phantom cases.

    Args:
        folder: where to; made if need be.
        cases: their number, or their ids.
        seed: see `phantom_case`; a case does not depend on the others.
        grids: see `phantom_case`.
        layout: ``nnunet`` (``imagesTr/<case>_000{0,1,2}.nii.gz``, all on T2W's grid) or ``picai``
            (``<patient>/<patient>_<study>_{t2w,adc,hbv}.mha``, each on its own).
        subtle: see `draw_case`; then the maps of the lesions are kept as well, in ``lesions/<case>.nii.gz``.
        contrast_spread: see `draw_case`.

    Returns:
        The folders of the images, ``nnunet_raw`` or ``picai_mha``, and of the zonal masks, ``zonal_masks``.

    Raises:
        InputError: an id that is not ``<patient>_<study>`` in the layout ``picai``.
    """
    ids = case_ids(cases) if isinstance(cases, int) else list(cases)
    for case_id in ids:  # one case in memory at a time
        write_case(folder, phantom_case(case_id, seed, grids, subtle, contrast_spread), layout, with_lesions=subtle)
    return folder / _FOLDERS[layout], folder / "zonal_masks"


def write_case(folder: Path, case: PhantomCase, layout: ArchiveFormat = "nnunet", with_lesions: bool = True) -> None:
    """Write one case into an archive as that of `write_archive`; InputError as there."""
    patient, _, study = case.id.partition("_")
    if layout == "picai" and not (patient and study):
        raise InputError(f"case {case.id}: PI-CAI's archive needs ids of the form <patient>_<study>")
    images = case.t2w, case.adc, case.dwi
    if layout == "nnunet":
        images = case.t2w, onto_grid(case.adc, case.t2w), onto_grid(case.dwi, case.t2w)
    below = folder / _FOLDERS[layout] / ("imagesTr" if layout == "nnunet" else patient)
    files = {below / f"{case.id}{suffix}": one for suffix, one in zip(IMAGE_SUFFIXES[layout], images, strict=True)}
    files[folder / "zonal_masks" / f"{case.id}{MASK_SUFFIX}"] = case.mask
    if with_lesions:
        files[folder / "lesions" / f"{case.id}{MASK_SUFFIX}"] = case.lesions
    for file, image in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(image, file)
