"""The ids that Meta gives to users and groups are understood wherever Meta may put them, and can be answered."""

from __future__ import annotations

from world import World, require

PARENT = "US.ENT.70025518834400917263"
USER = "CO.60417733920855124472"
GROUPS = [
    "Y2FwaV9ncm91cDoxNTU1MDAwMTE5OToxMjAzNjMwOTk4ODc3NjY1NTQZD",
    "Y2FwaV9ncm91cDoxNzA1NTU1MDEzOToxMjAzNjM0MDQ2OTQyMzM4MjAZD",
    "Y2FwaV9ncm91cDoxNTU1MDAwMTE5OQ==",
]


def case_parent_id(world: World) -> None:
    for phone in (PARENT, f" {PARENT}\u200e"):
        status, answer = world.text(phone)
        sent = world.graph.sent_to(PARENT)
        require(status == 200 and sent and sent[-1]["recipient"] == PARENT and "to" not in sent[-1], (answer, sent))


def case_user_id_in_the_place_of_the_number(world: World) -> None:
    for name, field in ((USER, "user_id"), ("CO.ENT.77", "parent_user_id")):
        event = world.receive({"type": "text", "text": {"body": "hola"}}, name)
        require(event[field] == name and event["from"] == name and "phone" not in event, event)
        status, answer = world.text(event["from"])
        require(status == 200 and world.graph.sent_to(name), answer)


def case_opt_out_by_id(world: World) -> None:
    world.receive_text("STOP.", "CO.60417733920855124473")
    require(world.is_suppressed("CO.60417733920855124473"), "not on the list")
    contact = {"wa_id": "573001234571", "user_id": "CO.71", "parent_user_id": "CO.ENT.71"}
    world.receive({"type": "text", "text": {"body": "BAJA"}}, "573001234571", contact)
    for name in ("573001234571", "CO.71", "CO.ENT.71"):
        require(world.is_suppressed(name), name)


def case_group_of_the_cloud_api(world: World) -> None:
    for group in GROUPS:
        event = world.receive({"group_id": group, "type": "text", "text": {"body": "hola"}})
        for phone in (group, event["to"], event["group_id"]):
            status, answer = world.text(phone)
            require(status == 200, (phone, answer))
        sent = world.graph.sent_to(group)
        require(len(sent) == 3 and all(body["recipient_type"] == "group" for body in sent), sent)
