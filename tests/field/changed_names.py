"""What the node knows about a person moves along when the number or an id of the person changes."""

from __future__ import annotations

from world import World, require


def case_changed_number(world: World) -> None:
    world.receive_text("BAJA", "573001234591")
    system = {"type": "user_changed_number", "body": "…", "wa_id": "573009999902"}
    world.change_names(system, **{"from": "573001234591"})
    require(world.is_suppressed("573009999902"), "the new number is not on the list")
    require(not world.is_suppressed("573001234591"), "the old number is still on the list")
    moved = [event for event in world.events("opt_out") if event.get("previous") == ["573001234591"]]
    require(moved and moved[0]["phone"] == "573009999902", world.events("opt_out"))


def case_changed_number_in_other_forms(world: World) -> None:
    forms = [
        {"type": "customer_changed_number", "new_wa_id": "573009999903", "customer": "573001234592"},
        {"type": "user_changed_number", "wa_id": "573009999904", "customer": "573001234593", "user_id": "CO.4"},
    ]
    for form, former, current in zip(forms, ("573001234592", "573001234593"), ("573009999903", "573009999904")):
        world.receive_text("BAJA", former)
        world.change_names({"body": "…", **form}, **{"from": former})
        require(world.is_suppressed(current), form)
    require(world.is_suppressed("CO.4"), "the new user id is not on the list")


def case_changed_user_id(world: World) -> None:
    contact = {"profile": {"name": "Ana"}, "user_id": "CO.1111", "parent_user_id": "CO.ENT.11"}
    message = {"from_user_id": "CO.1111", "type": "text", "text": {"body": "BAJA"}}
    world.receive(message, None, contact)
    system = {
        "type": "user_changed_user_id", "body": "…", "user_id": "CO.2222", "previous_user_id": "CO.1111",
        "parent_user_id": "CO.ENT.22", "previous_parent_user_id": "CO.ENT.11",
    }  # fmt: skip
    event = world.change_names(system, from_user_id="CO.2222")
    require(event["system"] == system, event)
    require(world.is_suppressed("CO.2222") and world.is_suppressed("CO.ENT.22"), "the new ids are not on the list")
    require(not world.is_suppressed("CO.1111"), "the old id is still on the list")


def case_user_id_update(world: World) -> None:
    world.post("/suppressions", {"phone": "CO.31"})
    update = {"wa_id": "573001234594", "user_id": {"previous": "CO.31", "current": "CO.32"}}
    world.deliver({"user_id_update": [update]}, "user_id_update")
    require(world.is_suppressed("CO.32"), "the new id is not on the list")


def case_address_book(world: World) -> None:
    saved = world.post("/api/numbers", {"phone": "573001234595", "name": "Ana", "data": {"vip": True}})
    require(saved[0] == 201, saved)
    system = {"type": "user_changed_number", "body": "…", "wa_id": "573009999905"}
    world.change_names(system, **{"from": "573001234595"})
    status, answer = world.get("/api/numbers/573009999905")
    require(status == 200 and answer["number"]["name"] == "Ana", answer)


def case_change_alone_is_no_opt_out(world: World) -> None:
    system = {"type": "user_changed_number", "body": "…", "wa_id": "573009999906"}
    world.change_names(system, **{"from": "573001234596"})
    require(not world.is_suppressed("573009999906"), "on the list without an opt-out")
