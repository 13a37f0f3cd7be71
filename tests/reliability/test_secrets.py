"""A key or password that stands in an address or in the environment is in no message."""

from pathlib import Path

import pytest

from deployments.places import Places
from deployments.processes import StackError
from flows import cli
from tests.reliability.ledger import Ledger
from zssmnet.errors import StorageError, without_credentials
from zssmnet.storage import open_storage

SECRET = "wJalr/XUtnF+EMI"


@pytest.mark.parametrize(
    ("told", "untold"),
    [
        ("s3://AKIA:wJalr/XUtnF+EMI@bucket/root: no such file", "s3://***@bucket/root: no such file"),
        (
            'could not connect to "http://me:secret@127.0.0.1:9000/b?x=1"',
            'could not connect to "http://***@127.0.0.1:9000/b?x=1"',
        ),
        ("s3://token@bucket", "s3://***@bucket"),
        ("http://127.0.0.1:9000/a@b", "http://127.0.0.1:9000/a@b"),
        ("s3://bucket/of@home/case.nii.gz", "s3://bucket/of@home/case.nii.gz"),
        ("/data/me:you@home", "/data/me:you@home"),
    ],
)
def test_credentials_are_taken_out_of_addresses(told: str, untold: str) -> None:
    assert without_credentials(told) == untold


def test_an_address_with_a_key_is_refused(capsys: pytest.CaptureFixture[str], ledger: Ledger) -> None:
    with ledger.tried("secrets", "key in an s3:// address"):
        with pytest.raises(SystemExit) as exit:
            cli.main(["verify", "--output", f"s3://AKIA:{SECRET}@bucket/root"])
        out, err = capsys.readouterr()
        assert (exit.value.code, out) == (1, "")
        assert err == (
            "zssmnet: error: s3://***@bucket/root/SSL/data: logs and records repeat an address, so no key belongs "
            "into it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead\n"
        )


def test_an_endpoint_with_a_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    """Nobody answers there, and the network's message tells where that is."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:PlAnTeD@127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "PlAnTeD")
    with ledger.tried("secrets", "password in AWS_ENDPOINT_URL"):
        with pytest.raises(StorageError) as caught:
            open_storage("s3://planted-bucket/root").stat("a")
        assert "PlAnTeD" not in str(caught.value)


def test_a_stack_does_not_repeat_an_endpoint_s_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ledger: Ledger
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:PlAnTeD@127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with ledger.tried("secrets", "password in AWS_ENDPOINT_URL"):
        with pytest.raises(StackError) as caught:
            Places(tmp_path, {}, {}).environment("cpu-worker")
        assert str(caught.value) == (
            "AWS_ENDPOINT_URL is set to http://***@127.0.0.1:9, but AWS_ACCESS_KEY_ID is not: set it, too"
        )
