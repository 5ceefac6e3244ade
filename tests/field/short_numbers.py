"""Countries with short numbers: seven to fifteen digits are a number."""

from __future__ import annotations

from world import World, reason_of, require

SHORT = ["376312345", "299123456", "508412345", "29041234", "6834002"]


def case_messages_and_files(world: World) -> None:
    for number in SHORT:
        status, answer = world.text(number)
        require(status == 200 and len(world.graph.sent_to(number)) == 1, answer)
        world.run_job(f"{number}\n")
        require(len(world.graph.sent_to(number)) == 2, f"a file with {number} was not sent")


def case_opt_out(world: World) -> None:
    for number in ("376312346", "29041235", "6834003"):
        world.receive_text("BAJA", number)
        require(world.is_suppressed(number), number)
        require(any(event.get("phone") == number for event in world.events("opt_out")), number)


def case_impossible_lengths_are_refused_by_name(world: World) -> None:
    for number, word in (("12345", "corto"), ("123456", "corto"), ("1234567890123456", "largo")):
        answer = world.text(number)
        require(answer[0] == 400 and word in reason_of(answer) and "phone" in reason_of(answer), answer)
    require("mínimo 7 dígitos" in reason_of(world.text("12345")), world.text("12345"))
