"""A command's own server on SQLite: clients side by side neither wait for each other in vain nor are sent away."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

CLIENTS, RUNS = 12, 4
MAKE_GARBAGE = """
import gc, threading
from flows import embedded_server

found = threading.Event()

class Cursor:
    def __del__(self):
        print(threading.current_thread().name)
        found.set()

embedded_server.collect_garbage_apart()
gc.set_threshold(1000)
for _ in range(100):
    cursor = Cursor()
    cursor.itself = cursor
    kept = [[] for _ in range(10_000)]
assert found.wait(60)
"""


def test_garbage_is_looked_for_in_a_thread_of_its_own() -> None:
    """In that of the event loop, a cursor among it was seen to stop the server for a minute."""
    done = subprocess.run([sys.executable, "-c", MAKE_GARBAGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"garbage"}


def test_clients_side_by_side_are_not_sent_away(prefect_api: str) -> None:
    with httpx.Client(base_url=prefect_api, timeout=300, trust_env=False) as http:

        def runs(client: int) -> set[int]:
            answers = [http.post("/flows/", json={"name": f"client {client}"})]
            for _ in range(RUNS):
                answers.append(http.post("/flow_runs/", json={"flow_id": answers[0].json()["id"]}))
                run = answers[-1].json()["id"]
                states = ({"state": {"type": name}} for name in ("RUNNING", "COMPLETED"))
                answers += [http.post(f"/flow_runs/{run}/set_state", json=state) for state in states]
            return {answer.status_code for answer in answers}

        with ThreadPoolExecutor(CLIENTS) as threads:
            statuses = set().union(*threads.map(runs, range(CLIENTS)))
    assert statuses <= {httpx.codes.OK, httpx.codes.CREATED}
