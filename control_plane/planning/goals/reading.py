"""Understand: a goal becomes tokens with their places, and what stands in it that is no request by itself: quotes, numbers, topics, negations.

A quote, a file's name and what is told of a topic are data: they become values of parameters and never ask for a task.

Large because every way to write a number, a quote or a topic is a few lines here.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from dihedral.control_plane.planning.goals.words import (
    ABOUT,
    BREAKS,
    DETERMINERS,
    FORMATS,
    GERMAN,
    KINDS,
    NEGATIONS,
    NO_SLIPS,
    NUMBERS,
    SHAPES,
    SOURCES,
    STOPWORDS,
    UNITS,
    folded,
    is_near,
    stem,
)

MOST_TOKENS: Final = 400
MOST_TOPIC: Final = 60

Role = Literal["source", "wanted", "neutral", "aside"]


class Token(msgspec.Struct):
    """A word of the goal. `word`: as written, in lower case and English; `role`: whether it names what is given or what is wanted."""

    word: str
    stem: str
    start: int
    end: int
    clause: int
    written: str
    role: Role = "neutral"
    after: str = ""  # the word before it
    is_stop: bool = False
    is_negated: bool = False
    is_data: bool = False  # part of a quote, a number, a file's name, a topic
    leads: bool = False  # first word of its clause that asks for something

    @property
    def counts(self) -> bool:
        return not (self.is_stop or self.is_data)


class Quote(msgspec.Struct):
    """A text in quotation marks, or behind a colon. `before`: the stems before it."""

    text: str
    at: int
    before: tuple[str, ...]


class Quantity(msgspec.Struct):
    """A number with what it counts. `unit`: second, fps, mib, db, share, or the stem of the noun behind or before it."""

    value: float
    unit: str
    at: int
    written: str
    words: tuple[str, ...] = ()  # stems around it
    is_share: bool = False  # `6 seconds each`: of every part, and so no length of the whole where the goal has one


class Mention(msgspec.Struct):
    """A file that the goal names. `around`: stems of the words beside it, nearest first."""

    name: str
    at: int
    around: tuple[str, ...]
    before: str = ""  # the word right before it, whatever it is


class Naming(msgspec.Struct, frozen=True):
    """A name behind a word that a parameter declares for it: `the tool sd-scripts`."""

    after: str
    text: str


class Reading(msgspec.Struct):
    goal: str
    tokens: list[Token]
    quotes: list[Quote]
    quantities: list[Quantity]
    size: tuple[int, int] | None
    size_written: str
    assignments: dict[str, str]
    mentions: list[Mention]
    topic: str
    negated: list[Token]
    namings: list[Naming]

    @property
    def stems(self) -> list[str]:
        return [token.stem for token in self.tokens]

    def text_of(self, tokens: Iterable[Token]) -> str:
        found = list(tokens)
        return self.goal[found[0].start : found[-1].end] if found else ""


QUOTED: Final = re.compile(
    r"“((?:[^“”]|“[^“”]{1,400}”){1,4000})”|„((?:[^„“”]|„[^„“”]{1,400}[“”]){1,4000})[“”]|«\s*([^«»]{1,4000}?)\s*»|»\s*([^«»]{1,4000}?)\s*«|\"([^\"]{1,4000})\"|“([^\"”“]{1,4000})\""
    r"|(?<![^\s(:,])'([^'\n]{2,4000}(?:'(?=\w)[^'\n]{0,400}){0,20})'(?!\w)|(?<![^\s(:,])‘([^‘\n]{2,4000}?)’(?!\w)"
)
FILE: Final = re.compile(r"(?<![\w/.-])[\w][\w .-]{0,0}[\w.-]*\.[A-Za-z][A-Za-z0-9]{1,11}(?![\w-])")
SIZE: Final = re.compile(r"(?<!\d)(\d{2,5})\s*(?:x|×|\*|by)\s*(\d{2,5})(?!\d)", re.IGNORECASE)
ASSIGNED: Final = re.compile(r"(?<![\w.])([A-Za-z][\w]{0,63})\s*=\s*([^\s,;\"]{1,200})")
PAIR: Final = re.compile(r"(?<![\w.])(\d+(?:\.[A-Za-z_]\w{0,63}){1,4})\s*(?:=|:|\bto\b|\bauf\b)\s*([^\s,;\"]{1,200})")
"""`3.seed=7`, `set 3.seed to 7`: an input of a node of a workflow."""
ENGINE_VALUE: Final = re.compile(r"(?<![\w:])[A-Za-z][\w-]{0,63}:[A-Za-z][\w.-]{0,127}(?![\w:/])")
NUMBER: Final = re.compile(r"(?<![\w.,-])(-?\d+(?:[.,]\d+)?(?:e-?\d+)?)\s*(?:[-‐]?\s*)(%|[^\W\d_]+)?", re.IGNORECASE)
NAMED: Final = re.compile(r"(?<![\w.-])([^\W\d_]+)\s+(?:(?:called|named)\s+)?(?=([A-Za-z][\w.-]{0,127})(?![\w/]))")
COLON: Final = re.compile(r"(?:^|\s)([^\W\d_]+)\s*:\s+(?=\S)")
LABEL: Final = re.compile(
    r"(?:^|(?<=[\s.;]))(?:(?:step|schritt|part|teil)\s*\d+|inputs?|outputs?|tasks?|goals?|constraints?|requirements?|notes?|aufgabe|ziel|hinweis)\s*[:.)]\s+",
    re.IGNORECASE,
)
"""What only orders a goal: `Step 1:`, `Constraints:`."""
SENTENCE: Final = re.compile(r"(?<![.!?\n])[.!?\n]+(?=\s|$)")
TELLS: Final = re.compile(
    r"\s*(?:i|we|he|she|they|my|our|his|her|there|it|this|hello|hi|hey|dear|hallo|many|kind|best|thanks|thank|cheers|regards|liebe|lieber|ich|wir|mein|meine|unser|unsere|vielen|danke|gruß)\b",
    re.IGNORECASE,
)
"""How a sentence begins that tells something and asks for nothing, unless a word of ASKS stands in it."""
ASKS: Final = re.compile(
    r"\b(?:want|need|wish|please|would|could|can|should|shall|like\s+to|let|bitte|möchten?|will|wollen|kannst|könntest|brauchen?|soll|hätten?)\b|'d\s+like",
    re.IGNORECASE,
)
POLITE: Final = re.compile(
    r"\b(?:would|could|will|might)\s+(?:it\s+)?be\s+(?:(?:very|so|really|most)\s+)?([a-z]+)\s+(?:if|to)\b",
    re.IGNORECASE,
)
"""`I would be very grateful if`, `would it be possible to`."""
CONTRACTED: Final = re.compile(r"(?:n't|'(?:d|ll|ve|re|m|s))$")
WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
FRAMES: Final = re.compile(
    r"(frames?|images?|pictures?|bilder?)\s*(?:per|/|pro|a)\s*(?:second|sekunde|s)\b", re.IGNORECASE
)


def read(
    goal: str,
    file_names: Sequence[str] = (),
    vocabulary: frozenset[str] = frozenset(),
    naming: frozenset[str] = frozenset(),
    choices: frozenset[tuple[str, str]] = frozenset(),
) -> Reading:
    """Reads a goal. `vocabulary`: stems that the offers know, to which slips of the pen are corrected; `naming`: those that a name follows;
    `choices`: values of parameters with a stem of the parameter's name."""
    text = "".join(each if each.isprintable() else " " for each in goal)
    covered: list[tuple[int, int]] = []  # what is data already
    covered += [match.span() for match in LABEL.finditer(text)]
    quotes = _quotes(text, covered)
    pairs = _pairs(text, covered)
    mentions = _mentions(text, file_names, covered)
    assignments = pairs | _assignments(text, covered)
    size, size_written = _size(text, covered)
    quantities = _quantities(text, covered)
    tokens = _tokens(text, covered, vocabulary)
    for quantity in quantities:
        for token in tokens:
            if (
                quantity.at <= token.start < quantity.at + len(quantity.written) + 3
                and token.stem == quantity.unit
                and token.stem not in KINDS
            ):
                token.is_data = True
    _roles(tokens)
    _tell(text, tokens, vocabulary)
    for token, following in itertools.pairwise(tokens):
        is_plain = token.counts and token.stem not in vocabulary and token.stem not in KINDS
        if is_plain and token.role == "source" and following.stem in KINDS and token.after in DETERMINERS:
            token.is_stop, token.leads = True, False  # `my dog pictures`: it tells what is given, and asks for nothing
    negated = _negated(tokens)
    topic = _topic(text, tokens, vocabulary)
    namings = _namings(text, tokens, naming, vocabulary)
    for token, following in itertools.pairwise(tokens):
        if (folded(token.written), following.stem) in choices:
            token.is_data = True
    for quote in quotes:
        quote.before = tuple(each.stem for each in tokens if each.end <= quote.at)[-4:]
    for mention in mentions:
        near = sorted((each for each in tokens if not each.is_stop), key=lambda each: _distance_to(each, mention))
        same = [each for each in near if _clause_at(tokens, mention.at) == each.clause]
        mention.around = tuple(each.stem for each in same[:4])
        ends = [each for each in tokens if each.end <= mention.at and not text[each.end : mention.at].strip(" '\"")]
        mention.before = ends[-1].word if ends else ""
    for quantity in quantities:
        near = sorted(tokens, key=lambda each: min(abs(each.start - quantity.at), abs(each.end - quantity.at)))
        quantity.words = tuple(each.stem for each in near[:4])
        behind = text[quantity.at + len(quantity.written) :].split(maxsplit=1)
        quantity.is_share = bool(behind) and folded(behind[0]).strip(",.;") in ("each", "apiece", "jeweils", "je")
    return Reading(text, tokens, quotes, quantities, size, size_written, assignments, mentions, topic, negated, namings)


def _is_covered(covered: list[tuple[int, int]], start: int, end: int) -> bool:
    return any(start < last and end > first for first, last in covered)


def _distance_to(token: Token, mention: Mention) -> int:
    """Words before a file's name say more about it than words behind it."""
    return mention.at - token.end if token.end <= mention.at else 2 * (token.start - mention.at)


def _clause_at(tokens: list[Token], at: int) -> int:
    before = [each.clause for each in tokens if each.start <= at]
    return before[-1] if before else 0


# Data ------------------------------------------------------------------------------------------------------------------


def _quotes(text: str, covered: list[tuple[int, int]]) -> list[Quote]:
    found = []
    for match in QUOTED.finditer(text):
        inner = next((group for group in match.groups() if group is not None), "").strip()
        if inner and not (FILE.fullmatch(inner) and " " not in inner):
            found.append(Quote(inner, match.start(), ()))
            covered.append(match.span())
    if not found:
        for match in COLON.finditer(text):
            rest = text[match.end() :].strip()
            word = folded(match.group(1))
            is_settings = all(any(char.isdigit() for char in part) for part in rest.split(","))  # `: 400 steps, rank 8`
            if (
                len(rest.split()) >= 2
                and not _is_covered(covered, *match.span(1))
                and not is_settings
                and not _is_heading(text[: match.end()])
                and (word not in STOPWORDS or word in ("following", "this"))
            ):
                found.append(Quote(rest, match.end(), ()))
                covered.append((match.end() - 1, len(text)))
                break
    return found


def _mentions(text: str, file_names: Sequence[str], covered: list[tuple[int, int]]) -> list[Mention]:
    found = []
    lower = text.lower()
    for name in file_names:
        base = name.rpartition("/")[2]
        at = lower.find(base.lower())
        if len(base) > 2 and at >= 0 and not _is_covered(covered, at, at + len(base)):
            found.append(Mention(base, at, ()))
            covered.append((at, at + len(base)))
    for match in FILE.finditer(text):
        if not _is_covered(covered, *match.span()):
            found.append(Mention(match.group(), match.start(), ()))
            covered.append(match.span())
    return sorted(found, key=lambda each: each.at)


def _is_heading(before: str) -> bool:
    """Returns whether what stands before a colon only names a thing that is wanted: `short clip: a talking head explains gravity`."""
    words = [GERMAN.get(folded(each.group()), folded(each.group())) for each in WORD.finditer(before)]
    asking = [each for each in words if each not in STOPWORDS]
    return bool(asking) and all(KINDS.get(stem(each)) in ("video", "picture", "portrait") for each in asking)


def _pairs(text: str, covered: list[tuple[int, int]]) -> dict[str, str]:
    found = {}
    for match in PAIR.finditer(text):
        if not _is_covered(covered, *match.span()):
            found[match.group(1)] = match.group(2).rstrip(".")
            covered.append(match.span())
    return found


def _assignments(text: str, covered: list[tuple[int, int]]) -> dict[str, str]:
    found = {}
    for match in ASSIGNED.finditer(text):
        if not _is_covered(covered, *match.span()):
            found[match.group(1)] = match.group(2)
            covered.append(match.span())
    for match in ENGINE_VALUE.finditer(text):
        if not _is_covered(covered, *match.span()):
            found.setdefault(":", match.group())
            covered.append(match.span())
    return found


def _namings(text: str, tokens: list[Token], naming: frozenset[str], vocabulary: frozenset[str]) -> list[Naming]:
    """Finds names behind the words that parameters declare for them, and marks them as data. A plain word that an offer knows is no name."""
    found = []
    for match in NAMED.finditer(text):
        after, name = _english(folded(match.group(1)), []), match.group(2).rstrip(".-")
        inside = [each for each in tokens if match.start(2) <= each.start < match.start(2) + len(name)]
        is_known = name.isalpha() and (inside[0].is_stop or inside[0].stem in vocabulary) if inside else True
        if after in naming and not is_known and not any(each.is_data for each in inside):
            found.append(Naming(after, name))
            for each in inside:
                each.is_data = True
    return found


def _size(text: str, covered: list[tuple[int, int]]) -> tuple[tuple[int, int] | None, str]:
    """Finds `640x360`, `4k`, `vertical`; of `vertical 1080p` one word gives the pixels and the other the shape."""
    exact: tuple[tuple[int, int], str] | None = None
    for match in SIZE.finditer(text):
        if not _is_covered(covered, *match.span()):
            covered.append(match.span())
            exact = (int(match.group(1)), int(match.group(2))), match.group()
            break
    named: list[tuple[str, tuple[int, int]]] = []
    lower = text.lower()
    for name, size in sorted(FORMATS.items(), key=lambda each: -len(each[0])):
        for at in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", lower):
            if not _is_covered(covered, *at.span()):
                covered.append(at.span())
                named.append((name, size))
    if exact is not None:
        return exact
    shapes = [each for each in named if each[0] in SHAPES]
    pixels = [each for each in named if each[0] not in SHAPES]
    if not pixels or not shapes:
        return (named[0][1], named[0][0]) if named else (None, "")
    (shape, (across, down)), (name, size) = shapes[0], pixels[0]
    low, high = min(size), max(size)
    fitted = (low, low) if across == down else (low, high) if across < down else (high, low)
    return fitted, f"{shape} {name}"


def _quantities(text: str, covered: list[tuple[int, int]]) -> list[Quantity]:
    """Finds `20 seconds`, `20-second`, `24 fps`, `five lines`, `half a minute`, `rank 16`."""
    found: list[Quantity] = []
    for match in NUMBER.finditer(text):
        if _is_covered(covered, match.start(1), match.end(1)):
            continue
        value, end = float(match.group(1).replace(",", ".")), match.end(1)
        word = _unit(folded(match.group(2) or ""))
        if frames := FRAMES.match(text, match.start(2) if match.group(2) else end):
            unit, factor, end = "fps", 1.0, frames.end()
        elif word in UNITS:
            (unit, factor), end = UNITS[word], match.end(2)
        elif word in ("x", "times"):
            unit, factor, end = "times", 1.0, match.end(2)
        elif word and word not in ("and", "to", "by", "on", "in", "of", "for", "with", "from"):
            unit, factor = stem(GERMAN.get(word, word)), 1.0
        else:
            unit, factor = "", 1.0
        _add(found, Quantity(value * factor, unit, match.start(1), text[match.start(1) : end].strip()), text)
        covered.append((match.start(1), end))
    words = list(WORD.finditer(text))
    for index, match in enumerate(words):
        word = GERMAN.get(folded(match.group()), folded(match.group()))
        following = [folded(each.group()) for each in words[index + 1 : index + 3]]
        if _is_covered(covered, *match.span()) or not following:
            continue
        skipped = 1 if following[0] in ("a", "an", "eine", "einer", "of") and len(following) > 1 else 0
        unit_word = following[skipped]
        last = words[index + 1 + skipped]
        if _is_covered(covered, *last.span()) or any(each in ",.;" for each in text[match.end() : last.start()]):
            continue
        if word in ("a", "an", "one") and unit_word in UNITS and not skipped and UNITS[unit_word][1] >= 60:
            number = 1.0
        elif word in NUMBERS and word not in ("second",):
            number = NUMBERS[word]
        else:
            continue
        if unit_word in UNITS:
            unit, factor = UNITS[unit_word]
            covered.append((match.start(), last.end()))
        elif skipped:
            continue
        else:
            unit, factor = stem(GERMAN.get(unit_word, unit_word)), 1.0
            covered.append(match.span())
        _add(found, Quantity(number * factor, unit, match.start(), text[match.start() : last.end()]), text)
    return found


def _unit(word: str) -> str:
    """Returns the unit of which a word is a slip: `10 secnds`; the word itself where it is none."""
    if word in UNITS or len(word) < 5:
        return word
    near = [each for each in UNITS if len(each) >= 5 and each[0] == word[0] and is_near(word, each)]
    return near[0] if near else word


def _add(found: list[Quantity], new: Quantity, text: str) -> None:
    """Adds it; `1 minute 30 seconds` is one quantity."""
    for each in found:
        between = text[each.at + len(each.written) : new.at].strip().lower()
        if each.unit == new.unit == "second" and between in ("", "and", "und") and each.at < new.at:
            each.value += new.value
            each.written = text[each.at : new.at + len(new.written)]
            return
    found.append(new)


# Words -----------------------------------------------------------------------------------------------------------------


def _tokens(text: str, covered: list[tuple[int, int]], vocabulary: frozenset[str]) -> list[Token]:
    found: list[Token] = []
    clause = 0
    end = 0
    for match in WORD.finditer(text):
        if _is_covered(covered, *match.span()):
            continue
        written = folded(match.group())
        between = text[end : match.start()]
        word = _english(written, found)
        if found and (any(each in ",.;!?\n" for each in between) or word in BREAKS):
            clause += 1
        end = match.end()
        if (
            word not in STOPWORDS | NEGATIONS
            and stem(word) not in vocabulary
            and stem(word) not in KINDS
            and written not in GERMAN
        ):
            word = _corrected(word, vocabulary)
        is_stop = word in STOPWORDS or word in NEGATIONS or len(word) < 2
        before = found[-1].word if found and found[-1].clause == clause else ""
        found.append(
            Token(word, stem(word), match.start(), match.end(), clause, match.group(), after=before, is_stop=is_stop)
        )
        if len(found) >= MOST_TOKENS:
            break
    for number in {each.clause for each in found}:
        asking = [each for each in found if each.clause == number and each.counts]
        if asking and asking[0].after not in DETERMINERS | SOURCES | {"in", "without", "at", "for", "about"}:
            asking[0].leads = True
        if _is_made_so(asking, [each for each in found if each.clause == number]):
            asking[-1].leads = True
    return found


def _is_made_so(asking: list[Token], clause: list[Token]) -> bool:
    """Returns whether the last word says how something given shall become: `make the video louder`."""
    return (
        len(asking) > 1
        and clause[-1] is asking[-1]
        and clause[-2] is asking[-2]
        and asking[-2].stem in KINDS
        and asking[-1].stem not in KINDS
        and asking[-2].after in ("the", "this", "these", "my", "our")
        and any(each.word == "make" for each in clause)
    )


def _english(written: str, before: list[Token]) -> str:
    if written in GERMAN and not (written in ("die", "den", "in", "film", "video", "text") and not _is_german(before)):
        return GERMAN[written]
    word = written.replace("’", "'")
    return word if word in NEGATIONS else CONTRACTED.sub("", word)


def _is_german(before: list[Token]) -> bool:
    return any(
        folded(each.written) in GERMAN and folded(each.written) not in ("video", "text", "film") for each in before
    )


def _corrected(word: str, vocabulary: frozenset[str]) -> str:
    """Returns the known word of which this is a slip; the word itself where there is none, or two."""
    if len(word) < 4 or stem(word) in NO_SLIPS:
        return word
    reduced = stem(word)
    near = [each for each in vocabulary if is_near(reduced, each) and len(each) >= 4]
    near += [each for each in KINDS if is_near(reduced, each) and each not in near and len(each) >= 4]
    return near[0] if len(near) == 1 else word


def _tell(text: str, tokens: list[Token], vocabulary: frozenset[str]) -> None:
    """Takes from strange words what they ask where they are only told: in politeness, greetings, and sentences that say how things are."""
    polite = {match.start(1) for match in POLITE.finditer(text)}
    ends = [match.end() for match in SENTENCE.finditer(text)]
    starts = [0, *ends]
    spans = [(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True) if text[start:end].strip()]
    told = [(start, end) for start, end in spans if TELLS.match(text, start) and not ASKS.search(text, start, end)]
    if len(told) == len(spans):
        told = []
    for token in tokens:
        is_strange = token.stem not in vocabulary and token.stem not in KINDS
        if token.start in polite or (is_strange and any(start <= token.start < end for start, end in told)):
            token.is_stop, token.leads = True, False


def _roles(tokens: list[Token]) -> None:
    """Marks what stands behind `from these`, `of my` as given, and behind `into a`, `a` as wanted."""
    role: Role = "neutral"
    clause = -1
    for token in tokens:
        if token.clause != clause and token.word not in ("and",):
            role, clause = "neutral", token.clause
        clause = token.clause
        if token.word in ("from", "of", "using", "with", "these", "this", "those", "my", "our", "given", "his", "her"):
            role = "source"
        elif token.word in ("into", "as", "to") or (
            token.word in ("a", "an")
            and (role != "source" or KINDS.get(stem(token.after)))  # `from my pictures a film`
            and token.after not in ("in", "with", "for", "at", "on", "of", "by")
        ):
            role = "wanted"
        elif token.word in ("in", "for", "at", "on", "over", "under"):
            role = "aside"
        token.role = role


def _negated(tokens: list[Token]) -> list[Token]:
    """Marks the nouns behind `without`, `no`; `and` and `or` between nouns go on with it."""
    found = []
    open_until = -1
    for index, token in enumerate(tokens):
        if token.word in NEGATIONS:
            open_until = index + 4
            continue
        if index <= open_until and not token.is_stop:
            token.is_negated = token.is_data = True
            found.append(token)
            follows = tokens[index + 1].word if index + 1 < len(tokens) else ""
            open_until = index + 3 if follows in ("or", "and") and _names(tokens, index + 2) else index
            if (
                follows
                and follows not in ("or", "and")
                and not tokens[index + 1].is_stop
                and token.clause == tokens[index + 1].clause
            ):
                open_until = index + 1
    return found


def _names(tokens: list[Token], index: int) -> bool:
    """Returns whether the list of what is left out goes on: no verb and no determiner follows."""
    return index < len(tokens) and not tokens[index].is_stop and tokens[index].stem in KINDS


def _topic(text: str, tokens: list[Token], vocabulary: frozenset[str]) -> str:
    """Returns what stands behind `about`, or `of` between a film and what is no file; marks it as data."""
    for index, token in enumerate(tokens):
        begins = token.word in ABOUT and not (token.word == "on" and not _is_topic_on(tokens, index))
        begins = begins or (token.word in ("of", "for") and _is_subject(tokens, index, vocabulary))
        if not begins or token.is_negated:
            continue
        span: list[Token] = []
        for each in tokens[index + 1 : index + 1 + MOST_TOPIC]:
            if span and text[span[-1].end : each.start].strip(" '’-"):
                break
            if (
                span
                and each.word
                in ("with", "using", "from", "in", "at", "and", "then", "for", "as", "into", "without", "that", "over")
                and _resumes(tokens, each, vocabulary)
            ):
                break
            span.append(each)
        while span and span[-1].word in ("and", "then", "a", "the", "of", "in", "with", "for", "at", "make", "please"):
            span.pop()
        if any(not each.is_stop for each in span):
            for each in span:
                each.is_data = True
            return text[span[0].start : span[-1].end].strip()
    return ""


def _is_topic_on(tokens: list[Token], index: int) -> bool:
    return index > 0 and tokens[index - 1].stem in {
        stem(each) for each in ("script", "story", "narration", "poem", "text", "line", "lines", "film", "video")
    }


def _is_subject(tokens: list[Token], index: int, vocabulary: frozenset[str]) -> bool:
    """`a film of a volcano`, `the story of Rome`; not `a film of these pictures`."""
    before = tokens[index - 1] if index else None
    following = tokens[index + 1 : index + 4]
    if before is None or before.is_stop or not following:
        return False
    if before.word not in ("story", "stories", "film", "video", "movie", "tale", "clip") or tokens[index].word == "for":
        return False
    if following[0].word in ("these", "this", "those", "my", "the", "our") and any(
        each.stem in KINDS for each in following
    ):
        return False
    nouns = [each for each in following if not each.is_stop]
    return bool(nouns) and nouns[0].stem not in KINDS and following[0].word not in ("these", "this", "those")


def _resumes(tokens: list[Token], here: Token, vocabulary: frozenset[str]) -> bool:
    """Returns whether behind a preposition the request goes on, and not the topic: a known word follows soon, or nothing but a number."""
    following = [each for each in tokens if each.start > here.start][:3]
    asking = [each for each in following if not each.is_stop]
    return not asking or asking[0].stem in vocabulary or asking[0].stem in KINDS or asking[0].is_negated
