import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from zssmnet.errors import StorageError, UnreadableFileError
from zssmnet.storage import LocalStorage, records
from zssmnet.storage.records import (
    NOT_YET,
    Input,
    Name,
    Output,
    Record,
    fingerprints,
    outputs_there,
    present_outputs,
    publish_record,
    publish_recorded,
    read_record,
    read_records,
    record_key,
    record_names,
    refresh_record,
    remove_record,
    same_content,
    up_to_date,
    with_version,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
XYZ = "3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282"


MISSING = Output(key="missing", size=0, sha256="")


class Numbered(Record):
    number: float


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def record(number: float = 0.1) -> Numbered:
    return Numbered(method=1, inputs=(), outputs=(Output(key="a", size=1, sha256=ABC),), number=number)


class TestRecords:
    @pytest.mark.parametrize("name", ["11373_1001396", "Łódź.json", "with space", "a/b", ""])
    def test_read_back_what_was_published(self, storage: LocalStorage, name: str):
        publish_record(storage, name, record(0.1 + 0.2))
        assert read_record(storage, name, Numbered) == record(0.1 + 0.2)
        assert record_names(storage) == [name]
        assert storage.stat(record_key(name))
        remove_record(storage, name)
        assert read_record(storage, name, Numbered) is None
        assert record_names(storage) == []

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"method": 1}', b"[" * 100_000])
    def test_one_that_cannot_be_read_counts_as_none(self, storage: LocalStorage, content: bytes):
        storage.publish_bytes(record_key("a"), content)
        assert read_record(storage, "a", Numbered) is None
        assert record_names(storage) == ["a"]

    def test_one_of_another_kind_counts_as_none(self, storage: LocalStorage):
        publish_record(storage, "a", Record(method=1, inputs=(), outputs=()))
        assert read_record(storage, "a", Numbered) is None
        assert read_record(storage, "a", Record) == Record(method=1, inputs=(), outputs=())

    def test_names_are_sorted_and_of_records_alone(self, storage: LocalStorage):
        for name in ("b", "a b", "a"):
            publish_record(storage, name, record())
        storage.publish_bytes("records/other.txt", b"")
        storage.publish_bytes("elsewhere/c.json", b"")
        (storage.folder / "records" / "two\nlines.json").write_bytes(b"")
        assert record_names(storage) == ["a", "a b", "b"]
        assert list(read_records(storage, Numbered)) == [(name, record()) for name in ("a", "a b", "b")]
        assert [name for name, _ in read_records(storage, Numbered, "a")] == ["a", "a b"]


class TestFingerprints:
    def test_of_files(self, storage: LocalStorage):
        storage.publish_bytes("a", b"abc")
        storage.publish_bytes("b", b"xyz")
        a, b = fingerprints([(storage, "a"), (storage, "b")])
        entry = storage.stat("a")
        assert entry
        assert a == Input(name="a", size=3, version=entry.version, sha256=ABC)
        assert (b.name, b.sha256) == ("b", XYZ)

    def test_known_files_are_not_read_again(self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch):
        read: list[Path] = []
        monkeypatch.setattr(records, "sha256_of", lambda path: read.append(path) or ABC)
        storage.publish_bytes("a", b"abc")
        known = fingerprints([(storage, "a")])
        assert fingerprints([(storage, "a")], known) == known
        assert len(read) == 1
        storage.publish_bytes("a", b"xyz")
        fingerprints([(storage, "a")], known)
        assert len(read) == 2

    def test_changed_content_is_found_whatever_its_size(self, storage: LocalStorage):
        storage.publish_bytes("a", b"abc")
        known = fingerprints([(storage, "a")])
        storage.publish_bytes("a", b"xyz")
        now = fingerprints([(storage, "a")], known)
        assert now[0].sha256 == XYZ
        assert not same_content(known, now)

    def test_the_same_content_written_again(self, storage: LocalStorage, tmp_path: Path):
        storage.publish_bytes("a", b"abc")
        known = fingerprints([(storage, "a")])
        os.utime(tmp_path / "a", (1, 1))
        now = fingerprints([(storage, "a")], known)
        assert now != known
        assert same_content(known, now)

    def test_other_names_or_numbers_are_another_content(self, storage: LocalStorage):
        storage.publish_bytes("a", b"abc")
        storage.publish_bytes("b", b"abc")
        a, b = fingerprints([(storage, "a"), (storage, "b")])
        assert not same_content([a], [b])
        assert not same_content([a], [a, b])
        assert not same_content([a, b], [b, a])
        assert same_content([], [])

    def test_of_what_is_not_there(self, storage: LocalStorage):
        with pytest.raises(StorageError, match="a: no such file"):
            fingerprints([(storage, "a")])


def test_outputs_there(storage: LocalStorage):
    output = Output(key="a", size=3, sha256=ABC)
    assert not outputs_there(storage, [output])
    storage.publish_bytes("a", b"abcd")
    assert not outputs_there(storage, [output])
    storage.publish_bytes("a", b"abc")
    assert outputs_there(storage, [output])
    assert not outputs_there(storage, [output, Output(key="b", size=0, sha256="")])
    assert not outputs_there(storage, [Output(key="a", size=NOT_YET, sha256="")])
    assert outputs_there(storage, [])


class TestUpToDate:
    @pytest.fixture
    def known(self, storage: LocalStorage) -> Numbered:
        """A published record, whose file has been written again since with the same content."""
        storage.publish_bytes("a", b"abc")
        known = Numbered(
            method=1,
            inputs=(Input(name="in", size=1, version="1", sha256=ABC),),
            outputs=(with_version(storage, Output(key="a", size=3, sha256=ABC)),),
            number=0.5,
        )
        publish_record(storage, "name", known)
        storage.publish_bytes("a", b"abc")
        return known

    def test_the_same_content_has_its_present_version(self, storage: LocalStorage, known: Numbered):
        (output,) = present_outputs(storage, known.outputs)
        assert (output.key, output.size, output.sha256) == ("a", 3, ABC)
        assert output.version == storage.stat("a").version != known.outputs[0].version
        assert up_to_date(storage, known) == known
        assert up_to_date(storage, known).outputs[0].version == output.version

    def test_a_file_of_the_recorded_version_is_not_read(
        self, storage: LocalStorage, known: Numbered, monkeypatch: pytest.MonkeyPatch
    ):
        present = up_to_date(storage, known)
        monkeypatch.setattr(records, "sha256_of", None)
        assert up_to_date(storage, present) == present

    @pytest.mark.parametrize("content", [b"xyz", b"ab", b"abcd", b""])
    def test_another_content_is_noticed_whatever_its_size(self, storage: LocalStorage, known: Numbered, content: bytes):
        storage.publish_bytes("a", content)
        assert present_outputs(storage, known.outputs) is None
        assert up_to_date(storage, known) is None

    def test_a_file_of_another_size_is_not_read(
        self, storage: LocalStorage, known: Numbered, monkeypatch: pytest.MonkeyPatch
    ):
        storage.publish_bytes("a", b"abcd")
        monkeypatch.setattr(records, "sha256_of", None)
        assert present_outputs(storage, known.outputs) is None

    def test_what_is_missing_or_cannot_be_read_is_not_up_to_date(
        self, storage: LocalStorage, known: Numbered, monkeypatch: pytest.MonkeyPatch
    ):
        assert up_to_date(storage, None) is None
        assert up_to_date(storage, known.model_copy(update={"outputs": (*known.outputs, MISSING)})) is None

        def refuse(path: Path) -> str:
            raise UnreadableFileError(str(path), "cannot be read")

        monkeypatch.setattr(records, "sha256_of", refuse)
        assert up_to_date(storage, known) is None

    def test_given_inputs_replace_the_recorded_ones(self, storage: LocalStorage, known: Numbered):
        assert up_to_date(storage, known).inputs[0].version == "1"
        inputs = (known.inputs[0].model_copy(update={"version": "2"}),)
        assert up_to_date(storage, known, inputs).inputs[0].version == "2"
        assert up_to_date(storage, known, ()).inputs == ()

    def test_present_versions_are_published_once(self, storage: LocalStorage, known: Numbered):
        present = up_to_date(storage, known)
        before = storage.stat(record_key("name"))
        assert read_record(storage, "name", Numbered).outputs[0].version == known.outputs[0].version
        refresh_record(storage, "name", present)
        after = storage.stat(record_key("name"))
        assert after != before
        assert read_record(storage, "name", Numbered).outputs[0].version == present.outputs[0].version
        refresh_record(storage, "name", present)
        assert storage.stat(record_key("name")) == after

    def test_a_record_that_says_something_else_is_left_alone(self, storage: LocalStorage, known: Numbered):
        present = up_to_date(storage, known)
        publish_record(storage, "name", known.model_copy(update={"number": 0.7}))
        refresh_record(storage, "name", present)
        assert read_record(storage, "name", Numbered).number == 0.7
        remove_record(storage, "name")
        refresh_record(storage, "name", present)
        assert record_names(storage) == []

    def test_a_record_that_is_replaced_meanwhile_is_left_alone(self, storage: LocalStorage, known: Numbered):
        class Replaced(LocalStorage):
            def read(self, key: str) -> bytes:
                content = super().read(key)
                publish_record(storage, "name", known.model_copy(update={"number": 0.7}))
                return content

        refresh_record(Replaced(storage.folder), "name", up_to_date(storage, known))
        assert read_record(storage, "name", Numbered).number == 0.7

    def test_a_storage_that_can_only_be_read_stays_as_it_is(
        self, storage: LocalStorage, known: Numbered, caplog: pytest.LogCaptureFixture
    ):
        class ReadOnly(LocalStorage):
            def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
                raise StorageError("read-only")

        caplog.set_level("INFO")
        refresh_record(ReadOnly(storage.folder), "name", up_to_date(storage, known))
        assert "its files will be hashed again by the next run: read-only" in caplog.text


def test_a_record_too_large_counts_as_none(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch):
    publish_record(storage, "a", record())
    size = storage.stat(record_key("a")).size
    monkeypatch.setattr(records, "LARGEST_RECORD", size)
    assert read_record(storage, "a", Numbered) == record()
    monkeypatch.setattr(records, "LARGEST_RECORD", size - 1)
    assert read_record(storage, "a", Numbered) is None


def test_a_record_that_does_not_belong_to_its_name_counts_as_none(storage: LocalStorage):
    class Named(Numbered):
        def is_valid_for(self, name: str) -> bool:
            return name == "mine"

    for name in ("mine", "other"):
        publish_record(storage, name, record())
    assert read_record(storage, "mine", Named)
    assert read_record(storage, "other", Named) is None


@pytest.mark.parametrize("key", ["../a", "/a", "", "a\n", "a/../b"])
def test_records_name_files_below_the_root_alone(key: str):
    for kind in (lambda: Output(key=key, size=0, sha256=""), lambda: Input(name=key, size=0, version="", sha256="")):
        with pytest.raises(ValidationError):
            kind()


def test_a_name_is_one_part_of_a_key():
    class Folder(BaseModel):
        name: Name

    assert Folder(name="a b").name == "a b"
    for name in ("a/b", "..", "", "a\nb"):
        with pytest.raises(ValidationError):
            Folder(name=name)


def test_outputs_are_equal_and_identified_by_content_alone():
    first, again = (Output(key="a", size=3, sha256=ABC, version=version) for version in "12")
    assert (first, hash(first)) == (again, hash(again))
    others = [("b", 3, ABC), ("a", 4, ABC), ("a", 3, XYZ)]
    assert first not in [*(Output(key=key, size=size, sha256=sha256) for key, size, sha256 in others), "a"]
    inputs = [(Input(name="a", size=3, sha256=ABC, version=version),) for version in "12"]
    one, two = (
        Record(method=1, inputs=one, outputs=(output,)) for one, output in zip(inputs, (first, again), strict=True)
    )
    assert one.identity() == two.identity() != Record(method=2, inputs=inputs[0], outputs=(first,)).identity()


class TestPublishRecorded:
    def test_files_then_their_record_and_those_replaced_go(self, storage: LocalStorage):
        storage.publish_bytes("old", b"old")
        files = {"a": lambda path: path.write_bytes(b"abc"), "b": lambda path: path.write_bytes(b"xyz")}
        published = publish_recorded(storage, "name", record(), files, ["old", "a"])
        assert read_record(storage, "name", Numbered) == published
        assert [(one.key, one.size, one.sha256) for one in published.outputs] == [("a", 3, ABC), ("b", 3, XYZ)]
        assert [one.version for one in published.outputs] == [storage.stat(key).version for key in "ab"]
        assert [entry.key for entry in storage.list()] == ["a", "b", record_key("name")]

    def test_one_that_is_killed_leaves_a_record_of_what_is_to_come(self, storage: LocalStorage):
        def killed(path: Path) -> None:
            raise KeyboardInterrupt

        storage.publish_bytes("old", b"old")
        with pytest.raises(KeyboardInterrupt):
            publish_recorded(storage, "name", record(), {"a": killed}, ["old"])
        left = read_record(storage, "name", Numbered)
        assert [(one.key, one.size) for one in left.outputs] == [("a", NOT_YET), ("old", NOT_YET)]
        assert up_to_date(storage, left) is None
        assert storage.read("old") == b"old"
