"""A key or password that stands in an address or in the environment is in no message."""

from pathlib import Path

import pytest

from deployments.local_settings import LocalSettings, StackError
from tests.reliability.ledger import Ledger
from zssmnet.errors import InputError, without_credentials
from zssmnet.storage import open_storage

SECRET = "wJalr/XUtnF+EMI"


@pytest.mark.parametrize(
    ("address", "shown"),
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
def test_credentials_are_taken_out_of_addresses(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_an_endpoint_with_a_password_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:PlAnTeD@127.0.0.1:9")
    with ledger.tried("secrets", "password in AWS_ENDPOINT_URL"):
        with pytest.raises(InputError) as caught:
            open_storage("s3://bucket/root")
        assert str(caught.value) == (
            "s3://bucket/root: AWS_ENDPOINT_URL has a user or password in it, with which no request can be signed; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )


def test_a_stack_does_not_repeat_an_endpoint_s_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ledger: Ledger
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:PlAnTeD@127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with ledger.tried("secrets", "password in AWS_ENDPOINT_URL"):
        with pytest.raises(StackError) as caught:
            LocalSettings(tmp_path, {}).prepare(None, 0o022)
        assert str(caught.value) == (
            "AWS_ENDPOINT_URL is set to http://***@127.0.0.1:9, but AWS_ACCESS_KEY_ID is not: set it, too"
        )
