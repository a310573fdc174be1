"""The language of goals: stems, kinds of media, units and numbers, in English and in the German of everyday. Nothing here knows a task.

The stems are crude on purpose: both sides, goal and manifest, are reduced in the same way, and only equality counts.

Large because a vocabulary is a list of words.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

SUFFIXES: Final = (
    "ationen", "ionen", "ations", "ation", "ating", "ators", "ator", "ates", "ated", "ate", "ings", "ing", "ions", "ion", "ers", "er", "ors", "or", "ed", "es", "s", "e",
)  # fmt: skip
SHORTEST: Final = 3  # letters that a stem keeps


@lru_cache(8192)
def stem(word: str) -> str:
    """Returns the stem of a word in lower case."""
    word = SPELLINGS.get(word, word)
    return _cut(_cut(word))


def _cut(word: str) -> str:
    if word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > SHORTEST + 2:
        return word[:-3] + "y"
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= SHORTEST:
            cut = word[: -len(suffix)]
            return cut[:-1] if len(cut) > SHORTEST and cut[-1] == cut[-2] and cut[-1] not in "lsz" else cut
    return word


def stems(text: str) -> list[str]:
    """Returns the stems of a text's words; also of `camelCase` and `snake_case`."""
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    return [stem(word) for word in re.findall(r"[^\W\d_]+", folded(parts))]


def folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _table(text: str) -> dict[str, str]:
    """Reads lines of `meaning: word word …`."""
    pairs = (line.split(":") for line in text.strip().splitlines())
    return {word: meaning.strip() for meaning, words in pairs for word in words.split()}


SPELLINGS: Final[Mapping[str, str]] = _table(
    """
    colour: color colors colours
    picture: pic pics
    grey: gray
    synchronise: sync synchronize
    recognise: recognize
    said: said saying says
    say: said saying says
    speak: spoken spoke
    tell: told
    hear: heard
    write: written wrote writing
    make: made
    show: shown
    photo: foto fotos
    movie: movies
    please: pls plz
    video: vid vids
    """
)

GERMAN: Final[Mapping[str, str]] = _table(
    """
    film: filme filmes filmchen
    video: videos videofilm
    picture: bild bilder bildern bildes grafik grafiken
    photo: fotos foto fotografie fotografien aufnahmen_
    audio: ton tonspur tondatei audiodatei
    recording: aufnahme aufnahmen sprachaufnahme sprachaufnahmen tonaufnahme mitschnitt
    captions: untertitel untertiteln bildunterschrift
    voice: stimme stimmen sprecherstimme
    music: musik hintergrundmusik
    background: hintergrund
    speech: rede ansprache sprache
    narration: erzählung erzählstimme kommentar
    text: texts texte texten
    script: drehbuch skript manuskript
    slideshow: diashow diaschau
    postcard: postkarte postkarten grußkarte
    story: geschichte geschichten märchen
    look: aussehen
    style: stil
    colours: farben farbe farbstimmung
    portrait: porträt gesicht
    file: datei dateien
    line: zeile zeilen
    step: schritt schritte schritten
    second: sekunde sekunden sek
    minute: minuten
    hour: stunde stunden
    speak: sprich spricht sprechen gesprochen spreche sprechend sprechende sprechendes sprechender
    say: sag sage sagen sagt
    read: lies lese lesen vorlesen vorliest gelesen
    aloud: laut vor
    tell: erzähl erzähle erzählen erzählt
    narrate: vertone vertonen kommentiere
    talking: redend redende redendes
    write: schreib schreibe schreiben
    train: trainiere trainieren trainier
    learn: lern lerne lernen lernt
    compare: vergleich vergleiche vergleichen
    who: wer wem wessen
    belong: gehört gehören
    grain: filmkorn korn körnung
    show: zeig zeige zeigen
    check: prüf prüfe prüfen
    store: speicher speichere speichern
    simulate: simuliere simulieren
    it: es ihn ihm sie ihr
    we: wir uns
    our: unser unsere unserem unseren unserer
    your: dein deine deinem deinen
    also: auch noch dazu
    not: nicht
    how: wie
    as: als
    on: auf
    under: unter
    explain: erklär erkläre erklären erklärt
    describe: beschreib beschreibe beschreiben
    run: starte starten führe
    use: nutze nutzen verwende verwenden benutze nimm nehmen
    upload: lade hochladen
    combine: kombiniere kombinieren verbinde verbinden
    tool: werkzeug
    server: rechner
    short: kurz kurze kurzen kurzer kurzes
    nice: schön schöne schönen schöner schönes
    little: klein kleine kleinen kleiner kleines
    out: heraus daraus
    half: halb halbe halben
    poem: gedicht gedichte
    song: lied lieder
    delete: lösch lösche löschen
    translate: übersetz übersetze übersetzen
    make: mach mache machen macht erstell erstelle erstellen erzeug erzeuge erzeugen produzier produziere bau baue bauen
    turn: verwandle verwandeln wandle
    without: ohne kein keine keinen keinem
    with: mit
    from: aus von vom
    and: und
    then: dann danach anschließend
    in: im
    into: zu zum zur
    a: ein eine einen einem einer eines
    the: der die das den dem des
    my: mein meine meinem meinen meiner meines
    this: diese dieser dieses diesem diesen dies
    about: über
    for: für
    please: bitte
    want: möchte will hätte
    i: ich mir
    slow: langsam langsamer langsame
    fast: schnell schneller schnelle
    long: lang langer langes lange
    very: sehr
    at: bei
    frame: einzelbild einzelbilder
    two: zwei
    three: drei
    four: vier
    five: fünf
    ten: zehn
    twenty: zwanzig
    thirty: dreißig
    """
)

LANGUAGES: Final[Mapping[str, str]] = _table(
    """
    en: english british american
    de: german deutsch deutsche deutschen deutscher
    fr: french französisch
    es: spanish spanisch
    it: italian italienisch
    pt: portuguese
    nl: dutch
    pl: polish
    ru: russian
    zh: chinese mandarin
    ja: japanese
    ko: korean
    hi: hindi
    tr: turkish
    sv: swedish
    """
)
"""Codes of languages by their names."""

KINDS: Final[Mapping[str, str]] = {
    stem(word): kind
    for word, kind in _table(
        """
    video: video film movie clip footage reel mp4 mov webm mkv animation
    picture: picture image photo photograph png jpg jpeg webp snapshot painting drawing illustration screenshot still snap shot
    portrait: portrait selfie headshot face
    audio: audio sound wav mp3 flac m4a ogg podcast
    music: music song tune soundtrack melody jingle
    speech: speech voiceover audiobook recording record memo voicemail
    captions: caption captions subtitle subtitles vtt srt
    voice: voice
    look: look style palette
    text: text sentence paragraph
    lines: script screenplay
    workflow: workflow
    tokenizer: tokenizer tokeniser
    weights: weights safetensors
    dataset: dataset jsonl
    file: file artifact asset document
    """
    ).items()
}
"""What a noun names, by its stem."""

OF_MEDIA: Final[Mapping[str, frozenset[str]]] = {
    "image": frozenset({"picture"}),
    "audio": frozenset({"audio", "speech", "music"}),
    "video": frozenset({"video"}),
}

STOPWORDS: Final = frozenset(
    [
        "bit",
        "normal",
        "normally",
        "usual",
        "usually",
        "slightly",
        "somewhat",
        "wanna",
        "pls",
        "plz",
        "kannst",
        "kann",
        "können",
        "könntest",
        "könnte",
        "würdest",
        "würde",
        "soll",
        "sollen",
        "hätte",
        "gern",
        "gerne",
        "du",
        "mal",
        "doch",
        "so",
        "playing",
        "total",
        "altogether",
        "overall",
        "insgesamt",
        "gonna",
        "gotta",
        "gimme",
        "lemme",
        "execute",
        "launch",
        "perform",
        "many",
        "lay",
        "place",
        "call",
        "deliver",
        "provide",
        "return",
        "belong",
        "should",
        "still",
        "already",
        "underneath",
        "beneath",
        "behind",
        "beside",
        "besides",
        "along",
        "alongside",
        "across",
        "throughout",
        "until",
        "since",
        "maybe",
        "perhaps",
        "actually",
        "really",
        "quite",
        "rather",
        "onto",
        "below",
        "above",
        "calls",
        "myself",
        "yourself",
        "itself",
        "a",
        "an",
        "the",
        "this",
        "these",
        "those",
        "that",
        "it",
        "its",
        "my",
        "your",
        "our",
        "their",
        "his",
        "her",
        "me",
        "you",
        "we",
        "us",
        "them",
        "he",
        "she",
        "i",
        "they",
        "one",
        "some",
        "any",
        "each",
        "every",
        "all",
        "both",
        "own",
        "is",
        "are",
        "be",
        "was",
        "were",
        "been",
        "am",
        "do",
        "does",
        "did",
        "done",
        "can",
        "could",
        "would",
        "will",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "have",
        "has",
        "had",
        "let",
        "lets",
        "to",
        "of",
        "in",
        "on",
        "at",
        "by",
        "as",
        "for",
        "from",
        "with",
        "into",
        "onto",
        "out",
        "over",
        "under",
        "up",
        "down",
        "off",
        "through",
        "per",
        "and",
        "or",
        "then",
        "also",
        "but",
        "so",
        "than",
        "too",
        "very",
        "much",
        "more",
        "most",
        "make",
        "create",
        "produce",
        "generate",
        "build",
        "give",
        "get",
        "put",
        "want",
        "need",
        "like",
        "please",
        "just",
        "now",
        "here",
        "there",
        "want",
        "wish",
        "help",
        "try",
        "use",
        "using",
        "used",
        "take",
        "turn",
        "convert",
        "transform",
        "change",
        "become",
        "becomes",
        "becoming",
        "go",
        "going",
        "come",
        "new",
        "nice",
        "beautiful",
        "good",
        "great",
        "cool",
        "lovely",
        "little",
        "short",
        "small",
        "long",
        "big",
        "quick",
        "simple",
        "easy",
        "quickly",
        "simply",
        "please",
        "kindly",
        "thanks",
        "thank",
        "hello",
        "hi",
        "hey",
        "dear",
        "one",
        "ones",
        "thing",
        "things",
        "something",
        "anything",
        "everything",
        "way",
        "result",
        "output",
        "outcome",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "first",
        "second",
        "third",
        "last",
        "next",
        "other",
        "another",
        "together",
        "separate",
        "separately",
        "only",
        "what",
        "how",
        "when",
        "where",
        "if",
        "whether",
        "not",
        "no",
        "none",
        "without",
        "about",
        "around",
        "within",
        "between",
        "after",
        "before",
        "while",
        "during",
        "s",
        "t",
        "ll",
        "ve",
        "re",
        "d",
        "m",
        "mine",
        "ours",
        "yours",
        "file",
        "files",
        "artifact",
        "attached",
        "attachment",
        "given",
        "provided",
        "following",
        "called",
        "named",
        "titled",
        "uploaded",
        "these",
        "length",
        "duration",
        "lasting",
        "lasts",
        "last",
        "takes",
        "taking",
        "long",
        "seconds",
        "minute",
        "minutes",
        "hour",
        "hours",
        "exactly",
        "approximately",
        "roughly",
        "maximum",
        "minimum",
        "job",
        "task",
        "node",
        "graph",
        "pipeline",
        "version",
        "copy",
        "set",
        "run",
        "start",
        "do",
        "again",
        "same",
        "kind",
        "type",
        "part",
        "piece",
    ]
)
"""Words that ask for nothing by themselves."""

STOP_STEMS: Final = frozenset(map(stem, STOPWORDS)) - {"upload"}  # `uploaded` asks for nothing, `upload` does

DETERMINERS: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "these",
        "those",
        "that",
        "my",
        "your",
        "our",
        "their",
        "his",
        "her",
        "some",
        "any",
        "each",
        "every",
        "both",
        "all",
        "another",
        "one",
        "two",
        "three",
        "four",
        "five",
    ]
)
SOURCES: Final = frozenset(["from", "of", "using", "with", "these", "this", "those", "given", "my", "our"])
"""Words before what is given."""
TARGETS: Final = frozenset(["into", "as", "a", "an", "to"])
"""Words before what is wanted."""
NEGATIONS: Final = frozenset(
    ["without", "no", "not", "never", "don't", "dont", "skip", "omit", "exclude", "minus", "except"]
)
FILLERS: Final = frozenset(
    map(
        stem,
        [
            "the",
            "a",
            "an",
            "this",
            "these",
            "those",
            "all",
            "some",
            "own",
            "very",
            "really",
            "just",
            "nice",
            "new",
            "little",
            "short",
            "small",
            "long",
            "quick",
            "whole",
            "same",
            "please",
        ],
    )
)
"""Stems that may stand inside a phrase: `my own voice`."""
DIRECTIONS: Final[Mapping[str, str]] = {
    "from": "from", "of": "from", "like": "from", "as": "from", "after": "from", "onto": "onto", "to": "onto", "on": "onto", "over": "onto",
}  # fmt: skip
"""Words before a file's name by the parameter that they point to."""
ABOUT: Final = frozenset(["about", "regarding", "concerning", "on"])
BREAKS: Final = frozenset(["and", "then", "also", "plus"])

NUMBERS: Final[Mapping[str, float]] = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "ninety": 90,
    "hundred": 100,
    "half": 0.5,
    "dozen": 12,
    "couple": 2,
}

UNITS: Final[Mapping[str, tuple[str, float]]] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "sekunde", "sekunden", "sek"), ("second", 1.0)),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "minuten"), ("second", 60.0)),
    **dict.fromkeys(("h", "hr", "hour", "hours", "stunde", "stunden"), ("second", 3600.0)),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), ("second", 0.001)),
    **dict.fromkeys(("fps",), ("fps", 1.0)),
    **dict.fromkeys(("gib", "gb", "gigabyte", "gigabytes"), ("mib", 1024.0)),
    **dict.fromkeys(("mib", "mb", "megabyte", "megabytes"), ("mib", 1.0)),
    **dict.fromkeys(("db", "decibel", "decibels"), ("db", 1.0)),
    **dict.fromkeys(("%", "percent", "prozent"), ("share", 0.01)),
}
UNIT_STEMS: Final[Mapping[str, frozenset[str]]] = {
    "second": frozenset(map(stem, ("second", "seconds", "duration", "length"))),
    "fps": frozenset({"fps", stem("framerate")}),
    "mib": frozenset({"mib", "gib"}),
    "db": frozenset({"db", stem("decibels")}),
}
"""Stems in a parameter's name or description that say that it has this unit."""

FORMATS: Final[Mapping[str, tuple[int, int]]] = {
    "4k": (3840, 2160), "uhd": (3840, 2160), "full hd": (1920, 1080), "fullhd": (1920, 1080), "1080p": (1920, 1080), "720p": (1280, 720),
    "480p": (854, 480), "360p": (640, 360), "hd": (1280, 720), "vertical": (720, 1280), "hochkant": (720, 1280), "square": (720, 720),
    "quadratisch": (720, 720), "9:16": (720, 1280), "16:9": (1280, 720), "1:1": (720, 720), "portrait format": (720, 1280),
    "hochformat": (720, 1280), "querformat": (1280, 720), "landscape format": (1280, 720), "widescreen": (1280, 720), "full-hd": (1920, 1080),
    "ultra hd": (3840, 2160), "2160p": (3840, 2160), "1440p": (2560, 1440), "2k": (2560, 1440),
}  # fmt: skip
SHAPES: Final = frozenset(
    "vertical hochkant hochformat square quadratisch 9:16 1:1 16:9 widescreen querformat".split()  # noqa: SIM905
) | {"portrait format", "landscape format"}
"""Formats that say how the sides stand to each other, and leave how many pixels they have to another word of the goal."""


NO_SLIPS: Final = frozenset(
    map(
        stem,
        [
            "translate",
            "transcribe",
            "delete",
            "remove",
            "erase",
            "send",
            "order",
            "summarise",
            "summarize",
            "upscale",
            "download",
            "sing",
            "paint",
            "draw",
            "cook",
            "book",
            "buy",
            "sell",
            "call",
            "drive",
            "print",
            "mail",
            "email",
            "search",
            "find",
            "open",
            "close",
            "sort",
            "rename",
            "move",
            "copy",
            "paste",
            "scan",
            "stream",
            "record",
            "fix",
            "repair",
            "clean",
            "translate",
            "extract",
            "detect",
            "count",
            "measure",
            "classify",
            "encrypt",
            "compress",
            "resize",
            "rotate",
            "crop",
            "flip",
            "mirror",
            "blur",
            "sharpen",
            "reverse",
            "loop",
            "cut",
            "trim",
            "split",
            "pizza",
            "house",
            "car",
            "song",
            "boat",
        ],
    )
)
"""Stems of everyday words that are no slips of others."""

WIDER: Final[Mapping[str, frozenset[str]]] = {"audio": frozenset({"audio", "speech", "music"})}
"""Kinds that a word excludes beside its own: without sound there is no music either."""


def kinds_of(words: Iterable[str]) -> list[str]:
    """Returns the kinds that stems name, in their order."""
    return list(dict.fromkeys(KINDS[word] for word in words if word in KINDS))


def is_near(one: str, other: str) -> bool:
    """Returns whether two words differ by one slip: a letter more, less, other, or two exchanged; two slips from eight letters on."""
    if one[:1] != other[:1] or abs(len(one) - len(other)) > 2:
        return False
    longest = max(len(one), len(other))
    allowed = 2 if longest >= 8 else 1
    if longest < 5:
        return sorted(one) == sorted(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 2
    return _distance(one, other) <= allowed


def _distance(one: str, other: str) -> int:
    """Computes the optimal string alignment distance."""
    older: list[int] = []
    before = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i, *([0] * len(other))]
        for j, b in enumerate(other, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], older[j - 2] + 1)
        older, before = before, row
    return before[-1]
