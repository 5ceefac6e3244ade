"""A mobile number that WhatsApp knows in two spellings is one person, on the list, in files and in broadcasts."""

from __future__ import annotations

from world import INSTANCE, World, require

PAIRS = [
    ("558587654321", "5585987654321"),
    ("5571991234567", "557191234567"),
    ("5215512345678", "525512345678"),
    ("525587654321", "5215587654321"),
    ("5491123456789", "541123456789"),
    ("543512345678", "5493512345678"),
    ("22507123456", "2250707123456"),
    ("22997123456", "2290197123456"),
]


def case_one_person_on_the_list(world: World) -> None:
    for writes, filed in PAIRS:
        world.receive_text("BAJA", writes)
        _, entry = world.get(f"/suppressions/{filed}")
        require(entry.get("success") and entry["data"]["phone"] == writes, f"{writes} opted out; {filed}: {entry}")
        world.run_job(f"{filed}\n")
        require(not world.graph.sent_to(filed), f"{writes} opted out; a file with {filed} was sent")


def case_one_person_in_a_broadcast(world: World) -> None:
    world.receive_text("BAJA", "558591234568")
    phones = ["5585991234568", "573001250001"]
    body = {"phones": phones, "body_text": "Hola", "use_queue": False, "instance_id": INSTANCE}
    status, answer = world.post("/api/send-broadcast-interactive", body)
    require(status == 200, answer)
    require(not world.graph.sent_to(phones[0]) and world.graph.sent_to(phones[1]), answer)


def case_either_spelling_removes_the_entry(world: World) -> None:
    world.receive_text("BAJA", "558591234569")
    status, answer = world.call("DELETE", "/suppressions/5585991234569")
    require(status == 200 and not world.is_suppressed("558591234569"), answer)


def case_landline_has_one_spelling(world: World) -> None:
    status, answer = world.text("551132345678")
    require(status == 200 and world.graph.sent_to("551132345678"), answer)
    world.receive_text("BAJA", "551133334444")
    require(not world.is_suppressed("5511933334444"), "a landline's opt-out suppresses a mobile number")


def case_number_is_sent_as_given(world: World) -> None:
    for _, filed in PAIRS:
        number = filed[:-3] + "000"
        status, answer = world.text(number)
        require(status == 200 and world.graph.sent_to(number), answer)
