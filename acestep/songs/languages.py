"""The 51 language codes that ACE-Step 1.5 knows, and the names and other codes people write for them."""

import re
import unicodedata

from acestep.errors import UserError
from acestep.songs.showing import show

# code: names in English and in the language itself, ISO 639-2/3 codes and withdrawn or national codes.
_NAMES = {
    "ar": "arabic ara العربية عربي",
    "az": "azerbaijani aze azeri azərbaycan azərbaycanca",
    "bg": "bulgarian bul български",
    "bn": "bengali ben bangla বাংলা",
    "ca": "catalan cat català valencian valencià",
    "cs": "czech ces cze čeština český česky",
    "da": "danish dan dansk",
    "de": "german deu ger deutsch hochdeutsch",
    "el": "greek ell gre ελληνικά ellinika",
    "en": "english eng",
    "es": "spanish spa castilian español castellano",
    "fa": "persian fas per farsi فارسی",
    "fi": "finnish fin suomi",
    "fr": "french fra fre français québécois",
    "he": "hebrew heb iw עברית ivrit",
    "hi": "hindi hin हिन्दी हिंदी",
    "hr": "croatian hrv hrvatski",
    "ht": "haitian hat haitian_creole kreyòl kreyòl_ayisyen",
    "hu": "hungarian hun magyar",
    "id": "indonesian ind in bahasa_indonesia",
    "is": "icelandic isl ice íslenska",
    "it": "italian ita italiano",
    "ja": "japanese jpn jp 日本語 にほんご nihongo",
    "ko": "korean kor 한국어 한국말 hangugeo",
    "la": "latin lat latina lingua_latina",
    "lt": "lithuanian lit lietuvių lietuvių_kalba",
    "ms": "malay msa may bahasa_melayu melayu",
    "ne": "nepali nep नेपाली",
    "nl": "dutch nld dut flemish nederlands vlaams",
    "no": "norwegian nor nb nn nob nno norsk bokmål nynorsk",
    "pa": "punjabi pan panjabi ਪੰਜਾਬੀ پنجابی",
    "pl": "polish pol polski",
    "pt": "portuguese por português",
    "ro": "romanian ron rum română",
    "ru": "russian rus русский russkiy",
    "sa": "sanskrit san संस्कृतम्",
    "sk": "slovak slk slo slovenčina slovenský",
    "sr": "serbian srp српски srpski",
    "sv": "swedish swe svenska",
    "sw": "swahili swa kiswahili",
    "ta": "tamil tam தமிழ்",
    "te": "telugu tel తెలుగు",
    "th": "thai tha ไทย ภาษาไทย",
    "tl": "tagalog tgl fil filipino pilipino",
    "tr": "turkish tur türkçe",
    "uk": "ukrainian ukr українська",
    "ur": "urdu urd اردو",
    "vi": "vietnamese vie tiếng_việt",
    "yue": "cantonese zh_yue zh_hk zh_mo chinese_cantonese chinese_hk chinese_hong_kong 粵語 粤语 廣東話 广东话 廣州話",
    "zh": "chinese zho chi cmn mandarin cn 中文 汉语 漢語 普通话 普通話 国语 國語 华语 華語 简体中文 繁體中文",
    "unknown": "und undetermined auto",
}
# What says where a language is spoken, before or after its name: "Brazilian Portuguese", "Portuguese (Brazil)".
_PLACES = """
    us usa uk american united_states america british britain united_kingdom england australian australia canadian
    canada irish ireland indian india new_zealand south_african south_africa international brazilian brazil brasil
    do_brasil brasileiro european europe portugal mexican mexico argentine argentinian argentina colombian colombia
    chilean chile peruvian peru latin_american latin_america latinoamericano spain españa de_españa de_méxico
    austrian austria österreich germany deutschland switzerland schweiz suisse belgian belgium france quebec
    egyptian egypt moroccan morocco lebanese lebanon levantine gulf saudi saudi_arabia modern_standard china
    mainland mainland_china prc taiwan taiwanese singapore malaysia iranian iran standard modern
"""
# How it is written, anywhere: "Simplified Chinese", "zh-Hans-CN".
_SCRIPTS = """
    simplified traditional cyrillic hans hant latn cyrl arab deva jpan hrkt kore hang hebr grek guru beng taml telu
"""
# ISO 3166, and UN M.49's three digits beside it.
_REGIONS = """
    ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt bv bw by bz
    ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh er es et fi fj fk fm fo
    fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je
    jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo
    mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw
    py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td tf tg th tj tk tl tm
    tn to tr tt tv tw tz ua ug uk um us uy uz va vc ve vg vi vn vu wf ws xk ye yt za zm zw
"""
_MOST_WORDS = 6


def _plain(text: str) -> str:
    """Return text in small letters, without accents, its words joined by `_`."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
    return re.sub(r"[\s_(),./\[\]-]+", "_", kept).strip("_")


LANGUAGES = tuple(_NAMES)
_CODES = {_plain(name): code for code, names in _NAMES.items() for name in (code, *names.split())}
_PLACE_NAMES = {_plain(name) for name in _PLACES.split()}
_SCRIPT_NAMES, _REGION_CODES = set(_SCRIPTS.split()), set(_REGIONS.split())


def parse_language(text: str) -> str:
    """Return one of `LANGUAGES` for a code (`ja`, `pt-BR`, `jpn`) or a name (`Japanese`, `English (US)`, `español`).

    Raises:
        UserError: the model has no code for this language.
    """
    words = _plain(text).split("_")
    code = _code_of(words) if len(words) <= _MOST_WORDS else None
    if code is None:
        raise UserError(f"is {show(text)}; expected a language the model knows: {' '.join(LANGUAGES)}")
    return code


def _code_of(words: list[str]) -> str | None:
    """Return the code of the language that words name, once scripts, places and repetitions are put aside."""
    words = [word for word in words if word not in _SCRIPT_NAMES]
    while words:
        if code := _CODES.get("_".join(words)):
            return code
        codes = {_CODES.get(word) for word in words}
        if len(codes) == 1 and None not in codes:  # "Mandarin Chinese", "ja-JA"
            return codes.pop()
        shorter = _without_place(words)
        if shorter is None and words[-1] == "latin":  # here a script: "Serbian (Latin)"
            shorter = words[:-1]
        words = shorter or []
    return None


def _without_place(words: list[str]) -> list[str] | None:
    for size in (2, 1):
        if "_".join(words[-size:]) in _PLACE_NAMES:
            return words[:-size]
        if "_".join(words[:size]) in _PLACE_NAMES:
            return words[size:]
    return words[:-1] if words[-1] in _REGION_CODES or re.fullmatch(r"[0-9]{3}", words[-1]) else None
