"""Structured logs on stderr: JSON for machines, one coloured line for people. Extra fields (job, node, ...) are part of each line."""

import json
import logging
import sys
from collections.abc import Collection
from typing import Any

from dihedral.bridge.plain import plain_line
from dihedral.bridge.times import rfc3339

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m", "DEBUG": "\x1b[2m"}


def configure(level: str, form: str, plane: str, secrets: Collection[str] = ()) -> None:
    """Configures the logs. `form`: json, console, or auto (console on a terminal). `secrets` are never written: each line shows *** instead.

    Replaces the earlier configuration.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    formatter = _Json(plane) if as_json else _Console(colour=sys.stderr.isatty())
    handler.setFormatter(_Clean(formatter, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(str(level).upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.getLogger("httpx").setLevel("WARNING")
    logging.captureWarnings(True)


def bind(**fields: str) -> None:
    """Adds fields to every later line of this process, unless the line sets them itself."""
    make = logging.getLogRecordFactory()

    def made(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        vars(record).update(fields)
        return record

    logging.setLogRecordFactory(made)


class _Clean(logging.Formatter):
    """Removes secrets, plain or as JSON writes them, from another formatter's text."""

    def __init__(self, formatter: logging.Formatter, secrets: Collection[str]) -> None:
        super().__init__()
        self._formatter = formatter
        spelled = {text for secret in secrets if secret for text in (secret, json.dumps(secret)[1:-1])}
        self._secrets = sorted(spelled, key=len, reverse=True)  # one secret may contain another

    def format(self, record: logging.LogRecord) -> str:
        text = self._formatter.format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class _Json(logging.Formatter):
    def __init__(self, plane: str) -> None:
        super().__init__()
        self._plane = plane

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "plane": self._plane,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Console(logging.Formatter):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _extra(record).items())
        text = f"{rfc3339(int(record.created * 1000))[11:23]} {record.levelname.lower():7} {plain_line(record.getMessage() + fields)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        start = _COLOURS.get(record.levelname, "") if self._colour else ""
        return f"{start}{text}\x1b[0m" if start else text
