"""A user who writes or taps the word and nothing else opts out, whatever is around it."""

from __future__ import annotations

import itertools

from world import World, require

_numbers = itertools.count(573001240001)


def opts_out(world: World, message: dict) -> bool:
    sender = str(next(_numbers))
    world.receive(message, sender)
    return world.is_suppressed(sender)


def texts(world: World, written: list[str], expected: bool) -> None:
    wrong = [text for text in written if opts_out(world, {"type": "text", "text": {"body": text}}) != expected]
    require(not wrong, f"{'not on' if expected else 'on'} the list after {wrong}")


def case_punctuation_and_emoji(world: World) -> None:
    written = ["STOP.", "stop 🙏", '"BAJA"', "¡BAJA!", "Baja!!", "stop 👍🏽", "«baja»", "🛑 STOP 🛑", "(stop)", "baja…", "STOP ™️"]
    texts(world, written, True)


def case_invisible_marks_and_width(world: World) -> None:
    written = ["\u200bSTOP", "STOP\n", "ＳＴＯＰ", "STOP\u200f", "\ufeffbaja", "ST\u00adOP", "\u2067stop\u2069", "𝐒𝐓𝐎𝐏", "ba\u0301ja"]
    texts(world, written, True)


def case_formatting_of_whatsapp(world: World) -> None:
    texts(world, ["*BAJA*", "_stop_", "~stop~", "```STOP```", "> baja", "- baja", "1. BAJA", "*_stop_*"], True)


def case_buttons_and_rows(world: World) -> None:
    choice = {"id": "b1", "title": "BAJA"}
    messages = [
        {"type": "interactive", "interactive": {"type": "button_reply", "button_reply": choice}},
        {"type": "interactive", "interactive": {"type": "list_reply", "list_reply": choice}},
        {"type": "button", "button": {"payload": "p", "text": "Baja."}},
        {"type": "image", "image": {"id": "1", "mime_type": "image/jpeg", "caption": "STOP"}},
    ]
    wrong = [message for message in messages if not opts_out(world, message)]
    require(not wrong, wrong)


def case_sentences_do_not_count(world: World) -> None:
    written = ["stop, o Zé não vem", "la baja del precio", "no me des de baja", "¿stop?  no, sigue", "stop 2", "bajas", "🙏"]
    texts(world, written, False)


def case_opting_in_again(world: World) -> None:
    sender = str(next(_numbers))
    world.receive_text("STOP!", sender)
    world.receive_text("¡Alta! 😀", sender)
    require(not world.is_suppressed(sender), "still on the list")
