"""The 51 language codes that ACE-Step 1.5 knows, and the names and other codes people write for them."""

import re

from acestep.errors import UserError
from acestep.songs.showing import show

# code: names, ISO 639-2/3 codes and withdrawn or national codes, all in small letters.
_NAMES = {
    "ar": "arabic ara العربية",
    "az": "azerbaijani aze azeri",
    "bg": "bulgarian bul български",
    "bn": "bengali ben bangla বাংলা",
    "ca": "catalan cat català",
    "cs": "czech ces cze čeština",
    "da": "danish dan dansk",
    "de": "german deu ger deutsch",
    "el": "greek ell gre ελληνικά",
    "en": "english eng",
    "es": "spanish spa castilian español",
    "fa": "persian fas per farsi فارسی",
    "fi": "finnish fin suomi",
    "fr": "french fra fre français",
    "he": "hebrew heb iw עברית",
    "hi": "hindi hin हिन्दी",
    "hr": "croatian hrv hrvatski",
    "ht": "haitian hat haitian_creole kreyòl",
    "hu": "hungarian hun magyar",
    "id": "indonesian ind in bahasa_indonesia",
    "is": "icelandic isl ice íslenska",
    "it": "italian ita italiano",
    "ja": "japanese jpn jp 日本語",
    "ko": "korean kor 한국어",
    "la": "latin lat",
    "lt": "lithuanian lit lietuvių",
    "ms": "malay msa may bahasa_melayu",
    "ne": "nepali nep नेपाली",
    "nl": "dutch nld dut flemish nederlands",
    "no": "norwegian nor nb nn nob nno norsk",
    "pa": "punjabi pan panjabi ਪੰਜਾਬੀ",
    "pl": "polish pol polski",
    "pt": "portuguese por português",
    "ro": "romanian ron rum română",
    "ru": "russian rus русский",
    "sa": "sanskrit san",
    "sk": "slovak slk slo slovenčina",
    "sr": "serbian srp српски",
    "sv": "swedish swe svenska",
    "sw": "swahili swa kiswahili",
    "ta": "tamil tam தமிழ்",
    "te": "telugu tel తెలుగు",
    "th": "thai tha ไทย",
    "tl": "tagalog tgl fil filipino",
    "tr": "turkish tur türkçe",
    "uk": "ukrainian ukr українська",
    "ur": "urdu urd اردو",
    "vi": "vietnamese vie tiếng_việt",
    "yue": "cantonese zh_yue zh_hk 粵語 粤语",
    "zh": "chinese zho chi cmn mandarin cn 中文",
    "unknown": "und undetermined auto",
}
LANGUAGES = tuple(_NAMES)
_CODES = {name: code for code, names in _NAMES.items() for name in (code, *names.split())}


def parse_language(text: str) -> str:
    """Return one of `LANGUAGES` for a code (`ja`, `ja-JP`, `jpn`) or a name (`Japanese`).

    Raises:
        UserError: the model has no code for this language.
    """
    name = re.sub(r"[\s_-]+", "_", text.strip().lower())
    code = _CODES.get(name)
    if code is None and re.fullmatch(r"[a-z]{2,3}_[a-z0-9_]{2,}", name):
        # A locale such as en_US or pt_BR: the region says nothing to the model.
        code = _CODES.get(name.split("_")[0])
    if code is None:
        raise UserError(f"is {show(text)}; expected a language the model knows: {' '.join(LANGUAGES)}")
    return code
