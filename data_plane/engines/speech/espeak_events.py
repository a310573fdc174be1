"""A program of its own: speaks its standard input with libespeak-ng, writes speech.wav, and prints when each word and phoneme begins.

    python espeak_events.py VOICE WORDS_A_MINUTE < text

libespeak-ng is GPL-3, so it is loaded in a process that holds nothing else, and this file imports nothing of Dihedral. The program espeak-ng
prints no times. Answer: {"words": [[position, length, ms]], "phonemes": [[IPA, ms]], "ms": length}; {} where the library is not there.
"""

import ctypes
import json
import sys
import wave

LIBRARIES = ("libespeak-ng.so.1", "libespeak-ng.1.dylib", "libespeak-ng.so", "libespeak-ng.dylib")
SYNCHRONOUS, PHONEME_EVENTS, AS_IPA = 2, 1, 2  # of espeak_Initialize
RATE, BY_CHARACTER, UTF8 = 1, 1, 1  # of espeak_SetParameter and espeak_Synth
LAST, WORD, PHONEME = 0, 1, 7  # types of events


class Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int), ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int), ("sample", ctypes.c_int), ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    )  # fmt: skip


class Wanted(ctypes.Structure):
    """espeak_VOICE."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p), ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte), ("xx1", ctypes.c_ubyte), ("score", ctypes.c_int), ("spare", ctypes.c_void_p),
    )  # fmt: skip


def main() -> int:
    voice, words_a_minute = sys.argv[1], int(sys.argv[2])
    library = next(filter(None, map(loaded, LIBRARIES)), None)
    if library is None:
        print("{}")
        return 0
    text = sys.stdin.buffer.read()
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS | AS_IPA)
    by_language = Wanted(languages=voice.encode())
    if rate <= 0 or (
        library.espeak_SetVoiceByName(voice.encode()) != 0
        and library.espeak_SetVoiceByProperties(ctypes.byref(by_language)) != 0
    ):
        print(f"espeak-ng cannot speak {voice}", file=sys.stderr)
        return 1
    library.espeak_SetParameter(RATE, words_a_minute, 0)
    sound = bytearray()
    words: list[list[int]] = []
    phonemes: list[list[object]] = []

    def heard(samples: int | None, count: int, events: "ctypes._Pointer[Event]") -> int:
        if samples and count > 0:
            sound.extend(ctypes.string_at(samples, count * 2))
        at = 0
        while (event := events[at]).type != LAST:
            if event.type == WORD:
                words.append([event.text_position - 1, event.length, event.audio_position])
            elif event.type == PHONEME:
                phonemes.append([event.id.decode("utf-8", "replace"), event.audio_position])
            at += 1
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
    kept = kind(heard)  # the library does not keep it alive
    library.espeak_SetSynthCallback(kept)
    failed = library.espeak_Synth(text + b"\0", ctypes.c_size_t(len(text) + 1), 0, BY_CHARACTER, 0, UTF8, None, None)
    if failed or library.espeak_Synchronize():
        print("espeak-ng has failed", file=sys.stderr)
        return 1
    with wave.open("speech.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(sound))
    print(json.dumps({"words": words, "phonemes": phonemes, "ms": len(sound) * 500 // rate}))
    return 0


def loaded(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
