"""Planes that share a Redis and keep their artifacts in different places: refused, with the reason."""

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.artifacts import agreement
from dihedral.bridge.artifacts.agreement import OtherStore, agree, keep_agreeing
from dihedral.bridge.fabric import keys
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind
from tests.support.polling import becomes_async


def local(directory: Path) -> ArtifactsSettings:
    return ArtifactsSettings(directory=str(directory))


S3 = ArtifactsSettings(store=StoreKind.s3, endpoint="http://store:8333")


async def test_one_directory_by_two_paths_is_one_store_and_an_equal_path_elsewhere_is_none(
    redis: Any, tmp_path: Path
) -> None:
    await agree(redis, local(tmp_path / "one"))
    (tmp_path / "mounted").symlink_to(tmp_path / "one")
    await agree(redis, local(tmp_path / "mounted"))
    with pytest.raises(OtherStore, match=f"{tmp_path}/two.*{tmp_path}/one"):
        await agree(redis, local(tmp_path / "two"))
    (tmp_path / "one").rename(tmp_path / "moved")
    with pytest.raises(OtherStore):
        await agree(redis, local(tmp_path / "one"))


async def test_s3_beside_a_directory_is_refused_both_ways_until_the_planes_have_ended(
    redis: Any, tmp_path: Path
) -> None:
    await agree(redis, S3)
    await agree(redis, ArtifactsSettings(store=StoreKind.s3, endpoint="https://store.example"))
    with pytest.raises(OtherStore, match=r"run with this Redis to S3 \(http://store:8333\)"):
        await agree(redis, local(tmp_path))
    assert 0 < await redis.pttl(keys.ARTIFACT_STORE) <= agreement.NOTED_MS
    await redis.delete(keys.ARTIFACT_STORE)
    await agree(redis, local(tmp_path))
    with pytest.raises(OtherStore, match=f"go to S3 .* directory .*{tmp_path}"):
        await agree(redis, S3)


async def test_a_name_that_was_cut_off_is_made_anew(redis: Any, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / ".store").write_text("")
    await agree(redis, local(tmp_path / "one"))
    assert not await redis.exists(keys.ARTIFACT_STORE), "another plane may be writing it"
    os.utime(tmp_path / "one" / ".store", (0, 0))
    await agree(redis, local(tmp_path / "one"))
    assert [file.name for file in (tmp_path / "one").iterdir()] == [".store"]
    with pytest.raises(OtherStore):
        await agree(redis, local(tmp_path / "two"))


async def test_a_directory_that_cannot_be_used_is_left_to_readiness(redis: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await agree(redis, S3)
    await agree(redis, local(tmp_path / "file" / "below"))


async def test_a_plane_that_started_while_redis_was_away_tells_it_later(
    redis: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "RENEW_SECONDS", 0.01)
    await agree(redis, S3)
    with caplog.at_level(logging.ERROR):
        keeping = asyncio.create_task(keep_agreeing(redis, local(tmp_path)))
        await becomes_async(lambda: "those of the planes that run with this Redis to S3" in caplog.text)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("module", ["data_plane", "control_plane"])
async def test_a_plane_with_another_store_does_not_start(
    redis: Any, redis_url: str, tmp_path: Path, module: str
) -> None:
    await redis.set(keys.ARTIFACT_STORE, "s3 http://store:8333", ex=600)
    environ = {**os.environ, "DIHEDRAL_ARTIFACTS__DIRECTORY": str(tmp_path / "mine")}
    command = [sys.executable, "-P", "-m", f"dihedral.{module}", "--redis-url", redis_url, "--port", "0"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 3, done.stderr
    assert "set [artifacts] alike everywhere" in done.stderr
    assert "Traceback" not in done.stderr
