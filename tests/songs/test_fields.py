import pytest

from acestep.errors import UserError
from acestep.songs.fields import parse_bpm, parse_field, parse_timesignature
from acestep.songs.keys import CAMELOT, parse_key, same_key
from acestep.songs.languages import LANGUAGES, parse_language


@pytest.mark.parametrize(
    ("raw", "bpm"),
    [(128, 128), ("128", 128), ("128 BPM", 128), ("127,6", 128), (127.5, 128), (30, 30), (300, 300), ("090", 90)],
)
def test_tempo_is_a_whole_number_in_30_to_300(raw, bpm):
    assert parse_bpm(raw) == bpm
    assert isinstance(parse_bpm(raw), int)


@pytest.mark.parametrize("raw", [29.9, 300.1, 0, -120, "fast", "120-125", True, [120], float("nan"), float("inf"), "²"])
def test_a_tempo_that_is_none_is_refused_with_the_range(raw):
    with pytest.raises(UserError, match="expected a number between 30 and 300"):
        parse_bpm(raw)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("D major", "D major"),
        ("Dmaj", "D major"),
        ("D", "D major"),
        ("d MAJOR", "D major"),
        ("F# minor", "F# minor"),
        ("F♯m", "F# minor"),
        ("f#min", "F# minor"),
        ("F sharp minor", "F# minor"),
        ("Bb minor", "Bb minor"),
        ("B♭ Minor", "Bb minor"),
        ("Ebm", "Eb minor"),
        ("E-flat minor", "Eb minor"),
        ("bb minor", "Bb minor"),
        ("bm", "B minor"),
        ("CM", "C major"),
        ("A:min", "A minor"),
        ("h-moll", "B minor"),
        ("B-Dur", "Bb major"),
        ("10B", "D major"),
        ("08a", "A minor"),
    ],
)
def test_keys_in_the_spellings_people_use(text, key):
    assert parse_key(text) == key


@pytest.mark.parametrize("text", ["", "d", "H", "K major", "D dorian", "Ebmaj7", "13A", "major", "loud", "C##m"])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(UserError, match="expected a key"):
        parse_key(text)


def test_camelot_neighbours_are_relative_and_a_fifth_apart():
    for number in range(1, 13):
        minor, major = CAMELOT[f"{number}A"], CAMELOT[f"{number}B"]
        assert minor.endswith("minor")
        assert major.endswith("major")
    assert len({CAMELOT[code] for code in CAMELOT}) == 24
    assert same_key("Db minor", "C# minor")
    assert not same_key("Db minor", "Db major")


@pytest.mark.parametrize(
    ("raw", "signature"), [(3, "3"), ("3", "3"), ("3/4", "3"), ("6/8", "6"), (4.0, "4"), ("2/2", "2"), (" 4 / 4 ", "4")]
)
def test_one_time_signature_in_all_its_spellings(raw, signature):
    assert parse_timesignature(raw) == signature


@pytest.mark.parametrize("raw", [5, "7/8", "12/8", "4/3", "waltz", True, {}])
def test_other_time_signatures_are_refused(raw):
    with pytest.raises(UserError, match="expected 2, 3, 4 or 6"):
        parse_timesignature(raw)


def test_the_model_knows_51_languages():
    assert len(LANGUAGES) == 51
    assert all(parse_language(code) == code for code in LANGUAGES)


@pytest.mark.parametrize(
    ("text", "code"),
    [("Japanese", "ja"), ("JA", "ja"), ("ja-JP", "ja"), ("jpn", "ja"), ("pt_BR", "pt"), ("Cantonese", "yue"),
     ("zh-HK", "yue"), ("zh-CN", "zh"), ("Haitian Creole", "ht"), ("日本語", "ja"), ("Unknown", "unknown")],
)  # fmt: skip
def test_languages_by_code_locale_and_name(text, code):
    assert parse_language(text) == code


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        ("en", "English (US)|en-US|en_GB|US English|British English|English - United Kingdom|en-en"),
        ("pt", "Brazilian Portuguese|Portuguese (Brazil)|pt_BR|Português do Brasil|portugues|European Portuguese"),
        ("es", "castellano|Español|espanol|es-419|Español (México)|Latin American Spanish|Spanish Castilian"),
        ("zh", "Simplified Chinese|Traditional Chinese|Chinese (Simplified)|zh-Hans|zh-Hant-TW|Mandarin Chinese"),
        ("yue", "zh-Hant-HK|Traditional Chinese (Hong Kong)|Chinese (Cantonese)|yue-Hant-HK|廣東話"),
        ("fr", "Canadian French|français (Canada)|fr-CA"),
        ("sr", "sr-Latn-RS|Serbian (Latin)|Serbian (Cyrillic)"),
        ("la", "Latin|la-VA"),
        ("no", "Norwegian Bokmål|nynorsk|nb-NO"),
        ("tr", "TÜRKÇE|turkce"),
        ("it", "İtaliano|IT"),
        ("hi", "हिन्दी|hi-IN"),
        ("ar", "Egyptian Arabic|Modern Standard Arabic|ar-EG"),
        ("ja", "ja-JA|Japanese (日本語)"),
    ],
)  # fmt: skip
def test_regions_scripts_and_endonyms_are_put_aside(code, texts):
    assert {text: parse_language(text) for text in texts.split("|")} == dict.fromkeys(texts.split("|"), code)


@pytest.mark.parametrize(
    "text",
    ["Klingon", "xx", "xx-YY", "", "e", "American", "Brazil", "Simplified", "US", "Latin American", "Taiwanese",
     "English, Japanese", "en-ja", "en-xx", "no way", "in the end", "Polish nail", "zh-Hokkien", "((", "us " * 5000],
)  # fmt: skip
def test_a_language_the_model_does_not_know_is_refused(text):
    with pytest.raises(UserError, match="expected a language the model knows"):
        parse_language(text)


@pytest.mark.parametrize("field", ["caption", "bpm", "keyscale", "language", "is_instrumental", "custom_tag"])
@pytest.mark.parametrize("raw", [None, "", "  ", []])
def test_nothing_said_is_nothing(field, raw):
    assert parse_field(field, raw) is None


def test_lists_are_joined_and_numbers_become_text():
    assert parse_field("genre", ["pop", "rock"]) == "pop, rock"
    assert parse_field("lyrics", ["one", "two"]) == "one\ntwo"
    assert parse_field("caption", 1984) == "1984"
    assert parse_field("is_instrumental", "Yes") is True
    assert parse_field("is_instrumental", 0) is False
    with pytest.raises(UserError, match="surrogate"):
        parse_field("caption", "a\ud83cb")
