import os
from pathlib import Path

import pytest

from zssmnet.errors import StorageError
from zssmnet.storage import LocalStorage, records
from zssmnet.storage.records import (
    NOT_YET,
    Input,
    Output,
    Record,
    fingerprints,
    outputs_there,
    publish_record,
    read_record,
    record_key,
    record_names,
    remove_record,
    same_content,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
XYZ = "3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282"


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
        for name in ("b", "a"):
            publish_record(storage, name, record())
        storage.publish_bytes("records/other.txt", b"")
        storage.publish_bytes("elsewhere/c.json", b"")
        assert record_names(storage) == ["a", "b"]


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
