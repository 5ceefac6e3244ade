"""The forms in which people and programs send numbers are read alike in every kind of request, and a number is never cut."""

from __future__ import annotations

import itertools

from world import World, is_accepted, require

_endings = itertools.count(2001)

FORMS = {
    "direction marks": "\u202a+57 300 123 {}\u202c",
    "hard spaces": "57\u00a0300\u00a0123\u00a0{}",
    "narrow spaces": "57\u202f300\u2009123\u3000{}",
    "hard hyphens": "57\u2011300\u2011123\u2011{}",
    "zero-width space": "57300\u200b123{}",
    "soft hyphen": "57300\u00ad123{}",
    "word joiner": "\u206057300123{}",
    "dashes": "57–300—123−{}",
    "tel": "tel:+57300123{}",
    "whatsapp": "whatsapp:+57300123{}",
    "trunk zero": "+57 (0) 300 123 {}",
    "text of a spreadsheet": "'57300123{}",
    "dots": "57.300.123.{}",
    "slash": "57300/123{}",
    "two numbers": "57300123{} / 573001234567",
    "scientific": "5.73E+11{}",
}

READ = set(list(FORMS)[:12])


def acceptance(world: World, phone: object) -> dict[str, bool]:
    """Whether each kind of request accepts the phone, as text of a file and of JSON."""
    _, rows = world.run_job(f"{phone}\n")
    imported = world.call("POST", "/suppressions/import", f"{phone}\n".encode(), {"Content-Type": "text/csv"})
    answers = {
        "native": is_accepted(world.text(phone)),
        "application": is_accepted(world.post("/api/send-message", {"phone": phone, "message": "Hola"})),
        "file": [row["status"] for row in rows] == ["sent"],
        "import": imported[1]["data"]["added"] + imported[1]["data"]["already"] == 1,
        "list": is_accepted(world.post("/suppressions", {"phone": phone})),
    }
    return answers


def case_every_route_reads_the_same(world: World) -> None:
    for name, form in FORMS.items():
        ending = f"{next(_endings):04}"
        phone, digits = form.format(ending), f"57300123{ending}"
        before = len(world.graph.addresses())
        taken = acceptance(world, phone)
        require(set(taken.values()) == {name in READ}, f"{name}: {phone!r}: {taken}")
        sent = {address.lstrip("+") for address in world.graph.addresses()[before:]}
        require(sent == ({digits} if name in READ else set()), f"{name}: {phone!r} was sent to {sent}")


def case_digits_of_other_scripts(world: World) -> None:
    for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xE50, 0xFF10, 0x1D7CE):
        digits = f"57300124{next(_endings):04}"
        phone = "".join(chr(zero + int(digit)) for digit in digits)
        before = len(world.graph.addresses())
        taken = acceptance(world, phone)
        require(all(taken.values()), f"{phone}: {taken}")
        require({address.lstrip("+") for address in world.graph.addresses()[before:]} == {digits}, world.graph.addresses())


def case_json_numbers(world: World) -> None:
    for path, phone in (
        (None, 573001234561),
        (None, 573001234562.0),
        ("/api/send-message", 573001234563),
    ):
        answer = world.text(phone) if path is None else world.post(path, {"phone": phone, "message": "Hola"})
        require(is_accepted(answer) and world.graph.sent_to(str(int(phone))), answer)
    added = world.post("/suppressions", {"phones": [573001234564, "573001234565"]})
    require(added[1]["data"]["added"] == 2 and world.is_suppressed("573001234564"), added)
    for phone in (573001234561.5, True, [573001234561], -573001234561):
        answer = world.text(phone)
        require(answer[0] == 400 and "phone" in str(answer[1]), answer)
