"""The versions of the weights, each a stage of its own; the command is tested with the flows."""

from pathlib import Path

import pytest

from tests.zssmnet.training.test_versions import add
from zssmnet.layout import Layout
from zssmnet.records import record_key
from zssmnet.storage import LocalStorage
from zssmnet.training.versions import MODEL, version_key
from zssmnet.verification import verify_root


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    """Two versions, the second one stable, and checkpoints."""
    weights = LocalStorage(Layout(str(tmp_path)).weights)
    weights.folder.mkdir(parents=True)
    add(weights, "aaaa")
    add(weights, "bbbb")
    weights.publish_bytes("training/bbbb/best.model", b"")
    for file in weights.folder.parent.glob("pretrained_weights/best of *"):
        file.unlink()
    return weights


def findings(root: Path, weights: LocalStorage) -> list[tuple[str, str]]:
    prefix = weights.where("")
    return [(finding.kind, finding.file.removeprefix(prefix)) for finding in verify_root(str(root))]


def test_versions_are_no_foreign_files(tmp_path: Path, weights: LocalStorage) -> None:
    assert findings(tmp_path, weights) == []


def test_what_is_wrong_with_a_version(tmp_path: Path, weights: LocalStorage) -> None:
    weights.local(version_key("aaaa")).write_bytes(b"The weights of aaaa")
    weights.remove(version_key("bbbb"))
    weights.publish_bytes("versions/bbbb/left", b"")
    weights.publish_bytes("versions/cccc/ssl_mnet_zonal.model", b"")
    weights.publish_bytes("versions/file", b"")
    assert findings(tmp_path, weights) == [
        ("foreign", "versions/file"),
        ("changed", version_key("aaaa")),
        ("missing", version_key("bbbb")),
        ("foreign", "versions/bbbb/left"),
        ("foreign", version_key("cccc")),
    ]


def test_an_unreadable_record_of_a_version(tmp_path: Path, weights: LocalStorage) -> None:
    key = f"versions/aaaa/{record_key(MODEL)}"
    weights.publish_bytes(key, b"{")
    assert findings(tmp_path, weights) == [("changed", key), ("foreign", version_key("aaaa"))]
