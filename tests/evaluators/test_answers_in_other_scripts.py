"""Answers in words in any script, where every one but the English was unparsable (Twinkle-Eval 156).

None of it is guessed: what can't be told stays unparsable, and its share is reported.
"""

import json
from collections import Counter

import pytest

from persona_prune.evaluators.questionnaires.answers import SCALE_WORDS, parse_answer
from persona_prune.evaluators.questionnaires.big_five import ipip_neo_120
from persona_prune.personas.pairs import only_words
from tests.evaluators.questionnaire_support import AGREE

WORDS = json.loads(SCALE_WORDS.read_text(encoding="utf-8"))
ACCURATE = ipip_neo_120().items[0].options
LANGUAGES = {"en", "zh", "hi", "es", "fr", "ar", "bn", "pt", "ru", "ur", "ja", "th", "de"}
CHINESE = ("非常不同意", "不同意", "中立", "同意", "非常同意")


def test_every_language_has_every_level_and_no_word_is_two_levels():
    assert set(WORDS["words"]) == {option.casefold() for option in (*AGREE, *ACCURATE)}
    for levels in (AGREE, ACCURATE):
        called = {level: WORDS["words"][level.casefold()] for level in levels}
        for languages in called.values():
            assert set(languages) == LANGUAGES
        words = Counter(word for own in called.values() for word in {only_words(w) for ws in own.values() for w in ws})
        assert not [word for word, count in words.items() if count > 1]


@pytest.mark.parametrize("options", [AGREE, ACCURATE], ids=["agreement", "accuracy"])
@pytest.mark.parametrize("language", sorted(LANGUAGES - {"en"}))
def test_an_answer_in_any_language_names_its_option(options, language):
    for index, option in enumerate(options):
        for word in WORDS["words"][option.casefold()][language]:
            assert parse_answer(f"**{word}**.", options) == index, word


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_a_questionnaire_may_be_in_any_language_and_its_answers_in_another(language):
    options = tuple(WORDS["words"][option.casefold()][language][0] for option in AGREE)
    assert [parse_answer(f"- {option}", options) for option in options] == [0, 1, 2, 3, 4]
    if language != "en":
        assert [parse_answer(option, options) for option in AGREE] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("我非常同意这个说法。", 4),
        ("我不同意", 1),
        ("我並不是很同意", "unparsable"),
        ("私はそう思います。", 3),
        ("同意するとは言えない", "unparsable"),
        ("ฉันเห็นด้วยครับ", 3),
        ("ฉันไม่ได้เห็นด้วย", "unparsable"),
        ("Estoy totalmente de acuerdo.", 4),
        ("No estoy totalmente de acuerdo.", "unparsable"),
        ("Je ne suis pas d\u2019accord", 1),
        ("Je ne suis pas tout à fait d'accord", "unparsable"),
        ("Não concordo totalmente", "unparsable"),
        ("Я не согласен", 1),
        ("मैं सहमत हूँ", 3),
        ("मैं सहमत नहीं हूँ", 1),
        ("सहमति", "unparsable"),
        ("同意, or rather 不同意", "unparsable"),
        ("अच्छा", "unparsable"),
    ],
)
def test_whole_sentences(text, meant):
    assert parse_answer(text, AGREE) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("4 out of 5", 3),
        ("I'd say 4/5.", 3),
        ("\uff14\uff0f\uff15", 3),
        ("\u0664 \u0645\u0646 \u0665", 3),
        ("2 von 5", 1),
        ("4分/5分", 3),
        ("5段階中4", 3),
        ("4", "unparsable"),
        ("4 out of 7", "unparsable"),
        ("6/5", "unparsable"),
        ("0/5", "unparsable"),
        ("3.4 out of 5", "unparsable"),
        ("4/5/1999", "unparsable"),
        ("not 4 out of 5", "unparsable"),
        ("1/5 or 5/5", "unparsable"),
        ("As an AI, 4/5", "refused"),
        # What is asked for comes before what stands beside it.
        ("Agree, as 1 of 5 options", 3),
        ("Agree (en desacuerdo)", 3),
    ],
)
def test_numbers_out_of_as_many_as_there_are_options(text, meant):
    assert parse_answer(text, AGREE) == meant


def test_options_of_a_users_own_in_scripts_without_spaces():
    assert parse_answer("我觉得像我", ("像我", "一点都没关系")) == 0
    assert parse_answer("我觉得不像我", ("像我", "一点都没关系")) == "unparsable"
    assert [parse_answer(f"我{option}。", CHINESE) for option in CHINESE] == [0, 1, 2, 3, 4]
