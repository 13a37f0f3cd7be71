"""Fixtures for all tests."""

from pathlib import Path

import pytest

from tests.s3_server import s3_endpoint as s3_endpoint
from tests.s3_server import s3_root as s3_root
from tests.server import prefect_api as prefect_api


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with the golden values and the data."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here: golden values are not checked")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Outputs of the published program."""
    return shared / "golden"
