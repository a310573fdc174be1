"""The live manifest and the pipelines as offers: what each takes, what it makes, and by which words people ask for it.

A declaration may help with `keywords`, and in its schemas with
    x-kind      what a field holds: picture, speech, audio, video, captions, voice, look, text, lines, topic, …, or a word of its own
    x-one-of    fields of one text of this are alternatives, one of which is needed; the text is the question
    x-with      the field is needed where that other one is given
    x-words     values by the words that ask for them: {"slow": 0.8}
    x-after     words behind which the value stands without quotation marks: `say good morning`, `explain photosynthesis`
    x-least     of a list: how many make sense
    x-given     the field takes what the caller has, and nothing that another task makes: the recording of a person
    x-pairs     an object that takes what the goal sets by a name with a dot: `3.seed=7`
Where it says nothing, names and descriptions do: a user's own task is planned like those that come along.

Large because what a schema says of a parameter is read here alone.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from dihedral.control_plane.planning.goals.words import STOP_STEMS, kinds_of, stem, stems
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.pipeline import Pipeline

Schema = dict[str, Any]
TEXTS: Final = frozenset({"text", "sentence", "message", "content", "script", "words", "speech", "caption", "say"})
TOPICS: Final = frozenset({"prompt", "topic", "subject", "theme", "about"})
NAMED, LABELLED, DESCRIBED, INNER = 1.0, 1.0, 0.35, 0.5
"""How much a word counts: a keyword or id, the label, the description; of a pipeline's tasks all of it by half."""


class Slot(msgspec.Struct, frozen=True, eq=False):
    """A parameter. `schema`: without null; `wrap`: the list's items are objects, and the file stands in this member of them. `own`: stems of its name.

    `node`: of a pipeline's template, whose parameter this is although the pipeline does not offer it.
    """

    name: str
    field: str
    schema: Schema
    kinds: frozenset[str]
    words: frozenset[str]
    required: bool
    group: str
    needed_with: str
    is_file: bool
    many: bool
    least: int
    most: int
    wrap: str = ""
    description: str = ""
    node: str = ""
    siblings: tuple[str, ...] = ()
    after: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    @property
    def is_text(self) -> bool:
        return not self.is_file and bool(self.kinds & {"text", "topic"})

    @property
    def named_by(self) -> list[str]:
        """Words behind which a name for it stands, as they are written."""
        is_name = not self.is_text and self.schema.get("type") == "string"
        return [str(each) for each in self.schema.get("x-after", ())] if is_name else []


Shape = tuple[object, ...]
"""What an offer takes and makes: two of the same shape are used in the same way."""


class Product(msgspec.Struct, frozen=True, eq=False):
    """A member of an output. `node`: of a pipeline's template, else empty."""

    node: str
    path: str
    name: str
    kinds: frozenset[str]
    is_file: bool
    kind_of_json: str


class Offer(msgspec.Struct, frozen=True, eq=False):
    """`asks`: stems by how much they ask for it; `phrases`: keywords of several words; `preset`: params that are part of it.
    `titles`: stems of the label."""

    id: str
    label: str
    titles: frozenset[str]
    description: str
    asks: dict[str, float]
    phrases: tuple[tuple[str, ...], ...]
    slots: tuple[Slot, ...]
    products: tuple[Product, ...]
    tasks: tuple[str, ...]
    needs_gpu: bool
    capability: Capability | None = None
    pipeline: Pipeline | None = None
    preset: Mapping[str, Any] = {}
    shape: Shape = ()

    def __post_init__(self) -> None:
        takes = tuple((each.name, each.kinds, each.required, each.group, each.many) for each in self.slots)
        makes = tuple((each.path, each.kinds) for each in self.products)
        msgspec.structs.force_setattr(
            self, "shape", (takes, makes, len(self.tasks), tuple(sorted(map(str, self.preset.items()))))
        )

    def slot(self, name: str) -> Slot:
        return next(each for each in self.slots if each.name == name)


class Catalogue(msgspec.Struct, frozen=True, eq=False):
    offers: dict[str, Offer]
    vocabulary: frozenset[str]
    makers: dict[str, tuple[str, ...]]
    """Offers by a kind that they make, or by `=name` of a member that is no file."""
    naming: frozenset[str] = frozenset()
    """Words behind which a name stands: `the tool sd-scripts`."""
    choices: frozenset[tuple[str, str]] = frozenset()
    """Values that a parameter lists, each with a stem of the parameter's name: `the videos bucket` asks for no video."""
    fits: dict[tuple[int, int], Product | None] = msgspec.field(default_factory=dict)
    """What was found by `fitting`, by the ids of an offer and a slot, which live as long as the catalogue."""

    def fitting(self, offer: Offer, slot: Slot) -> Product | None:
        """Returns what of an offer's output a parameter takes."""
        key = id(offer), id(slot)
        if key not in self.fits:
            self.fits[key] = _fitting(offer, slot)
        return self.fits[key]


def _fitting(offer: Offer, slot: Slot) -> Product | None:
    """Returns what of an offer's output a parameter takes."""
    if slot.schema.get("x-given"):
        return None
    for product in offer.products:
        if product.is_file != slot.is_file:
            continue
        if product.is_file:
            if product.kinds & slot.kinds and slot.kinds != {"file"}:
                return product
        elif (
            product.kind_of_json == slot.schema.get("type")
            or (not slot.schema.get("type") and product.kinds & slot.kinds)
        ) and (
            product.kinds & slot.kinds or (product.name == slot.name and product.kind_of_json in ("array", "object"))
        ):
            return product
    return None


def catalogue(
    capabilities: Mapping[str, Capability], pipelines: Mapping[str, Pipeline], tools: Mapping[str, str] = {}
) -> Catalogue:
    """Compiles the offers. `tools`: labels of the operator's command lines by their names."""
    offers: dict[str, Offer] = {}
    for capability in capabilities.values():
        offers[capability.id] = of_task(capability)
    for pipeline in pipelines.values():
        nodes = [node.get("task") for node in pipeline.graph.get("nodes", []) if isinstance(node, dict)]
        if nodes and all(task in capabilities for task in nodes) and not _is_bare(pipeline):
            key = pipeline.id if pipeline.id not in offers else f"pipeline:{pipeline.id}"
            offers[key] = msgspec.structs.replace(of_pipeline(pipeline, capabilities, offers), id=key)
    if "run_tool" in offers:
        for name, label in tools.items():
            offers[f"tool:{name}"] = _of_tool(offers["run_tool"], name, label)
    makers: dict[str, list[str]] = {}
    for key, offer in offers.items():
        for product in offer.products:
            if product.node and product.node != offer.products[0].node:
                continue
            for kind in product.kinds if product.is_file else [*product.kinds, f"={product.name}"]:
                makers.setdefault(kind, []).append(key)
    vocabulary = {word for offer in offers.values() for word, weight in offer.asks.items() if weight >= DESCRIBED}
    vocabulary |= {word for offer in offers.values() for slot in offer.slots for word in slot.words}
    naming = frozenset(word for offer in offers.values() for slot in offer.slots for word in slot.named_by)
    choices = frozenset(
        (value.lower(), own)
        for offer in offers.values()
        for slot in offer.slots
        for value in slot.schema.get("enum", ())
        if isinstance(value, str)
        for own in slot.own
    )
    return Catalogue(
        offers,
        frozenset(vocabulary),
        {kind: tuple(dict.fromkeys(each)) for kind, each in makers.items()},
        naming,
        choices,
    )


def _is_bare(pipeline: Pipeline) -> bool:
    """Returns whether it is one task with the task's own parameters: then the task itself is offered."""
    nodes = pipeline.graph["nodes"]
    params = nodes[0].get("params", {})
    return len(nodes) == 1 and all(value == {"$param": name} for name, value in params.items())


# Tasks -----------------------------------------------------------------------------------------------------------------


def of_task(capability: Capability) -> Offer:
    keywords = [] if isinstance(capability.keywords, msgspec.UnsetType) else capability.keywords
    asks, phrases = _asks(capability.id, capability.label, capability.description, keywords)
    products = tuple(_products("", capability.io.output))
    for product in products:
        for word in stems(product.name):
            if word not in STOP_STEMS and product.is_file:
                asks[word] = max(asks.get(word, 0), 0.5)
    return Offer(
        id=capability.id,
        label=capability.label,
        titles=_titles(capability.label),
        description=capability.description,
        asks=asks,
        phrases=phrases,
        slots=tuple(_slots(capability.io.input)),
        products=products,
        tasks=(capability.id,),
        needs_gpu=capability.runtime.kind == "gpu",
        capability=capability,
    )


def _titles(label: str) -> frozenset[str]:
    return frozenset(stems(label)) - STOP_STEMS


def _asks(
    id: str, label: str, description: str, keywords: list[str]
) -> tuple[dict[str, float], tuple[tuple[str, ...], ...]]:
    asks: dict[str, float] = {}
    for text, weight in (
        (description, DESCRIBED),
        (label, LABELLED),
        (id, NAMED),
        *((each, NAMED) for each in keywords),
    ):
        found = [each for each in stems(text) if each not in STOP_STEMS]
        alone = weight if len(found) < 2 or text in (label, description, id) else 0.6
        for word in found:
            asks[word] = max(asks.get(word, 0), alone)
    phrases = {tuple(stems(text)) for text in (*keywords, label, id) if len(stems(text)) > 1}
    return asks, tuple(sorted(phrases))


def _slots(schema: Schema) -> Iterator[Slot]:
    required = frozenset(schema.get("required", ()))
    for name, each in (schema.get("properties") or {}).items():
        if isinstance(each, dict):
            yield from _slots_of(name, each, name in required)


def _slots_of(name: str, field: Schema, required: bool) -> Iterator[Slot]:
    schema = not_null(field)
    items = schema.get("items") if schema.get("type") == "array" else None
    many = isinstance(items, dict)
    item = not_null(items) if isinstance(items, dict) else schema
    description = str(field.get("description", ""))
    hints = {**item, **schema, **field}
    common: dict[str, Any] = {
        "name": name,
        "field": name,
        "schema": schema,
        "words": frozenset(
            each for each in stems(f"{name} {field.get('title', '')} {description}") if each not in STOP_STEMS
        )
        | frozenset(map(stem, hints.get("x-words", {}) if isinstance(hints.get("x-words"), dict) else ())),
        "required": required,
        "group": str(hints.get("x-one-of", "")),
        "needed_with": str(hints.get("x-with", "")),
        "many": many,
        "least": max(int(hints.get("x-least", 0) or 0), int(schema.get("minItems", 0) or 0)) if many else 1,
        "most": int(schema.get("maxItems", 1000)) if many else 1,
        "description": description or str(item.get("description", "")),
        "own": frozenset(stems(name)),
        "after": frozenset(map(stem, hints.get("x-after", ()))),
    }
    is_file = bool(item.get("x-artifact"))
    members = []
    if many and not is_file:
        for member, about in (item.get("properties") or {}).items():
            inner = not_null(about) if isinstance(about, dict) else {}
            if inner.get("x-artifact") and set(item.get("required", ())) <= {member}:
                text = str(about.get("description", ""))
                kinds = _kinds_of_slot(member, text, inner, {**inner, **about}, True)
                words = frozenset(each for each in stems(f"{member} {text}") if each not in STOP_STEMS)
                more: dict[str, Any] = {
                    "name": f"{name}/{member}",
                    "words": words,
                    "wrap": member,
                    "description": text,
                    "own": frozenset(stems(member)),
                }
                members.append(Slot(**(common | more), kinds=frozenset(kinds), is_file=True))
    whole = Slot(**common, kinds=frozenset(_kinds_of_slot(name, description, item, hints, is_file)), is_file=is_file)
    names = tuple(each.name for each in (whole, *members)) if members else ()
    for slot in (whole, *members):
        yield msgspec.structs.replace(slot, siblings=names)


def not_null(schema: Schema) -> Schema:
    """Returns the variant of a schema that is not null, with the annotations around it; of several the one of artifacts, a list if there is one."""
    for word in ("anyOf", "oneOf"):
        options = [each for each in schema.get(word, ()) if isinstance(each, dict) and each.get("type") != "null"]
        lists = [each for each in options if isinstance(each.get("items"), dict) and "x-artifact" in each["items"]]
        chosen = options if len(options) == 1 else lists or (options if "x-artifact" in schema else [])
        if chosen:
            return {**{key: value for key, value in schema.items() if key != word}, **chosen[0]}
    if isinstance(schema.get("type"), list):
        kinds = [each for each in schema["type"] if each != "null"]
        if len(kinds) == 1:
            return {**schema, "type": kinds[0]}
    return schema


def _kinds_of_slot(name: str, description: str, item: Schema, hints: Schema, is_file: bool) -> list[str]:
    declared = hints.get("x-kind")
    if isinstance(declared, str):
        return [declared]
    if isinstance(declared, list):
        return [str(each) for each in declared]
    if is_file and (found := _kinds_of_artifact(hints.get("x-artifact"))):
        return found
    if is_file:
        found = kinds_of(stems(name)) or kinds_of(stems(description))[:1]
        return [*found, *({"audio": ["speech"]}.get(found[0], []) if found else [])] or ["file"]
    if item.get("type") == "string" and not item.get("enum"):
        words = set(re.findall(r"[a-z]+", name.lower()))
        if words & TEXTS:
            return ["text"]
        if words & TOPICS:
            return ["topic"]
    return []


FORMATS: Final = {"recording": ["speech"], "image": ["picture"]}


def _kinds_of_artifact(marked: Any) -> list[str]:
    """Returns the kinds that an `x-artifact` says: its format's, and those of the media types that it accepts."""
    if not isinstance(marked, dict):
        return []
    accept = [str(each) for each in marked.get("accept", ())]
    found = FORMATS.get(str(marked.get("format")), [str(marked.get("format"))])
    return list(
        dict.fromkeys(
            [
                *found,
                *("picture" for each in accept if each == "image/*"),
                *("video" for each in accept if each == "video/*"),
                *("text" for each in accept if each == "text/plain"),
            ]
        )
    )


def _products(node: str, schema: Schema, at: str = "", deep: int = 0) -> Iterator[Product]:
    root = not_null(schema)
    for name, each in (root.get("properties") or {}).items():
        if not isinstance(each, dict):
            continue
        inner = not_null(each)
        items = not_null(inner["items"]) if isinstance(inner.get("items"), dict) else {}
        is_file = bool(inner.get("x-artifact") or items.get("x-artifact"))
        kind = str(inner.get("type", ""))
        declared = each.get("x-kind", inner.get("x-kind", items.get("x-kind")))
        kinds = [declared] if isinstance(declared, str) else [str(each) for each in declared or ()]
        if not kinds and is_file:
            marked = inner.get("x-artifact") or items.get("x-artifact")
            kinds = [*_kinds_of_artifact(marked), *kinds_of(stems(name)), *stems(name)]
        elif not kinds and kind == "string" and name.lower() in TEXTS:
            kinds = ["text"]
        path = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
        yield Product(node, path, name, frozenset(kinds), is_file, kind)
        if kind == "object" and not is_file and deep < 1:
            yield from _products(node, inner, path, deep + 1)


# Pipelines and tools ---------------------------------------------------------------------------------------------------


def of_pipeline(pipeline: Pipeline, capabilities: Mapping[str, Capability], offers: Mapping[str, Offer]) -> Offer:
    keywords = [] if isinstance(pipeline.keywords, msgspec.UnsetType) else pipeline.keywords
    asks, phrases = _asks(pipeline.id, pipeline.label, pipeline.description, keywords)
    nodes = pipeline.graph["nodes"]
    params = {**pipeline.params, "properties": _inherited(pipeline, nodes, capabilities)}
    tasks = tuple(node["task"] for node in nodes)
    for task in tasks:
        for word, weight in offers[task].asks.items():
            asks[word] = max(asks.get(word, 0), INNER * weight)
    inner_phrases = {phrase for task in tasks for phrase in offers[task].phrases}
    followed = {edge.get("from") for edge in pipeline.graph.get("edges", [])}
    last = [node for node in nodes if node["id"] not in followed]
    rest = [node for node in nodes if node["id"] in followed]
    products = [
        product
        for node in [*last, *reversed(rest)]
        for product in _products(node["id"], capabilities[node["task"]].io.output)
    ]
    return Offer(
        id=pipeline.id,
        label=pipeline.label,
        titles=_titles(pipeline.label),
        description=pipeline.description,
        asks=asks,
        phrases=tuple(sorted(set(phrases) | inner_phrases)),
        slots=(*_slots(params), *_inner(nodes, offers)),
        products=tuple(products),
        tasks=tasks,
        needs_gpu=any(capabilities[task].runtime.kind == "gpu" for task in tasks),
        pipeline=pipeline,
    )


def _inner(nodes: list[Schema], offers: Mapping[str, Offer]) -> Iterator[Slot]:
    """Yields the optional parameters of the template's nodes that the template leaves open, or sets to a plain value."""
    for node in reversed(nodes):
        params = node.get("params") or {}
        slots = offers[node["task"]].slots
        grouped = {slot.group for slot in slots if slot.group and slot.field in params}
        for slot in slots:
            is_set = slot.field in params and isinstance(params[slot.field], dict | list)
            if slot.required or is_set or slot.wrap or (slot.group and slot.group in grouped) or slot.needed_with:
                continue
            name = f"{node['id']}.{slot.name}"
            yield msgspec.structs.replace(slot, name=name, node=node["id"], group="", siblings=())


HINTS: Final = ("x-kind", "x-words", "x-with", "x-after", "x-given")


def _inherited(pipeline: Pipeline, nodes: list[Schema], capabilities: Mapping[str, Capability]) -> Schema:
    """Returns the parameters, each with the hints of the task's field that it fills in where it has none of its own."""
    found = {
        name: dict(each) for name, each in (pipeline.params.get("properties") or {}).items() if isinstance(each, dict)
    }
    for node in nodes:
        fields = capabilities[node["task"]].io.input.get("properties", {})
        for name, value in (node.get("params") or {}).items():
            param = value.get("$param") if isinstance(value, dict) and len(value) == 1 else None
            if param in found and isinstance(fields.get(name), dict):
                for hint in HINTS:
                    if (
                        hint in fields[name]
                        and hint not in found[param]
                        and hint not in (found[param].get("items") or {})
                    ):
                        found[param][hint] = fields[name][hint]
    return found


def _of_tool(run_tool: Offer, name: str, label: str) -> Offer:
    asks, phrases = _asks(name, label or name, "", [])
    slots = tuple(slot for slot in run_tool.slots if slot.name != "tool")
    return msgspec.structs.replace(
        run_tool, id=f"tool:{name}", label=label or name, asks=asks, phrases=phrases, slots=slots, preset={"tool": name}
    )
