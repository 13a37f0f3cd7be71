"""What every storage must hold. The test class of each backend inherits it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from zssmnet.errors import InputError, StorageError
from zssmnet.storage import Storage, open_storage

UNUSUAL_KEYS = [
    "a",
    "subset0/11373_1001396_0000.nii.gz",
    "deep/er/and/deep er/file.tar.gz",
    "Łódź/Größe é 前列腺 ✓.txt",
    "-dash",
    ".hidden",
    "100%/#1?&=+,;@!$'()[]{}~^`|<>*\"\\ x",
    "n" * 255,
    "é" * 127,
]
REFUSED_KEYS = ["", ".", "/etc/passwd", "../up", "a/../../up", "a/..", "nul\0", "two\nlines", "\udcff", "n" * 256]


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [entry.key for entry in storage.list(prefix)]


class StorageContract:
    """Inherit, and give a fixture ``storage``: an empty one."""

    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    @pytest.mark.parametrize("key", UNUSUAL_KEYS)
    def test_what_is_published_is_there_whole_under_any_name(self, storage: Storage, key: str):
        storage.publish_bytes(key, b"content\n\0\xff")
        assert storage.read(key) == b"content\n\0\xff"
        assert storage.local(key).read_bytes() == b"content\n\0\xff"
        assert keys(storage) == [key]
        assert storage.list()[0] == storage.stat(key)
        storage.remove(key)
        assert keys(storage) == []

    def test_empty_file(self, storage: Storage):
        storage.publish_bytes("empty", b"")
        assert storage.read("empty") == b""
        assert storage.list()[0].size == 0

    def test_list_is_sorted_and_tells_sizes(self, storage: Storage):
        for key, size in (("b/2", 2), ("a", 1), ("b/1", 4), ("c", 3)):
            storage.publish_bytes(key, b"x" * size)
        assert [(entry.key, entry.size) for entry in storage.list()] == [("a", 1), ("b/1", 4), ("b/2", 2), ("c", 3)]

    def test_list_takes_folders_not_beginnings_of_names(self, storage: Storage):
        for key in ("sub/1", "sub/deep/2", "sub2/3", "subset"):
            storage.publish_bytes(key, b"")
        assert keys(storage, "sub") == ["sub/1", "sub/deep/2"]
        assert keys(storage, "sub/deep") == ["sub/deep/2"]
        assert keys(storage, "nothing/here") == []
        assert keys(storage, "subset") == []

    def test_list_of_nothing_is_empty(self, storage: Storage):
        assert storage.list() == []
        assert storage.child("not/yet").list() == []

    def test_stat_of_what_is_no_file_is_none(self, storage: Storage):
        storage.publish_bytes("folder/file", b"")
        assert storage.stat("other") is None
        assert storage.stat("folder") is None
        assert storage.stat("folder/file/below") is None

    def test_version_changes_with_each_writing_and_only_then(self, storage: Storage):
        storage.publish_bytes("file", b"one")
        first = storage.stat("file")
        assert storage.stat("file") == first
        storage.publish_bytes("file", b"two")
        second = storage.stat("file")
        assert first and second
        assert (first.size, second.size) == (3, 3)
        assert first.version != second.version

    @pytest.mark.parametrize("key", ["missing", "folder", "folder/file/below"])
    def test_reading_what_is_no_file_is_an_error_of_one_line(self, storage: Storage, key: str):
        storage.publish_bytes("folder/file", b"")
        for action in (storage.local, storage.read):
            with pytest.raises(StorageError) as caught:
                action(key)
            assert key in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_remove_is_content_with_what_is_not_there(self, storage: Storage):
        storage.publish_bytes("folder/file", b"")
        for key in ("missing", "missing/too", "folder/file/below"):
            storage.remove(key)
        assert keys(storage) == ["folder/file"]

    def test_exchange_creates_replaces_and_removes_the_expected_version_alone(self, storage: Storage):
        first = storage.exchange("folder/file", b"one", None)
        assert first
        assert storage.exchange("folder/file", b"other", None) is None
        assert storage.read("folder/file") == b"one"
        assert storage.stat("folder/file").version == first
        second = storage.exchange("folder/file", b"two", first)
        assert second not in (None, first)
        assert storage.exchange("folder/file", b"other", first) is None
        assert storage.exchange("folder/file", None, first) is None
        assert storage.read("folder/file") == b"two"
        assert storage.exchange("folder/file", None, second) == ""
        assert storage.exchange("folder/file", None, second) is None
        assert storage.exchange("folder/file", b"other", second) is None
        assert storage.list() == []

    def test_of_many_exchanges_of_one_version_one_succeeds(self, storage: Storage):
        versions = [storage.exchange("file", b"0", None)]
        with ThreadPoolExecutor(8) as pool:
            for count in range(1, 6):
                contents = [bytes([count, number]) for number in range(8)]
                done = list(pool.map(lambda content: storage.exchange("file", content, versions[-1]), contents))
                (content,) = [content for content, version in zip(contents, done, strict=True) if version]
                assert storage.read("file") == content
                versions.append(storage.stat("file").version)
        assert len(set(versions)) == 6
        assert keys(storage) == ["file"]

    def test_nothing_is_visible_before_the_end(self, storage: Storage):
        with storage.publishing("folder/file") as path:
            path.write_bytes(b"half")
            assert storage.stat("folder/file") is None
            assert storage.list() == []
            path.write_bytes(b"whole")
        assert storage.read("folder/file") == b"whole"

    def test_old_content_stays_whole_until_the_end(self, storage: Storage):
        storage.publish_bytes("file", b"old")
        before = storage.stat("file")
        with storage.publishing("file") as path:
            assert not path.exists()
            path.write_bytes(b"new")
            assert storage.read("file") == b"old"
            assert storage.list() == [before]
        assert storage.read("file") == b"new"

    @pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
    def test_an_exception_publishes_nothing(self, storage: Storage, failure: BaseException):
        storage.publish_bytes("old", b"old")
        for key in ("old", "new"):
            with pytest.raises(type(failure)), storage.publishing(key) as path:
                path.write_bytes(b"half")
                raise failure
        assert keys(storage) == ["old"]
        assert storage.read("old") == b"old"

    def test_a_failing_disk_is_a_storage_error(self, storage: Storage):
        storage.publish_bytes("old", b"old")
        with (
            pytest.raises(StorageError, match="old: cannot be written: No space left") as caught,
            storage.publishing("old"),
        ):
            raise OSError(28, "No space left on device")
        assert "\n" not in str(caught.value)
        assert storage.read("old") == b"old"

    def test_publishing_without_writing_is_an_error(self, storage: Storage):
        with pytest.raises(StorageError), storage.publishing("file"):
            pass
        assert storage.list() == []

    def test_threads_publish_side_by_side(self, storage: Storage):
        def publish(number: int) -> None:
            for again in range(5):
                storage.publish_bytes(f"folder{number % 3}/{number}", bytes([number]) * (1000 + again))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(publish, range(24)))
        assert len(storage.list()) == 24
        for number in range(24):
            assert storage.read(f"folder{number % 3}/{number}") == bytes([number]) * 1004

    def test_threads_that_publish_one_file_never_mix(self, storage: Storage):
        storage.publish_bytes("file", bytes(4096))

        def publish(number: int) -> None:
            storage.publish_bytes("file", bytes([number]) * 4096)

        def look(_: int) -> bytes:
            return storage.read("file")

        with ThreadPoolExecutor(8) as pool:
            written = pool.map(publish, range(1, 60))
            seen = list(pool.map(look, range(200)))
            list(written)
        assert all(len(content) == 4096 and len(set(content)) == 1 for content in seen)

    def test_sweep_spares_what_is_published_and_what_is_being_written(self, storage: Storage):
        storage.publish_bytes("old", b"old")
        with storage.publishing("new") as path:
            path.write_bytes(b"ne")
            storage.sweep()
            assert path.read_bytes() == b"ne"
            path.write_bytes(b"new")
        storage.sweep()
        assert {key: storage.read(key) for key in keys(storage)} == {"old": b"old", "new": b"new"}

    def test_sweep_of_nothing(self, storage: Storage):
        storage.sweep()
        storage.child("not/yet").sweep()
        assert storage.list() == []

    def test_threads_publish_while_another_sweeps(self, storage: Storage):
        def publish(number: int) -> None:
            storage.publish_bytes(str(number), b"x")

        def sweep(_: int) -> None:
            storage.sweep()

        with ThreadPoolExecutor(6) as pool:
            published = pool.map(publish, range(60))
            list(pool.map(sweep, range(60)))
            list(published)
        assert len(storage.list()) == 60

    def test_child_is_a_folder_of_its_own(self, storage: Storage):
        child = storage.child("SSL/data")
        child.publish_bytes("subset0/file", b"x")
        assert keys(child) == ["subset0/file"]
        assert keys(storage) == ["SSL/data/subset0/file"]
        assert child.where("subset0/file") == storage.where("SSL/data/subset0/file")
        with child.publishing("half") as path:
            path.write_bytes(b"")
            assert keys(storage) == ["SSL/data/subset0/file"]

    def test_uri_opens_the_same_storage(self, storage: Storage):
        storage.publish_bytes("file", b"x")
        assert open_storage(storage.uri).read("file") == b"x"
        assert storage.where("file") == f"{storage.uri}/file"

    @pytest.mark.parametrize("key", REFUSED_KEYS)
    def test_names_that_lead_elsewhere_are_refused(self, storage: Storage, key: str):
        actions = [storage.stat, storage.local, storage.read, storage.remove, storage.child]
        actions += [lambda key: storage.exchange(key, b"", None), lambda key: storage.publish_bytes(key, b"")]
        actions += [lambda key: storage.list(key or "/")]
        for action in actions:
            with pytest.raises(InputError) as caught:
                action(key)
            assert str(caught.value).isprintable()
        assert storage.list() == []
