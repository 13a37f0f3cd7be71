"""Content decides what is up to date: a file that was replaced by another of the same size is noticed everywhere."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_record import model_record
from tests.s3_server import new_root
from tests.zssmnet.examinations import Archive
from tests.zssmnet.interruption import traces
from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig
from zssmnet.errors import CheckpointError, CubesError, InputError
from zssmnet.preparation.cubes import cubes_key, cut_subset
from zssmnet.preparation.prepare import prepared_keys, publish_prepared, up_to_date_record
from zssmnet.registry.lineage import training_inputs
from zssmnet.registry.runs import identify
from zssmnet.registry.versions import MODEL, checked_model, find_version, promote, publish, stable_model, version_key
from zssmnet.report.gallery import publish_case_pictures
from zssmnet.storage import LocalStorage, Storage, open_storage, records
from zssmnet.storage.verification import verify_stage

PREPARATION = PreparationConfig(margin_mm=3.5)
CUBES = CubesConfig(size=(16, 16, 4), cubes_per_case=1)
FILE = cubes_key(CUBES, 0)


class Pipeline:
    """One case, copied into all subsets, with its cubes, a picture and a model that was never trained."""

    def __init__(self, archive: Archive, root: str) -> None:
        self.archive = archive
        self.data, self.cubes, self.reports, self.weights = (
            open_storage(f"{root}/{name}") for name in ("data", "cubes", "reports", "weights")
        )

    def prepare(self) -> bool:
        case, archive = self.archive.case("a"), self.archive
        return publish_prepared(case, 0, archive.images, archive.masks, self.data, PREPARATION)[1]

    def is_prepared(self) -> bool:
        case, archive = self.archive.case("a"), self.archive
        return bool(up_to_date_record(case, 0, archive.images, archive.masks, self.data, PREPARATION))

    def cut(self) -> list[int]:
        """Subsets whose cubes were cut."""
        return [subset for subset in range(6) if cut_subset(subset, self.data, self.cubes, CUBES)[1]]

    def draw(self) -> None:
        publish_case_pictures(self.data, self.cubes, self.reports, [0], CUBES)

    def train(self, file: Path) -> None:
        file.write_bytes(b"the weights")
        publish(self.weights, model_record("first", training_inputs(self.cubes).data), file)

    def run(self, file: Path) -> None:
        self.prepare()
        for subset in range(1, 6):
            for source, key in zip(prepared_keys("a", 0), prepared_keys(f"b{subset}", subset), strict=True):
                self.data.publish_bytes(key, self.data.read(source))
        self.cut()
        self.draw()
        self.train(file)


def made(folder: Path, root: str) -> Pipeline:
    archive = Archive(folder / "archive")
    archive.add("a")
    pipeline = Pipeline(archive, root)
    pipeline.run(folder / "best.model")
    return pipeline


@pytest.fixture(scope="module")
def on_s3(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One for all tests, each of which leaves it as it was."""
    folder = tmp_path_factory.mktemp("S3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSSMNET_CACHE", str(folder / "cache"))
        yield made(folder, new_root())


@pytest.fixture(params=["folder", "S3"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Pipeline:
    return request.getfixturevalue("on_s3") if request.param == "S3" else made(tmp_path, str(tmp_path / "root"))


def replace(storage: Storage, key: str) -> bytes:
    """Put other bytes of the same number in the place of a file; on a disk in place, and with the old time."""
    content = bytes(byte ^ 0xFF for byte in storage.read(key))
    if isinstance(storage, LocalStorage):
        path = storage.local(key)
        times = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    else:
        storage.publish_bytes(key, content)
    return content


def test_a_file_of_cubes(pipeline: Pipeline) -> None:
    before, whole = training_inputs(pipeline.cubes), pipeline.cubes.read(FILE)
    content = replace(pipeline.cubes, FILE)
    after = training_inputs(pipeline.cubes)
    assert after.files[0].sha256 == hashlib.sha256(content).hexdigest()
    assert after.files[1:] == before.files[1:]
    assert {one.subset for one in before.data} == {0, 1, 2, 3, 4, 5}
    assert {one.subset for one in after.data} == {1, 2, 3, 4, 5}  # of the other cubes nothing is known
    assert identify(after.files, PretrainConfig()) != identify(before.files, PretrainConfig())
    assert training_inputs(pipeline.cubes, before.files) == after
    assert pipeline.cut() == [0]
    assert pipeline.cubes.read(FILE) == whole
    assert [one.sha256 for one in training_inputs(pipeline.cubes).files] == [one.sha256 for one in before.files]


@pytest.mark.parametrize("channel", range(4))
def test_a_prepared_case(pipeline: Pipeline, channel: int) -> None:
    key = prepared_keys("a", 0)[channel]
    whole = pipeline.data.read(key)
    assert pipeline.is_prepared()
    replace(pipeline.data, key)
    assert not pipeline.is_prepared()
    assert pipeline.prepare()
    assert pipeline.data.read(key) == whole
    assert not pipeline.prepare()


def test_a_prepared_case_whose_cubes_are_there(pipeline: Pipeline) -> None:
    key = prepared_keys("b3", 3)[0]
    whole = pipeline.data.read(key)
    pipeline.data.publish_bytes(key, pipeline.data.read(prepared_keys("b3", 3)[2]))
    assert pipeline.cut() == [3]
    pipeline.data.publish_bytes(key, whole)
    assert pipeline.cut() == [3]
    assert pipeline.cut() == []


def test_a_picture(pipeline: Pipeline) -> None:
    (key,) = [entry.key for entry in pipeline.reports.list() if entry.key.endswith(".png")]
    whole = pipeline.reports.read(key)
    replace(pipeline.reports, key)
    pipeline.draw()
    assert pipeline.reports.read(key) == whole


def test_the_published_model(pipeline: Pipeline) -> None:
    replace(pipeline.weights, MODEL)
    assert stable_model(pipeline.weights) is None
    assert promote(pipeline.weights, "first")
    assert pipeline.weights.read(MODEL) == b"the weights"
    assert not promote(pipeline.weights, "first")


def test_the_copy_of_the_model_among_the_versions(pipeline: Pipeline, tmp_path: Path) -> None:
    replace(pipeline.weights, version_key("first"))
    with pytest.raises(CheckpointError, match="damaged"):
        checked_model(pipeline.weights, find_version(pipeline.weights, "first"))
    pipeline.train(tmp_path / "again")
    assert pipeline.weights.read(version_key("first")) == b"the weights"


class TestTheSameContent:
    """In other files, or in those of an earlier program, it is hashed once, and no work is done again."""

    def check(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        hashed: list[Path] = []

        def sha256_of(path: Path) -> str:
            hashed.append(path)
            return hashlib.sha256(path.read_bytes()).hexdigest()

        monkeypatch.setattr(records, "sha256_of", sha256_of)
        for run in (1, 2):
            assert not pipeline.prepare()
            assert pipeline.cut() == []
            assert len(training_inputs(pipeline.cubes).data) == 6
            pipeline.draw()
            assert not promote(pipeline.weights, "first")
            assert stable_model(pipeline.weights).run_id == "first"
            if run == 1:
                count, before = len(hashed), traces(root)
        assert len(hashed) == count >= 4 + 6 + 1 + 1
        assert traces(root) == before
        assert max(Counter(hashed).values()) <= 2  # a prepared file comes out of one stage and goes into the next
        for stage in (pipeline.data, pipeline.cubes, pipeline.reports, pipeline.weights):
            assert {finding.kind for finding in verify_stage(stage)} <= {"foreign"}

    @pytest.mark.parametrize("pipeline", ["folder"], indirect=True)
    def test_of_a_root_that_was_copied(
        self, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = shutil.copytree(tmp_path / "root", tmp_path / "copy", copy_function=shutil.copyfile)
        self.check(Pipeline(pipeline.archive, str(copy)), monkeypatch, copy)

    @pytest.mark.parametrize("pipeline", ["folder"], indirect=True)
    def test_of_an_earlier_program(self, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "root"
        for path in root.rglob("records/**/*.json"):
            record = json.loads(path.read_text())
            for output in record["outputs"]:
                del output["version"]
            path.write_text(json.dumps(record))
        self.check(pipeline, monkeypatch, root)


def test_cubes_and_cases_of_several_ways_are_refused(tmp_path: Path) -> None:
    pipeline = made(tmp_path, str(tmp_path / "root"))
    percentile = CUBES.model_copy(update={"intensity_scaling": "percentile"})
    assert cut_subset(5, pipeline.data, pipeline.cubes, percentile)[1]
    named = rf"several ways \({cubes_key(CUBES, 4)}: maximum and {cubes_key(CUBES, 5)}: percentile\)"
    with pytest.raises(CubesError, match=named):
        training_inputs(pipeline.cubes)
    pipeline.archive.add("c")
    case, coarse = pipeline.archive.case("c"), PREPARATION.model_copy(update={"spacing_mm": (4.0, 4.0, 5.0)})
    publish_prepared(case, 0, pipeline.archive.images, pipeline.archive.masks, pipeline.data, coarse)
    with pytest.raises(InputError, match=r"several spacings in mm: a at .* and c at \(4\.0, 4\.0, 5\.0\)"):
        cut_subset(0, pipeline.data, pipeline.cubes, CUBES)
