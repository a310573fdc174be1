"""Phonemes in IPA, which is what `speak` gives whichever engine spoke: the alphabets of the engines, and English text without one."""

ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "b": "b", "ch": "tʃ", "d": "d",
    "dh": "ð", "dx": "ɾ", "eh": "ɛ", "el": "əl", "em": "əm", "en": "ən", "er": "ɝ", "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h",
    "hv": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "nx": "ŋ", "ow": "oʊ",
    "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j",
    "z": "z", "zh": "ʒ",
}  # fmt: skip
"""CMU's names in lower case, without stress. A name that is no key is a pause."""

MISAKI = {
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "Q": "əʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "T": "ɾ",
    "ᵊ": "ə",
    "ᵻ": "ɪ",
    "ʤ": "dʒ",
    "ʧ": "tʃ",
    "ʦ": "ts",
    "ʣ": "dz",
}
"""One letter each for diphthongs and affricates; all others stand for themselves."""
MODIFIERS = "ˈˌːʰʲ\u0303"
_SOUNDS = {"A": "EY", "I": "AY", "O": "OW", "Q": "OW", "W": "AW", "Y": "OY", "T": "D", "ᵊ": "AH", "ᵻ": "IH", "ʤ": "JH", "ʧ": "CH",
           "ə": "AH", "ɚ": "ER", "ɜ": "ER", "ɐ": "AH", "ɒ": "AA", "a": "AA", "o": "OW", "ɡ": "G", "ɹ": "R", "ɑ": "AA", "æ": "AE", "ʌ": "AH",
           "ɔ": "AO", "b": "B", "d": "D", "ð": "DH", "ɛ": "EH", "e": "EH", "f": "F", "h": "HH", "ɪ": "IH", "i": "IY", "k": "K", "l": "L",
           "m": "M", "n": "N", "ŋ": "NG", "p": "P", "s": "S", "ʃ": "SH", "t": "T", "θ": "TH", "ʊ": "UH", "u": "UW", "v": "V", "w": "W",
           "j": "Y", "z": "Z", "ʒ": "ZH", "x": "K", "ɾ": "D"}  # fmt: skip


def arpabet_of(misaki: str) -> list[str]:
    """Returns the symbols in PocketSphinx's alphabet; an ɹ behind ɜ is in ER already."""
    return [_SOUNDS[letter] for letter in misaki.replace("ɜɹ", "ɜ").replace("ɜːɹ", "ɜ") if letter in _SOUNDS]
