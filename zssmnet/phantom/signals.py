"""From tissues to images: the T2W turbo spin echo, the ADC map and the high-b DWI."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from zssmnet.data.examination import onto_grid
from zssmnet.errors import InputError
from zssmnet.phantom.anatomy import Anatomy, Labels, Tissue
from zssmnet.phantom.contrast import Contrast
from zssmnet.phantom.gland import PERIPHERAL_ZONE, TRANSITION_ZONE
from zssmnet.phantom.grid import Axes, Floats, GridSpec, Point, SmoothField
from zssmnet.phantom.sampling import gland_box, sample_anatomy

B_VALUE = 1.4e-3
"""The high b-value in s/um^2: 1400 s/mm^2."""
T2W_SCALE = 1000.0
"""Pixel value of urine in T2W."""
DWI_SCALE = 190.0
"""Pixel value of the gland without diffusion weighting."""
NOISE_FLOOR = 0.13
"""Signal without diffusion weighting, gland = 1, below which scanners set ADC and DWI to 0."""


@dataclass(frozen=True)
class PhantomCase:
    """A synthetic case: a zonal mask, and a bi-parametric examination around it.

    Attributes:
        mask: zonal mask.
        t2w: T2-weighted image on the zonal mask's grid, uint16 or int16.
        adc: apparent diffusion coefficient in um^2/s on a coarser grid, uint16 or float32; 0 where there is no
            signal.
        dwi: diffusion-weighted image at b = 1400 s/mm^2 on the ADC's grid, uint16, int16 or float32.
        lesions: uint8 on T2W's grid, 1 in the lesions that were put into the gland.
    """

    id: str
    mask: sitk.Image
    t2w: sitk.Image
    adc: sitk.Image
    dwi: sitk.Image
    lesions: sitk.Image


def draw_case(
    case_id: str,
    mask: sitk.Image,
    rng: np.random.Generator,
    subtle: bool = False,
    lesions: sitk.Image | None = None,
    contrast_spread: float = 0.0,
) -> PhantomCase:
    """Draw an examination around a zonal mask, whose gland then lies between bladder, rectum and pelvic floor.

    Args:
        mask: axial zonal mask with the labels 1 (peripheral zone) and 2 (rest of the gland), on T2W's grid.
        rng: source of the patient, the noise and the pixel types.
        subtle: whether lesions differ from normal tissue by no more than that varies, among nodules, old blood and
            inflammation that look alike: no rule on single voxels finds them.
        lesions: lesion mask on the zonal mask's grid, a real one say, instead of drawn lesions; empty for none.
        contrast_spread: standard deviation of the logarithm by which tissues' signals differ between cases, 0.25 say.
            Above 0 each case has contrasts, gains and bias fields of its own, lesions follow their zone's, and what is
            on both sides alike is none: context decides, no threshold that fits the next case.

    Raises:
        InputError: one of the labels 1 and 2 is missing, or the lesion mask is of another size.
    """
    zones = sitk.GetArrayFromImage(mask)
    for label in (PERIPHERAL_ZONE, TRANSITION_ZONE):
        if not (zones == label).any():
            raise InputError(f"zonal mask: label {label} is missing; draw examinations around whole glands")
    grid = GridSpec.of(mask)
    if lesions is not None and lesions.GetSize() != mask.GetSize():
        raise InputError(f"lesion mask: has the size {lesions.GetSize()}, the zonal mask {mask.GetSize()}")
    contrast = Contrast.sample(rng, contrast_spread)
    centre_mm, _ = gland_box(grid, zones)
    epi_grid = _epi_grid(grid, centre_mm, rng)
    reach = (grid.axes_mm(centre_mm), epi_grid.axes_mm(centre_mm))
    anatomy = sample_anatomy(grid, zones, reach, rng, subtle, lesions=lesions is None, bilateral=contrast_spread > 0)
    tissue = Tissue.SUBTLE_LESION if subtle else Tissue.LESION
    given = np.zeros_like(zones) if lesions is None else (sitk.GetArrayFromImage(lesions) > 0) * np.uint8(tissue)
    t2w, painted = _t2w(anatomy, grid, zones, given, contrast, rng)
    epi_like = epi_grid.image(np.zeros(epi_grid.size_xyz[::-1], np.uint8))
    on_epi = (onto_grid(one, epi_like, sitk.sitkNearestNeighbor) for one in (mask, grid.image(given)))
    epi_zones, epi_given = map(sitk.GetArrayFromImage, on_epi)
    adc, dwi = _diffusion(anatomy, epi_grid, epi_zones, epi_given, contrast, rng)
    return PhantomCase(case_id, mask, t2w, adc, dwi, painted)


def _epi_grid(grid: GridSpec, centre_mm: Point, rng: np.random.Generator) -> GridSpec:
    """The coarser grid of ADC and DWI: T2W's direction and slices, its own field of view."""
    in_plane_mm = float(rng.choice([1.5, 1.625, 1.75, 2.0]))
    middle = grid.position((np.array(grid.size_xyz) - 1) / 2)
    x, y, z = np.array(middle) + rng.uniform(-0.5, 0.5, size=3)
    x += 0.5 * (centre_mm[0] - middle[0])
    size, spacing_mm = (84, 128, grid.size_xyz[2]), (in_plane_mm, in_plane_mm, grid.spacing_mm[2])
    return GridSpec.centred(size, spacing_mm, (float(x), float(y), float(z)), direction=grid.direction)


def _t2w(
    anatomy: Anatomy, grid: GridSpec, zones_zyx: Labels, given_zyx: Labels, contrast: Contrast, rng: np.random.Generator
) -> tuple[sitk.Image, sitk.Image]:
    axes = grid.axes_mm(anatomy.centre_mm)
    positions = anatomy.positions(axes)
    tissues = anatomy.tissues(positions, zones_zyx, given_zyx)
    fine = SmoothField.sample(rng, axes, (0.8, 0.8, 4.0))
    texture = 0.65 * anatomy.texture.at(axes) + 0.75 * fine.at(axes)
    strength = contrast.signal("texture", tissues, zones_zyx)
    signal = contrast.signal("t2w", tissues, zones_zyx) * np.exp(strength * texture)
    signal *= 1 - _septa(axes, rng) * (tissues == Tissue.FAT)
    inner = tissues == Tissue.TRANSITION_ZONE
    signal[inner] *= anatomy.nodularity(positions)[inner]
    blur = (0.0, 0.35 / grid.spacing_mm[1], 0.35 / grid.spacing_mm[0])
    coil = SmoothField.sample(rng, axes, (90.0, 90.0, 90.0))
    signal = gaussian_filter(signal, blur, truncate=3) * np.exp(contrast.biases[0] * coil.at(axes))
    signal = _with_noise(signal, 0.018, rng)
    pixel = _one_of((np.uint16, np.uint16, np.int16), rng)
    t2w = grid.image(np.rint(T2W_SCALE * contrast.gains[0] * signal).astype(pixel))
    return t2w, grid.image(np.isin(tissues, (Tissue.LESION, Tissue.SUBTLE_LESION)).astype(np.uint8))


def _septa(axes: Axes, rng: np.random.Generator) -> Floats:
    """Share of the signal, axes (z, y, x), that fat loses in its thin, broken septa and small vessels."""
    web = SmoothField.sample(rng, axes, (9.0, 9.0, 12.0)).at(axes)
    strength = SmoothField.sample(rng, axes, (7.0, 7.0, 9.0)).at(axes)
    lost: Floats = np.exp(-((web / 0.08) ** 2)) * np.clip(0.5 * strength, 0, 0.6)
    return lost


def _diffusion(
    anatomy: Anatomy, grid: GridSpec, zones_zyx: Labels, given_zyx: Labels, contrast: Contrast, rng: np.random.Generator
) -> tuple[sitk.Image, sitk.Image]:
    axes = grid.axes_mm(anatomy.centre_mm)
    positions = anatomy.positions(axes)
    tissues = anatomy.tissues(positions, zones_zyx, given_zyx)
    texture = contrast.signal("texture", tissues, zones_zyx) * anatomy.texture.at(axes)
    inner = tissues == Tissue.TRANSITION_ZONE
    texture[inner] += 0.15 * (anatomy.nodularity(positions)[inner] - 1)
    blur = (0.0, 0.55, 0.55)  # EPI is blurred by its long readout
    adc = gaussian_filter(contrast.signal("adc", tissues, zones_zyx) * (1 + 0.5 * texture), blur)
    epi = gaussian_filter(contrast.signal("epi", tissues, zones_zyx) * (1 + 0.4 * texture), blur)
    epi *= np.exp(contrast.biases[1] * SmoothField.sample(rng, axes, (90.0, 90.0, 90.0)).at(axes))
    dwi = _with_noise(epi * np.exp(-B_VALUE * adc), 0.008, rng)
    noisy = _with_noise(epi, 0.035, rng)
    adc += 45.0 / np.maximum(noisy, NOISE_FLOOR) * rng.standard_normal(adc.shape, dtype=np.float32)
    silent = noisy * np.exp(0.25 * anatomy.texture.at(axes)) < NOISE_FLOOR
    adc[silent] = dwi[silent] = 0
    return (
        grid.image(np.rint(np.clip(adc, 0, 3500)).astype(_one_of((np.uint16, np.float32), rng))),
        grid.image(
            np.rint(DWI_SCALE * contrast.gains[1] * dwi).astype(_one_of((np.uint16, np.int16, np.float32), rng))
        ),
    )


def _with_noise(signal: Floats, deviation: float, rng: np.random.Generator) -> Floats:
    """Rician noise: the magnitude of a complex signal with Gaussian noise in both parts."""
    real = signal + deviation * rng.standard_normal(signal.shape, dtype=np.float32)
    magnitude: Floats = np.hypot(real, deviation * rng.standard_normal(signal.shape, dtype=np.float32))
    return magnitude


def _one_of(pixel_types: tuple[npt.DTypeLike, ...], rng: np.random.Generator) -> npt.DTypeLike:
    return pixel_types[int(rng.integers(len(pixel_types)))]
