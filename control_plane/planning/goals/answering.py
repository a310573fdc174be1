"""Explain: why each node and value is there, what was assumed, what the graph does not do, what is open, and how sure all of it is.

A plan is certain where nothing is open: every need is met, no word that leads the goal is without meaning here, and no second reading
explains the goal as well by other tasks.

Large because each thing that may be open has its own sentence and question.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dihedral.control_plane.planning.goals.building import Built
from dihedral.control_plane.planning.goals.drafting import Draft, Link, Search, Use
from dihedral.control_plane.planning.goals.files import File
from dihedral.control_plane.planning.goals.filling import Filled, lacking, odd_attributes
from dihedral.control_plane.planning.goals.offers import Catalogue, Offer, Slot
from dihedral.control_plane.planning.goals.reading import Token
from dihedral.control_plane.planning.goals.words import KINDS
from dihedral.schemas.structs.plan import Choice, Question, Reason, Suggestion

CLOSE: Final = 0.12  # two drafts that differ by less are two readings
MEANT, WEAK = 0.3, 0.45  # of a word: what counts as explained; of all words: what is enough
MOST_SUGGESTIONS: Final = 6
SHOWN: Final = 60


class Answer(msgspec.Struct):
    reasons: list[Reason]
    assumptions: list[str]
    unmet: list[str]
    questions: list[Question]
    confidence: float
    is_meant: bool
    """Whether the draft does what the goal asks at all; else it is not shown."""


def answer(
    search: Search, draft: Draft, filled: Filled, built: Built, rivals: Sequence[Draft], answers: Mapping[str, Any]
) -> Answer:
    reading = search.reading
    reasons = list(_reasons(draft, built))
    assumptions = [*filled.assumptions, *_assumed(search, draft)]
    unmet = list(filled.unmet)
    questions: list[Question] = []
    for place, slot in lacking(draft):
        questions.append(_question_of(draft.uses[place], slot, search, _id(built, place, slot)))
    for place, slot in search.baseless(draft):
        if _id(built, place, slot) not in answers:
            questions.append(_question_of(draft.uses[place], slot, search, _id(built, place, slot)))
    for place, slot, why in filled.wrong:
        name = _id(built, place, slot)
        questions.append(
            Question(
                id=name,
                text=f"{slot.name} of {draft.uses[place].offer.label!r}: {why}. What shall it be?",
                choices=[],
                schema=_shown(slot),
            )
        )
    for place, slot, words in odd_attributes(draft, reading, filled.used):
        name = _id(built, place, slot)
        if name not in answers:
            text = f"{words!r}: which value of {slot.name} is that? {slot.description}".strip()
            choices = [Choice(label="leave it as it is", value=slot.schema.get("default", ""))]
            questions.append(Question(id=name, text=text, choices=choices, schema=_shown(slot)))
    for index, options in draft.unclear:
        file = search.files[index]
        choices = [
            Choice(label=f"{slot} of {draft.uses[place].offer.label}", value=f"{draft.uses[place].offer.id}.{slot}")
            for place, slot in options
        ]
        choices.append(Choice(label="leave it out", value=""))
        questions.append(Question(id=f"file.{index}", text=f"What is {file.name[:SHOWN]!r} for?", choices=choices))
    unclear = {index for index, _ in draft.unclear}
    for file in search.files:
        if file.index not in draft.files and file.index not in unclear:
            unmet.append(f"nothing in this graph takes the file {file.name[:SHOWN]!r}")
            if f"file.{file.index}" not in answers:
                choices = [Choice(label="leave it out", value="")]
                questions.append(
                    Question(
                        id=f"file.{file.index}",
                        text=f"What is {file.name[:SHOWN]!r} for? No task of this graph takes it.",
                        choices=choices,
                    )
                )
    for number, quote in enumerate(reading.quotes):
        if number not in draft.quotes and not any(
            quote.text == value for use in draft.uses for value in use.values.values()
        ):
            unmet.append(f"nothing in this graph takes the text {quote.text[:SHOWN]!r}")
    if reading.topic and not draft.topic:
        unmet.append(f"nothing in this graph takes {reading.topic[:SHOWN]!r} as its subject")
    unknown = [
        each for each in search.tokens() if each.start not in filled.used and search.explained(draft, each) < MEANT
    ]
    leads = [each for each in unknown if each.leads or each.role == "wanted"]
    unmet += [f"no task here knows what {each.written[:SHOWN]!r} means" for each in leads]
    if other := [each.written for each in unknown if each not in leads]:
        assumptions.append(f"changes nothing here: {', '.join(other)[:SHOWN]}")
    for token in reading.negated:
        if not search.is_kept_out(draft, token):
            unmet.append(f"without {token.written!r}: this graph cannot leave it out")
    missing = [mention.name for mention in reading.mentions if not _is_known(mention.name, search.files, draft)]
    for name in missing:
        unmet.append(f"{name[:SHOWN]!r} is no file that was given")
    rival = _rival(draft, rivals, search)
    if rival is not None and "offer" not in answers:
        choices = [Choice(label=_label(each), value=each.uses[-1].offer.id) for each in (draft, rival)]
        questions.append(Question(id="offer", text="Two readings are as likely. Which is meant?", choices=choices))
    confidence = _confidence(search, draft, filled, unknown, leads)
    if unmet and "unmet" not in answers and not questions:
        text = f"This much cannot be done: {'; '.join(unmet)[:300]}. Go on without it?"
        questions.append(Question(id="unmet", text=text, choices=[Choice(label="go on without it", value=True)]))
    if answers.get("unmet") is True:
        questions = [each for each in questions if each.id != "unmet"]
        confidence = max(confidence, 0.6)
    if not unmet and not questions and confidence < WEAK and "unmet" not in answers:
        text = f"Too little of the goal is understood to be sure: {', '.join(each.written for each in unknown)[:200]}. Is this graph what is meant?"
        questions.append(Question(id="unmet", text=text, choices=[Choice(label="run it", value=True)]))
    return Answer(
        reasons, assumptions, unmet, questions, round(confidence, 2), _is_meant(search, draft, unknown, leads)
    )


def _is_known(name: str, files: Sequence[File], draft: Draft) -> bool:
    lower = name.lower()
    if any(lower in (file.name.lower(), file.ref["key"].rpartition("/")[2].lower()) for file in files):
        return True
    return any(value == name for use in draft.uses for value in use.values.values())


def _is_meant(search: Search, draft: Draft, unknown: list[Token], leads: list[Token]) -> bool:
    """Returns False where what the draft does is only what the goal's nouns happen to name: `delete my recordings`."""
    nothing_else = not (draft.quotes or draft.topic or draft.read) or any(
        not slot.needed_with for _, slot in lacking(draft)
    )
    if draft.files and draft.files <= draft.stray and nothing_else:
        return (
            False  # `subtitles for talk.mp3`: a task that could not work on the file, and takes it for something else
        )
    tokens = search.tokens()
    if not tokens:
        return any(search.phrases.get(use.offer.id, 0) for use in draft.uses)
    asking = [
        each
        for each in tokens
        if each not in unknown
        and any(use.offer.asks.get(each.stem, 0) >= 0.5 or _makes(use.offer, each) for use in draft.uses)
        and not (each.stem in KINDS and each.role == "source")
    ]
    phrased = any(search.phrases.get(use.offer.id, 0) for use in draft.uses)
    if any(each.leads and each not in unknown for each in tokens) and len(unknown) <= 0.6 * len(tokens):
        pass
    elif any(each.leads for each in unknown) and not phrased:
        verbs = [each for each in asking if each.stem not in KINDS]
        wanted = [each for each in asking if each.stem in KINDS and each.role == "wanted"]
        if not verbs and not wanted:
            return False
    fits = phrased and len(search.files) > 1 and len(draft.files) == len(search.files) and not list(lacking(draft))
    return (bool(asking) or phrased) and (fits or len(unknown) <= 0.6 * len(tokens))


def _makes(offer: Offer, token: Token) -> bool:
    kind = KINDS.get(token.stem)
    return kind is not None and token.role != "source" and any(kind in product.kinds for product in offer.products)


def _confidence(search: Search, draft: Draft, filled: Filled, unknown: list[Token], leads: list[Token]) -> float:
    tokens = search.tokens()
    if not tokens:
        return 1.0
    known = sum(
        1.0 if each.start in filled.used else min(1.0, search.explained(draft, each) + 0.3)
        for each in tokens
        if each not in unknown
    )
    share = known / len(tokens)
    share -= 0.25 * len(leads) / len(tokens) + 0.1 * sum(1 for _ in lacking(draft)) + 0.05 * len(filled.unmet)
    return max(0.0, min(1.0, share))


def _rival(draft: Draft, rivals: Sequence[Draft], search: Search) -> Draft | None:
    """Returns a draft of other tasks that explains the goal as well."""
    mine = _tasks(draft)
    score = search.score(draft)
    for other in rivals:
        theirs = _tasks(other)
        if theirs == mine or theirs < mine or mine < theirs:
            continue
        if _strange(other, search) > _strange(draft, search):
            continue
        if search.score(other) > score - CLOSE:
            return other
    return None


def _strange(draft: Draft, search: Search) -> frozenset[str]:
    """Returns what the labels promise and the goal does not name: of two readings the one with more of it is not asked about."""
    present = {each.stem for each in search.reading.tokens}
    return frozenset(word for use in draft.uses if use.asked for word in use.offer.titles - present)


def _tasks(draft: Draft) -> frozenset[str]:
    return frozenset(task for use in draft.uses for task in use.offer.tasks)


def _label(draft: Draft) -> str:
    return " → ".join(use.offer.label for use in draft.uses)


# Reasons ---------------------------------------------------------------------------------------------------------------


def _reasons(draft: Draft, built: Built) -> list[Reason]:
    found = []
    taken = {link.use: use for use in draft.uses for value in use.values.values() for link in _links(value)}
    for place, use in enumerate(draft.uses):
        name = built.node_of(place)
        if use.asked:
            text = f"{use.offer.label}: the goal asks for it."
        else:
            target = taken.get(place)
            text = (
                f"{use.offer.label}: it makes what {target.offer.label!r} needs."
                if target is not None
                else f"{use.offer.label}: the goal asks for it."
            )
        found.append(Reason(node_id=name, param=None, text=text))
        for slot in use.offer.slots:
            if slot.name in use.values and use.why.get(slot.name):
                found.append(
                    Reason(
                        node_id=built.node_of(place, slot),
                        param=slot.field,
                        text=f"{slot.field}: {use.why[slot.name]}.",
                    )
                )
    return found


def _links(value: Any) -> list[Link]:
    if isinstance(value, Link):
        return [value]
    if isinstance(value, dict):
        return [link for each in value.values() for link in _links(each)]
    return [link for each in value for link in _links(each)] if isinstance(value, list) else []


def _assumed(search: Search, draft: Draft) -> list[str]:
    found = []
    for file in search.files:
        if not file.exists:
            kinds = ", ".join(sorted(file.kinds - {"file"})) or "a file"
            found.append(f"{file.name[:SHOWN]!r} is not in the store; by its name it is taken as {kinds}")
    is_asked = bool(search.baseless(draft))
    for use in draft.uses if not is_asked else ():
        for slot in use.offer.slots:
            topic = "topic" in slot.kinds and slot.name not in use.values and "default" in slot.schema
            if topic:
                found.append(f"what it is about is not said: {slot.name} stays {slot.schema['default']!r}")
    for quantity in search.reading.quantities:
        kind = KINDS.get(quantity.unit)
        count = sum(1 for each in search.files if kind in each.kinds)
        if kind is not None and search.files and count and count != quantity.value:
            found.append(f"the goal says {quantity.written!r}, and {count} were given: all of them are used")
    return found


# Questions -------------------------------------------------------------------------------------------------------------


def _id(built: Built, place: int, slot: Slot) -> str:
    return f"{built.node_of(place, slot)}.{slot.field}"


def _question_of(use: Use, slot: Slot, search: Search, name: str) -> Question:
    what = slot.group or slot.description or slot.name
    already = use.values.get(slot.name)
    if isinstance(already, list) and already:
        text = f"{use.offer.label!r} needs at least {slot.least} of {slot.name}; {len(already)} was given. Which others? ({what})"
    elif slot.is_file:
        text = f"{use.offer.label!r} needs a file: {what}. Which?"
    else:
        text = f"{use.offer.label!r} needs {slot.name}: {what}?"
    choices = []
    if slot.is_text and (rest := _rest(search)):
        choices.append(Choice(label=rest[:SHOWN], value=rest))
    return Question(id=name, text=text, choices=choices, schema=_shown(slot))


def _rest(search: Search) -> str:
    """Returns the words behind the first one that asks for something: what may be meant as a text."""
    asking = [each for each in search.reading.tokens if each.leads]
    if not asking:
        return ""
    rest = [each for each in search.reading.tokens if each.start > asking[0].start]
    return search.reading.text_of(rest) if len(rest) > 1 else ""


def _shown(slot: Slot) -> dict[str, Any]:
    schema = {name: value for name, value in slot.schema.items() if name not in ("default", "x-words")}
    if slot.group and slot.schema.get("anyOf"):
        schema.pop("default", None)
    return schema


# Suggestions -----------------------------------------------------------------------------------------------------------


def suggestions(known: Catalogue, files: Sequence[File]) -> list[Suggestion]:
    return [Suggestion(label=offer.label, goal=_goal_of(offer, files)) for _, offer in suggested(known, files)]


def suggested(known: Catalogue, files: Sequence[File]) -> list[tuple[str, Offer]]:
    """Returns what can be done with these files: offers that need one of them and take the others."""
    found = []
    for key, offer in known.offers.items():
        wanted = [slot for slot in offer.slots if slot.is_file and slot.kinds != {"file"}]
        lacking_files = [
            slot for slot in wanted if slot.required and not any(slot.kinds & file.kinds for file in files)
        ]
        taken = [file for file in files if any(slot.kinds & file.kinds for slot in wanted)]
        if not taken or lacking_files:
            continue
        needed = sum(
            1 for slot in wanted if (slot.required or slot.group) and any(slot.kinds & file.kinds for file in files)
        )
        texts = sum(1 for slot in offer.slots if slot.is_text and slot.required)
        score = len(taken) + 0.5 * needed - 0.2 * texts + (0.3 if offer.pipeline is not None else 0.0)
        found.append((score, key, offer))
    found.sort(key=lambda each: (-each[0], each[2].label))
    return [(key, offer) for _, key, offer in found[:MOST_SUGGESTIONS]]


def _goal_of(offer: Offer, files: Sequence[File]) -> str:
    names = ", ".join(file.name for file in files[:5])
    text = ' "…"' if any(slot.is_text and slot.required and "text" in slot.kinds for slot in offer.slots) else ""
    return f"{offer.label}{':' if text else ''}{text} with {names}"
