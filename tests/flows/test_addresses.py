"""An address that means something else in another process is refused before any work, in every flow."""

from pathlib import Path
from typing import Any

import pytest

from flows.of_stages import generate_cubes, prepare_data, pretrain, probe, retrain_on_new_data, ssl_pretraining
from flows.watch import watch_for_data
from tasks.folders import STARTED_BY_WORKER, check_valid_everywhere
from tasks.hand_off import HandOff
from zssmnet.errors import InputError

CALLS: list[tuple[Any, list[Any]]] = [
    (prepare_data, ["/archive", "/masks", "root/SSL/data"]),
    (generate_cubes, ["~/data", "/cubes"]),
    (pretrain, ["/cubes", "weights"]),
    (ssl_pretraining, ["/archive", "masks", "/root"]),
    (retrain_on_new_data, ["/archive", "/masks", "~/root"]),
    (watch_for_data, ["archive"]),
    (probe, ["/archive", "/masks", ["weights.model"], "/output"]),
    (probe, ["/archive", "/masks", ["/a.model"], "/output", "~somebody/labels"]),
]


@pytest.mark.parametrize(("flow", "addresses"), CALLS, ids=lambda one: getattr(one, "name", ""))
def test_every_flow_refuses_it_in_a_deployment(
    flow: Any, addresses: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STARTED_BY_WORKER, "a run")
    with pytest.raises(
        InputError, match=r"^(root|~|weights|masks|archive).*: depends on the current folder or the user"
    ):
        flow.fn(*addresses)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flow", "addresses", "name"),
    [
        (prepare_data, ["/archive", "/masks", ""], "output_path is ''"),
        (ssl_pretraining, ["/archive", "/masks", " /root"], "root is ' /root'"),
        (retrain_on_new_data, ["/archive", " ", "/root"], "zonal_mask_path is ' '"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_an_empty_field_of_a_run_form_is_named(flow: Any, addresses: list[Any], name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: name a folder or file"):
        flow.fn(*addresses)


def test_watching_a_folder_that_is_not_there_is_no_lack_of_news(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder; name the folder of the archive"):
        watch_for_data.fn(str(tmp_path / "nowhere"))


def test_a_run_that_hands_its_training_over_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^root: depends on the current folder"):
        ssl_pretraining.fn("/archive", "/masks", "root", hand_off=HandOff(deployment="pretrain/pretrain"))


def test_here_it_means_what_it_says() -> None:
    check_valid_everywhere("root", "~/root", None)
    check_valid_everywhere("/root", "s3://bucket/root", None, elsewhere=True)
