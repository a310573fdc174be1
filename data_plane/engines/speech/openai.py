"""Any server that speaks OpenAI's `/v1/audio/speech`: OpenAI itself, and those of Kokoro, Chatterbox, XTTS. The operator names it in settings."""

import asyncio
import io
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import soundfile
from msgspec import Meta

from dihedral.bridge.outgoing import Forbidden, own_guard
from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.engines.speech.engine import Spoken, engine_failed
from dihedral.schemas.strict import Strict

if TYPE_CHECKING:  # httpx is imported with the first sentence: it is a tenth of a worker's start
    import httpx

MOST_BYTES = 64 << 20  # of an answer: six minutes of 24-bit stereo at 48 kHz
LOOK_SECONDS = 0.1
ATTEMPTS = 4  # of a sentence, where the server is busy (429, 503)
LONGEST_WAIT_SECONDS = 30.0  # between two of them


class Endpoint(Strict, kw_only=True, rename="camel"):
    url: Annotated[str, Meta(min_length=1, description="Up to before /v1/audio/speech")]
    model: Annotated[str, Meta(min_length=1, description="As the server calls it")] = "tts-1"
    voice: Annotated[str, Meta(min_length=1, description="Where a job names none")] = "alloy"
    api_key: Annotated[str, Meta(description="Sent as a bearer token")] = ""
    language: Annotated[str, Meta(description="BCP 47; English words are placed by alignment")] = ""
    format: Annotated[
        Literal["wav", "flac", "pcm"], Meta(description="What it is asked for; pcm: 16 bits, little-endian, mono")
    ] = "wav"
    pcm_rate: Annotated[int, Meta(ge=8000, le=192_000, description="Of pcm, samples a second")] = 24_000
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600, description="For one sentence")] = 120.0


class OpenAi:
    longest = 1000  # letters; the protocol takes 4,096, servers cut off earlier
    scripts = None

    def __init__(self, name: str, voice: str, endpoint: Endpoint) -> None:
        self.name = name
        self.voice = f"{name}:{voice or endpoint.voice}"
        self.language = endpoint.language
        self._endpoint = endpoint

    def speak(self, sentence: str, speed: float, seed: int, check: Callable[[], None]) -> Spoken:
        """Raises: TaskError `speech_unavailable` (retryable), `speech_refused`, `speech_failed`, `speech_misconfigured`."""
        content = asyncio.run(self._watched(sentence, speed, check))
        samples, rate = self._samples(content)
        if not samples.size:
            raise engine_failed(self.name, "answered a recording without sound; its model or voice may not be loaded")
        return Spoken(samples.mean(axis=1), rate)

    def _samples(self, content: bytes) -> tuple[Any, int]:
        """((n, channels) float32, rate) of an answer. Raises: TaskError `speech_failed`."""
        if self._endpoint.format == "pcm" and not _is_text(content):
            if len(content) % 2:
                raise self._broke_off()
            return np.frombuffer(content, "<i2").astype(np.float32)[:, None] / np.float32(
                32768
            ), self._endpoint.pcm_rate
        try:
            with soundfile.SoundFile(io.BytesIO(content)) as opened:
                said, samples, rate = opened.frames, opened.read(dtype="float32", always_2d=True), opened.samplerate
        except (soundfile.SoundFileError, ValueError) as error:
            if content[:4] == b"fLaC":
                raise self._broke_off() from error
            first = content.lstrip()[:1]
            kind = "HTML" if first == b"<" else "JSON" if first == b"{" else "something else"
            asked = self._endpoint.format.upper()
            raise engine_failed(
                self.name, f"answered {kind} where a {asked} was asked for; see [tasks.speak] endpoints.{self.name}.url"
            ) from error
        if _is_cut(content, samples.size) or (content[:4] == b"fLaC" and samples.shape[0] < said):
            raise self._broke_off()
        return samples, int(rate)

    def _broke_off(self) -> TaskError:
        return engine_failed(
            self.name, "answered half a recording: the connection or the server broke off", retryable=True
        )

    async def _watched(self, sentence: str, speed: float, check: Callable[[], None]) -> bytes:
        asking = asyncio.ensure_future(self._asked(sentence, speed))
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=LOOK_SECONDS)
                check()
        finally:
            asking.cancel()
        return await asking

    async def _asked(self, sentence: str, speed: float) -> bytes:
        import httpx

        from dihedral.bridge.guarded_transport import GuardedTransport

        base = self._endpoint.url.rstrip("/").removesuffix("/v1")
        body = {
            "model": self._endpoint.model,
            "input": sentence,
            "voice": self.voice.partition(":")[2],
            "response_format": self._endpoint.format,
            "speed": speed,
        }
        key = self._endpoint.api_key.strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        ends = time.monotonic() + self._endpoint.timeout_seconds
        transport = GuardedTransport(own_guard(base, []), verify=_trust())
        try:
            async with (
                httpx.AsyncClient(timeout=None, transport=transport) as client,
                asyncio.timeout(self._endpoint.timeout_seconds),
            ):
                for attempt in range(ATTEMPTS):
                    async with client.stream("POST", f"{base}/v1/audio/speech", json=body, headers=headers) as response:
                        content = await _read(response, self.name)
                    if response.status_code == 200:
                        return content
                    wait = _retry_after(response, attempt)
                    if (
                        response.status_code not in (429, 503)
                        or attempt == ATTEMPTS - 1
                        or time.monotonic() + wait > ends
                    ):
                        break
                    await asyncio.sleep(wait)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeEncodeError):
            raise TaskError(
                f"[tasks.speak] endpoints.{self.name} is no address or key that can be sent",
                code="speech_misconfigured",
            ) from None
        except Forbidden as error:
            raise TaskError(
                f"[tasks.speak] endpoints.{self.name}.url may not be asked: {error}", code="speech_misconfigured"
            ) from None
        except TimeoutError:
            raise TaskError(
                f"{self.name} did not answer within {self._endpoint.timeout_seconds:g} s",
                code="speech_unavailable",
                retryable=True,
            ) from None
        except httpx.HTTPError as error:
            raise TaskError(
                f"{self.name} cannot be reached: {type(error).__name__}", code="speech_unavailable", retryable=True
            ) from None
        said = content.decode("utf-8", "replace").replace(key or "\0", "***")
        busy = response.status_code in (408, 429) or response.status_code >= 500
        raise TaskError(
            f"{self.name} answered {response.status_code}: {said[:200]}",
            code="speech_unavailable" if busy else "speech_refused",
            retryable=busy,
        )


@cache
def _trust() -> object:
    import httpx

    return httpx.create_ssl_context()


async def _read(response: "httpx.Response", name: str) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MOST_BYTES:
            raise engine_failed(name, f"answered more than {MOST_BYTES} bytes for one sentence")
    return bytes(content)


def _retry_after(response: "httpx.Response", attempt: int) -> float:
    said = response.headers.get("Retry-After", "")
    return min(LONGEST_WAIT_SECONDS, float(said) if said.isdigit() else 0.5 * 2**attempt)


def _is_text(content: bytes) -> bool:
    """Returns True for an error that was sent as text in place of samples, which could be any bytes."""
    try:
        return content[:4096].decode().lstrip()[:1] in ("<", "{")
    except UnicodeDecodeError:
        return False


def _is_cut(content: bytes, count: int) -> bool:
    """Returns True when the header of a WAV claims more than the file holds. Streams write 0 or the largest number, which means an unknown length."""
    at = content.find(b"data", 12, 4096)
    if content[:4] != b"RIFF" or at < 0:
        return False
    said = int.from_bytes(content[at + 4 : at + 8], "little")
    return 0 < said < 0x7FFFFFF0 and len(content) - at - 8 < said
