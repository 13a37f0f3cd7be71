"""Input that means harm: names, links, files and records that others wrote. Nothing outside the root is touched."""

import html
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.model_record import model_record
from tests.reliability.ledger import Ledger
from tests.zssmnet.examinations import Archive, as_image, gland, noise
from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig
from zssmnet.data.archive import take_inventory
from zssmnet.errors import CaseError, CheckpointError, CubesError, ZssmnetError
from zssmnet.handoff.load import load_pretrained
from zssmnet.preparation.cubes import cut_subset, open_cubes, remove_other_sets
from zssmnet.preparation.prepare import PreparedCase, publish_prepared, remove_stale
from zssmnet.registry.versions import (
    MODEL,
    find_version,
    keep_stable,
    list_versions,
    promote,
    publish,
    roll_back,
    stable_model,
)
from zssmnet.report import gallery
from zssmnet.storage import LocalStorage, open_storage
from zssmnet.storage.cache import Cache
from zssmnet.storage.records import Input, read_record, record_key, record_names
from zssmnet.storage.verification import verify_stage
from zssmnet.training.checkpoint import load_checkpoint

PREPARATION = PreparationConfig()
CUBES = CubesConfig(cubes_per_case=1, size=(4, 4, 4))


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Path]:
    """Files outside every root, which are the same afterwards."""
    folder = tmp_path / "victims"
    files = {name: name.encode() * 9 for name in ("victim", "victim.png", "subset0/b_0000.nii.gz", "x_0000.nii.gz")}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    yield folder
    assert contents(folder) == files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- files


class Harm:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """What would be there if planted code had run."""
    yield tmp_path / "trace"
    assert not (tmp_path / "trace").exists()


def test_pickles_in_checkpoints_do_not_run(tmp_path: Path, trace: Path, ledger: Ledger):
    path = tmp_path / "planted.model"
    for content in (Harm(trace), {"state_dict": Harm(trace)}, {"epoch": 1, "state_dict": {"a": [Harm(trace)]}}):
        with ledger.tried("hostile files", "a pickle in a checkpoint"):
            torch.save(content, path)
            for load in (load_checkpoint, lambda path: load_pretrained(path, num_classes=2)):
                with pytest.raises(CheckpointError) as caught:
                    load(path)
                assert str(caught.value).isprintable()
            assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run
    trace.rmdir()


@pytest.mark.parametrize("dtype", [None, object, [("a", "O")]], ids=str)
def test_pickles_in_cubes_do_not_run(tmp_path: Path, trace: Path, ledger: Ledger, dtype: Any):
    path = tmp_path / "bat_1_s_4x4x4_0.npy"
    harm = np.empty((1, 4, 4, 4, 4), object)
    harm[:] = Harm(trace)
    with ledger.tried("hostile files", "a pickle in a file of cubes"):
        np.save(path, harm if dtype is not None else np.array(Harm(trace), object), allow_pickle=True)
        if dtype not in (None, object):
            with path.open("wb") as stream:
                header = {"descr": dtype, "fortran_order": False, "shape": harm.shape}
                np.lib.format.write_array_header_1_0(stream, header)
                stream.write(bytes(8 * harm.size))
        with pytest.raises(CubesError, match="Python objects") as caught:
            open_cubes(path)
        assert str(caught.value).isprintable()


META_IMAGE = """\
ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 0.6 0.55 3.3
DimSize = 24 20 8
ElementType = MET_USHORT
"""


@pytest.mark.parametrize(
    "ending",
    [
        "ElementDataFile = {file}\n",
        "  ElementDataFile   =   {file}\n",
        "ElementDataFile : {file}\nElementDataFile = LOCAL\n",
        "ElementDataFile = LIST\n{file}\n",
        "ElementDataFile = {file} 1 8 1\n",
        "bitpix = 16\nvox_offset = 0\ndatatype = 512\nElementDataFile = {file}\n",
    ],
)
def test_no_voxels_come_from_another_file(tmp_path: Path, ledger: Ledger, ending: str):
    """Though the image has as many bytes of its own as its header tells."""
    images = [as_image(noise(seed), direction=np.eye(3).ravel().tolist()) for seed in range(3)]
    archive = Archive(tmp_path)
    archive.add_picai("1_1", images, as_image(gland(), direction=np.eye(3).ravel().tolist()))
    foreign = tmp_path / "foreign.raw"
    foreign.write_bytes(noise(9).tobytes())
    t2w = tmp_path / "images/1/1_1_t2w.mha"
    t2w.write_bytes((META_IMAGE + ending.format(file=foreign)).encode() + noise(1).tobytes())
    output = LocalStorage(tmp_path / "root")
    with ledger.tried("hostile files", "an image whose voxels lie in another file"):
        with pytest.raises(CaseError, match="no readable image") as caught:
            publish_prepared(archive.case("1_1"), 0, archive.images, archive.masks, output, PREPARATION)
        assert str(caught.value).isprintable()
        assert output.list() == []


def test_an_image_of_another_format_is_refused(tmp_path: Path, ledger: Ledger):
    """HDF5 can hold voxels that lie elsewhere, and any header field."""
    image = as_image(noise())
    image.SetMetaData("bitpix", "16")
    image.SetMetaData("vox_offset", "0")
    image.SetMetaData("datatype", "512")
    image.SetMetaData("ITK_InputFilterName", "MetaImageIO")
    sitk.WriteImage(image, str(tmp_path / "image.hdf5"))
    archive = Archive(tmp_path)
    archive.add()
    (tmp_path / "image.hdf5").replace(archive.image_path(0))
    with (
        ledger.tried("hostile files", "an image of another format under a NIfTI's name"),
        pytest.raises(CaseError, match="neither a NIfTI nor a MetaImage file"),
    ):
        publish_prepared(archive.case(), 0, archive.images, archive.masks, LocalStorage(tmp_path / "o"), PREPARATION)


# --- names and links

NAMES = [
    "..",
    "...",
    ".. ",
    "a.",
    "a ",
    " a",
    "-rf",
    "--output=x",
    "a\\..\\..\\b",
    "C:\\b",
    "a\nb",
    "a\rb",
    "\x1b[2J\x1b[31ma",
    "a\x01b",
    "\udcff\udcfe",
    "\u2028a",
    "a" * 243,
    "a" * 246,
    "~root",
    "$(touch x)",
    "`touch x`",
    "%s%n{0}",
    "{case.id}",
    "[red]a[/]",
    "[link=https://somewhere.example]a[/link]",
    "<img src=x onerror=alert(1)>",
    "a|b",
    "$\\frac{",
    "a_0000",
    "records",
    "CON",
    "a;b&c",
    "*?[a]",
    "\u202etxt.exe",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_in_an_archive_leads_elsewhere(tmp_path: Path, victims: Path, ledger: Ledger, long: bool, name: str):
    archive = Archive(tmp_path / "archive")
    archive.add("plain")
    for made, ending in [(archive.image_path(i, "plain"), f"_{i:04d}.nii.gz") for i in range(3)]:
        _link(made, os.fsencode(made.parent) + b"/" + name.encode(errors="surrogateescape") + ending.encode())
    _link(
        archive.mask_path("plain"),
        os.fsencode(archive.masks.folder) + f"/{name}.nii.gz".encode(errors="surrogateescape"),
    )
    root = tmp_path / "root"
    with ledger.tried("hostile names", "a case of that name in an archive"):
        found = take_inventory(archive.images, archive.masks)
        assert "plain" in {case.id for case in found.cases}
        assert all(str(fault).isprintable() for fault in found.faults)
        output = LocalStorage(root / "SSL/data")
        for case in found.cases:
            publish_prepared(case, 0, archive.images, archive.masks, output, PREPARATION)
        made = {entry.key for entry in output.list("subset0")}
        assert made == {f"subset0/{case.id}{end}" for case in found.cases for end in (".nii.gz", *ENDINGS)}
        record, _ = cut_subset(0, output, LocalStorage(root / "SSL/generated_cubes"), CUBES)
        assert {case.case_id for case in record.cases} == {case.id for case in found.cases}
        if "$" in name or long:
            assert gallery._montage(output, record)[:4] == b"\x89PNG"
        assert {path.name for path in tmp_path.iterdir()} == {"archive", "root", "victims"}
        assert {path.name for path in root.iterdir()} == {"SSL"}
        assert {path.name for path in (root / "SSL").iterdir()} == {"data", "generated_cubes"}


ENDINGS = tuple(f"_{channel:04d}.nii.gz" for channel in range(3))


def _link(source: Path, target: bytes) -> None:
    """A second name of a file, where the file system takes it."""
    try:
        os.link(os.fsencode(source), target)
    except OSError:
        pytest.skip("the file system takes no such name")


def test_links_in_an_archive(tmp_path: Path, victims: Path, ledger: Ledger):
    archive = Archive(tmp_path / "archive")
    archive.add("a")
    images = archive.image_path(0).parent
    targets = {
        "passwd": Path("/etc/passwd"),
        "zero": Path("/dev/zero"),
        "victim": victims / "victim",
        "loop": images / "loop_0000.nii.gz",
        "nowhere": tmp_path / "nowhere",
    }
    for name, target in targets.items():
        for channel in range(3):
            (images / f"{name}_{channel:04d}.nii.gz").symlink_to(target)
        (archive.masks.folder / f"{name}.nii.gz").symlink_to(archive.mask_path("a"))
    os.mkfifo(images / "pipe_0000.nii.gz")
    (images / "up").symlink_to(tmp_path, target_is_directory=True)
    (images / "circle").symlink_to(images, target_is_directory=True)
    output = LocalStorage(tmp_path / "root")
    with ledger.tried("hostile files", "links in an archive, to other files and in circles", tries=len(targets) + 3):
        found = take_inventory(archive.images, archive.masks)
        for case in found.cases:
            try:
                publish_prepared(case, 0, archive.images, archive.masks, output, PREPARATION)
            except CaseError as fault:
                assert str(fault).isprintable()
                assert "root:" not in str(fault)
        assert record_names(output) == ["a"]


# --- records


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.update(values)


def first_output(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["outputs"][0].update(values)


OF_A_CASE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a path above the root": first_output(key="../victims/victim"),
    "a path far above the root": first_output(key="subset0/../../victims/victim"),
    "an absolute path": lambda record: record["outputs"][0].update(key=record["victim"]),
    "another case's files": first_output(key="subset0/b_0000.nii.gz"),
    "another case's record": first_output(key="records/b.json"),
    "a folder": first_output(key="subset0/"),
    "control characters": first_output(key="subset0/a\n\x1b[31m"),
    "another case": changed(case_id="b"),
    "a case above the root": changed(case_id="../../victims/x"),
    "subset 99": changed(subset=99),
    "subset -1": changed(subset=-1),
    "a subset that is no number": changed(subset="../.."),
    "no outputs": changed(outputs=[]),
    "too many outputs": lambda record: record["outputs"].append({"key": "subset0/b.nii.gz", "size": 1, "sha256": ""}),
    "an input above the root": lambda record: record["inputs"][0].update(name="../../victims/victim"),
    "huge numbers": changed(method=10**400, size_before=[10**30] * 3),
    "not a number": changed(spacing_before=[float("nan")] * 3),
    "other parameters": changed(parameters={"spacing_mm": [1e-300, 1, 1]}),
    "a text instead": lambda record: record.update(outputs="../victims/victim"),
}
RAW: dict[str, Callable[[bytes], bytes]] = {
    "deeply nested": lambda whole: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "duplicate keys": lambda whole: whole.replace(b'"case_id":', b'"case_id": "b", "subset": 99, "case_id":'),
    "cut off": lambda whole: whole[:-20],
    "empty": lambda whole: b"",
    "no UTF-8": lambda whole: b"\xff" + whole,
    "a list": lambda whole: b"[" + whole + b"]",
    "a pickle": lambda whole: b"\x80\x04\x95cos\nsystem\n",
    "NaN and infinities": lambda whole: b'{"method": NaN, "inputs": Infinity, "outputs": -Infinity}',
}


@pytest.fixture
def clinic(tmp_path: Path) -> tuple[Archive, LocalStorage]:
    """Two prepared cases, a and b."""
    archive, output = Archive(tmp_path / "archive"), LocalStorage(tmp_path / "root")
    for seed, case_id in enumerate("ab"):
        archive.add(case_id, seed=seed)
        publish_prepared(archive.case(case_id), 0, archive.images, archive.masks, output, PREPARATION)
    return archive, output


def planted(storage: LocalStorage, name: str, change: Callable[[dict[str, Any]], None], victims: Path) -> bytes:
    record = json.loads(storage.read(record_key(name))) | {"victim": str(victims / "victim")}
    change(record)
    return json.dumps(record).encode()


@pytest.mark.parametrize("fault", [*OF_A_CASE, *RAW])
def test_a_changed_record_of_a_case(clinic: tuple[Archive, LocalStorage], victims: Path, ledger: Ledger, fault: str):
    archive, output = clinic
    before = contents(output.folder)
    whole = output.read(record_key("a"))
    record = RAW[fault](whole) if fault in RAW else planted(output, "a", OF_A_CASE[fault], victims)
    files_of_b = {key: content for key, content in before.items() if "/b" in key}
    with ledger.tried("hostile records", f"a case's record: {fault}", tries=2):
        output.publish_bytes(record_key("a"), record)
        publish_prepared(archive.case("a"), 0, archive.images, archive.masks, output, PREPARATION)
        assert {k: v for k, v in contents(output.folder).items() if "records" not in k} == {
            k: v for k, v in before.items() if "records" not in k
        }
        assert read_record(output, "a", PreparedCase)
        output.publish_bytes(record_key("a"), record)
        verify_stage(output)
        assert remove_stale(output, {"b"}) == ["a"]
        assert contents(output.folder) == files_of_b


@pytest.mark.long
def test_a_record_of_many_megabytes(clinic: tuple[Archive, LocalStorage], victims: Path, ledger: Ledger):
    archive, output = clinic
    for size in (100, 300):
        with ledger.tried("hostile records", "a case's record: 100 to 300 MB"):
            whole = output.read(record_key("a"))
            output.publish_bytes(
                record_key("a"), whole.replace(b'"warnings": []', b'"warnings": ["' + b"x" * size * 10**6 + b'"]')
            )
            publish_prepared(archive.case("a"), 0, archive.images, archive.masks, output, PREPARATION)


@pytest.mark.parametrize(
    "change",
    [
        first_output(key="../victims/victim"),
        first_output(key="bat_1_s_4x4x4_1.npy"),
        changed(subset=99),
        changed(outputs=[]),
        changed(cases=[]),
        lambda record: record["inputs"][0].update(name="../../victims/victim"),
        lambda record: record["parameters"].update(size=[10**9] * 3),
        lambda record: record["cases"][0].__setitem__(0, "../../victims/x"),
    ],
)
def test_a_changed_record_of_cubes(
    clinic: tuple[Archive, LocalStorage], tmp_path: Path, victims: Path, ledger: Ledger, change: Any
):
    _, data = clinic
    cubes = LocalStorage(tmp_path / "cubes")
    record, _ = cut_subset(0, data, cubes, CUBES)
    name = record.outputs[0].key
    before = cubes.read(name)
    with ledger.tried("hostile records", "a record of cubes"):
        cubes.publish_bytes(record_key(name), planted(cubes, name, change, victims))
        cut_subset(0, data, cubes, CUBES)
        assert cubes.read(name) == before
        cubes.publish_bytes(record_key(name), planted(cubes, name, change, victims))
        remove_other_sets(cubes, CubesConfig(cubes_per_case=2, size=(4, 4, 4)))
        assert record_names(cubes) == []


def test_records_of_what_are_no_cubes_remove_nothing(tmp_path: Path, victims: Path, ledger: Ledger):
    cubes = LocalStorage(tmp_path / "cubes")
    names = ["notes.txt", "sub/bat_1_s_4x4x4_0.npy", "bat_1_s_4x4x4_0.npy.bak"]
    with ledger.tried("hostile records", "a record that is named after a foreign file", tries=len(names)):
        for name in names:
            cubes.publish_bytes(name, b"mine")
            cubes.publish_bytes(record_key(name), b"{}")
        assert remove_other_sets(cubes, CUBES) == []
        assert all(cubes.read(name) == b"mine" for name in names)


OF_A_MODEL: dict[str, Callable[[dict[str, Any]], None]] = {
    "a run above the root": changed(run_id="../../victims"),
    "a run with slashes": changed(run_id="first/second"),
    "an absolute run": changed(run_id="/etc"),
    "a run of control characters": changed(run_id="\x1b[31m"),
    "replaces what is above the root": changed(replaces="../../../victims"),
    "a file above the root": first_output(key="../victims/victim"),
    "another file": first_output(key="records/x.json"),
    "no file": changed(outputs=[]),
    "no history": changed(history=[]),
    "no inputs": changed(inputs=[]),
    "a best epoch that never was": changed(best_epoch=10**9),
    "a huge number": changed(number=10**30),
    "not a number": changed(best_validation_loss=float("nan")),
    "huge channels": lambda record: record["parameters"]["network"].update(channels=[10**9] * 5),
    "markup": changed(versions={"<img src=x>": "](javascript:x)|\n"}),
}


@pytest.mark.parametrize("fault", [*OF_A_MODEL, *sorted(set(RAW) - {"duplicate keys"})])
@pytest.mark.parametrize("place", ["", "versions/second"])
def test_a_changed_record_of_a_model(tmp_path: Path, victims: Path, ledger: Ledger, fault: str, place: str):
    from zssmnet.report.model_page import lineage, record_table
    from zssmnet.stages.pretrain import Training, recorded_summary

    weights = LocalStorage(tmp_path / "weights")
    for run_id in ("first", "second"):
        (tmp_path / run_id).write_bytes(run_id.encode())
        publish(weights, model_record(run_id), tmp_path / run_id)
    stage = weights.child(place) if place else weights
    with ledger.tried("hostile records", f"a model's record: {fault}"):
        whole = stage.read(record_key(MODEL))
        change = RAW[fault](whole) if fault in RAW else planted(stage, MODEL, OF_A_MODEL[fault], victims)
        stage.publish_bytes(record_key(MODEL), change)
        verify_stage(weights)
        stable = stable_model(weights)
        assert stable is None or stable.run_id in ("first", "second")
        assert {one.run_id for one in list_versions(weights)} <= {"first", "second"}
        recorded_summary(Training(cubes_path="", output_path=weights.uri, config=PretrainConfig(), reports_path=""))
        if stable:
            assert "<img" not in record_table(weights, stable) + lineage(stable)
        for action in (keep_stable, roll_back, lambda weights: promote(weights, "first")):
            try:
                action(weights)
            except ZssmnetError as error:
                assert str(error).isprintable()
        assert weights.read(MODEL) in (b"first", b"second")
        assert find_version(weights, "first")


@pytest.mark.parametrize("run_id", ["../../victims", "/etc", "a/../../../b", "..", "", "a\nb", "x" * 300])
def test_no_version_leads_elsewhere(tmp_path: Path, victims: Path, ledger: Ledger, run_id: str):
    weights = LocalStorage(tmp_path / "weights")
    with ledger.tried("hostile names", "a version to roll back to"):
        with pytest.raises(ZssmnetError) as caught:
            roll_back(weights, run_id)
        assert str(caught.value).isprintable() or "\n" in run_id
        assert weights.list() == []


@pytest.mark.parametrize(
    "key", ["../victims/victim.png", "records/cases/subset0.json", "a<img>.png", "CASES/x.png", "x.png\n"]
)
def test_a_changed_record_of_pictures(tmp_path: Path, victims: Path, ledger: Ledger, key: str):
    reports = LocalStorage(tmp_path / "reports")
    shown = (Input(name="x", size=0, version="", sha256=""),)
    picture = gallery.Picture("cases/subset0.png", b"png")
    with ledger.tried("hostile records", "a record of pictures"):
        for change in (
            first_output(key=key),
            lambda record: record.update(inputs=[], outputs=[{"key": key, "size": 1, "sha256": ""}]),
        ):
            assert gallery._publish(reports, "cases/subset0", shown, [picture]) == ["cases/subset0.png"]
            reports.publish_bytes("records/other.json", b"{}")
            record = planted(reports, "cases/subset0", change, victims)
            reports.publish_bytes(record_key("cases/subset0"), record)
            assert gallery._publish(reports, "cases/subset0", shown, [picture]) == ["cases/subset0.png"]
            assert reports.read("records/other.json") == b"{}"


# --- S3

S3_KEYS = [
    "../victim",
    "a/../../victim",
    "/absolute",
    "a//b",
    "a/",
    "./a",
    "a/.",
    "a/./b",
    "%2e%2e/victim",
    "..%2fvictim",
    "a\\..\\b",
    "a?b#c",
    "a b+c&d=e",
]


@pytest.mark.parametrize("key", S3_KEYS)
def test_no_key_in_a_bucket_leads_elsewhere(s3_root: str, tmp_path: Path, victims: Path, ledger: Ledger, key: str):
    import s3fs

    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    name, _, prefix = s3_root.removeprefix("s3://").partition("/")
    for folder, ending in (
        ("imagesTr", "_0000.nii.gz"),
        ("imagesTr", ".nii.gz"),
        ("records", ".json"),
        ("subset0", "_0000.nii.gz"),
    ):
        bucket.call_s3("put_object", Bucket=name, Key=f"{prefix}/{folder}/{key}{ending}", Body=b"planted")
        bucket.call_s3("put_object", Bucket=name, Key=f"{prefix}/{folder}/{key}{ending}/", Body=b"planted")
    storage = open_storage(s3_root)
    with ledger.tried("hostile names", "a key in a bucket"):
        for work in (
            lambda: take_inventory(storage, storage).faults,
            lambda: remove_stale(storage, set()),
            lambda: remove_other_sets(storage, CUBES),
            lambda: verify_stage(storage),
            lambda: cut_subset(0, storage, storage.child("cubes"), CUBES),
            lambda: [storage.read(entry.key) for entry in storage.list()],
            lambda: [storage.remove(entry.key) for entry in storage.list()],
        ):
            try:
                work()
            except ZssmnetError as error:
                assert str(error).isprintable()
        cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert all(path.relative_to(tmp_path / "cache").parts[0] == "files" for path in cached)
        assert {path.name for path in tmp_path.iterdir()} <= {"cache", "victims"}


@pytest.mark.parametrize("address", ["s3://b/..", "s3://b/../../x", "s3://b/", "s3://b/.", "s3://b/a/../..", ""])
def test_no_address_leads_out_of_the_cache(tmp_path: Path, victims: Path, ledger: Ledger, address: str):
    cache = Cache(tmp_path / "cache", 10**9)
    with ledger.tried("hostile names", "an address in the cache"):
        with suppress(OSError):
            cache.get(address, "1", lambda path: path.write_bytes(b"x") and None)
        assert {path.name for path in tmp_path.iterdir()} <= {"cache", "victims"}
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_file()]


# --- terminals


def test_a_terminal_s_bars_show_text_as_it_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    import io

    from flows.console import Bars

    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    notes = ["[red]a[/red]", "[link=https://somewhere.example]a[/link]", "[/]", "[bold"]
    with ledger.tried("hostile names", "markup in a progress bar", tries=len(notes)), Bars() as bars:
        bars.begin("prepare", 1, "cases")
        for note in notes:
            bars.note("prepare", note)
            bars._rich.refresh()
            rendered = bars._rich.console.render_str(note, markup=False)
            assert rendered.plain == note
            column = bars._rich.columns[-1].render(bars._rich.tasks[0])
            assert getattr(column, "plain", None) == note


def test_a_file_s_name_cannot_act_on_the_terminal(tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]):
    from flows import cli

    stage = LocalStorage(tmp_path / "SSL/data")
    stage.publish_bytes("records/a.json", b"{}")
    (stage.folder / "\x1b[2J\nfine").write_bytes(b"")
    with ledger.tried("hostile names", "control characters before a terminal"):
        with pytest.raises(SystemExit):
            cli.main(["verify", "--output", str(tmp_path)])
        shown = capsys.readouterr()
        assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())
        assert "\nfine" not in shown.out
        assert "\\x1b[2J\\nfine" in shown.out


# --- Prefect's pages

MARKUP = [
    "<img src=x onerror=alert(1)>",
    "[here](javascript:alert(1))",
    "![x](https:somewhere.example)",
    "a|b",
    "`code`",
    "**bold**",
    "[red]a",
]


@pytest.mark.integration
def test_names_are_text_on_prefect_s_pages(tmp_path: Path, ledger: Ledger, prefect_api: str):
    from flows.of_stages import prepare_data
    from tests.runs import artifacts_of, runs_over

    archive = Archive(tmp_path / "archive")
    archive.add("plain")
    for name in MARKUP:
        for channel in range(2):  # one is missing: the reason shows on the page as well
            _link(archive.image_path(channel, "plain"), os.fsencode(archive.image_path(channel, name)))
    with ledger.tried("hostile names", "markup in an id on Prefect's pages", tries=len(MARKUP)):
        done = prepare_data(archive.images.uri, archive.masks.uri, str(tmp_path / "root"))
        assert sorted(done.left_out) == sorted(MARKUP)
        page = str(artifacts_of(runs_over(tmp_path / "root")["prepare-data"])["summary"].data)
        rows = [line[2:-2].split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
        shown = {html.unescape(case.removeprefix("`").removesuffix("`")): reason for case, reason in rows}
        assert sorted(shown) == sorted(MARKUP)
        assert all(reason.startswith("missing") for reason in shown.values())
        plain = r"[^<>\[\]`|*]*"
        assert all(re.fullmatch(f"`[^`|]*`|{plain}", case) and re.fullmatch(plain, reason) for case, reason in rows)
