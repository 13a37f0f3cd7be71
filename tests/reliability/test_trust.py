"""Values, storages, file systems and other people's files: each is right, or refused in one line."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.settings import Settings, read_toml, validated
from tests.reliability.command import zssmnet
from tests.s3_server import new_root
from zssmnet.config import CubesConfig, PackageConfig, PretrainConfig
from zssmnet.data.archive import IMAGE_SUFFIXES
from zssmnet.data.dicom_choice import Choice, read_overrides
from zssmnet.data.dicom_import import TABLE, _publish_table
from zssmnet.errors import ConfigError, InputError, StorageError
from zssmnet.handoff.export import export_nnunet_v1, export_nnunet_v2
from zssmnet.handoff.package import write_package
from zssmnet.mnet import MNet
from zssmnet.preparation.cubes import cubes_key, cut_subset
from zssmnet.preparation.prepare import prepared_keys
from zssmnet.registry import runs
from zssmnet.registry.lineage import TrainingInputs
from zssmnet.registry.runs import MODEL, train_and_publish
from zssmnet.report.masks_page import PAGE, publish_masks_page
from zssmnet.storage import LocalStorage, interface, open_storage
from zssmnet.storage.cache import Cache
from zssmnet.storage.environment import Environment, variable
from zssmnet.storage.lock import LOCK_FILE, Lock, LockOwner, LockTiming
from zssmnet.storage.ownership import check_ours
from zssmnet.storage.records import NOT_YET, Output, Record, publish_record, publish_recorded
from zssmnet.storage.s3_client import S3Client
from zssmnet.storage.upload import send


class TestVariables:
    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            *(("ZSSMNET_CACHE_GB", value, "valid number") for value in ("50GB", "50,5", "fifty", "0x10", "1 000")),
            *(("ZSSMNET_CACHE_GB", value, "finite number") for value in ("inf", "-inf", "nan")),
            ("ZSSMNET_CACHE_GB", "-1", "greater than or equal to 0"),
            ("ZSSMNET_CACHE_GB", "1e300", "less than or equal to 1000000"),
            ("ZSSMNET_CACHE", "s3://bucket/cache", "only a local path"),
            ("ZSSMNET_CACHE", "file:/x", "only local folders"),
            ("ZSSMNET_CACHE", "~nobody-of-this-name/x", "the home ~nobody-of-this-name is not known"),
            ("ZSSMNET_IMAGES", "s3:/bucket", "only local folders"),
            ("ZSSMNET_ROOT", "https://host/x", "only local folders"),
            ("ZSSMNET_BUCKET", "s3://bucket", "should match pattern"),
            ("ZSSMNET_GPU_WORKERS", "two", "valid integer"),
            ("ZSSMNET_GPU_WORKERS", "0", "greater than or equal to 1"),
            ("ZSSMNET_GPU_WORKERS", "1.5", "valid integer"),
        ],
    )
    def test_a_wrong_value_is_one_line(self, name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"^{name}={value}: .*{reason}.*; set it to its default.*or unset it$"):
            variable(name)

    S3 = tuple(name for name in Environment.model_fields if name.startswith("AWS_"))

    @pytest.mark.parametrize("value", ['"secret"', "'secret'", "se cret", "se\ncret", "secret'"])
    @pytest.mark.parametrize("name", [name for name in S3 if name != "AWS_PROFILE"])
    def test_quotes_and_spaces_in_what_s3_needs(
        self, name: str, value: str, s3_root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in files with variables that no shell reads."""
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"^{name}=.*has a space, line break or quotation mark") as refused:
            open_storage(s3_root)
        shown = str(refused.value)
        assert ("cret" in shown) == (name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"))

    @pytest.mark.parametrize("end", ["\r", "\n", " "])
    def test_spaces_around_what_s3_needs(self, end: str, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As files with variables have them that were edited on Windows."""
        for name in self.S3:
            monkeypatch.setenv(name, os.environ.get(name, "") + end)
        assert open_storage(s3_root).list() == []
        assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(os.environ)

    @pytest.mark.parametrize("value", ["", " ", None])
    def test_an_empty_one_has_its_default(self, value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name, field in Environment.model_fields.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
            assert variable(name) == (tmp_path / ".cache/zssmnet" if name == "ZSSMNET_CACHE" else field.default)

    def test_the_home_is_understood(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("ZSSMNET_CACHE", "~/cache")
        monkeypatch.setenv("ZSSMNET_CACHE_GB", " 1.5 ")
        cache = Cache.from_environment()
        assert (cache.folder, cache.limit_bytes) == (tmp_path / "cache", 1_500_000_000)

    def test_only_commands_that_read_it_end(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("ZSSMNET_CACHE_GB", "50GB")
        monkeypatch.setenv("RANK", "many")
        monkeypatch.setenv("WORLD_SIZE", "")
        assert "no record below SSL" in zssmnet("verify", "--output", tmp_path).line
        assert "ZSSMNET_CACHE_GB=50GB" in zssmnet("verify", "--output", "s3://bucket/root").line


class TestTypes:
    @pytest.mark.parametrize(
        "text",
        [
            *(f"[preparation]\nmargin_mm = {value}" for value in ("false", "true", "'25'", "1e308", "inf", "[1]")),
            "[preparation]\nspacing_mm = [true, 0.5, 3.0]",
            "[preparation]\nspacing_mm = [1e200, 1.0, 1.0]",
            "[preparation]\nspacing_mm = [1e-200, 1.0, 1.0]",
            "[preparation]\nconvert_adc = 1",
            "[preparation]\nconvert_adc = 'yes'",
            "[preparation]\nuncovered_gland = [false, true]",
            *(f"[cubes]\ncubes_per_case = {value}" for value in ("true", "'12'", "12.0", "1000000")),
            "[cubes]\nsize = [64, '64', true]",
            "[cubes]\nsize = [10000, 10000, 10000]",
            "[cubes]\nseed = true",
            "[cubes]\ndtype = true",
            "[pretraining.network]\nchannels = [32, 48, true, 80, 96]",
            "[pretraining.network]\nchannels = [1000000000, 1, 1, 1, 1]",
            "[pretraining.corruption.masking]\njointly = 2",
            "[pretraining.corruption.masking]\nblock = [8, 8, true]",
            "[pretraining.corruption.masking]\nblock = [8, 8, 1000000000000]",
            "[pretraining.corruption.flip]\nprobability = true",
            "[pretraining.corruption.flip]\nmost = 1000000000000",
            "[pretraining.corruption.intensity]\ntable_size = 1000000000000",
            "[pretraining.training]\ncalibrated_head = 'true'",
            *(f"[pretraining.training]\n{name} = true" for name in ("momentum", "weight_decay", "epochs", "patience")),
            *(f"[pretraining.training]\n{name} = 1{'0' * 30}" for name in ("epochs", "batch_size", "halve_every")),
            "[pretraining.training]\nlearning_rate = 1e308",
        ],
    )
    def test_a_value_of_another_type_or_size_is_refused(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text(text)
        name = text.split("\n")[1].partition(" ")[0]
        with pytest.raises(ConfigError, match=rf"^c.toml: .*{name}.*") as refused:
            validated(Settings, read_toml(tmp_path / "c.toml"), "c.toml: ")
        assert "\n" not in str(refused.value)

    def test_a_mark_of_byte_order_is_no_fault(self, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text("[preparation]\nmargin_mm = 30\n", encoding="utf-8-sig")
        assert validated(Settings, read_toml(tmp_path / "c.toml")).preparation.margin_mm == 30
        assert read_overrides((b"\xef\xbb\xbf[a]\nt2w = 4\n"), "o.toml")["a"].t2w

    def test_whole_numbers_are_numbers(self, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text("[preparation]\nmargin_mm = 25\nspacing_mm = [1, 1, 3]\n")
        settings = validated(Settings, read_toml(tmp_path / "c.toml"))
        assert (settings.preparation.margin_mm, settings.preparation.spacing_mm) == (25.0, (1.0, 1.0, 3.0))


class TestTimes:
    @pytest.mark.parametrize("seconds", [910692648000, -99999999999, 2**62 // 10**9, -(2**62) // 10**9, -1, 0, 2**33])
    def test_any_time_of_a_file_is_read(self, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("x")
        real = Path.stat

        def dated(path: Path, **more: Any) -> Any:
            found = real(path, **more)
            values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
            return type("Stat", (), values | {"st_mtime": float(seconds), "st_mtime_ns": seconds * 10**9})

        monkeypatch.setattr(Path, "stat", dated)
        entry = LocalStorage(tmp_path).stat("file")
        assert entry
        assert f"{entry.modified.astimezone():%Y-%m-%d %H:%M}"
        assert len(LocalStorage(tmp_path).list()) == 1


class TestFlushing:
    FOLDERS = ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EBADF", "EACCES", "EPERM", "ENOTTY", "EISDIR")
    FILES = ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOTTY")

    @staticmethod
    def failing(monkeypatch: pytest.MonkeyPatch, name: str, folders: bool) -> None:
        number, fsync = getattr(errno, name), os.fsync
        monkeypatch.setattr(interface, "_noted", set())

        def flush(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode) == folders:
                raise OSError(number, os.strerror(number))
            fsync(file)

        monkeypatch.setattr(os, "fsync", flush)

    @pytest.mark.parametrize(
        ("folders", "name"), [*((True, name) for name in FOLDERS), *((False, name) for name in FILES)]
    )
    def test_what_is_not_supported_is_noted_once(
        self, name: str, folders: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        self.failing(monkeypatch, name, folders)
        for key in ("a/b", "a/c", "d"):
            LocalStorage(tmp_path).publish_bytes(key, b"x")
        assert [entry.key for entry in LocalStorage(tmp_path).list()] == ["a/b", "a/c", "d"]
        assert caplog.text.count("flushing is not supported there") == 1

    @pytest.mark.parametrize("folders", [True, False])
    @pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT", "ESTALE", "EROFS"])
    def test_what_fails_is_an_error(
        self, name: str, folders: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.failing(monkeypatch, name, folders)
        with pytest.raises(StorageError, match="cannot be written"):
            LocalStorage(tmp_path).publish_bytes("a/b", b"x")


def test_a_folder_on_another_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a subset's folder is a link to another disk."""

    def replace(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path), None, str(target))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(
        StorageError, match=f"^{tmp_path}/a: cannot be written: Invalid cross-device link: a folder below"
    ):
        LocalStorage(tmp_path).publish_bytes("a", b"x")
    assert list(tmp_path.iterdir()) == []


class TestFoldersThatCannotBeListed:
    @pytest.fixture(autouse=True)
    def closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Folders of these names can be read by the system's administrator alone."""
        scandir = os.scandir

        def scan(path: Any) -> Any:
            if os.fspath(path).endswith(("lost+found", "private")):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)

    def test_the_systems_own_one_is_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "lost+found").mkdir()
        (tmp_path / "case.nii.gz").write_bytes(b"x")
        assert [entry.key for entry in LocalStorage(tmp_path).list()] == ["case.nii.gz"]

    def test_any_other_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a" / "private").mkdir(parents=True)
        with pytest.raises(StorageError, match=f"^{tmp_path}/a/private: cannot be listed: Permission denied: give"):
            LocalStorage(tmp_path).list()


Request = dict[str, Any]
Sender = Callable[..., Any]


def dropping(operation: str, *conditions: str) -> Callable[[Sender], Sender]:
    """A storage that accepts conditions and ignores them."""

    def wrapped(send: Sender) -> Sender:
        def sent(client: S3Client, what: str, *more: Any, **request: Any) -> Any:
            kept = {name: value for name, value in request.items() if what != operation or name not in conditions}
            return send(client, what, *more, **kept)

        return sent

    return wrapped


def hiding(send: Sender) -> Sender:
    """A storage whose listings are late."""

    def sent(client: S3Client, what: str, *more: Any, **request: Any) -> Any:
        answer = send(client, what, *more, **request)
        return answer | {"Contents": []} if what == "list_objects_v2" else answer

    return sent


class TestStorages:
    @pytest.mark.parametrize(
        ("storage", "lacks"),
        [
            (dropping("put_object", "IfNoneMatch"), "conditional creation"),
            (dropping("put_object", "IfMatch"), "conditional replacement"),
            (dropping("put_object", "IfMatch", "IfNoneMatch"), "conditional creation, conditional replacement"),
            (dropping("delete_object", "IfMatch"), "conditional removal"),
            (hiding, "listing of what was just written"),
        ],
    )
    def test_what_a_storage_lacks_is_named_before_any_lock(
        self, storage: Callable[[Sender], Sender], lacks: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = open_storage(new_root())
        with monkeypatch.context() as patch:
            patch.setattr(S3Client, "send", storage(S3Client.send))
            with pytest.raises(StorageError, match=f"^{root.uri}: this storage lacks {lacks}, without which two runs"):
                Lock(root, LockTiming()).acquire(0)
        assert root.list() == []

    def test_a_storage_is_tested_once(self, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        root, done, send = open_storage(new_root()), list[str](), S3Client.send

        def noted(client: S3Client, what: str, *more: Any, **request: Any) -> Any:
            done.append(what)
            return send(client, what, *more, **request)

        monkeypatch.setattr(S3Client, "send", noted)
        version = root.exchange("a", b"1", None)
        assert len(done) == 7
        root.exchange("a", b"2", version)
        root.child("b").exchange("a", b"1", None)
        assert len(done) == 9
        assert [entry.key for entry in root.list()] == ["a", "b/a"]

    def test_a_lock_reads_back_what_it_wrote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root, exchange = LocalStorage(tmp_path), LocalStorage.exchange
        other = LockOwner(name="another", since="now", process="elsewhere-00000000-1-00000000", id="0")

        def ignoring(storage: LocalStorage, key: str, data: bytes | None, version: str | None) -> str | None:
            written = exchange(storage, key, data, version)
            storage.publish_bytes(key, other.model_dump_json().encode())  # of a run that was as quick
            return written

        monkeypatch.setattr(LocalStorage, "exchange", ignoring)
        assert not Lock(root, LockTiming())._write(None)
        assert LockOwner.model_validate_json(root.read(LOCK_FILE)) == other

    @pytest.mark.parametrize("refusal", ["The checksum is not supported", "aws-chunked is not supported", "x"])
    def test_a_storage_that_refuses_checksums_is_told_from_an_old_one(self, refusal: str) -> None:
        from botocore.exceptions import ClientError

        from zssmnet.storage.s3_errors import reason_of

        code = "NotImplemented" if refusal == "x" else "InvalidArgument"
        error = ClientError({"Error": {"Code": code, "Message": refusal}}, "PutObject")  # type: ignore[arg-type]
        assert "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in reason_of(error)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save({"state_dict": MNet(6, 3, (2, 2, 2, 2, 2)).state_dict()}, tmp_path / "a.model")
    return tmp_path / "a.model"


REFUSAL = "was not made by this command, or was changed since; .*give --force"


class TestFilesOfOthers:
    @pytest.mark.parametrize("export", [export_nnunet_v1, export_nnunet_v2])
    @pytest.mark.parametrize("content", [b"", b"notes", b"PK\x03\x04", b"zssmnet", "tensors", "checkpoint"])
    def test_an_export_replaces_exports_alone(
        self, content: bytes | str, export: Callable[..., Any], model: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.pth"
        if isinstance(content, bytes):
            out.write_bytes(content)
        else:
            torch.save({"state_dict": {}} if content == "tensors" else {"init_args": {"zssmnet": 1}}, out)
        before = out.read_bytes()
        with pytest.raises(InputError, match=REFUSAL):
            export(model, out)
        assert out.read_bytes() == before
        export(model, out, force=True)
        export(model, out)

    @pytest.mark.parametrize("name", ["README.md", "config.json", "adaptation_plan.json", "model.safetensors"])
    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"library": "zssmnet", "files_sha256": []}'])
    def test_a_package_replaces_no_file_of_others(self, name: str, content: str, model: Path, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / name).write_text(content)
        with pytest.raises(InputError, match=f"{name}: {REFUSAL}"):
            write_package(model, tmp_path / "p")
        assert [(file.name, file.read_text()) for file in (tmp_path / "p").iterdir()] == [(name, content)]
        write_package(model, tmp_path / "p", PackageConfig(force=True))
        write_package(model, tmp_path / "p", PackageConfig(name="another"))
        assert "# another" in (tmp_path / "p" / "README.md").read_text()

    def test_a_card_that_was_filled_in_is_kept(self, model: Path, tmp_path: Path) -> None:
        card = write_package(model, tmp_path / "p") / "README.md"
        card.write_text(card.read_text().replace("fill-in", "apache-2.0"))
        with pytest.raises(InputError, match=f"README.md: {REFUSAL}"):
            write_package(model, tmp_path / "p")
        assert "apache-2.0" in card.read_text()

    @pytest.mark.parametrize("killed_before", ["model.safetensors", "adaptation_plan.json", "README.md"])
    def test_a_killed_package_can_be_written_again(
        self, killed_before: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_package(model, tmp_path / "p")
        publish = LocalStorage.publish_bytes

        def killed(storage: LocalStorage, key: str, data: bytes) -> None:
            if key == killed_before:
                raise KeyboardInterrupt
            publish(storage, key, data)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(LocalStorage, "publish_bytes", killed)
            write_package(model, tmp_path / "p", PackageConfig(name="another"))
        write_package(model, tmp_path / "p", PackageConfig(name="third"))
        assert len(json.loads((tmp_path / "p" / "config.json").read_text())["files_sha256"]) == 3

    @pytest.mark.parametrize("content", ["", "mine", "<!doctype html><title>mine</title>"])
    def test_a_page_of_masks_replaces_no_other_page(self, content: str, tmp_path: Path) -> None:
        (tmp_path / PAGE).write_text(content)
        with pytest.raises(InputError, match=REFUSAL):
            publish_masks_page(LocalStorage(tmp_path / "masks"), LocalStorage(tmp_path))
        assert (tmp_path / PAGE).read_text() == content

    def test_what_has_no_record_is_replaced_by_no_stage(self, tmp_path: Path) -> None:
        stage, record = LocalStorage(tmp_path), Record(method=1, inputs=(), outputs=())
        stage.publish_bytes("archive.html", b"mine")
        files = {"archive.html": lambda path: path.write_bytes(b"ours")}
        with pytest.raises(InputError, match=REFUSAL):
            publish_recorded(stage, "archive", record, files)
        assert stage.read("archive.html") == b"mine"
        assert stage.list("records") == []
        to_come = Output(key="archive.html", size=NOT_YET, sha256="")
        publish_record(stage, "archive", record.model_copy(update={"outputs": (to_come,)}))  # by a killed run
        publish_recorded(stage, "archive", record, files)
        assert stage.read("archive.html") == b"ours"

    def test_cubes_of_others_are_kept(self, tmp_path: Path) -> None:
        data, cubes, config = LocalStorage(tmp_path / "data"), LocalStorage(tmp_path / "cubes"), CubesConfig()
        key = cubes_key(config, 0)
        for file in prepared_keys("c", 0):
            data.publish_bytes(file, b"no image")
        cubes.publish_bytes(key, b"of the published program")
        with pytest.raises(InputError, match=f"{key}: {REFUSAL}"):
            cut_subset(0, data, cubes, config)
        assert [entry.key for entry in cubes.list()] == [key]
        cubes.remove(key)
        with pytest.raises(InputError, match="prepare the case again"):
            cut_subset(0, data, cubes, config)
        to_come = Output(key=key, size=NOT_YET, sha256="")
        publish_record(cubes, key, Record(method=1, inputs=(), outputs=(to_come,)))
        cubes.publish_bytes(key, b"of a run that was killed before its record")
        with pytest.raises(InputError, match="prepare the case again"):
            cut_subset(0, data, cubes, config)

    def test_a_model_of_others_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        weights = LocalStorage(tmp_path)
        weights.publish_bytes(MODEL, b"of the published program")
        inputs = TrainingInputs(files=(), data=(), spacing_mm=None)
        monkeypatch.setattr(runs, "training_inputs", lambda *more: inputs)
        with pytest.raises(InputError, match=f"{MODEL}: {REFUSAL}"):
            train_and_publish(LocalStorage(tmp_path / "cubes"), weights, PretrainConfig())
        assert [entry.key for entry in weights.list()] == [MODEL]

    @pytest.mark.parametrize("suffix", IMAGE_SUFFIXES["picai"])
    def test_an_import_replaces_no_image_of_others(self, suffix: str, tmp_path: Path) -> None:
        archive = LocalStorage(tmp_path)
        choice = Choice(None, None, (), None, (), "for a test")
        archive.publish_bytes(f"1/1_2{suffix}", b"mine")
        with pytest.raises(InputError, match=f"1/1_2{suffix}: {REFUSAL}"):
            _publish_table(archive, {"1_2": choice})
        assert archive.stat(TABLE) is None
        archive.publish_bytes(TABLE, b"case,series,\n1_3,1\n")
        with pytest.raises(InputError, match=f"1/1_2{suffix}: {REFUSAL}"):
            _publish_table(archive, {"1_2": choice, "1_3": choice})
        archive.publish_bytes(TABLE, b"case,series,\n1_2,1\n")  # ours, by an import that was killed
        _publish_table(archive, {"1_2": choice, "1_3": choice})
        assert b"1_3," in archive.read(TABLE)

    def test_nothing_there_is_no_file_of_others(self, tmp_path: Path) -> None:
        check_ours(LocalStorage(tmp_path), "a", lambda file: False)


class TestUpload:
    @pytest.fixture(params=["folder", "s3"])
    def target(self, request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("ZSSMNET_CACHE", str(tmp_path / "cache"))
        if request.param == "folder":
            return str(tmp_path / "there")
        request.getfixturevalue("s3_endpoint")
        return new_root()

    @pytest.fixture
    def source(self, tmp_path: Path) -> LocalStorage:
        source = LocalStorage(tmp_path / "archive")
        for key in ("NEW_DATA", "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "zones/a.nii.gz"):
            source.publish_bytes(key, key.encode())
        return source

    @staticmethod
    def sent(source: LocalStorage, target: str, force: bool = False) -> list[str]:
        keys: list[str] = []
        storage = open_storage(target)
        publishing = storage.publishing
        storage.publishing = lambda key: keys.append(key) or publishing(key)  # type: ignore[method-assign,func-returns-value]
        entries, count = send(source, storage, force)
        assert count == len(keys) and len(entries) == len(source.list())
        return keys

    def test_the_marker_comes_last_and_nothing_comes_twice(self, source: LocalStorage, target: str) -> None:
        assert self.sent(source, target) == ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "zones/a.nii.gz", "NEW_DATA"]
        assert self.sent(source, target) == []

    def test_what_is_new_or_has_changed_is_sent_and_announced(self, source: LocalStorage, target: str) -> None:
        self.sent(source, target)
        source.publish_bytes("imagesTr/a.nii.gz", b"corrected")
        source.publish_bytes("zones/b.nii.gz", b"new")
        assert self.sent(source, target) == ["imagesTr/a.nii.gz", "zones/b.nii.gz", "NEW_DATA"]
        assert open_storage(target).read("imagesTr/a.nii.gz") == b"corrected"

    def test_what_others_have_put_there_is_kept(self, source: LocalStorage, target: str) -> None:
        open_storage(target).publish_bytes("zones/a.nii.gz", b"of others")
        with pytest.raises(InputError, match=REFUSAL):
            self.sent(source, target)
        assert [entry.key for entry in open_storage(target).list()] == ["zones/a.nii.gz"]
        assert len(self.sent(source, target, force=True)) == 4

    def test_what_others_have_changed_there_is_kept(self, source: LocalStorage, target: str) -> None:
        self.sent(source, target)
        open_storage(target).publish_bytes("zones/a.nii.gz", b"of others")
        with pytest.raises(InputError, match=REFUSAL):
            self.sent(source, target)
        assert open_storage(target).read("zones/a.nii.gz") == b"of others"

    def test_the_same_content_is_not_sent_whoever_put_it_there(self, source: LocalStorage, target: str) -> None:
        for key in ("zones/a.nii.gz", "imagesTr/b.nii.gz"):
            open_storage(target).publish_bytes(key, key.encode())
        assert self.sent(source, target) == ["imagesTr/a.nii.gz", "NEW_DATA"]

    def test_an_interrupted_upload_goes_on(
        self, source: LocalStorage, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            send(source, open_storage(target), advance=interrupt)
        source.publish_bytes("imagesTr/a.nii.gz", b"corrected since")
        assert self.sent(source, target) == ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "zones/a.nii.gz", "NEW_DATA"]


@pytest.mark.parametrize("name", ["probe.json", "probe.md", "probe.png"])
def test_a_probe_replaces_no_file_of_others(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": true}')
    (tmp_path / "a.model").touch()
    done = zssmnet(
        *("probe", "--task", "zones", "--images_path", tmp_path, "--zonal_mask_path", tmp_path),
        *("--weights", tmp_path / "a.model", "--output", tmp_path),
    )
    assert f"{tmp_path / name}: was not made by this command" in done.line
    assert (tmp_path / name).read_text() == '{"mine": true}'


def test_an_import_replaces_no_table_of_others(tmp_path: Path) -> None:
    (tmp_path / "choices.csv").write_text("mine")
    (tmp_path / "key").write_text("a secret key of some length")
    (tmp_path / "dicom").mkdir()
    flags = ("--dicom_path", tmp_path / "dicom", "--key_file", tmp_path / "key", "--output", tmp_path / "there")
    assert "holds no MR image" in zssmnet("import-dicom", *flags).line
    (tmp_path / "there").mkdir()
    (tmp_path / "choices.csv").rename(tmp_path / "there" / "choices.csv")
    assert "choices.csv: was not made by this command" in zssmnet("import-dicom", *flags).line
