"""A real browser on Prefect's UI: headless Chromium of the system, driven by Playwright.

``python -m tests.integration.browser FOLDER`` takes the screenshots of the documentation from the service that
``make service`` has started (``. .service/env`` first).
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun

from tests.integration.service import Service

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",  # containers and CI run as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
LOADED = "[...document.images].some(image => image.src.startsWith('data:') && image.naturalWidth > 300)"
"""A picture that the page itself holds has been drawn."""


@contextmanager
def signed_in(environment: Mapping[str, str]) -> Iterator[Page]:
    """A page of the UI, with the password given; skips where there is no Chromium."""
    program = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium): the UI is not looked at")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, base_url=environment["PREFECT_UI_URL"])
        page.set_default_timeout(PATIENCE_MS)
        page.goto("/login")
        page.locator("input[type=password]").fill(environment["PREFECT_API_AUTH_STRING"])
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard")
        yield page
        browser.close()


def look(page: Page, service: Service, run: FlowRun, folder: Path) -> None:
    """Look at the dashboard, a finished run of ``ssl-pretraining``, its artifacts, and the form of the next run.

    Each page is shown, what it should show is waited for, and a screenshot is taken.

    Raises:
        playwright.sync_api.TimeoutError: something does not show.
    """
    (prepared,) = service.children(run, "prepare-data")
    (cut,) = service.children(run, "generate-cubes")
    trained = service.children(run, "pretrain")[-1]
    name = service.client.read_flow_run(run.id).name
    deployment = service.client.read_deployment_by_name("ssl-pretraining/ssl-pretraining")

    def shot(file: str, address: str, *wait: Callable[[], object]) -> None:
        page.goto(address)
        for one in wait:
            one()
        page.wait_for_timeout(1500)  # what moves on the page comes to rest
        page.screenshot(path=folder / f"{file}.png")

    def artifact(key: str, of: FlowRun) -> str:
        return f"/artifacts/artifact/{service.artifacts(of)[key].id}"

    def shown(selector: str) -> Callable[[], object]:
        return lambda: page.locator(selector).first.wait_for(state="visible")

    def text(words: str) -> Callable[[], object]:
        return lambda: page.get_by_text(words).first.wait_for(state="visible")

    def picture() -> None:
        page.wait_for_function(LOADED)

    shot("dashboard", "/dashboard", text("Active Work Pools"), text("gpu"))

    def graph() -> None:
        page.wait_for_timeout(6000)  # it is drawn without a graphics card, and says nothing when it is done

    sent = text("pre-training is sent to work pool 'gpu'")
    shot("run", f"/runs/flow-run/{run.id}", text(name), sent, shown("canvas"), graph)
    shot("summary", artifact("summary", run), text("cases used"), text("Runs"), picture)
    shot("cases", artifact("cases", prepared), text("prepared"), text("state"))
    shot("case", artifact("cases-subset5", cut), picture)
    shot("progress", artifact("pretrain-progress", trained), text("epochs · loss"), text("Progress: 100%"))
    shot("loss-curves", artifact("loss-curves", trained), picture)
    shot("restored-cubes", artifact("restored-cubes", trained), picture)
    shot("lineage", artifact("data-lineage", trained), text("5, validation"), text("their SHA-256"))
    shot("record", artifact("model-record", trained), text("SHA-256"), text("validation loss"))
    shot("form", f"/deployments/deployment/{deployment.id}/run", text("Folder or s3://bucket/prefix of an nnU-Net raw"))


def main() -> None:
    """Take the screenshots of the last finished run."""
    with get_client(sync_client=True) as client, signed_in(os.environ) as page:
        service = Service(None, client)
        run = next(run for run in service.runs_of("ssl-pretraining") if run.state and run.state.is_completed())
        look(page, service, run, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
