"""Archives for the corpus to break."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.zssmnet.examinations import Archive, as_image, gland, noise


def built(root: Path, case_ids: Sequence[str], form: str) -> Archive:
    """An archive of one case under many ids."""
    archive, first = Archive(root), "11111_1111111"
    images = [as_image(noise(channel)) for channel in range(3)]
    if form == "nnunet":
        archive.add(first, *images)
    else:
        archive.add_picai(first, images, as_image(gland()))
    for path in [path for path in root.rglob("*") if path.is_file()]:
        folder = path.parent if form == "nnunet" or path.parent == root / "masks" else None
        for case_id in case_ids:
            copy = (folder or path.parent.with_name(case_id.split("_")[0])) / path.name.replace(first, case_id)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        path.unlink()
    return archive
