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

from tasks.models_page import artifact_key
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


Condition = Callable[[Page], object]
"""Waits for something on a page."""
NEW_UI = "/v2"


def shot(page: Page, file: Path, address: str, *conditions: Condition) -> None:
    """Show a page, wait for what it should show, and take a screenshot.

    Raises:
        playwright.sync_api.TimeoutError: something does not show.
    """
    page.goto(address)
    for one in conditions:
        one(page)
    page.wait_for_timeout(1500)  # what moves on the page comes to rest
    page.screenshot(path=file)


def shown(selector: str) -> Condition:
    """Something of this kind shows."""
    return lambda page: page.locator(selector).first.wait_for(state="visible")


def text(words: str) -> Condition:
    """These words show."""
    return lambda page: page.get_by_text(words).first.wait_for(state="visible")


def first_link(page: Page) -> None:
    """The first of an artifact's states is opened."""
    page.locator("a[href*='/artifacts/artifact/']").first.click()


def picture(page: Page) -> None:
    """A picture shows."""
    page.wait_for_function(LOADED)


def graph(page: Page) -> None:
    """The graph of a run shows: it is drawn without a graphics card, and there is no sign that it is done."""
    page.wait_for_timeout(6000)


def artifact(service: Service, key: str, run: FlowRun) -> str:
    """The page of an artifact."""
    return f"/artifacts/artifact/{service.artifacts(run)[key].id}"


def look_while_it_trains(page: Page, service: Service, run: FlowRun, folder: Path) -> None:
    """Look at a run of ``ssl-pretraining`` whose training goes on elsewhere, and at the training's page in both UIs."""
    (trained,) = service.children(run, "pretrain")
    service.until(lambda: "summary" in service.artifacts(trained))
    for ui, name in (("", "training"), (NEW_UI, "training-new-ui")):
        shot(
            page, folder / f"{name}.png", ui + artifact(service, "summary", trained), text("is being trained"), picture
        )
    shot(page, folder / "hand-off.png", artifact(service, "hand-off", run), text("runs in work pool"))


def look(page: Page, service: Service, run: FlowRun, folder: Path) -> None:
    """Look at the dashboard, a finished run of ``ssl-pretraining`` on local folders, the pages of it, its training, its
    archive and all models, and the form of the next.

    What a new user sees first is looked at in both UIs.
    """
    trained = service.children(run, "pretrain")[-1]
    name = service.client.read_flow_run(run.id).name
    deployment = service.client.read_deployment_by_name("ssl-pretraining/ssl-pretraining")

    def seen(file: str, address: str, *conditions: Condition) -> None:
        shot(page, folder / f"{file}.png", address, *conditions)

    seen("dashboard", "/dashboard", text("Active Work Pools"), text("gpu"))
    begun = text("cases are up to date")  # of a larger archive, the log is longer than what is drawn at first
    seen("run", f"/runs/flow-run/{run.id}", text(name), begun, shown("canvas"), graph)
    for ui, new in (("", ""), (NEW_UI, "-new-ui")):
        seen(f"summary{new}", ui + artifact(service, "summary", run), text("cases used"), text("Cubes"))
        model = ui + artifact(service, "summary", trained)
        seen(f"model{new}", model, text("validation loss"), picture, text("5, validation"), text("SHA-256"))
    key = artifact_key(str(run.parameters["root"]))
    seen("models", f"/artifacts/key/{key}", first_link, text("Losses can be compared"), picture)
    seen("archive", f"file://{run.parameters['root']}/SSL/reports/archive.html", shown("image"))
    seen("progress", artifact(service, "pretrain-progress", trained), text("epochs · loss"), text("Progress: 100%"))
    page.set_viewport_size({"width": 1400, "height": 2400})  # a form without its folded sections is one page
    for ui, new in (("", ""), (NEW_UI, "-new-ui")):
        form = f"{ui}/deployments/deployment/{deployment.id}/run"
        seen(f"form{new}", form, text("an nnU-Net raw, PI-CAI MHA or BIDS archive"), text("PretrainConfig"))


def main() -> None:
    """Take the screenshots of the last finished run."""
    with get_client(sync_client=True) as client, signed_in(os.environ) as page:
        service = Service(None, client)
        run = next(run for run in service.runs_of("ssl-pretraining") if run.state and run.state.is_completed())
        look(page, service, run, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
