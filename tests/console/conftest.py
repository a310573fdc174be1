"""One house and one browser for the tests of a process; every test has a tab of its own, in which nothing may go wrong unseen.

Playwright keeps an event loop running in the thread that it was started in, where no other test could run its own any more. So all
that touches the browser, these tests with it, happens in one thread beside pytest's.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from dihedral import examples
from tests.console import filming, wide
from tests.console.browser import Tab, chromium
from tests.support import lethal
from tests.support.stack import Stack

WORKER = ("--slots", "2", "--tasks", "filming", "--tasks", "lethal", "--tasks", "wide")
BESIDE = ThreadPoolExecutor(1, thread_name_prefix="browser")


def beside(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return BESIDE.submit(call, *args, **named).result()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if "browser" not in pyfuncitem.fixturenames:
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    beside(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in wanted})
    return True


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    opened = chromium()
    yield beside(opened.__enter__)
    beside(opened.__exit__, None, None, None)


@pytest.fixture(scope="session")
def house(browser: Browser) -> Iterator[Stack]:
    """With one worker of two slots, where one death is enough; the browser first: without one nothing is started."""
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    made = Stack(directory, DIHEDRAL_JOBS__MAX_DELIVERIES="1")
    try:
        for module in (filming, wide):
            shutil.copy(str(module.__file__), directory)
        lethal.module_in(directory)
        made.worker(*WORKER)
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture and a recording of somebody."""
    return examples.make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def open_tab(browser: Browser, house: Stack) -> Iterator[Callable[..., Tab]]:
    """Opens tabs; at the end none may have complained, unless the test emptied what it had said."""
    tabs: list[Tab] = []

    def opened(url: str = "", **options: object) -> Tab:
        tabs.append(Tab(browser, url or house.url, **options))
        return tabs[-1]

    yield opened
    said = [line for tab in tabs for line in tab.said]
    foreign = [
        each for tab in tabs for each in tab.asked if "://127.0.0.1:" not in each and not each.startswith("blob:")
    ]
    for tab in tabs:
        beside(tab.close)
    assert said == []
    assert foreign == []


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    made: Tab = beside(open_tab)
    return made
