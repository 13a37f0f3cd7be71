"""Several processes that train together, real ones over Gloo on this CPU."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist

from tests.zssmnet.training.examples import CPU, bits, small_config, write_cubes
from zssmnet.config import PretrainConfig
from zssmnet.errors import ConfigError, InputError, LockedError, TrainingError
from zssmnet.registry import runs
from zssmnet.registry.runs import run_training, train_and_publish
from zssmnet.storage import LocalStorage, Storage, open_storage
from zssmnet.training import distributed, processes
from zssmnet.training.checkpoint import BEST, LAST, Progress, TrainingState
from zssmnet.training.dataset import open_training_data
from zssmnet.training.distributed import Group
from zssmnet.training.workers import Worker

COUNTS = (1, 2, 0, 1, 1, 3)
"""Five training cubes, three for validation: a batch of five has unequal shares, and so has validation's last one."""
WORKER = "zssmnet.training.processes"
MARK = "ZSSMNET_TEST"


@pytest.fixture
def cubes(tmp_path: Path) -> LocalStorage:
    return write_cubes(tmp_path / "cubes", COUNTS)


def run(cubes: Storage, folder: Path, config: PretrainConfig, **others: Any) -> Progress:
    nothing: Any = lambda *_: None  # noqa: E731
    return run_training(
        cubes, LocalStorage(folder), config, others.get("on_epoch", nothing), others.get("on_step", nothing)
    )


def content(folder: Path, name: str = LAST) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return loaded


def workers_alive() -> list[int]:
    """Workers that this test has started, or that a process of it has."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            named = WORKER in (folder / "cmdline").read_text(errors="replace")
            if named and f"{MARK}={os.environ[MARK]}" in (folder / "environ").read_text(errors="replace").split("\0"):
                found.append(int(folder.name))
    return found


@pytest.fixture(autouse=True)
def none_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No worker of a test outlives it. It is known by a variable: other tests may have workers at the same time."""
    monkeypatch.setenv(MARK, uuid4().hex)
    yield
    deadline = time.monotonic() + 20
    while workers_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_alive()


class TestTwoProcesses:
    @pytest.mark.parametrize("merge", ["sub", pytest.param("sum", marks=pytest.mark.long)])
    def test_learn_in_a_step_what_one_learns(self, cubes: LocalStorage, tmp_path: Path, merge: str) -> None:
        """Within rounding, which further steps of such small networks amplify a thousand times each epoch."""
        left = []
        for count in (1, 2):
            config = small_config(epochs=1, batch_size=5, processes=count)
            config = config.model_copy(update={"network": config.network.model_copy(update={"merge": merge})})
            progress = run(cubes, tmp_path / str(count), config)
            left.append((progress.history[0], content(tmp_path / str(count))))
        (one, there), (other, here) = left
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-6)
        assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-4)
        assert other.spread == pytest.approx(one.spread, rel=1e-2)
        for name, weight in there["state_dict"].items():
            torch.testing.assert_close(here["state_dict"][name], weight, rtol=1e-5, atol=1e-6)
        assert bits(here["generator_state"]) == bits(there["generator_state"])
        assert [list(one) for one in (here, here["optimizer_state_dict"])] == [
            list(one) for one in (there, there["optimizer_state_dict"])
        ]

    @pytest.mark.long
    def test_go_on_where_one_was_and_one_where_they_were(self, cubes: LocalStorage, tmp_path: Path) -> None:
        """Also the workers are brought to the state of the checkpoint: the step is that of one process."""
        first = small_config(epochs=1, batch_size=5, processes=2)
        run(cubes, tmp_path / "a", first)
        (tmp_path / "b").mkdir()
        for name in (LAST, BEST):
            (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
        for folder, count in (("a", 2), ("b", 1)):
            run(cubes, tmp_path / folder, small_config(epochs=2, batch_size=5, processes=count))
        here, there = content(tmp_path / "a"), content(tmp_path / "b")
        assert here["epoch"] == there["epoch"] == 2
        assert here["history"][1]["train_loss"] == pytest.approx(there["history"][1]["train_loss"], rel=1e-6)
        for name, weight in there["state_dict"].items():
            torch.testing.assert_close(here["state_dict"][name], weight, rtol=1e-5, atol=1e-6)

    @pytest.mark.long
    def test_twice_the_same_is_the_same_to_the_last_bit(self, cubes: LocalStorage, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            run(cubes, tmp_path / folder, small_config(epochs=2, batch_size=2, processes=2))
        assert (tmp_path / "a" / LAST).read_bytes() == (tmp_path / "b" / LAST).read_bytes()

    def test_are_the_same_run_as_one_process_wherever_they_start(
        self, cubes: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker in a folder with files that are named like modules does not run them."""
        trap = tmp_path / "trap"
        trap.mkdir()
        for name in ("torch", "zssmnet", "flows", "numpy", "os", "runpy", "pydantic"):
            (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nraise SystemExit(9)\n")
        monkeypatch.chdir(trap)
        weights = LocalStorage(tmp_path / "weights")
        made, is_new = train_and_publish(cubes, weights, small_config(epochs=1, processes=2))
        assert (is_new, made.best_epoch) == (True, 1)
        assert train_and_publish(cubes, weights, small_config(epochs=1)) == (made, False)
        assert not (tmp_path / "sprung").exists()

    def test_read_the_cubes_of_a_bucket_from_the_copies_of_rank_0(
        self, cubes: LocalStorage, s3_root: str, tmp_path: Path
    ) -> None:
        bucket = open_storage(s3_root)
        for entry in cubes.list():
            bucket.publish_bytes(entry.key, cubes.read(entry.key))
        open_training_data(bucket, 5)
        before = {path: path.stat().st_ino for path in (tmp_path / "cache" / "files").glob("*/*")}
        assert len(before) == 6
        run(bucket, tmp_path / "a", small_config(epochs=1, batch_size=5, processes=2))
        assert {path: path.stat().st_ino for path in (tmp_path / "cache" / "files").glob("*/*")} == before


class TestTheEnd:
    @pytest.mark.parametrize(
        "error",
        [KeyboardInterrupt, *(pytest.param(error, marks=pytest.mark.long) for error in (LockedError, SystemExit))],
    )
    def test_when_rank_0_stops(self, error: type[BaseException], cubes: LocalStorage, tmp_path: Path) -> None:
        def stop(state: TrainingState) -> None:
            assert len(workers_alive()) >= 1
            raise error

        with pytest.raises(error):
            run(cubes, tmp_path / "a", small_config(epochs=3, processes=2), on_epoch=stop)

    def test_when_a_worker_hangs(self, cubes: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is alive, and does nothing more: rank 0 names it, and ends it."""
        monkeypatch.setattr(distributed, "NOTE_INTERVAL_S", 0.2)

        def freeze(state: TrainingState) -> None:
            monkeypatch.setattr(distributed, "HANG_TIMEOUT_S", 2.0)
            for worker in workers_alive():
                os.kill(worker, signal.SIGSTOP)

        with pytest.raises(TrainingError, match=r"^rank 1 of 2, on \S+, hangs: .* run it again to continue"):
            run(cubes, tmp_path / "a", small_config(epochs=3, processes=2), on_epoch=freeze)
        assert content(tmp_path / "a")["epoch"] == 1

    @pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
    def test_when_rank_0_is_killed(self, number: signal.Signals, cubes: LocalStorage, tmp_path: Path) -> None:
        code = (
            "import sys\nfrom pathlib import Path\nfrom tests.zssmnet.training.test_processes import *\n"
            f"run(LocalStorage(Path({str(cubes.uri)!r})), Path({str(tmp_path / 'a')!r}), "
            "small_config(epochs=1000, patience=1000, processes=2), on_epoch=lambda state: print('epoch', flush=True))"
        )
        rank_0 = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert rank_0.stdout
        assert rank_0.stdout.readline() == "epoch\n"
        rank_0.send_signal(number)
        rank_0.wait(30)
        rank_0.stdout.close()

    def test_a_worker_that_is_killed_is_named_and_the_checkpoint_kept(
        self, cubes: LocalStorage, tmp_path: Path
    ) -> None:
        def kill(state: TrainingState) -> None:
            if state.progress.epoch == 2:
                for process in workers_alive():
                    os.kill(process, signal.SIGKILL)

        with pytest.raises(TrainingError) as caught:
            run(cubes, tmp_path / "a", small_config(epochs=9, processes=2), on_epoch=kill)
        assert str(caught.value).startswith("worker rank 1 of 2 exited with status -9 (SIGKILL): ")
        assert str(caught.value).endswith("; run it again to continue from the last checkpoint")
        assert "\n" not in str(caught.value)
        assert content(tmp_path / "a")["epoch"] == 2

    def test_a_worker_that_cannot_work_names_the_reason(
        self, cubes: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = write_cubes(tmp_path / "gone", COUNTS)
        monkeypatch.setattr(runs, "Job", lambda cubes, config: processes.Job(cubes=gone.uri, config=config))
        for file in (tmp_path / "gone").iterdir():
            file.unlink()
        with pytest.raises(TrainingError, match=r"worker rank 1 of 2 .* status 1: .*gone: no file bat_<N>_s_"):
            run(cubes, tmp_path / "a", small_config(epochs=1, processes=2))


class TestNumberOfProcesses:
    def test_more_than_cubes_in_a_batch(self, cubes: LocalStorage, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"^3 processes cannot share a batch of 2; choose fewer with --processes \(or"
        ):
            run(cubes, tmp_path / "a", small_config(processes=3))

    def test_more_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(InputError, match=r"^2 processes need as many GPUs, but there are 1; choose --processes 1"):
            processes._size(small_config(processes=2).training, torch.device("cuda"))

    @pytest.mark.parametrize("launched", [0, 2])
    def test_more_than_one_with_an_apple_gpu(self, launched: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Asked for, or started by torchrun."""
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        store: Any = None
        monkeypatch.setattr(processes, "_torchrun", lambda: (store, Group(0, launched)) if launched else None)
        job = processes.Job(cubes="", config=small_config(device="mps", processes=0 if launched else 2))
        with (
            pytest.raises(InputError, match=r"^device = 'mps' trains in one process, not in 2; choose --processes 1"),
            processes.process_group(job),
        ):
            pass

    @pytest.mark.parametrize(("gpus", "batch_size", "size"), [(1, 24, 1), (4, 24, 4), (8, 6, 6)])
    def test_by_itself_one_a_gpu(self, gpus: int, batch_size: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        recipe = small_config(batch_size=batch_size).training
        assert processes._size(recipe, torch.device("cuda")) == size
        assert processes._size(recipe, CPU) == 1


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which no launcher has left a variable."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    processes._torchrun.cache_clear()
    yield monkeypatch
    processes._torchrun.cache_clear()


def set_variables(environment: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)


class TestTorchrun:
    @pytest.mark.parametrize("size", ["2", "", "abc"])
    def test_variables_of_another_launcher_mean_nothing(self, size: str, environment: pytest.MonkeyPatch) -> None:
        set_variables(environment, RANK="1", WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
        with processes.torchrun_command() as is_done:
            assert not is_done
        with processes.process_group(processes.Job(cubes="", config=small_config())) as group:
            assert group.size == 1

    def test_a_process_that_torchrun_starts_alone_trains_alone(self, environment: pytest.MonkeyPatch) -> None:
        set_variables(environment, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_PORT="1", TORCHELASTIC_RUN_ID="x")
        with processes.torchrun_command() as is_done:
            assert not is_done

    @pytest.mark.parametrize(
        "wrong",
        [
            {"RANK": "abc"},
            {"RANK": "2"},
            {"RANK": "-1"},
            {"WORLD_SIZE": ""},
            {"LOCAL_RANK": "1.5"},
            {"LOCAL_RANK": "-1"},
            {"MASTER_PORT": "x"},
            {"MASTER_PORT": "70000"},
            {"MASTER_ADDR": ""},
        ],
    )
    def test_malformed_variables_are_one_line(self, wrong: dict[str, str], environment: pytest.MonkeyPatch) -> None:
        right = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        set_variables(environment, TORCHELASTIC_RUN_ID="x", **right | wrong)
        with (
            pytest.raises(ConfigError, match=r"^RANK='.*' are not what torchrun sets; start .*$"),
            processes.torchrun_command(),
        ):
            pass

    @pytest.mark.parametrize("rank", ["0", "1"])
    def test_without_torchrun_waiting_ends(self, rank: str, environment: pytest.MonkeyPatch) -> None:
        """TORCHELASTIC_RUN_ID is left over, too: rank 0 waits for peers, and rank 1 for rank 0, neither for ever."""
        environment.setattr(processes, "STORE_TIMEOUT", timedelta(seconds=1))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank}
        set_variables(environment, TORCHELASTIC_RUN_ID="x", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **place)
        with (
            pytest.raises(TrainingError, match=r"^torchrun cannot be reached within 1 s \(RANK="),
            processes.torchrun_command(),
        ):
            pass

    @pytest.mark.long
    @pytest.mark.timeout(300)
    def test_its_processes_learn_what_one_does(self, cubes: LocalStorage, tmp_path: Path) -> None:
        """Two trainings, one after the other; then the workers end, and what rank 0 says stands once."""
        script = tmp_path / "script.py"
        script.write_text(
            "from tests.zssmnet.training.test_processes import *\n"
            "with processes.torchrun_command() as is_done:\n"
            "    for folder in () if is_done else ('a', 'b'):\n"
            f"        run(LocalStorage(Path({cubes.uri!r})), Path({str(tmp_path)!r}) / folder,"
            " small_config(epochs=1, batch_size=5))\n"
            "        print('done', folder)\n"
        )
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(torchrun, env=environment, capture_output=True, text=True, timeout=280)
        assert done.stdout.split("\n") == ["done a", "done b", ""], done.stderr
        run(cubes, tmp_path / "one", small_config(epochs=1, batch_size=5))
        for folder in ("a", "b"):
            for name, weight in content(tmp_path / "one")["state_dict"].items():
                torch.testing.assert_close(content(tmp_path / folder)["state_dict"][name], weight, rtol=1e-5, atol=1e-6)


class TestRendezvous:
    def test_ends_when_not_all_arrive(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(distributed, "RENDEZVOUS_TIMEOUT_S", 0.3)
        caplog.set_level("INFO")
        store = dist.FileStore(str(tmp_path / "store"), 3)
        store.add("arrived", 1)
        with (
            pytest.raises(TrainingError, match=r"^only 2 of 3 processes arrived within 0\.3 s; "),
            distributed.connected(distributed.Group(0, 3), store),
        ):
            pass
        assert "rank 0 of 3: waiting at most 0.3 s for the others" in caplog.text

    def test_after_one_that_failed_the_next_one_works(self, cubes: LocalStorage, tmp_path: Path) -> None:
        """PyTorch counts the attempts of a process, and a worker that is started anew has had none."""
        store = dist.FileStore(str(tmp_path / "store"), 2)
        store.add("arrived", 1)
        statuses = iter([None, None, None])

        class Ended:
            """A process that is found to have ended at the fourth look."""

            def poll(self) -> int | None:
                return next(statuses, 1)

        with tempfile.TemporaryFile() as log:
            worker: Any = Worker(1, Ended(), log)  # type: ignore[arg-type]
            with (
                pytest.raises(TrainingError, match="worker rank 1 of 2 exited with status 1: it wrote nothing"),
                distributed.connected(distributed.Group(0, 2, workers=[worker]), store),
            ):
                pass
        assert run(cubes, tmp_path / "a", small_config(epochs=1, processes=2)).epoch == 1

    def test_pytorch_has_what_ends_a_lost_collective(self) -> None:
        """Used with NCCL alone, which no test here has."""
        assert callable(dist.ProcessGroup.abort)
        assert dist.group.WORLD is None


MOMENTS = (0.0, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0, "epoch 1", "epoch 2", "epoch 4")
"""When a worker is killed: so many seconds after its first instant, or after an epoch."""
QUICK = (0.0,)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "moment", [one if one in QUICK else pytest.param(one, marks=pytest.mark.long) for one in MOMENTS]
)
def test_a_worker_killed_at_any_moment_is_named_in_one_line(
    moment: str | float, cubes: LocalStorage, tmp_path: Path
) -> None:
    """Also before it has imported PyTorch, and before the processes have met; the lock is released."""
    ended = threading.Event()

    def kill_when_started() -> None:
        while not (found := workers_alive()):
            if ended.wait(0.01):
                return
        if isinstance(moment, float) and not ended.wait(moment):
            kill(found)

    def kill_after_epoch(state: TrainingState) -> None:
        if moment == f"epoch {state.progress.epoch}":
            kill(workers_alive())

    def kill(workers: list[int]) -> None:
        for process in workers:
            os.kill(process, signal.SIGKILL)

    threading.Thread(target=kill_when_started).start()
    endless = small_config(epochs=100_000, patience=100_000, processes=2)
    try:
        with pytest.raises(TrainingError) as caught:
            run(cubes, tmp_path / "a", endless, on_epoch=kill_after_epoch)
    finally:
        ended.set()
    message = str(caught.value)
    assert message.startswith("worker rank 1 of 2 exited with status -9 (SIGKILL): ")
    assert "\n" not in message
    done = content(tmp_path / "a")["epoch"] if (tmp_path / "a" / LAST).exists() else 0
    # nobody has locked its folder, and the processes meet, though an attempt has failed here
    again = run(cubes, tmp_path / "a", small_config(epochs=done + 2, patience=100_000, processes=2))
    assert again.epoch == done + 2
