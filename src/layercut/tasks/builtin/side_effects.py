"""Checks of what pruning and healing may break in silence, each a task of its own: ``suite:side_effects``.

Answers that end by themselves, in the language of the request, in the form that was asked for, and a number in a long
text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from layercut.engine.base import Completion
from layercut.tasks.builtin.checked import Check, CheckedTask, ends

VERSION = 1  # raised by any change of the requests or the rules
_THINGS = """
    gravity; inflation in an economy; photosynthesis; a contract; the water cycle; a vaccine; democracy; an
    atom; a novel; compost; a mortgage; an algorithm; the moon; a metaphor; electricity; a virus; insurance; a
    volcano; a symphony; rust; a fraction; yeast; a shadow; friction; a passport; an echo; a glacier; a budget;
    the internet; a compass; evaporation; a recipe; a password; tides; a census; a hypothesis; a lever; a
    pension; an eclipse; a fossil; soap; a battery; a bridge; a library; a proverb; glass; a fever; a river
    delta
"""


def endings() -> CheckedTask:
    """48 requests such as "Explain in one or two sentences what rust is."; an answer that goes on after 160 tokens
    fails."""
    checks = [
        Check(
            f"Explain in one or two sentences what {' '.join(topic.split())} is.",
            ends,
            "ends by itself",
        )
        for topic in _THINGS.split(";")
    ]
    return CheckedTask(name="endings", version=VERSION, checks=tuple(checks), max_new_tokens=160)


_REQUESTS = {
    "de": (
        "Warum ist der Himmel blau? Antworte in zwei Sätzen.",
        "Was sollte ich tun, wenn es regnet?",
        "Beschreibe ein typisches Frühstück.",
        "Schreibe eine kurze Einladung zu einer Geburtstagsfeier.",
    ),
    "fr": (
        "Pourquoi le ciel est-il bleu ? Réponds en deux phrases.",
        "Que dois-je faire quand il pleut ?",
        "Décris un petit déjeuner typique.",
        "Écris une courte invitation à une fête d'anniversaire.",
    ),
    "es": (
        "¿Por qué el cielo es azul? Responde en dos frases.",
        "¿Qué debo hacer cuando llueve?",
        "Describe un desayuno típico.",
        "Escribe una breve invitación a una fiesta de cumpleaños.",
    ),
    "it": (
        "Perché il cielo è blu? Rispondi in due frasi.",
        "Che cosa devo fare quando piove?",
        "Descrivi una colazione tipica.",
        "Scrivi un breve invito a una festa di compleanno.",
    ),
    "pt": (
        "Por que o céu é azul? Responda em duas frases.",
        "O que devo fazer quando chove?",
        "Descreva um café da manhã típico.",
        "Escreva um convite curto para uma festa de aniversário.",
    ),
    "nl": (
        "Waarom is de lucht blauw? Antwoord in twee zinnen.",
        "Wat moet ik doen als het regent?",
        "Beschrijf een typisch ontbijt.",
        "Schrijf een korte uitnodiging voor een verjaardagsfeest.",
    ),
    "pl": (
        "Dlaczego niebo jest niebieskie? Odpowiedz w dwóch zdaniach.",
        "Co powinienem zrobić, gdy pada deszcz?",
        "Opisz typowe śniadanie.",
        "Napisz krótkie zaproszenie na przyjęcie urodzinowe.",
    ),
    "ru": (
        "Почему небо голубое? Ответь двумя предложениями.",
        "Что мне делать, когда идёт дождь?",
        "Опиши типичный завтрак.",
        "Напиши короткое приглашение на день рождения.",
    ),
    "zh": (
        "天空为什么是蓝色的？请用两句话回答。",
        "下雨的时候我应该做什么？",
        "描述一顿典型的早餐。",
        "写一份简短的生日聚会邀请。",
    ),
    "ja": (
        "空はなぜ青いのですか。二文で答えてください。",
        "雨が降ったときはどうすればいいですか。",
        "典型的な朝食を説明してください。",
        "誕生日パーティーへの短い招待状を書いてください。",
    ),
}


def same_language() -> CheckedTask:
    """40 everyday requests, four in each of ten languages; an answer in another language, or none, fails.

    After what was reported of pruned Qwen3-30B-A3B, which answered in another language than it was asked.
    """
    checks = [
        Check(request, partial(_is_in, language), f"is in the language {language}")
        for language, requests in _REQUESTS.items()
        for request in requests
    ]
    return CheckedTask(name="same_language", version=VERSION, checks=tuple(checks), max_new_tokens=96)


def _is_in(language: str, answer: Completion) -> bool:
    return bool(answer.text.strip()) and language_of(answer.text) == language


def language_of(text: str) -> str:
    """The likeliest language of a text, among English and those of the requests.

    >>> language_of("Der Himmel ist blau, weil das Licht gestreut wird.")
    'de'
    """
    import py3langid  # imported here: it reads its model

    py3langid.set_languages(["en", *_REQUESTS])
    return str(py3langid.classify(text)[0])


_TOPICS = ("a walk in the forest", "a new bicycle", "cooking for friends", "a train that is late")
_BULLET = re.compile(r"^\s*[-*•] ", re.MULTILINE)


def _is_object(text: str) -> bool:
    found = parsed(text)
    return isinstance(found, dict) and set(found) == {"title", "text"}


_RULES: dict[str, Callable[[str], bool]] = {
    "Write in lower case only, without any capital letter.": lambda text: text == text.lower(),
    "Write in capital letters only.": lambda text: text == text.upper() != text.lower(),
    "Do not use any comma.": lambda text: "," not in text,
    "Answer with exactly three bullet points, each on a line of its own that begins with '- '.": lambda text: (
        len(_BULLET.findall(text)) == 3
    ),
    "End with the words: That is all.": lambda text: text.rstrip("*\"' ").endswith("That is all."),
    "Begin with the word Listen.": lambda text: text.lstrip("*\"' ").startswith("Listen"),
    "Put your whole answer in double quotation marks.": lambda text: text[0] in '"“' and text[-1] in '"”',
    "Begin with a title in double angular brackets, such as <<title>>.": lambda text: bool(
        re.match(r"<<[^<>\n]+>>", text)
    ),
    "Use the word wonderful at least twice.": lambda text: len(re.findall(r"\bwonderful\b", text, re.IGNORECASE)) >= 2,
    "Write exactly two paragraphs with a line of three stars, ***, between them.": lambda text: (
        len([part for part in re.split(r"^\s*\*\*\*\s*$", text, flags=re.MULTILINE) if part.strip()]) == 2
    ),
    "Use at most ten words in all.": lambda text: len(text.split()) <= 10,
    "Answer with a JSON object that has the keys title and text, and with nothing else.": _is_object,
}


def instructions() -> CheckedTask:
    """48 requests to write about one of four topics in a form that a rule checks; an empty answer fails.

    The kinds are those of IFEval (Zhou et al., arXiv:2311.07911), which ``lm-eval:ifeval`` asks in full.
    """
    checks = [
        Check(f"Write one or two sentences about {topic}. {rule}", _of(holds), rule)
        for rule, holds in _RULES.items()
        for topic in _TOPICS
    ]
    return CheckedTask(name="instructions", version=VERSION, checks=tuple(checks), max_new_tokens=128)


def _of(holds: Callable[[str], bool]) -> Callable[[Completion], bool]:
    return lambda answer: bool(text := answer.text.strip()) and holds(text)


def parsed(text: str) -> Any:
    """The JSON value that a text is, within a fence of code or not; None for other texts.

    >>> parsed('```json\\n{"a": 1}\\n```')
    {'a': 1}
    """
    inside = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(inside[1] if inside else text)
    except ValueError:
        return None


NUM = 24
_WORDS = {2000: 1300, 8000: 5200}  # words of a text by its tokens; tokenizers make 1.2 to 1.5 tokens of a word here
_PLACES = """Ashford Benton Carlow Dunmore Elstree Farnham Grafton Halden Ipsley Jarrow Kelso Ludlow Marton Newbury
    Oakham Penrith Quenby Romsey Selby Thornton Upton Verwood Wexford Yarmouth""".split()  # noqa: SIM905
_WHO = ("The baker", "A teacher", "The old sailor", "My neighbour", "The gardener", "A young nurse", "The postman")
_DOES = ("walked to", "wrote about", "came back from", "bought bread in", "painted a house in", "met a friend in")
_WHEN = ("in the spring", "after the storm", "on a quiet morning", "before the market opened", "late in the evening")


def needle_2k() -> CheckedTask:
    """24 texts of about 2,000 tokens; in each, one town has a code of six digits, and the answer must hold it.

    The code stands at places spread evenly from the beginning to the end.
    """
    return _needles("needle_2k", 2000)


def needle_8k() -> CheckedTask:
    """The same in texts of about 8,000 tokens."""
    return _needles("needle_8k", 8000)


def _needles(name: str, tokens: int) -> CheckedTask:
    checks = [_check(index, _WORDS[tokens]) for index in range(NUM)]
    return CheckedTask(name=name, version=VERSION, checks=tuple(checks), max_new_tokens=24)


def _check(index: int, num_words: int) -> Check:
    rng = Random(f"needle {VERSION} {index} {num_words}")
    place, code = _PLACES[index], str(rng.randint(100_000, 999_999))
    sentences: list[str] = []
    while sum(len(one.split()) for one in sentences) < num_words:
        other = rng.choice([one for one in _PLACES if one != place])
        sentences.append(f"{rng.choice(_WHO)} {rng.choice(_DOES)} {other} {rng.choice(_WHEN)}.")
    sentences.insert(round(index / (NUM - 1) * len(sentences)), f"The code of {place} is {code}.")
    prompt = f"{' '.join(sentences)}\n\nWhat is the code of {place}? Answer with the code alone."
    return Check(prompt, partial(_holds, code), code)


def _holds(code: str, answer: Completion) -> bool:
    return code in answer.text.replace(",", "").replace(" ", "")
