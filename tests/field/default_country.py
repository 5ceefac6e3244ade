"""A node with a default country completes national numbers in every kind of request."""

from __future__ import annotations

from world import INSTANCE, World, require

SETTINGS = {"RELEVO_DEFAULT_COUNTRY": "CO"}


def case_messages(world: World) -> None:
    for phone, number in (("300 123 8031", "573001238031"), (3001238032, "573001238032"), ("+34612345678", "34612345678")):
        answer = world.text(phone)
        require(answer[0] == 200 and world.graph.sent_to(number) and "warning" not in answer[1], answer)
    answer = world.post("/api/send-message", {"phone": "(300) 123-8033", "message": "Hola"})
    require(answer[0] == 200 and world.graph.sent_to("573001238033"), answer)


def case_files_and_broadcasts(world: World) -> None:
    world.run_job("telefono|nombre\n3001238034|Ana\n")
    require(world.graph.sent_to("573001238034"), world.graph.addresses())
    body = {"phones": ["3001238035"], "body_text": "Hola", "use_queue": False, "instance_id": INSTANCE}
    answer = world.post("/api/send-broadcast-interactive", body)
    require(answer[0] == 200 and world.graph.sent_to("573001238035"), answer)


def case_suppression_list(world: World) -> None:
    world.post("/suppressions", {"phones": ["3001238036", 3001238037]})
    imported = world.call("POST", "/suppressions/import", b"3001238038\n", {"Content-Type": "text/csv"})
    require(imported[1]["data"]["added"] == 1, imported)
    for number in ("573001238036", "573001238037", "573001238038", "3001238036"):
        require(world.is_suppressed(number), number)
