"""Choose and draft: from what is wanted backwards to what is given.

Each offer that the goal's words ask for is tried as the end of a chain. Its files and texts come from what is given; what is missing comes
from another offer that makes it, if that one's own needs are met in turn. Leftovers (a recording, a quote) are taken by optional
parameters, or by one more offer that makes something for one. The draft that explains most of the goal with the fewest strangers wins.

A draft never invents: a need that nothing meets stays open, and becomes a question.

Large because one search has one state.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from dihedral.control_plane.planning.goals.files import File
from dihedral.control_plane.planning.goals.offers import Catalogue, Offer, Product, Shape, Slot
from dihedral.control_plane.planning.goals.reading import Reading, Token
from dihedral.control_plane.planning.goals.words import (
    ABOUT,
    DIRECTIONS,
    FILLERS,
    KINDS,
    STOP_STEMS,
    UNIT_STEMS,
    WIDER,
    stem,
    stems,
)

STRAY: Final = 0.3
FRAGMENT: Final = 0.6  # what a word of a keyword of several words weighs alone: too little to ask for one more task
LEAST_EVIDENCE: Final = 0.5
ALIKE_ENDS: Final = 2  # of those that take and make the same: the second may be what was meant, and is a question
TRIED: Final = 7  # offers that are tried as the end of a chain
DEEPEST: Final = 3  # offers behind one another to meet one need
MOST_USES: Final = 6
RESUMING: Final = frozenset("in with using from for over as into and then while on".split())  # noqa: SIM905
ASKING: Final = frozenset("why how what when where who which whether".split())  # noqa: SIM905
ABOUT_STEMS: Final = frozenset(map(stem, ABOUT))
SWITCHES: Final = ("boolean", "integer", "number")  # what `without …` sets rather than leaves out

# What a draft gains or loses; only the differences matter. The table of goals in tests/planner holds them.
FILE_USED, FILE_LEFT, QUOTE_USED, QUOTE_LEFT = 0.7, 1.3, 1.0, 1.6
UNCLEAR, TWICE, NUMBER_LEFT = 0.4, 1.0, 0.5
OPEN_NEED, UNASKED_USE, EACH_USE, EACH_TASK, TOPIC_USED, TOPIC_LEFT = 0.8, 0.45, 0.12, 0.03, 0.8, 1.0
LEAD_LEFT = 0.8
DELIVERS, ENDS_AS_ASKED, NEGATION_BROKEN, PHRASE, LED = 0.6, 0.5, 1.5, 0.55, 0.6


class Link(msgspec.Struct, frozen=True, eq=False):
    """The value of a parameter that another use makes."""

    use: int
    product: Product


class Use(msgspec.Struct):
    """An offer in a draft. `values` and `why`: by the slot's name. `dropped`: members of a pipeline's template that the goal excludes."""

    offer: Offer
    values: dict[str, Any]
    why: dict[str, str]
    closed: set[str]
    asked: bool = True
    dropped: set[str] = msgspec.field(default_factory=set)

    def copy(self) -> "Use":
        return Use(self.offer, dict(self.values), dict(self.why), set(self.closed), self.asked, set(self.dropped))

    def is_open(self, slot: Slot) -> bool:
        if slot.name in self.values or slot.name in self.closed:
            return False
        return not slot.siblings or not any(name in self.values for name in slot.siblings)


class Draft(msgspec.Struct):
    uses: list[Use]
    files: set[int]
    quotes: set[int]
    topic: bool
    unclear: list[tuple[int, list[tuple[int, str]]]]
    read: frozenset[int] = frozenset()
    """Starts of the tokens that became a text."""
    stray: set[int] = msgspec.field(default_factory=set)
    """Files that an optional parameter took although no word of the goal means it."""

    def copy(self) -> "Draft":
        return Draft(
            [each.copy() for each in self.uses],
            set(self.files),
            set(self.quotes),
            self.topic,
            list(self.unclear),
            self.read,
            set(self.stray),
        )


class Bearing(msgspec.Struct, frozen=True, eq=False):
    """What a word of the goal means for an offer. `slots`: those that it may mean, with what it weighs where the slot is filled and where it is open."""

    weight: float
    slots: tuple[tuple[str, float, float], ...]


class Search(msgspec.Struct):
    """One goal over one catalogue. What depends on the goal and an offer alone is found once, since hundreds of drafts ask for it."""

    reading: Reading
    files: Sequence[File]
    known: Catalogue
    phrases: dict[str, float] = {}
    evidence: dict[str, float] = {}
    named: frozenset[int] = frozenset()
    """Starts of the tokens by which some task is called, word for word."""
    _asking: list[Token] | None = None
    _bearings: dict[tuple[int, int], Bearing] = msgspec.field(default_factory=dict)
    _makers: dict[int, list[tuple[str, Offer, Product]]] = msgspec.field(default_factory=dict)
    _enrichers: dict[int, list[tuple[str, Offer, Product]]] = msgspec.field(default_factory=dict)
    _affinities: dict[tuple[int, int, bool], float] = msgspec.field(default_factory=dict)
    _has_words_after: bool | None = None
    _ordered: list[str] | None = None

    # Evidence ----------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        tokens = [each for each in self.reading.tokens if not each.is_negated and not each.is_data]
        lines = self._lines(tokens)
        words = {word for offer in self.known.offers.values() for word, weight in offer.asks.items() if weight >= 1}
        self.named = frozenset(each.start for each in self.reading.tokens if each.stem in words)
        present = {word for line in lines for word in line}
        for key, offer in self.known.offers.items():
            hits = 0.0
            for phrase in offer.phrases:
                if not present.issuperset(phrase) and not present.issuperset(p for p in phrase if p not in STOP_STEMS):
                    continue
                short = [each for each in phrase if each not in STOP_STEMS]
                if any(_stands(phrase, line) or (len(short) > 1 and _stands(short, line)) for line in lines):
                    hits += 1 + 0.3 * (len(phrase) - 2)
            self.phrases[key] = hits
            named = sum(1 for each in self.reading.namings if any(each.after in slot.named_by for slot in offer.slots))
            self.evidence[key] = self._evidence(offer) + min(2, hits) * PHRASE + named

    def _lines(self, tokens: list[Token]) -> list[list[str]]:
        """Returns the goal's stems in the ways in which a phrase may stand in them: as they are, without fillers, without stop words, and with
        the kinds of a file in place of its name (`me.jpg says` holds `picture say`)."""
        files = {each.name.lower(): each for each in self.files}
        named = [
            (
                mention.at,
                files[mention.name.lower()].kinds if mention.name.lower() in files else frozenset({"new file"}),
            )
            for mention in self.reading.mentions
        ]
        whole = [(each.start, each.stem) for each in tokens]
        tight = [(each.start, each.stem) for each in tokens if each.stem not in FILLERS]
        bare = [(each.start, each.stem) for each in tokens if not each.is_stop]
        found = [[word for _, word in line] for line in (whole, tight, bare)]
        for kind in sorted({kind for _, kinds in named for kind in kinds} - {"file"}):
            places = [(at, stem(kind.removeprefix("new "))) for at, kinds in named if kind in kinds]
            found += [[word for _, word in sorted([*line, *places])] for line in (tight, bare)]
        return found

    def _evidence(self, offer: Offer) -> float:
        """How much the goal's words ask for it by themselves."""
        made = frozenset(kind for product in offer.products for kind in product.kinds)
        total = 0.0
        for token in self.reading.tokens:
            if not token.counts:
                continue
            weight = offer.asks.get(token.stem, 0.0)
            kind = KINDS.get(token.stem)
            if kind is not None:
                if token.role == "source":
                    weight *= 0.25
                elif kind in made:
                    weight = max(weight, 0.8 if token.role == "wanted" else 0.5)
            if token.leads and weight >= 0.5:
                weight += LED
            total += weight
        return total

    # Choosing ----------------------------------------------------------------------------------------------------------

    def likely(self) -> list[str]:
        """Returns the offers for which the goal's words ask, the most likely first."""
        self.prepare()
        order = sorted(self.evidence, key=lambda key: -self.evidence[key])
        asked = [key for key in order if self.evidence[key] >= LEAST_EVIDENCE]
        return self._unlike(asked, ALIKE_ENDS)[:TRIED]

    def _unlike(self, keys: Sequence[str], most: int) -> list[str]:
        """Leaves out what takes and makes the same as others before it: every draft with it is worth as much or less."""
        seen: Counter[Shape] = Counter()
        found = []
        for key in keys:
            shape = self.known.offers[key].shape
            seen[shape] += 1
            if seen[shape] <= most:
                found.append(key)
        return found

    def drafts(self, keys: Sequence[str]) -> list[tuple[float, Draft]]:
        """Returns a draft for each offer as its end, the best first."""
        found = []
        for key in keys:
            draft = Draft([], set(), set(), False, [])
            index = self._add(draft, self.known.offers[key], 0, (), asked=True)
            if index is None:
                continue
            self._enrich(draft)
            draft = self._further(draft)
            self.adopt(draft)
            self._hand_on(draft)
            self._connect(draft)
            self._repeat(draft)
            found.append((self.score(draft), draft))
        found.sort(key=lambda each: -each[0])
        return found

    def _further(self, draft: Draft) -> Draft:
        """Adds ends for what the goal asks beside: `…, and train a voice from the recording`."""
        while len(draft.uses) < MOST_USES:
            left = [each for each in self.tokens() if self.explained(draft, each) < 0.3]
            if not left and not self._left(draft):
                break
            score = self.score(draft)
            candidates: list[tuple[float, Draft]] = []
            seen: set[Shape] = set()
            names = {use.offer.id for use in draft.uses} | {task for use in draft.uses for task in use.offer.tasks}
            asking = [each.stem for each in left if each.leads or each.role == "wanted"]
            homeless = self._homeless(draft)
            for key in self._by_evidence():
                offer = self.known.offers[key]
                if not names.isdisjoint((offer.id, *offer.tasks)):
                    continue
                asked = max((offer.asks.get(each, 0.0) for each in asking), default=0.0)
                takes_both = bool(homeless) and self._takes_both(draft, offer, homeless)
                is_asked = asked > FRAGMENT or (asked == FRAGMENT and self.phrases.get(key, 0) > 0)
                if not (is_asked or takes_both) or offer.shape in seen:
                    continue
                seen.add(offer.shape)
                extended = draft.copy()
                if self._add(extended, offer, 0, (), asked=True, share=True) is None or self._open(
                    extended
                ) > self._open(draft):
                    continue
                self._enrich(extended, draft.uses)
                if takes_both:
                    self._hand_on(extended)
                candidates.append((self.score(extended), extended))
            better = max(candidates, key=lambda each: each[0], default=(score, draft))
            if better[0] <= score + 0.1:
                break
            draft = better[1]
        return draft

    def _homeless(self, draft: Draft) -> list[File]:
        """Returns the files that are left and that nothing in the draft could take."""
        return [
            file
            for file in self._left(draft)
            if not any(
                slot.is_file and slot.kinds & file.kinds and use.is_open(slot)
                for use in draft.uses
                for slot in use.offer.slots
            )
        ]

    def _takes_both(self, draft: Draft, offer: Offer, homeless: Sequence[File]) -> bool:
        """Returns whether an offer takes a file that has no place together with what the draft ends in."""
        slots = [each for each in offer.slots if each.is_file and each.kinds != {"file"}]
        given = [each for each in slots if any(each.kinds & file.kinds for file in homeless)]
        return bool(given) and any(
            use.offer.products and fitting_main(use.offer, slot) is not None
            for use in draft.uses
            for slot in slots
            if slot not in given[:1]
        )

    def tokens(self) -> list[Token]:
        if self._asking is None:
            self._asking = [each for each in self.reading.tokens if each.counts]
        return self._asking

    # Scores ------------------------------------------------------------------------------------------------------------

    def score(self, draft: Draft) -> float:
        reading = self.reading
        total = sum(self.explained(draft, token) * (1 + (LED if token.leads else 0)) for token in self.tokens())
        left = len(self.files) - len(draft.files) - len(draft.unclear)
        total += FILE_USED * len(draft.files) - FILE_LEFT * left - UNCLEAR * len(draft.unclear)
        tasks = [task for use in draft.uses for task in use.offer.tasks]
        total -= TWICE * (len(tasks) - len(set(tasks)))
        total -= NUMBER_LEFT * sum(
            1 for each in reading.quantities if each.unit in ("second", "fps") and not _takes(draft, each.unit)
        )
        total += QUOTE_USED * len(draft.quotes) - QUOTE_LEFT * (len(reading.quotes) - len(draft.quotes))
        for naming in reading.namings:
            is_taken = any(naming.after in slot.named_by for use in draft.uses for slot in use.offer.slots)
            total += QUOTE_USED if is_taken else -QUOTE_LEFT
        total -= LEAD_LEFT * sum(
            1 for each in self.tokens() if each.leads and each.start in self.named and self.explained(draft, each) < 0.3
        )
        if reading.topic:
            total += TOPIC_USED if draft.topic else -TOPIC_LEFT
        total -= OPEN_NEED * self._open(draft)
        for use in draft.uses:
            total -= EACH_USE + EACH_TASK * len(use.offer.tasks)
            total += PHRASE * min(2, self.phrases.get(use.offer.id, 0))
            if not use.asked and self.evidence.get(use.offer.id, 0) < 0.3:
                total -= UNASKED_USE
        total += self._ends(draft)
        present = {each.stem for each in reading.tokens}
        total -= sum(min(0.18, 0.06 * len(use.offer.titles - present)) for use in draft.uses if use.asked)
        total -= NEGATION_BROKEN * sum(1 for each in reading.negated if not self.is_kept_out(draft, each))
        return total

    def _ends(self, draft: Draft) -> float:
        """What the last use makes is what the goal names as wanted."""
        there = {kind for file in self.files for kind in file.kinds}
        wanted = {
            KINDS[each.stem]
            for each in self.tokens()
            if each.stem in KINDS
            and (
                each.role == "wanted" or (each.role == "neutral" and KINDS[each.stem] not in there & {"voice", "look"})
            )
        }
        linked = {value.use for use in draft.uses for value in _links(use.values)}
        ends = [use for index, use in enumerate(draft.uses) if index not in linked]
        if not wanted:
            return 0.0
        main = {kind for use in ends for product in use.offer.products[:1] for kind in product.kinds}
        every = {kind for use in draft.uses for product in use.offer.products for kind in product.kinds}
        return (
            ENDS_AS_ASKED * len(wanted & main)
            + DELIVERS * 0.5 * len(wanted & every)
            - 0.3 * len(main - wanted and wanted - every)
        )

    def _open(self, draft: Draft) -> float:
        """Counts what is missing; a detail of what is given (where the mouth of a portrait is) counts less than a thing."""
        return sum(0.25 if slot.needed_with else 1 for use in draft.uses for slot in needs(use)) + len(
            self.baseless(draft)
        )

    def baseless(self, draft: Draft) -> list[tuple[int, Slot]]:
        """Returns the subjects that a draft works on by default although no words were given: `Make a video` says too little, also beside a picture, which a writer of texts does not see."""
        if draft.quotes or draft.topic or draft.read:
            return []
        return [
            (place, slot)
            for place, use in enumerate(draft.uses)
            for slot in use.offer.slots
            if "topic" in slot.kinds and not slot.required and not slot.node and slot.name not in use.values
        ]

    def explained(self, draft: Draft, token: Token) -> float:
        if token.start in draft.read:
            return 1.0
        best = 0.0
        for use in draft.uses:
            bearing = self._bearing(use.offer, token)
            best = max(best, bearing.weight)
            for name, filled, empty in bearing.slots:
                best = max(best, filled if name in use.values else empty)
            if best >= 1:
                return 1.0
        kind = KINDS.get(token.stem)
        if kind is not None and any(kind in self.files[index].kinds for index in draft.files):
            best = max(best, 0.9)
        return best

    def _bearing(self, offer: Offer, token: Token) -> Bearing:
        found = self._bearings.get((id(offer), token.start))
        if found is None:
            kind = KINDS.get(token.stem)
            weight = offer.asks.get(token.stem, 0.0) * (0.6 if token.role == "source" and kind else 1.0)
            if kind is not None and any(kind in product.kinds for product in offer.products):
                weight = max(weight, 0.5 if token.role == "source" else 0.9)
            slots = tuple(
                (slot.name, 1.0 if token.stem in slot.own else 0.7, 0.0 if slot.node else 0.3)
                for slot in offer.slots
                if token.stem in slot.words or kind in slot.kinds
            )
            found = self._bearings[id(offer), token.start] = Bearing(weight, slots)
        return found

    def is_kept_out(self, draft: Draft, token: Token) -> bool:
        """Returns whether nothing in the draft does what `without …` excludes, and whether a parameter could have."""
        kind = KINDS.get(token.stem)
        for use in draft.uses:
            for slot in use.offer.slots:
                if token.stem in slot.own or excluded(kind) & slot.kinds:
                    is_switched = slot.schema.get("type") in SWITCHES and not use.values.get(slot.name)
                    return slot.name not in use.values or slot.name in use.closed or is_switched
        if any(use.dropped for use in draft.uses):
            return True
        return not any(
            token.stem in use.offer.asks and use.offer.asks[token.stem] >= 0.5 for use in draft.uses if kind is None
        )

    # Drafting ----------------------------------------------------------------------------------------------------------

    def _add(
        self, draft: Draft, offer: Offer, deep: int, above: tuple[str, ...], *, asked: bool, share: bool = False
    ) -> int | None:
        """Adds a use with what is given, and with the uses that make what is missing before it. Returns its place."""
        use = Use(offer, {}, {}, set(), asked)
        self._close(use)
        self._give_files(draft, use, optional=False)
        if share:
            self._share(draft, use)
        self._give_texts(draft, use)
        self._give_documents(draft, use)
        self._give_new_names(use)
        for slot in offer.slots:
            if self._is_lacking(use, slot) and deep < DEEPEST:
                self._make(draft, use, slot, deep, (*above, offer.id))
        if deep and any(True for _ in needs(use)):
            return None
        if len(draft.uses) >= MOST_USES:
            return None
        draft.uses.append(use)
        return len(draft.uses) - 1

    def _close(self, use: Use) -> None:
        for token in self.reading.negated:
            kind = KINDS.get(token.stem)
            out = excluded(kind)
            for slot in use.offer.slots:
                own = slot.own
                if (
                    not slot.required
                    and (token.stem in own or out & slot.kinds)
                    and slot.schema.get("type") not in SWITCHES
                ):
                    use.closed.add(slot.name)
            if use.offer.pipeline is not None:
                use.dropped |= set(_droppable(use.offer, token.stem, kind, self.known))

    def _is_lacking(self, use: Use, slot: Slot) -> bool:
        if not use.is_open(slot):
            return False
        if slot.group:
            return not any(each.name in use.values for each in use.offer.slots if each.group == slot.group)
        return slot.required

    def _make(self, draft: Draft, use: Use, slot: Slot, deep: int, above: tuple[str, ...]) -> bool:
        """Meets a need by another offer that makes it; tries those first for which the goal's words ask."""
        for index, earlier in enumerate(draft.uses):
            product = self.known.fitting(earlier.offer, slot)
            if product is not None and earlier is not use:
                _link(use, slot, Link(index, product), f"from {earlier.offer.label!r}")
                return True
        done = {task for name in above for task in self.known.offers[name].tasks}
        for _, offer, product in self._makers_of(slot):
            if not done.isdisjoint(offer.tasks) or (offer.pipeline is not None and deep):
                continue
            trial = draft.copy()
            made = self._add(trial, offer, deep + 1, above, asked=False)
            if made is None or not (
                trial.files != draft.files
                or trial.quotes != draft.quotes
                or trial.topic != draft.topic
                or trial.read != draft.read
            ):
                continue
            draft.uses, draft.files, draft.quotes, draft.topic, draft.read = (
                trial.uses, trial.files, trial.quotes, trial.topic, trial.read,
            )  # fmt: skip
            _link(use, slot, Link(made, product), f"made by {offer.label!r}, since none was given")
            return True
        return False

    def _makers_of(self, slot: Slot) -> list[tuple[str, Offer, Product]]:
        """Returns what makes a slot's value, those first for which the goal's words ask."""
        found = self._makers.get(id(slot))
        if found is None:
            keys = [key for kind in (*sorted(slot.kinds), f"={slot.name}") for key in self.known.makers.get(kind, ())]
            keys = sorted(
                dict.fromkeys(keys), key=lambda key: (-self.evidence.get(key, 0.0), len(self.known.offers[key].tasks))
            )
            offers = [(key, self.known.offers[key]) for key in keys[:6]]
            made = [(key, offer, self.known.fitting(offer, slot)) for key, offer in offers]
            found = self._makers[id(slot)] = [(key, offer, product) for key, offer, product in made if product]
        return found

    # Files -------------------------------------------------------------------------------------------------------------

    def _give_files(self, draft: Draft, use: Use, *, optional: bool) -> None:
        """Gives files that are left to slots: first by the words beside a file, then in their order to what is needed."""
        slots = [each for each in use.offer.slots if each.is_file]
        pairs = sorted(
            (
                (self.affinity(file, slot), -file.index, slot, file)
                for slot in slots
                for file in self._left(draft)
                if slot.kinds & file.kinds
            ),
            key=lambda each: (-each[0], -each[1]),
        )
        asked = {each.stem for each in self.tokens()}
        contested = len({slot.name for _, _, slot, _ in pairs}) > 1
        for affinity, _, slot, file in pairs:
            if (
                affinity < 0.5
                or not contested
                or file.index in draft.files
                or not self._may_adopt(use, slot, file, asked)
            ):
                continue
            if use.is_open(slot) or (slot.many and slot.name in use.values and len(use.values[slot.name]) < slot.most):
                if slot.most == 1 and slot.name in use.values:
                    continue
                self.give(draft, use, slot, [file], "the goal says so")
        lacking = [
            each
            for each in slots
            if self._is_lacking(use, each) or (each.required and not each.many and use.is_open(each))
        ]
        for slot in sorted(lacking, key=lambda each: (each.many, bool(each.wrap))):
            if not self._is_lacking(use, slot):
                continue
            fitting_files = [
                each for each in self._left(draft) if slot.kinds & each.kinds and self._is_meant(each, slot, use)
            ]
            chosen = fitting_files[: slot.most] if slot.many else fitting_files[:1]
            if slot.group and not slot.many and len(fitting_files) > 1:
                bigger = next(
                    (each for each in slots if each.group == slot.group and each.many and each.kinds == slot.kinds),
                    None,
                )
                if bigger is not None:
                    slot, chosen = bigger, fitting_files[: bigger.most]
            if chosen:
                self.give(draft, use, slot, chosen, "it was given")
        for slot in slots:
            if (
                slot.many
                and slot.name in use.values
                and isinstance(use.values[slot.name], list)
                and (slot.required or slot.group)
            ):
                rest = [
                    each for each in self._left(draft) if slot.kinds & each.kinds and self._is_meant(each, slot, use)
                ]
                if rest:
                    self.give(draft, use, slot, rest, "it was given")

    def _is_meant(self, file: File, slot: Slot, use: Use) -> bool:
        """Returns False where the words beside a file clearly mean another slot of the use."""
        mine = self.affinity(file, slot)
        return not any(
            other is not slot and other.kinds & file.kinds and self.affinity(file, other) > mine + 0.4
            for other in use.offer.slots
            if other.is_file and use.is_open(other) and other.field != slot.field
        )

    def give(self, draft: Draft, use: Use, slot: Slot, files: list[File], why: str) -> None:
        parts = [{slot.wrap: each.ref} if slot.wrap else each.ref for each in files]
        draft.files |= {each.index for each in files}
        if slot.many:
            before = {id(each): each for each in use.values.get(slot.name, [])}
            use.values[slot.name] = [*before.values(), *parts]
        else:
            use.values[slot.name] = parts[0]
        names = ", ".join(each.name for each in files)
        use.why[slot.name] = f"{names}: {why}"

    def _left(self, draft: Draft) -> list[File]:
        return [each for each in self.files if each.index not in draft.files]

    def affinity(self, file: File, slot: Slot, *, by_name: bool = True) -> float:
        """How much the words beside a file's name, and those in it, mean this slot."""
        key = file.index, id(slot), by_name
        found = self._affinities.get(key)
        if found is None:
            found = self._affinities[key] = self._affinity(file, slot, by_name)
        return found

    def _affinity(self, file: File, slot: Slot, by_name: bool) -> float:
        own = slot.own
        named = stems(file.name.rpartition(".")[0])
        total = 0.6 if DIRECTIONS.get(file.before) in own else 0.0
        others = {
            word for each in self.files if each is not file for word in stems(each.name.rpartition(".")[0])
        } - set(named)
        for place, word in enumerate([each for each in file.around if each not in others][:3]):
            share = 1.0 / (1 + place)
            if word in own:
                total += share
            elif word in slot.words and word not in KINDS:
                total += 0.5 * share
            elif KINDS.get(word) in slot.kinds and KINDS.get(word) != "picture":
                total += 0.6 * share
        for word in named if by_name else ():
            if word in own:
                total += 0.6
            elif word in slot.words and word not in KINDS:
                total += 0.3
            elif KINDS.get(word) in slot.kinds and KINDS.get(word) not in ("picture", "file"):
                total += 0.4
        return total

    def _share(self, draft: Draft, use: Use) -> None:
        """Gives a further end files, or products, that the draft uses already."""
        for slot in use.offer.slots:
            if not self._is_lacking(use, slot) or not slot.is_file:
                continue
            for index, earlier in enumerate(draft.uses):
                product = self.known.fitting(earlier.offer, slot)
                if product is not None:
                    _link(use, slot, Link(index, product), f"from {earlier.offer.label!r}")
                    break
            else:
                again = [each for each in self.files if slot.kinds & each.kinds]
                if again:
                    self.give(draft, use, slot, again[: slot.most] if slot.many else again[:1], "it was given")

    # Texts -------------------------------------------------------------------------------------------------------------

    def _give_texts(self, draft: Draft, use: Use) -> None:
        reading = self.reading
        for slot in use.offer.slots:
            if not slot.is_text or not use.is_open(slot) or not _is_string(slot):
                continue
            if slot.group and not self._is_lacking(use, slot):
                continue
            if slot.after and not reading.quotes and not reading.topic:
                self._give_words(draft, use, slot)
                if slot.name in use.values:
                    continue
            if "text" in slot.kinds:
                for number, quote in enumerate(reading.quotes):
                    if number not in draft.quotes and (
                        slot.required or slot.group or self._is_quoted_for(quote.before, slot)
                    ):
                        draft.quotes.add(number)
                        use.values[slot.name] = quote.text
                        use.why[slot.name] = "the quoted text"
                        break
                else:
                    self._give_text_file(draft, use, slot)
            elif reading.topic and not draft.topic:
                draft.topic = True
                use.values[slot.name] = reading.topic
                use.why[slot.name] = "what the goal says it is about"
            elif reading.quotes and "topic" in slot.kinds:
                for number, quote in enumerate(reading.quotes):
                    if number not in draft.quotes and (
                        slot.required or set(quote.before[-2:]) & (slot.own | ABOUT_STEMS)
                    ):
                        draft.quotes.add(number)
                        use.values[slot.name] = quote.text
                        use.why[slot.name] = "the quoted text"
                        break

    def _give_words(self, draft: Draft, use: Use, slot: Slot) -> None:
        """Gives the words behind one of `x-after`, up to where the goal asks for something else."""
        tokens = self.reading.tokens
        for place, token in enumerate(tokens):
            if token.stem not in slot.after or token.is_data or slot.name in use.values:
                continue
            span: list[Token] = []
            for each in tokens[place + 1 :]:
                between = self.reading.goal[(span or [token])[-1].end : each.start]
                resumes = each.word in RESUMING and any(
                    after.stem in self.known.vocabulary or after.stem in KINDS
                    for after in tokens
                    if after.start > each.start
                )
                if (
                    any(sign in between for sign in ".;!?\x00")
                    or any(char.isdigit() for char in between)
                    or resumes
                    or each.is_negated
                ):
                    break
                span.append(each)
            while span and span[-1].word in ("and", "then", "in", "with", "a", "the", "please"):
                span.pop()
            foreign = [
                each
                for each in span
                if not each.is_stop and each.stem not in self.known.vocabulary and each.stem not in KINDS
            ]
            asked = next((at for at, each in enumerate(span) if each.word in ASKING), 0)
            if 0 < asked <= 4 and span[0].word in ("to", "for", "me", "us"):
                draft.read = draft.read | {each.start for each in span[:asked]}
                span = span[asked:]  # `explain to my kids why …`
            if not foreign or span[0].word in ("it", "this", "that", "these", "a", "an"):
                continue
            use.values[slot.name] = self.reading.text_of(span)
            use.why[slot.name] = f"the words behind {token.written!r}"
            draft.read = draft.read | {each.start for each in span}

    def _give_documents(self, draft: Draft, use: Use) -> None:
        """Gives the content of a JSON file to a parameter that takes an object of its kind."""
        for slot in use.offer.slots:
            if slot.is_file or not slot.kinds or slot.schema.get("type") != "object" or not use.is_open(slot):
                continue
            for file in self._left(draft):
                if slot.kinds & file.kinds and isinstance(file.document, dict):
                    draft.files.add(file.index)
                    use.values[slot.name] = file.document
                    use.why[slot.name] = f"the content of {file.name}"
                    break

    def _give_new_names(self, use: Use) -> None:
        """Gives a name like `notes.txt`, of which no file was given, to a parameter that asks for the name of one to be made."""
        given = {each.name.lower() for each in self.files}
        new = [each.name for each in self.reading.mentions if each.name.lower() not in given]
        for slot in use.offer.slots:
            is_name = slot.schema.get("type") == "string" and slot.required and stem("name") in slot.own
            if new and is_name and use.is_open(slot):
                use.values[slot.name] = new[0]
                use.why[slot.name] = f"the goal says {new[0]!r}"

    def _is_quoted_for(self, before: tuple[str, ...], slot: Slot) -> bool:
        return bool(set(before[-2:]) & slot.words)

    def _give_text_file(self, draft: Draft, use: Use, slot: Slot) -> None:
        longest = int(slot.schema.get("maxLength", 12_000))
        for file in self._left(draft):
            if file.text is not None and 0 < len(file.text.strip()) <= longest and (slot.required or slot.group):
                draft.files.add(file.index)
                use.values[slot.name] = file.text.strip()
                use.why[slot.name] = f"the text of {file.name}"
                return

    # Leftovers ---------------------------------------------------------------------------------------------------------

    def _enrich(self, draft: Draft, settled: Sequence[Use] = ()) -> None:
        """Adds offers that make something for an optional parameter, where the goal asks for them or a leftover has no other place.

        Those of `settled` have all that helps them.
        """
        done = {use.offer.id for use in settled}
        for _ in range(4):
            score = self.score(draft)
            options: list[tuple[float, Draft]] = []
            for place, use in enumerate(draft.uses):
                for slot in use.offer.slots if use.offer.id not in done else ():
                    options += self._enriched(draft, place, slot)
            better = max(options, key=lambda each: each[0], default=(score, draft))
            if better[0] <= score + 0.15:
                return
            draft.uses, draft.files, draft.quotes, draft.topic, draft.read = (
                better[1].uses, better[1].files, better[1].quotes, better[1].topic, better[1].read,
            )  # fmt: skip

    def _enriched(self, draft: Draft, place: int, slot: Slot) -> Iterator[tuple[float, Draft]]:
        use = draft.uses[place]
        if (
            slot.required
            or not use.is_open(slot)
            or (slot.group and not self._is_lacking(use, slot))
            or not (slot.is_file or slot.kinds & {"lines"} or slot.schema.get("type") == "array")
        ):
            return
        there = {each.offer.id for each in draft.uses} | {task for each in draft.uses for task in each.offer.tasks}
        if len(draft.uses) >= MOST_USES:
            return
        reads = self._has_text_left(draft)
        for key, offer, product in self._enrichers_of(slot):
            evidence = self.evidence.get(key, 0)
            if offer.id in there or not (reads or evidence >= LEAST_EVIDENCE):
                continue  # files are not worked on in a way that nothing in the goal asks for
            for freed in self._freeing(draft, place, offer):
                made = self._add(freed, offer, 1, (use.offer.id,), asked=False)
                if made is None or (
                    freed.files == draft.files
                    and freed.quotes == draft.quotes
                    and freed.topic == draft.topic
                    and freed.read == draft.read
                    and evidence < 0.6
                ):
                    continue
                if freed.files != draft.files and evidence < LEAST_EVIDENCE:
                    continue
                _link(freed.uses[place], slot, Link(made, product), f"made by {offer.label!r}")
                if not _order(freed):
                    continue
                self.adopt(freed)
                yield self.score(freed), freed

    def _enrichers_of(self, slot: Slot) -> list[tuple[str, Offer, Product]]:
        """Returns the tasks that make a slot's value. A list that happens to have the name counts only where the goal asks for what makes it."""
        found = self._enrichers.get(id(slot))
        if found is None:
            by_name = [f"={slot.name}"] if not (slot.is_file or slot.kinds) else []
            keys = [key for kind in [*sorted(slot.kinds), *by_name] for key in self.known.makers.get(kind, ())]
            keys = sorted(dict.fromkeys(keys), key=lambda key: -self.evidence.get(key, 0.0))
            keys = self._unlike([key for key in keys if not by_name or self.phrases.get(key, 0)], 1)
            offers = [(key, self.known.offers[key]) for key in keys]
            made = [(key, offer, self.known.fitting(offer, slot)) for key, offer in offers if offer.pipeline is None]
            found = self._enrichers[id(slot)] = [(key, offer, product) for key, offer, product in made if product]
        return found

    def _by_evidence(self) -> list[str]:
        if self._ordered is None:
            self._ordered = sorted(self.known.offers, key=lambda key: -self.evidence.get(key, 0.0))
        return self._ordered

    def _has_text_left(self, draft: Draft) -> bool:
        """Returns whether a further use could take a quote, the topic or words that no use has."""
        if self._has_words_after is None:
            after = {word for offer in self.known.offers.values() for slot in offer.slots for word in slot.after}
            self._has_words_after = any(each.stem in after and not each.is_data for each in self.reading.tokens)
        reading = self.reading
        return (
            self._has_words_after or len(draft.quotes) < len(reading.quotes) or bool(reading.topic and not draft.topic)
        )

    def _freeing(self, draft: Draft, place: int, offer: Offer) -> Iterator[Draft]:
        """Yields the draft as it is, and with one file taken back from a list that has several: the look of one picture on the others."""
        yield draft.copy()
        wanted = frozenset(
            kind for slot in offer.slots if slot.is_file and (slot.required or slot.group) for kind in slot.kinds
        )
        if self.evidence.get(offer.id, 0) < 0.6 or any(each.kinds & wanted for each in self._left(draft)):
            return
        for slot in draft.uses[place].offer.slots:
            given = draft.uses[place].values.get(slot.name)
            if not (slot.is_file and slot.many and isinstance(given, list) and len(given) > 1 and slot.kinds & wanted):
                continue
            mine = [each for each in self.files if each.ref in given or {slot.wrap: each.ref} in given]
            onto = [each for each in mine if DIRECTIONS.get(each.before) == "onto"]
            if onto and len(onto) < len(mine):  # `learn the palette of these and apply it to room.jpg`
                freed = draft.copy()
                kept = [{slot.wrap: each.ref} if slot.wrap else each.ref for each in onto]
                freed.uses[place].values[slot.name] = kept
                freed.files -= {each.index for each in mine if each not in onto}
                yield freed
            named = sorted(mine, key=lambda each: -sum(offer.asks.get(word, 0) for word in each.around[:2]))
            for file in named[:1] if any(each.around for each in mine) else []:
                freed = draft.copy()
                part = {slot.wrap: file.ref} if slot.wrap else file.ref
                freed.uses[place].values[slot.name] = [each for each in given if each != part]
                freed.files.discard(file.index)
                yield freed

    def adopt(self, draft: Draft) -> None:
        """Gives leftover files to optional parameters that take them, where one of them is meant more than the others."""
        draft.unclear = []
        words = {each.stem for each in self.tokens()}
        kinds = {KINDS[word] for word in words if word in KINDS}
        for file in self._left(draft):
            options = [
                (self.affinity(file, slot) + 0.5 * len(words & slot.own)
                 + 0.35 * len(kinds & slot.kinds - {"picture"}) + 0.1 * len(words & slot.words)
                 - (0.5 if any(True for _ in _links(use.values.get(slot.name))) else 0), place, slot)
                for place, use in enumerate(draft.uses)
                for slot in use.offer.slots
                if slot.is_file and slot.kinds & file.kinds and self._may_adopt(use, slot, file, words)
                and (use.is_open(slot) or (slot.many and isinstance(use.values.get(slot.name), list)))
            ]  # fmt: skip
            options.sort(key=lambda each: -each[0])
            if not options:
                continue
            if len(options) == 1 or options[0][0] > options[1][0] + 0.05 or options[0][2].field == options[1][2].field:
                _, place, slot = options[0]
                said = self.affinity(file, slot, by_name=False) + len(words & slot.own) + 0.35 * len(kinds & slot.kinds)
                if said < STRAY and not slot.required and not slot.group:
                    draft.stray.add(file.index)
                self.give(draft, draft.uses[place], slot, [file], "it was given, and this takes it")
            else:
                draft.unclear.append((file.index, [(place, slot.name) for _, place, slot in options[:4]]))

    def _may_adopt(self, use: Use, slot: Slot, file: File, words: set[str]) -> bool:
        """A parameter that makes another one necessary takes no file unless the goal means it."""
        if not any(each.needed_with == slot.name for each in use.offer.slots):
            return True
        only = sum(1 for each in use.offer.slots if each.is_file and each.kinds & file.kinds) == 1
        marked = [*file.around, *stems(file.name.rpartition(".")[0]), *(words if len(self.files) == 1 else ())]
        own = {KINDS[word] for word in slot.own if word in KINDS} - {"picture"}
        return only or any(word in slot.own or KINDS.get(word) in own for word in marked)

    def _hand_on(self, draft: Draft) -> None:
        """Hands the end of one wish to the next: `train a voice on me.wav and then say 'Hi' with it`."""
        linked = {value.use for use in draft.uses for value in _links(use.values)}
        for place, use in enumerate(draft.uses):
            if place in linked or not use.offer.products:
                continue
            for other, taker in enumerate(draft.uses):
                if other == place or not self._first(use) < self._first(taker):
                    continue
                slot = next(
                    (
                        each
                        for each in taker.offer.slots
                        if each.is_file
                        and taker.is_open(each)
                        and not each.group
                        and fitting_main(use.offer, each) is not None
                    ),
                    None,
                )
                if slot is None:
                    continue
                trial = draft.copy()
                _link(trial.uses[other], slot, Link(place, use.offer.products[0]), f"from {use.offer.label!r}")
                if _order(trial):
                    draft.uses = trial.uses
                    return

    def _repeat(self, draft: Draft) -> None:
        """Does for every further quote what one task does for the first: `say 'Hi' and 'Bye'`."""
        if len(draft.uses) != 1 or draft.uses[0].offer.pipeline is not None or len(draft.quotes) != 1:
            return
        (use,), (first,) = draft.uses, draft.quotes
        slot = next(
            (each for each in use.offer.slots if use.values.get(each.name) == self.reading.quotes[first].text), None
        )
        left = [each for each in range(len(self.reading.quotes)) if each != first]
        if slot is None or not left or len(left) >= MOST_USES:
            return
        for number in left:
            copy = use.copy()
            copy.values[slot.name] = self.reading.quotes[number].text
            draft.uses.append(copy)
            draft.quotes.add(number)

    def _first(self, use: Use) -> int:
        """Returns where the goal first asks for a use; behind everything where it does not."""
        return min((each.start for each in self.tokens() if use.offer.asks.get(each.stem, 0) >= 0.5), default=1_000_000)

    def _connect(self, draft: Draft) -> None:
        """Hands on what an earlier use makes under the name and type of an open parameter: words, phonemes."""
        for place, use in enumerate(draft.uses):
            sources = {value.use for value in _links(use.values)}
            for slot in use.offer.slots:
                if (
                    slot.is_file
                    or not use.is_open(slot)
                    or slot.group
                    or slot.schema.get("type") not in ("array", "object")
                ):
                    continue
                for index in sorted(sources, reverse=True):
                    if index == place:
                        continue
                    product = self.known.fitting(draft.uses[index].offer, slot)
                    if product is not None:
                        _link(use, slot, Link(index, product), f"{slot.name} of {draft.uses[index].offer.label!r}")
                        break


# Parts -----------------------------------------------------------------------------------------------------------------


def needs(use: Use) -> Iterator[Slot]:
    """Yields the needs of a use that nothing meets: one slot for each group of alternatives."""
    groups: set[str] = set()
    for slot in use.offer.slots:
        if slot.wrap and not slot.group:
            continue
        if slot.group:
            members = [each for each in use.offer.slots if each.group == slot.group]
            if slot.group not in groups and not any(each.name in use.values for each in members):
                yield _simplest(members)
            groups.add(slot.group)
        elif (slot.required and slot.name not in use.values) or (
            slot.needed_with and slot.needed_with in use.values and slot.name not in use.values
        ):
            yield slot
        elif slot.is_file and slot.many and isinstance(given := use.values.get(slot.name), list):  # noqa: SIM102
            if len(given) < slot.least and not any(link.product.kind_of_json == "array" for link in _links(given)):
                yield slot


def _simplest(members: list[Slot]) -> Slot:
    """Returns the member of a group that is asked for: a text or a plain file rather than a list of objects."""
    return min(
        members, key=lambda each: (not (each.is_file or each.is_text), bool(each.wrap), each.many and not each.is_file)
    )


def fitting_main(offer: Offer, slot: Slot) -> Product | None:
    """Returns the first product of an offer where a parameter takes it."""
    product = offer.products[0]
    if slot.schema.get("x-given"):
        return None
    return product if product.is_file and product.kinds & slot.kinds and slot.kinds != {"file"} else None


def _link(use: Use, slot: Slot, link: Link, why: str) -> None:
    if slot.is_file and slot.many and link.product.kind_of_json != "array":
        use.values[slot.name] = [*use.values.get(slot.name, []), {slot.wrap: link} if slot.wrap else link]
    else:
        use.values[slot.name] = link
    use.why[slot.name] = why


def _links(value: Any) -> Iterator[Link]:
    if isinstance(value, Link):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _links(each)
    elif isinstance(value, list):
        for each in value:
            yield from _links(each)


def _relinked(value: Any, places: dict[int, int]) -> Any:
    if isinstance(value, Link):
        return Link(places[value.use], value.product)
    if isinstance(value, dict):
        return {name: _relinked(each, places) for name, each in value.items()}
    return [_relinked(each, places) for each in value] if isinstance(value, list) else value


def _order(draft: Draft) -> bool:
    """Puts makers before takers. Returns False, and changes nothing, where uses wait for each other."""
    done: list[int] = []
    open_places: set[int] = set()

    def visit(place: int) -> bool:
        if place in done:
            return True
        if place in open_places:
            return False
        open_places.add(place)
        if not all(visit(link.use) for link in _links(draft.uses[place].values)):
            return False
        done.append(place)
        return True

    if not all(visit(place) for place in range(len(draft.uses))):
        return False
    places = {old: new for new, old in enumerate(done)}
    for use in draft.uses:
        use.values = {name: _relinked(each, places) for name, each in use.values.items()}
    draft.uses = [draft.uses[old] for old in done]
    return True


def _stands(phrase: Sequence[str], words: Sequence[str]) -> bool:
    size = len(phrase)
    return any(list(words[at : at + size]) == list(phrase) for at in range(len(words) - size + 1))


def excluded(kind: str | None) -> frozenset[str]:
    """Returns the kinds that `without …` of this kind leaves out."""
    return frozenset() if kind is None else WIDER.get(kind, frozenset({kind}))


def _takes(draft: Draft, unit: str) -> bool:
    """Returns whether some parameter of the draft has this unit in its name."""
    return any(slot.own & UNIT_STEMS[unit] for use in draft.uses for slot in use.offer.slots)


def _is_string(slot: Slot) -> bool:
    return bool(slot.schema.get("type", "string") == "string")


def _droppable(offer: Offer, word: str, kind: str | None, known: Catalogue) -> Iterator[str]:
    """Yields the members that a pipeline's template sets and that the word names, where the task can do without them."""
    assert offer.pipeline is not None
    for node in offer.pipeline.graph["nodes"]:
        inner = known.offers.get(node["task"])
        for name in _set_names(node.get("params") or {}):
            slot = next((each for each in inner.slots if each.name == name), None) if inner is not None else None
            if (
                slot is not None
                and not slot.required
                and not slot.group
                and (word in slot.own or excluded(kind) & slot.kinds)
            ):
                yield f"{node['id']}.{name}"


def _set_names(value: Any) -> Iterator[str]:
    """Yields the names of all members that are set: not by a parameter, and not to nothing."""
    if isinstance(value, list):
        for each in value:
            yield from _set_names(each)
    elif isinstance(value, dict) and "$param" not in value:
        for name, each in value.items():
            if not (each is False or each == 0 or (isinstance(each, dict) and "$param" in each)):
                yield name
                yield from _set_names(each)
