"""Detection maps of csPCa out of nnU-Net v2's probabilities, and their figures as the PI-CAI challenge defines them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zssmnet.data.image_io import array_of, read_image
from zssmnet.errors import ImageError, InputError
from zssmnet.handoff.lesions import whole_labels
from zssmnet.storage.address import Address, local_path


def detection_map(probabilities: Address) -> npt.NDArray[Any]:
    """Lesion candidates of a case: connected regions, each with one confidence, as PI-CAI's baseline extracts them.

    Its other threshold, ``dynamic``, takes hours on the uncertain map of a network after few steps.

    Args:
        probabilities: ``<case>.npz`` that ``nnUNetv2_predict --save_probabilities`` wrote.

    Returns:
        Array (Z, Y, X), 0 outside candidates. The probability of csPCa is 1 - background, whatever the classes.

    Raises:
        InputError: no such file, or another one.
    """
    from report_guided_annotation import extract_lesion_candidates

    try:
        with local_path(probabilities).open("rb") as stream, np.lib.npyio.NpzFile(stream) as archive:
            found_KZYX = np.asarray(archive["probabilities"])
    except Exception as error:  # foreign and damaged bytes lead to nearly any type
        raise InputError(f"{probabilities}: no probabilities of nnUNetv2_predict --save_probabilities") from error
    is_like_theirs = found_KZYX.ndim == 4 and len(found_KZYX) > 1 and found_KZYX.size and found_KZYX.dtype.kind == "f"
    if not (is_like_theirs and found_KZYX.min() >= 0 and np.allclose(found_KZYX.sum(axis=0), 1, atol=0.01)):
        what = f"{found_KZYX.dtype} values of shape {found_KZYX.shape}, which are no probabilities (class, z, y, x)"
        raise InputError(f"{probabilities}: holds {what} with the sum 1; predict with --save_probabilities")
    probability_ZYX = 1 - found_KZYX[0].astype(np.float32)
    candidates: npt.NDArray[Any] = extract_lesion_candidates(probability_ZYX, threshold="dynamic-fast")[0]
    return candidates


def evaluate_detection(predictions: Address, labels: Address) -> Any:
    """picai_eval's figures: `.AP` (lesions), `.auroc` (cases; NaN where all or none have lesions), `.score`.

    Args:
        predictions: folder of ``<case>.npz``, see `detection_map`.
        labels: folder of ``<case>.nii.gz`` (``labelsTr``); any value above 0 is csPCa.

    Raises:
        InputError: no predictions there, one that cannot be read, or has no label of its size; or no picai_eval.
    """
    try:
        from picai_eval import evaluate
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is needed; install it with: pip install 'zssmnet[nnunet]'") from error
    files = sorted(local_path(predictions).glob("*.npz"))
    if not files:
        raise InputError(f"{predictions}: no <case>.npz; predict with --save_probabilities")
    names = [file.stem for file in files]
    lesions = [_lesions(local_path(labels) / f"{name}.nii.gz") for name in names]
    maps = [detection_map(file) for file in files]
    for file, found, truth in zip(files, maps, lesions, strict=True):
        if found.shape != truth.shape:
            raise InputError(f"{file}: has the shape {found.shape} (z, y, x), but its label in {labels} {truth.shape}")
    return evaluate(maps, lesions, subject_list=names, num_parallel_calls=1)


def _lesions(file: Path) -> npt.NDArray[Any]:
    if not file.is_file():
        raise InputError(f"{file}: missing: this prediction has no csPCa label; name the folder with --labels")
    image = read_image(file)  # of which `array_of` is a view
    try:
        lesions: npt.NDArray[Any] = whole_labels(array_of(image)) > 0
    except ImageError as error:
        raise InputError(f"{file}: {error}") from error
    return lesions
