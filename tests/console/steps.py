"""What several tests of the console do: submit, upload, find a row, ask axe-core."""

import re
import subprocess
import sys
import uuid
from importlib.resources import files as resources
from typing import Any

from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.support.polling import becomes
from tests.support.stack import Stack, simulate

SLOW = {"steps": 600, "stepSeconds": 0.1}
AXE = resources("axe_playwright_python").joinpath("axe.min.js").read_text()
SERIOUS = ("serious", "critical")


def name(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def submit(house: Stack, job: str, **params: Any) -> str:
    house.post("/api/jobs", simulate({"id": "a", **params}, job=job))
    return job


def fill(house: Stack, job: str) -> str:
    """A job that holds a slot until it is cancelled; `simulate` is light and holds none."""
    node = {"id": "a", "task": "film", "plane": "python", "params": {"signals": "nowhere"}}
    house.post("/api/jobs", {"graph": {"schema": "langgraph.v1", "workflowId": job, "nodes": [node], "edges": []}})
    return job


def started(house: Stack, job: str) -> None:
    becomes(lambda: house.get(f"/api/jobs/{job}")["status"] == "running")


def payload(name: str, kind: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": content}


def row(page: Page, job: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=job, exact=True))


def findings(page: Page, *rules: str) -> list[str]:
    """What axe-core calls serious or critical, with the elements; `rules`: only by these."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE + ";0")
    options: dict[str, Any] = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    found: Any = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes']][:4]}"
        for each in found["violations"]
        if each["impact"] in SERIOUS
    ]


def logged(page: Page) -> int:
    """How many events the log has, with the data that are apart."""
    counts = page.locator("section[aria-labelledby=h-log] .chip .numbers").all_inner_texts()
    return sum(int(count.replace(",", "")) for count in counts)


def show_data(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Data")).click()


def open_groups(page: Page) -> None:
    expect(page.locator(".options")).to_be_visible()
    for group in page.locator("details.group:not([open]) > summary").all()[::-1]:
        group.click()


def store_examples(house: Stack) -> None:
    """Stores the examples that ship, as `up` does, unless a test before has."""
    if house.get("/api/artifacts", origin="example")["artifacts"]:
        return
    subprocess.run(
        [sys.executable, "-P", "-m", "dihedral.example_inputs"], env=house.environ, cwd=house.directory, check=True
    )


def upload(house: Stack, name: str, content: bytes, kind: str) -> dict[str, str]:
    answer = house.http.post("/api/artifacts", files={"file": (name, content, kind)})
    assert answer.status_code == 201
    return answer.json()


def view(meta: dict[str, str]) -> str:
    return f"/console/artifacts/{meta['bucket']}/{meta['key']}"
