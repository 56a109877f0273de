"""Requests in ten languages, which should be answered in the same language; py3langid identifies it."""

from __future__ import annotations

from functools import partial

from layercut.engine.base import Completion
from layercut.tasks.checked import Check, CheckedTask

VERSION = 1  # raised by any change of the requests or the rule
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
