"""Which part of an address names a working root, and what a run's name has in it."""

import re

import pytest

from tasks.run_names import _root_name, run_name


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://bucket/picai", "picai"),
        ("s3://bucket/picai/SSL/data", "picai"),
        ("/data/picai/", "picai"),
        ("s3://bucket", "bucket"),
        ("SSL", "SSL"),
        ("", "nothing"),
    ],
)
def test_a_root_is_named_by_its_last_part(address: str, name: str) -> None:
    assert _root_name(address) == name


def test_flow_root_and_date_are_one_line() -> None:
    assert re.fullmatch(
        r"pretrain a\\nb \d{4}-\d\d-\d\d \d\d:\d\d", run_name("pretrain", "/roots/a\nb/SSL/pretrained_weights")
    )
