"""Fills in parameters, where a word or a number of the goal and the parameter's schema together justify a value. Nothing else is filled in.

A number needs its unit or its noun in the parameter's name or description; a word has to stand in the parameter's `x-words` or `enum`; a
switch is thrown by its own name. What does not fit the schema becomes a question, what belongs to no parameter is reported as unmet.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from jsonschema import Draft202012Validator

from dihedral.control_plane.planning.goals.drafting import Draft, Use, needs
from dihedral.control_plane.planning.goals.offers import Slot
from dihedral.control_plane.planning.goals.reading import Quantity, Reading, Token
from dihedral.control_plane.planning.goals.words import KINDS, LANGUAGES, UNIT_STEMS, stem, stems
from dihedral.schemas.structs.capability import Voice

EXAMPLE: Final = re.compile(r"(?<![\w:])[A-Za-z][\w-]{0,63}:[A-Za-z][\w.-]{0,127}")
SHOWN: Final = 80


class Filled(msgspec.Struct):
    """used: starts of the tokens that became values. wrong: (use, slot, why) of values that do not fit. unmet: what has no parameter."""

    used: set[int] = msgspec.field(default_factory=set)
    wrong: list[tuple[int, Slot, str]] = msgspec.field(default_factory=list)
    unmet: list[str] = msgspec.field(default_factory=list)
    assumptions: list[str] = msgspec.field(default_factory=list)


def fill(draft: Draft, reading: Reading, *, is_evaluated: bool = False) -> Filled:
    """Fills in the draft's parameters in place. `is_evaluated`: the results are held against the goal, so a length needs no parameter."""
    made = Filled()
    for name, text in reading.assignments.items():
        _assign(draft, name, text, made)
    _size(draft, reading, made)
    for quantity in sorted(reading.quantities, key=lambda each: each.is_share):
        _quantity(draft, reading, quantity, made, is_evaluated)
    for naming in reading.namings:
        for place, use, slot in open_slots(draft):
            if naming.after in slot.named_by:
                _set(place, use, slot, naming.text, f"the goal says {naming.text[:SHOWN]!r}", made)
                break
        else:
            made.unmet.append(f"no parameter here takes {naming.text[:SHOWN]!r}")
    for place, use in reversed(list(enumerate(draft.uses))):
        for slot in use.offer.slots:
            if use.is_open(slot) and not slot.is_file:
                _words(place, use, slot, reading, made)
    choose_voices(draft, reading, made)
    _negations(draft, reading, made)
    return made


def open_slots(draft: Draft) -> Iterator[tuple[int, Use, Slot]]:
    """Yields the parameters without a value, those of the end first."""
    for place, use in reversed(list(enumerate(draft.uses))):
        for slot in use.offer.slots:
            if not slot.is_file and use.is_open(slot):
                yield place, use, slot


def fits(slot: Slot, value: Any) -> str:
    """Returns why a value does not fit the parameter; empty where it does."""
    error = next(iter(Draft202012Validator(slot.schema).iter_errors(value)), None)
    return "" if error is None else str(error.message)[:200]


def _set(place: int, use: Use, slot: Slot, value: Any, why: str, made: Filled) -> bool:
    if slot.schema.get("type") == "integer" and isinstance(value, float) and value == int(value):
        value = int(value)
    if reason := fits(slot, value):
        made.wrong.append((place, slot, reason))
        return False
    use.values[slot.name] = value
    use.why[slot.name] = why
    return True


# Written out -----------------------------------------------------------------------------------------------------------


def _assign(draft: Draft, name: str, text: str, made: Filled) -> None:
    """Sets the parameter of this name; a name with a dot becomes a member of a parameter that collects such pairs."""
    if "." in name:
        for place, use in enumerate(draft.uses):
            for slot in use.offer.slots:
                if slot.schema.get("x-pairs"):
                    pairs = {**use.values.get(slot.name, {}), name: _literal(text, slot)}
                    _set(place, use, slot, pairs, f"the goal says {text[:SHOWN]!r}", made)
                    return
    for place, use, slot in open_slots(draft):
        is_named = name.lower() == slot.name.lower()
        is_like = name == ":" and slot.schema.get("type") == "string" and EXAMPLE.search(slot.description)
        if is_named or is_like:
            _set(place, use, slot, _literal(text, slot), f"the goal says {text[:SHOWN]!r}", made)
            return
    made.unmet.append(
        f"no parameter here is called {name[:SHOWN]!r}" if name != ":" else f"no parameter takes {text[:SHOWN]!r}"
    )


def _literal(text: str, slot: Slot) -> Any:
    if slot.schema.get("type") == "string":
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


# Numbers ---------------------------------------------------------------------------------------------------------------


def _size(draft: Draft, reading: Reading, made: Filled) -> None:
    if reading.size is None:
        return
    width, height = reading.size
    for place, use in reversed(list(enumerate(draft.uses))):
        slots = {slot.name.lower(): slot for slot in use.offer.slots if not slot.is_file}
        if "width" in slots and "height" in slots:
            why = f"the goal says {reading.size_written!r}"
            even = [
                each + each % int(slots[name].schema.get("multipleOf", 1) or 1)
                for name, each in (("width", width), ("height", height))
            ]
            _set(place, use, slots["width"], even[0], why, made)
            _set(place, use, slots["height"], even[1], why, made)
            return
    made.unmet.append(f"nothing here takes a size of {reading.size_written}")


def _quantity(draft: Draft, reading: Reading, quantity: Quantity, made: Filled, is_evaluated: bool) -> None:
    if KINDS.get(quantity.unit) is not None and _is_count(draft, quantity):
        return
    options = sorted(
        ((_strength(quantity, slot), place, use, slot) for place, use, slot in open_slots(draft) if _is_number(slot)),
        key=lambda each: (-each[0], -each[1]),
    )
    if not options or options[0][0] < 0.4:
        if is_evaluated and quantity.unit == "second" and not quantity.is_share and any(map(_is_timed, draft.uses)):
            made.assumptions.append(f"{quantity.written[:SHOWN]!r} is checked when it has run")
            return
        is_article = quantity.written[:1].isalpha()  # `into one list`, `these two said`: no amount, a word like others
        if not is_article and quantity.unit not in ("", "wordless") and quantity.unit not in KINDS:
            made.unmet.append(f"no parameter here takes {quantity.written[:SHOWN]!r}")
        return
    _, place, use, slot = options[0]
    value = quantity.value * _factor(slot, quantity)
    if _set(place, use, slot, round(value, 6), f"the goal says {quantity.written[:SHOWN]!r}", made):
        made.used |= {
            token.start for token in reading.tokens if token.stem in slot.own and abs(token.start - quantity.at) < 30
        }


def _is_timed(use: Use) -> bool:
    checks = msgspec.UNSET if use.offer.capability is None else use.offer.capability.checks
    return not isinstance(checks, msgspec.UnsetType) and any(
        "goal/seconds" in (each.least, each.most) for each in checks
    )


def _is_count(draft: Draft, quantity: Quantity) -> bool:
    """`from two pictures` counts files, unless a number parameter has that very name."""
    return not any(quantity.unit in slot.own and _is_number(slot) for use in draft.uses for slot in use.offer.slots)


def _is_number(slot: Slot) -> bool:
    return slot.schema.get("type") in ("integer", "number")


def _strength(quantity: Quantity, slot: Slot) -> float:
    own = stems(slot.name.rpartition(".")[2])
    lower = slot.name.lower()
    unit = quantity.unit
    if unit in UNIT_STEMS:
        if unit == "mib":
            return 1.0 if lower.endswith("mib") else 0.0
        if unit == "db":
            return 1.0 if lower.endswith("db") else 0.0
        if not set(own) & UNIT_STEMS[unit]:
            described = slot.words & UNIT_STEMS[unit] and not (
                unit == "second" and "per second" in slot.description.lower()
            )
            return (
                0.45
                if described and unit == "second" and "step" not in own
                else (0.6 if unit == "fps" and "frames per second" in slot.description.lower() else 0.0)
            )
        rest = [each for each in own if each not in UNIT_STEMS[unit]]
        beside = sum(1 for each in rest if each in quantity.words)
        return 1.0 + 0.3 * beside - 0.3 * (len(rest) - beside)
    if unit == "times":
        return 0.9 if slot.schema.get("x-words") and set(own) & {"speed", "pac", "rat"} else 0.0
    if unit and unit in own:
        return 1.0 - 0.2 * (len(own) - 1) + 0.2 * sum(1 for each in own if each != unit and each in quantity.words)
    if all(each in quantity.words for each in own):
        return 0.9 + 0.1 * len(own)
    if unit == "share" and set(own) & set(quantity.words):
        return 0.7
    return 0.0


def _factor(slot: Slot, quantity: Quantity) -> float:
    """Milliseconds where the parameter says so."""
    if quantity.unit == "second" and slot.name.lower().endswith(("ms", "milliseconds")):
        return 1000.0
    if quantity.unit == "second" and slot.name.lower().endswith("minutes"):
        return 1 / 60
    return 1.0


# Words -----------------------------------------------------------------------------------------------------------------


def _words(place: int, use: Use, slot: Slot, reading: Reading, made: Filled) -> None:
    words = slot.schema.get("x-words")
    if isinstance(words, dict):
        for text, value in sorted(words.items(), key=lambda each: -len(each[0])):
            if found := _phrase(stems(text), reading.tokens):
                said = reading.text_of(found)
                if _set(place, use, slot, value, f"the goal says {said!r}", made):
                    made.used |= {each.start for each in found}
                    made.assumptions.append(f"{said!r} is taken as {slot.name} = {value}")
                return
    values = slot.schema.get("enum")
    if isinstance(values, list):
        for index, token in enumerate(reading.tokens):
            before = reading.tokens[index - 1] if index else None
            named = {each.stem for each in reading.tokens} & set(slot.own)
            for value in values:
                if (
                    isinstance(value, str)
                    and token.written.lower() == value.lower()
                    and (named or (before is not None and before.word in ("in", "into", "to", "as")))
                ):
                    _set(place, use, slot, value, f"the goal says {token.written!r}", made)
                    made.used.add(token.start)
                    return
    if slot.schema.get("type") == "boolean":
        found = [each for each in reading.tokens if not each.is_negated and each.counts and each.stem in slot.own]
        if found and slot.schema.get("default") is not True:
            _set(place, use, slot, True, f"the goal says {found[0].written!r}", made)
            made.used.add(found[0].start)


def _phrase(words: list[str], tokens: list[Token]) -> list[Token]:
    for at in range(len(tokens) - len(words) + 1):
        span = tokens[at : at + len(words)]
        if [_adverb(each) for each in span] == [_as_adverb(each) for each in words] and not any(
            each.is_negated or each.is_data for each in span
        ):
            return span
    return []


def _adverb(token: Token) -> str:
    return _as_adverb(token.stem)


def _as_adverb(word: str) -> str:
    """slow, slowly, slower are one word here."""
    for suffix in ("ly", "er"):
        if word.endswith(suffix) and len(word) > 4:
            return stem(word.removesuffix(suffix))
    return word


def _negations(draft: Draft, reading: Reading, made: Filled) -> None:
    for token in reading.negated:
        for place, use, slot in open_slots(draft):
            if token.stem not in slot.own:
                continue
            kind = slot.schema.get("type")
            if kind == "boolean":
                _set(place, use, slot, False, f"the goal says without {token.written!r}", made)
            elif kind in ("integer", "number") and slot.schema.get("minimum") == 0:
                _set(place, use, slot, 0, f"the goal says without {token.written!r}", made)


def choose_voices(draft: Draft, reading: Reading, made: Filled) -> None:
    """`in a German voice`: of the voices that the task says it has, the first of that language."""
    for token in reading.tokens:
        code = LANGUAGES.get(token.word)
        if code is None or token.is_data:
            continue
        for place, use, slot in open_slots(draft):
            voices = _voices(use, slot)
            fits_language = [each for each in voices if each.language.lower().partition("-")[0] == code]
            if fits_language and _set(place, use, slot, fits_language[0].id, f"the goal says {token.written!r}", made):
                made.used.add(token.start)
                made.assumptions.append(
                    f"of {len(fits_language)} voices for {token.written!r} the first is taken: {fits_language[0].label}"
                )
                break


def _voices(use: Use, slot: Slot) -> list[Voice]:
    """Returns the voices among which a parameter chooses."""
    capability = use.offer.capability
    if capability is None or slot.field != "voice" or isinstance(capability.voices, msgspec.UnsetType):
        return []
    return capability.voices


def odd_attributes(draft: Draft, reading: Reading, used: set[int]) -> list[tuple[int, Slot, str]]:
    """Finds words that stand before the name of a parameter which takes any text: `a male voice`. They are no value of it."""
    found = []
    for index, token in enumerate(reading.tokens[1:], 1):
        before = reading.tokens[index - 1]
        if token.is_data or not before.counts or before.start in used or before.clause != token.clause:
            continue
        for place, _use, slot in open_slots(draft):
            is_free = (
                slot.schema.get("type") == "string"
                and not slot.kinds & {"text", "topic"}
                and not slot.schema.get("enum")
            )
            known = any(
                before.stem in each.offer.asks or any(before.stem in other.words for other in each.offer.slots)
                for each in draft.uses
            )
            if is_free and token.stem in slot.own and not known and before.stem not in KINDS:
                found.append((place, slot, f"{before.written} {token.written}"))
                break
    return found


def lacking(draft: Draft) -> list[tuple[int, Slot]]:
    """Returns the needs that nothing meets."""
    return [(place, slot) for place, use in enumerate(draft.uses) for slot in needs(use)]
