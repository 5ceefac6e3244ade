"""Numbers as people write them at home: with 00, with a zero, without a country code."""

from __future__ import annotations

from world import World, is_accepted, reason_of, require

REFUSED = ["0718139912", "+0 57 300 123 4502", "0573001234503", "000573001234504"]


def case_double_zero_is_plus(world: World) -> None:
    status, answer = world.text("0057 300 123 4501")
    require(status == 200 and world.graph.sent_to("573001234501"), answer)
    world.run_job("00573001234504\n")
    require(world.graph.sent_to("573001234504"), "not sent")
    world.post("/suppressions", {"phone": "00573001234505"})
    require(world.is_suppressed("573001234505"), "not on the list")


def case_single_zero_is_refused_at_every_door(world: World) -> None:
    before = len(world.graph.addresses())
    for phone in REFUSED:
        for answer in (
            world.text(phone),
            world.post("/api/send-message", {"phone": phone, "message": "Hola"}),
            world.post("/suppressions", {"phone": phone}),
            world.get(f"/suppressions/{phone.replace(' ', '')}"),
        ):
            require(answer[0] == 400 and "country code" in reason_of(answer), f"{phone}: {answer}")
    _, rows = world.run_job("".join(f"{phone}\n" for phone in REFUSED))
    require(all("country code" in row["error"] for row in rows) and len(rows) == len(REFUSED), rows)
    require(len(world.graph.addresses()) == before, world.graph.addresses()[before:])


def case_number_of_no_country_is_warned_about(world: World) -> None:
    rows = "3001238011\n573001238013\n5512345678\n"
    _, dry = world.upload(rows, dry_run="true")
    warned = [(row["line"], row["warning"].get("country")) for row in dry["warning_sample"]]
    require(dry["warned_rows"] == 2 and warned == [(1, "GR"), (3, "BR")], dry)
    require("Grecia" in dry["warning_sample"][0]["warning"]["message"], dry)
    answer, _ = world.run_job(rows)
    require(answer["warned_rows"] == 2, answer)
    require(world.graph.sent_to("3001238011"), "a warning must not stop a number")


def case_message_carries_the_warning(world: World) -> None:
    for phone, country in (("3001238012", "GR"), ("912345678", "IN"), ("612345678", "AU"), ("2025550123", "EG")):
        answer = world.text(phone)
        require(is_accepted(answer) and answer[1]["warning"]["country"] == country, answer)
        answer = world.post("/api/send-message", {"phone": phone, "message": "Hola"})
        require(is_accepted(answer) and answer[1]["warnings"][0]["country"] == country, answer)
    for phone in ("573001238014", "5215512345678", "558587654321", "34612345678"):
        answer = world.text(phone)
        require("warning" not in answer[1], answer)


def case_form_names_the_country(world: World) -> None:
    rows = "3001238021\n0300 123 8022\n573001238023\n+34612345679\n"
    _, dry = world.upload(rows, dry_run="true", default_country="CO")
    require((dry["warned_rows"], dry["invalid_rows"]) == (0, 0), dry)
    world.run_job(rows, default_country="CO")
    for number in ("573001238021", "573001238022", "573001238023", "34612345679"):
        require(world.graph.sent_to(number), f"{number} was not sent: {world.graph.addresses()}")
    wrong = world.upload(rows, default_country="Colombia")
    require(wrong[0] == 400 and "default_country" in reason_of(wrong), wrong)
