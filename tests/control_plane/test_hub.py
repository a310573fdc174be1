"""The hub: what it makes of a Redis that loses messages, answers late, restarts, or says nonsense."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from dihedral.bridge.fabric.jobs import JobView
from dihedral.control_plane import hub
from dihedral.control_plane.hub import UnknownJob
from tests.control_plane.hubs import is_last, seqs, world
from tests.control_plane.served import new_id
from tests.control_plane.watching import Story, ended, live, said
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEPT = ("--appendonly", "yes", "--appendfsync", "always")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with live(tmp_path_factory.mktemp("hub")) as made:
        yield made


def sample(name: str, labels: dict[str, str] | None = None) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


# Messages get lost ------------------------------------------------------------------------------------------------------


async def test_a_message_that_was_lost_is_read_from_the_log(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        rereads = sample("dihedral_hub_rereads_total")
        made.pubsub.lose(b'"n":[23]}')
        for number in range(6):
            job.data(n=number)
        job.end()
        chunks = await view.until(is_last)
        assert made.pubsub.lost == 2
        assert seqs(first, *chunks) == list(range(1, first.seq + 9))
        assert {chunk.kind for chunk in chunks} == {"update"}
        assert sample("dihedral_hub_rereads_total") > rereads


async def test_a_last_message_that_was_lost_is_read_after_some_quiet(served: Any) -> None:
    job = await served.puppet()
    async with world(served, quiet_seconds=0.3) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.pubsub.lose(b'"completed"')
        job.end()
        chunks = await view.until(is_last)
        assert made.pubsub.lost == 2
        assert seqs(*chunks) == [first.seq + 1, first.seq + 2]


async def test_progress_that_knows_of_an_event_that_was_lost_brings_it(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.pubsub.lose(b'"n":1}')
        job.data(n=1)
        job.progress(0.5)
        chunks = await view.until(lambda chunk: chunk.progress == 0.5)
        assert made.pubsub.lost == 1
        assert seqs(*chunks) == [first.seq + 1]


async def test_after_a_lost_connection_what_was_missed_comes_once_and_in_order(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        chunks = [await view.next()]
        for number in range(20):
            job.data(n=number)
            made.pubsub.cut()
            if number % 3 == 0:
                chunks.append(await view.next())
        job.end()
        chunks += await view.until(is_last)
        assert seqs(*chunks) == list(range(1, chunks[-1].seq + 1))
        assert {chunk.kind for chunk in chunks} == {"update"}, "the same epoch: no resync"
        assert made.pubsub.connections > 1


async def test_what_was_missed_is_read_when_the_reading_connection_broke_too(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.pubsub.lose(b'"completed"')  # so that only the log can tell
        made.reads.hold()
        made.pubsub.cut()
        await served.becomes(lambda: made.reads.held)
        job.end()
        await served.ended(job.job)
        for _ in range(3):
            made.reads.cut()
            await served.becomes(lambda: made.reads.held)
        made.reads.let_go()
        assert seqs(*await view.until(is_last)) == [first.seq + 1, first.seq + 2]


# Answers come late --------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_older_than_what_was_heard_takes_nothing_back(served: Any) -> None:
    """The job was read; before the answer came, an event was heard."""
    job = await served.puppet()
    async with world(served, quiet_seconds=0.1) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.reads.hold()
        await served.becomes(lambda: made.reads.held)
        job.data(n=1)
        assert seqs(await view.next()) == [first.seq + 1]
        made.reads.let_go()
        job.end()
        chunks = await view.until(is_last)
        assert seqs(*chunks) == [first.seq + 2, first.seq + 3]
        assert {chunk.kind for chunk in chunks} == {"update"}


async def test_an_older_answer_after_a_restart_takes_nothing_back(served: Any) -> None:
    """The epoch was another one by then, so the answer, older than what had been heard and sent, was sent as the new truth."""
    job = await served.puppet()
    async with world(served, quiet_seconds=0.1) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.reads.hold()
        await served.becomes(lambda: made.reads.held)
        made.hub._watches[job.job].epoch = "before the restart"
        job.data(n=1)
        assert seqs(await view.next()) == [first.seq + 1]
        made.reads.let_go()
        resync = (
            await view.next()
        )  # before the job goes on, or its end would come first and hide what the hub makes of the answer
        assert (resync.kind, resync.seq) == ("resync", first.seq + 1), "what had been sent was taken back"
        job.end()
        chunks = await view.until(is_last)
        assert seqs(*chunks) == [first.seq + 2, first.seq + 3]
        assert {chunk.kind for chunk in chunks} == {"update"}


async def test_a_second_client_that_reads_ahead_of_the_messages_gets_the_end_and_takes_nothing_from_the_first(
    served: Any,
) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.pubsub.hold()
        job.data(n=1)
        job.end()
        await served.ended(job.job)
        second = await made.view(job.job)
        found = await second.next()
        assert (found.status, found.progress, found.seq) == ("completed", 1, first.seq + 3)
        made.pubsub.let_go()
        assert seqs(*await view.until(is_last)) == [first.seq + 1, first.seq + 2, first.seq + 3]
        assert second.silent


async def test_a_client_that_is_further_than_the_hub_brings_it_forward(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.pubsub.lose(b'"created"')
        job.data(n=1)
        job.end()
        await served.ended(job.job)
        await served.becomes(lambda: made.pubsub.lost == 3)
        second = await made.view(job.job, after=first.seq + 2)
        assert seqs(*await second.until(is_last)) == [first.seq + 3]
        assert seqs(*await view.until(is_last)) == [first.seq + 1, first.seq + 2, first.seq + 3]


async def test_progress_that_arrives_late_does_not_fall(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        await view.next()
        made.pubsub.hold()
        job.progress(0.25)
        await served.becomes(lambda: made.pubsub.held)
        job.progress(0.5)
        await served.becomes(lambda: has_progress(served, job.job, 0.5))
        second = await made.view(job.job)
        assert (await second.next()).progress == 0.5
        made.pubsub.lose(b'"progress":0.5,')
        made.pubsub.let_go()
        await served.becomes(lambda: made.pubsub.lost)
        job.data(n=1)
        told = [chunk.progress for chunk in await second.until(lambda chunk: chunk.events)]
        assert told == [0.5]


async def has_progress(served: Any, job: Any, progress: Any) -> Any:
    return (await served.job(job))["progress"] == progress


async def test_progress_falls_with_a_new_attempt_of_a_node(served: Any) -> None:
    job = await served.puppet(attempts=2)
    async with world(served) as made:
        view = await made.view(job.job)
        job.progress(0.5)
        await view.until(lambda chunk: chunk.progress == 0.5)
        job.fail(retryable=True)
        job.progress(0.25)
        await view.until(lambda chunk: chunk.progress == 0.25)


async def test_progress_falls_with_a_new_attempt_of_a_job(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        job.progress(0.5)
        await view.until(lambda chunk: chunk.progress == 0.5)
        job.fail()
        assert (await view.until(is_last))[-1].progress == 0.5
        await served.post(f"/api/jobs/{job.job}/retry", expect=200)
        await view.until(lambda chunk: (chunk.status, chunk.progress) == ("running", 0))
        job.progress(0.25)
        await view.until(lambda chunk: chunk.progress == 0.25)


async def test_a_connection_that_answers_nothing_is_made_anew(served: Any) -> None:
    """As when a machine between here and Redis has forgotten it: no error, no messages."""
    job = await served.puppet()
    async with world(served, silent_seconds=0.2) as made:
        view = await made.view(job.job)
        first = await view.next()
        made.pubsub.hold()
        connections = made.pubsub.connections
        await served.becomes(lambda: made.pubsub.connections > connections)
        made.pubsub.let_go()
        job.end()
        assert seqs(*await view.until(is_last)) == [first.seq + 1, first.seq + 2]


# What a client has not collected -----------------------------------------------------------------------------------------


async def test_what_a_client_did_not_take_is_read_again_from_the_log_and_not_kept(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view, witness = await made.view(job.job), await made.view(job.job)
        first = await view.next()
        kept = served.settings.websocket.queue_length
        overflows = sample("dihedral_hub_drops_total", {"reason": "overflow"})
        for number in range(3 * kept):
            job.data(n=number)
        job.end()
        await witness.until(is_last)
        assert len(view.subscription.events) <= kept
        assert sample("dihedral_hub_drops_total", {"reason": "overflow"}) > overflows
        chunks = await view.until(is_last)
        assert seqs(*chunks) == list(range(first.seq + 1, first.seq + 3 * kept + 3))


async def test_a_job_that_ends_and_is_deleted_at_once_is_told_to_its_end(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        job.end()
        await served.ended(job.job)
        await served.delete(f"/api/jobs/{job.job}")
        await served.becomes(lambda: view.subscription.watch.gone)
        chunks = [await view.next(), await view.next()]
        assert [chunk.kind for chunk in chunks] == ["update", "gone"]
        assert (seqs(*chunks), chunks[0].status) == ([first.seq + 1, first.seq + 2], "completed")


async def test_a_job_that_was_made_anew_is_not_taken_for_the_deleted_one(served: Any) -> None:
    """While one client has not yet heard that the job it watches is gone, another may watch the new one."""
    job = await served.puppet()
    async with world(served) as made:
        old = await made.view(job.job)
        job.end()
        await served.ended(job.job)
        await served.delete(f"/api/jobs/{job.job}")
        await served.becomes(lambda: old.subscription.watch.gone)
        anew = await served.puppet(job.job)
        new = await made.view(job.job)
        first = await new.next()
        assert (first.kind, first.status) == ("update", "running")
        assert (await old.until(is_last))[-1].status == "completed"
        assert (await old.next()).kind == "gone"
        made.hub.unsubscribe(old.subscription)
        anew.end()
        assert seqs(*await new.until(is_last)) == [first.seq + 1, first.seq + 2]


async def test_a_client_that_leaves_while_another_comes_takes_nothing_from_it(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        for _ in range(20):
            leaving = [asyncio.create_task(made.view(job.job)) for _ in range(3)]
            coming = asyncio.create_task(made.view(job.job))
            await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            view = await coming
            first = await view.next()
            job.data(n=1)
            assert seqs(await view.next()) == [first.seq + 1]
            made.hub.unsubscribe(view.subscription)
            await asyncio.gather(*leaving, return_exceptions=True)
            for task in leaving:
                if not task.cancelled():
                    made.hub.unsubscribe(task.result().subscription)
    await served.becomes(lambda: nobody_listens(served, job.job))


async def nobody_listens(served: Any, job: Any) -> Any:
    return await served.listeners(job) == 0


# Nonsense -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[]", b'{"type":1}', b'{"type":"data","seq":"x"}', b"\xff\xfe"])
async def test_a_message_that_is_none_ends_nothing(served: Any, nonsense: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        for channel in ("status", "progress", "data"):
            await served.planes.client.publish(f"{channel}:{job.job}", nonsense)
        job.end()
        assert seqs(*await view.until(is_last)) == [first.seq + 1, first.seq + 2]


async def test_a_number_that_the_log_does_not_have_changes_nothing(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        view = await made.view(job.job)
        first = await view.next()
        await served.planes.client.publish(f"data:{job.job}", b'{"seq":4711,"type":"data"}')
        job.end()
        assert seqs(*await view.until(is_last)) == [first.seq + 1, first.seq + 2]


async def test_an_unknown_job_leaves_nothing_behind(served: Any) -> None:
    async with world(served) as made:
        nobody = new_id("nobody")
        with pytest.raises(UnknownJob):
            await made.view(nobody)
        await served.becomes(lambda: nobody_listens(served, nobody))


# Redis restarts -----------------------------------------------------------------------------------------------------------


async def test_a_redis_that_is_killed_and_comes_back_costs_no_event(tmp_path: Path) -> None:
    """The epoch is another one then, so clients may be told to look again; the picture is complete and in order."""
    async with live(tmp_path, *KEPT) as served:
        job, quiet = await served.puppet(), await served.puppet()
        async with served.watcher() as client, served.watcher() as other:
            stories = [Story(served, job.job), Story(served, job.job), Story(served, quiet.job)]
            await stories[0].hear(await client.subscribe(job.job))
            await stories[1].hear(await other.subscribe(job.job))
            await stories[2].hear(await other.subscribe(quiet.job))
            for number in range(10):
                job.data(n=number)
            served.servers[0].kill()
            served.servers[0].wait()
            for number in range(10, 20):
                job.data(n=number)
            served.servers[0], _ = start_server(tmp_path, *KEPT)
            for number in range(20, 30):
                job.data(n=number)
            job.end()
            quiet.end()
            for watcher, story in ((client, stories[0]), (other, stories[1]), (other, stories[2])):
                while not story.ended:
                    await story.hear(await watcher.of(story.job))
                await story.whole()
                assert story.epoch == (await served.get(f"/api/jobs/{story.job}/events"))["epoch"]
            for story in stories[:2]:
                told = [event["data"]["n"] for event in story.events if event["type"] == "data"]
                assert told == list(range(30))
            assert ended(await client.subscribe(job.job, after=stories[0].seq, epoch=stories[0].epoch))


async def test_a_redis_that_comes_back_with_older_data_is_followed_from_there(tmp_path: Path) -> None:
    """As a replica that was promoted too early: the number of the last event goes back, and no client is left behind it."""
    async with live(tmp_path, *KEPT) as served:
        job = await served.puppet()
        async with served.watcher() as client, served.watcher() as late:
            first = await client.subscribe(job.job)
            job.data(n=0)
            told = await client.until(job.job, said, first)
            shutil.copytree(tmp_path / "appendonlydir", tmp_path / "older")
            for number in range(1, 10):
                job.data(n=number)
            told = await client.until(job.job, lambda message: said(message)[-1:] == [{"n": 9}])
            served.servers[0].kill()
            served.servers[0].wait()
            shutil.rmtree(tmp_path / "appendonlydir")
            (tmp_path / "older").rename(tmp_path / "appendonlydir")
            served.servers[0], _ = start_server(tmp_path, *KEPT)
            resync = await client.of(job.job)
            assert resync["type"] == "resync"
            back = resync["snapshot"]["seq"]
            assert back < told[-1]["seq"]
            assert resync["snapshot"]["epoch"] != told[-1]["epoch"]
            wish = {"after": told[-1]["seq"], "epoch": told[-1]["epoch"]}
            assert (await late.subscribe(job.job, **wish))["type"] == "resync"
            job.data(n=10)
            job.end()
            for watcher in (client, late):
                messages = await watcher.until(job.job, ended)
                events = [event for message in messages for event in message["events"]]
                assert [event["seq"] for event in events] == list(range(back + 1, back + 4))
                assert said(*messages) == [{"n": 10}]


# Estimates --------------------------------------------------------------------------------------------------------------


async def test_a_round_of_estimates_is_bounded_by_the_nodes_of_its_jobs(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(hub, "ESTIMATED_NODES", 1)
    rounds: list[list[str]] = []

    async def estimates(view: JobView) -> tuple[None, None]:
        rounds[-1].append(view.job_id)
        return None, None

    jobs = [await served.puppet() for _ in range(3)]
    async with world(served, estimates=estimates) as made:
        read_many = made.hub._jobs.read_many

        async def noted(*asked: Any) -> Any:
            rounds.append([])
            return await read_many(*asked)

        made.hub._jobs.read_many = noted
        for job in jobs:
            await made.view(job.job)
        for watch in made.hub._watches.values():
            watch.estimate_at = 0.0  # due at once, all together
        await served.becomes(lambda: {each for found in rounds for each in found} == {job.job for job in jobs})
        assert all(len(found) <= 1 for found in rounds)
    for job in jobs:
        job.end()
