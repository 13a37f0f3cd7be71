"""Random damage, the same in every session: refused with one line, or the very result of the whole file.

Where a flip changes plain values that no checksum guards (voxels and places of an uncompressed MetaImage, values of a
file of cubes, weights of a checkpoint), no program could see it: there, only that nothing else happens is asked for.
"""

import gzip
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.corpus import meta_image, nifti
from tests.reliability.corpus.archive import built
from tests.reliability.corpus.files import cubes
from tests.reliability.corpus.member import CHECKPOINTS, CUBES, IMAGES, SPLITS
from tests.reliability.ledger import Ledger
from tests.zssmnet.examinations import PICAI, Archive, as_array, as_image, gland, noise
from tests.zssmnet.training.examples import CPU, cubes_of, small_config
from tests.zssmnet.training.test_checkpoint import state_after
from zssmnet.data.image_io import read_image
from zssmnet.data.splits import read_folds
from zssmnet.errors import ZssmnetError
from zssmnet.handoff.load import load_pretrained
from zssmnet.preparation.cubes import open_cubes
from zssmnet.storage import LocalStorage
from zssmnet.training.checkpoint import BEST, LAST, publish_best, publish_last, resume
from zssmnet.training.trainer import initial_state

QUICK, MANY = 12, 600
MOST_MEMORY_MIB = 400
FOLDS = b'[{"val": ["a", "b"]}, {"val": ["c"]}, {"val": []}, {"val": ["d"]}, {"train": ["a"], "val": ["e"]}]'


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Cut, or with some bits flipped, bytes replaced or removed."""
    if chance.random() < 0.25:
        return whole[: chance.randrange(len(whole))]
    changed = bytearray(whole)
    span = len(whole) if chance.random() < 0.5 else min(len(whole), 512)  # headers are small
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(min(span, len(changed)))
        match chance.randrange(4):
            case 0:
                del changed[place]
            case 1:
                changed[place] = chance.randrange(256)
            case _:
                changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def tries(whole: bytes, count: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    made = (damaged(whole, chance) for _ in range(2 * count))
    return [one for one in made if one != whole][:count]


def outcome(act: Callable[[], object]) -> object:
    """What comes out; a refusal of one line is an outcome as well."""
    try:
        return act()
    except ZssmnetError as error:
        assert "\n" not in str(error)
        return error


def picture(path: Path) -> tuple[bytes, tuple[float, ...]]:
    image = read_image(path)
    return as_array(image).tobytes(), (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive = Archive(tmp_path_factory.mktemp("archive"))
    archive.add()
    archive.add_picai("1_1", [as_image(noise(channel)) for channel in range(3)], as_image(gland()))
    return archive


@pytest.mark.parametrize("which", ["T2W", "mask"])
def test_nifti(archive: Archive, tmp_path: Path, long: bool, ledger: Ledger, which: str) -> None:
    """All of it is guarded by a checksum; the few bytes of gzip's own header tell nothing of the image."""
    source = archive.image_path(0) if which == "T2W" else archive.mask_path()
    good, path = picture(source), tmp_path / "image.nii.gz"
    for content in tries(source.read_bytes(), MANY if long else QUICK, seed=1):
        path.write_bytes(content)
        with ledger.tried(IMAGES, "random damage, NIfTI"):
            found = outcome(lambda: picture(path))
            assert isinstance(found, ZssmnetError) or found == good


def test_nifti_headers(archive: Archive, tmp_path: Path, long: bool, ledger: Ledger) -> None:
    """A damaged header under a right checksum."""
    whole = gzip.decompress(archive.image_path(0).read_bytes())
    path = tmp_path / "image.nii.gz"
    for content in tries(whole[:352], MANY if long else QUICK, seed=2):
        path.write_bytes(gzip.compress(content + whole[352:], 1))
        with ledger.tried(IMAGES, "random damage, headers"):
            outcome(lambda: picture(path))


def test_meta_image(archive: Archive, tmp_path: Path, long: bool, ledger: Ledger) -> None:
    """Its header has no checksum, its compressed voxels have one."""
    source = archive.root / "images/1" / f"1_1{PICAI[0]}"
    whole, good, path = source.read_bytes(), picture(source), tmp_path / "image.mha"
    head, voxels = whole[: whole.index(meta_image.END)] + meta_image.END, whole.partition(meta_image.END)[2]
    count = MANY if long else QUICK
    for content in tries(voxels, count // 2, seed=3):
        path.write_bytes(head + content)
        with ledger.tried(IMAGES, "random damage, MetaImage"):
            found = outcome(lambda: picture(path))
            assert isinstance(found, ZssmnetError) or found == good
    for content in tries(head, count // 2, seed=4):
        path.write_bytes(content + voxels)
        with ledger.tried(IMAGES, "random damage, headers"):
            outcome(lambda: picture(path))


def test_splits(long: bool, ledger: Ledger) -> None:
    """Letters of an id may change; what comes out are five lists of different texts."""
    for content in tries(FOLDS, MANY if long else QUICK, seed=5):
        with ledger.tried(SPLITS, "random damage"):
            found = outcome(partial(read_folds, content, "splits.json"))
            if not isinstance(found, ZssmnetError):
                assert isinstance(found, list) and len(found) == 5
                cases = [case for fold in found for case in fold]
                assert len(set(cases)) == len(cases) and all(isinstance(case, str) for case in cases)


def test_cubes(tmp_path: Path, long: bool, ledger: Ledger) -> None:
    """A damaged header or length; the values have no checksum here, but the record of the file has."""
    good, path = cubes_of(2), tmp_path / "cubes.npy"
    np.save(path, good)
    whole = path.read_bytes()
    for content in tries(whole[:128], MANY if long else QUICK, seed=6):
        path.write_bytes(content + whole[128:])
        with ledger.tried(CUBES, "random damage"):
            found = outcome(lambda: np.array(open_cubes(path)))
            if isinstance(found, np.ndarray):
                assert found.shape[1] == 4 and found.ndim == 5 and found.nbytes <= good.nbytes


def test_checkpoints(tmp_path: Path, long: bool, ledger: Ledger) -> None:
    """Refused, or a run and a network that are whole and finite."""
    state = state_after([1, 2])
    publish_best(LocalStorage(tmp_path), state)
    publish_last(LocalStorage(tmp_path), state)
    for name in (LAST, BEST):
        whole = (tmp_path / name).read_bytes()
        for content in tries(whole, (MANY if long else QUICK) // 2, seed=7):
            (tmp_path / name).write_bytes(content)
            with ledger.tried(CHECKPOINTS, "random damage"):
                if name == LAST:
                    resumed = initial_state(small_config(), CPU)
                    if outcome(partial(resume, LocalStorage(tmp_path), resumed)) is None:
                        assert resumed.progress == state.progress
                else:
                    found = outcome(partial(load_pretrained, tmp_path / name, num_classes=2))
                    if not isinstance(found, ZssmnetError):
                        assert all(one.isfinite().all() for one in found.parameters())  # type: ignore[attr-defined]
        (tmp_path / name).write_bytes(whole)


MEMORY = """\
import resource, sys
from pathlib import Path
from zssmnet.preparation.cubes import open_cubes
from zssmnet.errors import ZssmnetError
from zssmnet.data.image_io import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        (open_cubes if name.endswith(".npy") else read_image)(Path(name))
    except ZssmnetError:
        continue
    sys.exit(f"{name} was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_headers_that_ask_for_far_too_much_take_no_memory(tmp_path: Path, ledger: Ledger) -> None:
    """Sizes, offsets and types that lie, and bombs, in a process of its own that may take no more."""
    too_much = ("headers that ask for far too much", "compressed gigabytes", "NIfTI, voxels at a wrong offset")
    files: list[Path] = []
    of_form = {"nnunet": list(nifti.broken_cases()), "picai": list(dict(meta_image.broken_cases()).values())}
    for form, members in of_form.items():
        members = [one for one in members if one.fault in too_much and one.id != "90 mm"]
        own = built(tmp_path / form, [one.id for one in members], form)
        before = {path: path.read_bytes() for path in own.root.rglob("*") if path.is_file()}
        for case in members:
            case.make(own, case.id)
        changed = [path for path, content in before.items() if path.read_bytes() != content]
        assert len(changed) == len(members) > 4
        files += changed
    for number, member in enumerate(cubes()):
        if "huge" in member.name or "overflows" in member.name:
            path = tmp_path / f"{number}.npy"
            np.save(path, cubes_of(1))
            member.make(path)
            files.append(path)
    with ledger.tried(IMAGES, f"memory of lies and bombs, {MOST_MEMORY_MIB} MiB at most", len(files)):
        limit = 8 * 2**30  # address space, of which torch and SimpleITK reserve much
        found = subprocess.run(
            [sys.executable, "-c", MEMORY, *map(str, files)],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert found.returncode == 0, found.stderr
        assert int(found.stdout) <= MOST_MEMORY_MIB
        assert "Traceback" not in found.stderr
    ledger.measured("files that lie about their size", "memory taken to refuse them all", f"{int(found.stdout)} MiB")
