"""A stack of DICOM slices to an image: pydicom reads pixels, GDCM decodes compressed ones of single files.

Voxels are what the scanner meant: rescale slope and intercept are applied. Nothing of the headers goes into the image.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.uid import UncompressedTransferSyntaxes

from zssmnet.data.dicom_series import Stack
from zssmnet.data.image_io import array_of, image_like
from zssmnet.errors import DicomError

LOWEST_FITTED_B = 50.0
"""Below this, perfusion adds to the signal; lower b-values are left out of the fit where two others remain."""
HIGHEST_FITTED_ADC = 4000.0
"""1e-6 mm2/s, above free water at body temperature; noise fits steeper ones."""


def read_volume(stack: Stack) -> sitk.Image:
    """The volume of a stack, axes x, y, z from feet to head, in mm and LPS, without metadata.

    Returns:
        The pixel type of the files, or float32 where values are rescaled.

    Raises:
        DicomError: the stack has a fault, or its pixels cannot be decoded; names the series.
    """
    if stack.fault:
        raise DicomError(f"{stack.name} {stack.fault}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(stack)
    except Exception as error:  # decoders meet damage with errors of any type
        raise DicomError(
            f"{stack.name}: its pixels cannot be decoded ({_syntax(stack)}: {type(error).__name__}); "
            "fetch the series again, or decompress it first (gdcmconv --raw)"
        ) from error


def compute_high_b(stacks: Sequence[Stack], b: float) -> sitk.Image:
    """The signal at a higher b-value by the model S(b) = S0 exp(-b ADC), fitted to the logarithm of each voxel.

    Args:
        stacks: one acquisition at two b-values or more, all on one grid.
        b: wanted b-value, s/mm2.

    Returns:
        float32, on the stacks' grid.

    Raises:
        DicomError: fewer than two b-values, or a stack that cannot be read.
    """
    usable = sorted(stacks, key=lambda stack: stack.b)
    if len(fitted := [stack for stack in usable if stack.b >= LOWEST_FITTED_B]) >= 2:
        usable = fitted
    values = np.array([stack.b for stack in usable])
    if len(values) < 2:
        raise DicomError(f"{stacks[0].name}: a high b-value can be computed from two lower ones or more, not from one")
    images = [read_volume(stack) for stack in usable]
    # of each slice: one step of its stored values, and the value whose multiples are comparable between images
    steps_BZYX = np.abs([[one.scaling[0] for one in stack.slices] for stack in usable])[..., None, None]
    scales = [[one.scale_slope for one in stack.slices] for stack in usable]
    has_scales = all(scale is not None for row in scales for scale in row)
    units_BZYX = steps_BZYX * np.array(scales, np.float64)[..., None, None] if has_scales else np.ones_like(steps_BZYX)
    logs_BZYX = np.log(np.maximum([array_of(image) for image in images], steps_BZYX) / units_BZYX)
    centred = values - values.mean()
    mean_ZYX = logs_BZYX.mean(axis=0)
    adc_ZYX = -np.tensordot(centred, logs_BZYX, axes=1) / float(centred @ centred)
    adc_ZYX = np.clip(adc_ZYX, 0, HIGHEST_FITTED_ADC * 1e-6)
    signal_ZYX = np.exp(mean_ZYX - (b - values.mean()) * adc_ZYX) * units_BZYX[0]
    return image_like(signal_ZYX.astype(np.float32), images[0])


def _read(stack: Stack) -> sitk.Image:
    planes: list[npt.NDArray[Any]] = []
    frames: dict[Path, npt.NDArray[Any]] = {}
    is_mapped = any(one.is_mapped for one in stack.slices)
    for one in stack.slices:
        if one.file not in frames:
            data = pydicom.dcmread(one.file, force=True)
            is_plain = data.file_meta.get("TransferSyntaxUID") in UncompressedTransferSyntaxes
            if not (is_plain or is_mapped or one.frame is not None):
                with suppress(RuntimeError):  # a few files that GDCM cannot decode, pydicom can
                    return _read_files(stack)
            data.Columns, data.Rows = one.shape
            frames[one.file] = data.pixel_array.reshape(-1, data.Rows, data.Columns)
        plane = frames[one.file][one.frame or 0]
        slope, intercept = one.scaling
        planes.append(plane if one.scaling == (1.0, 0.0) else (plane * slope + intercept).astype(np.float32))
    image = sitk.GetImageFromArray(np.stack(planes))
    first = stack.first
    normal = first.normal / np.linalg.norm(first.normal)  # as GDCM rounds it, so PI-CAI's grids, to the last digit
    row = np.cross(first.orientation[3:], normal)
    row /= np.linalg.norm(row)
    image.SetDirection(np.column_stack([row, np.cross(normal, row), normal]).ravel().tolist())
    image.SetOrigin(first.position)
    length = float(np.linalg.norm(np.subtract(stack.slices[-1].position, first.position)))
    image.SetSpacing((*first.spacing, length / (len(planes) - 1)))
    return image


def _read_files(stack: Stack) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetNumberOfThreads(1)
    reader.SetFileNames([str(one.file) for one in stack.slices])
    is_scaled = any(one.scaling != (1.0, 0.0) or one.is_signed != stack.first.is_signed for one in stack.slices)
    if is_scaled:
        reader.SetOutputPixelType(sitk.sitkFloat32)
    image = reader.Execute()
    if not is_scaled and array_of(image).dtype.kind == "f":
        raise RuntimeError  # GDCM scales by whatever it takes an empty slope for
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


def _syntax(stack: Stack) -> str:
    with suppress(Exception):  # it is only for the message
        return str(pydicom.dcmread(stack.first.file, stop_before_pixels=True).file_meta.TransferSyntaxUID.name)
    return "unknown transfer syntax"
