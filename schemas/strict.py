"""The base of every generated struct: closed, by keyword, and nothing left out when encoding."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct


class Strict(Struct, kw_only=True, forbid_unknown_fields=True):
    """An unknown field is an error; a field that has a default is written all the same, since clients read it."""


AwareDateTime = Annotated[datetime, Meta(tz=True)]
