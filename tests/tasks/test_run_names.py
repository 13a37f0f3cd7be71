"""Which names are users', and which part of an address names a working root."""

import pytest
from prefect.utilities.names import generate_slug

from tasks.run_names import _is_drawn, _root_name


def test_names_that_prefect_draws_are_replaced() -> None:
    assert all(_is_drawn(generate_slug(2)) for _ in range(200))
    assert _is_drawn("epsilon3-annuminas-adjunct")  # as the run form of its UI proposes
    assert _is_drawn("mu-cassiopeiae")
    assert _is_drawn("Tasty-Eland")  # as that of its new UI does


@pytest.mark.parametrize(
    "name", ["my-run", "before the move", "epsilon", "first-try-of-monday", "picai-2026-11", "calm", "Small-Archive"]
)
def test_names_that_users_give_are_kept(name: str) -> None:
    assert not _is_drawn(name)


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
