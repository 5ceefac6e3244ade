#!/usr/bin/env python3
"""Writes countries.txt beside this file from the metadata of libphonenumber (Apache-2.0).

    pip install phonenumbers==9.0.20
    python crates/relevo-domain/src/numbering_plan/make.py

A line describes one calling code:

    code;countries, the main one first;name in English;name in Spanish;trunk prefix;mobile;lengths=prefixes …

A national number (what follows the calling code) fits when its length is among the lengths of a prefix
that it begins with. Prefixes have three digits at most; `31-36` is a range; `*` is every prefix. `mobile` has the first
digits and lengths of mobile numbers, `3/10`: new ranges of mobile numbers open without notice.
"""

from __future__ import annotations

import re._constants as op
import re._parser as sre
from pathlib import Path

import phonenumbers
from phonenumbers import geocoder

DEPTH = 3
KINDS = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan",
    "voicemail",
)  # fmt: skip

# Names that the metadata lacks.
NAMES = {"AC": ("Ascension Island", "Isla Ascensión"), "XK": ("Kosovo", "Kosovo")}

# A language is a set of (the first three digits, length).
Language = set[tuple[str, int]]
EMPTY: Language = {("", 0)}


def concat(left: Language, right: Language) -> Language:
    return {((a + b)[:DEPTH] if m < DEPTH else a, m + n) for a, m in left for b, n in right}


def digits(node: tuple) -> str:
    kind, value = node
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.RANGE:
        return "".join(map(chr, range(value[0], value[1] + 1)))
    assert (kind, value) == (op.CATEGORY, op.CATEGORY_DIGIT), node
    return "0123456789"


def language(nodes: sre.SubPattern) -> Language:
    """What a pattern matches. Raises for what libphonenumber's patterns do not contain."""
    found = EMPTY
    for kind, value in nodes:
        if kind is op.LITERAL:
            part = {(chr(value), 1)}
        elif kind is op.IN:
            part = {(digit, 1) for node in value for digit in digits(node)}
        elif kind is op.BRANCH:
            part = set().union(*(language(branch) for branch in value[1]))
        elif kind is op.SUBPATTERN:
            part = language(value[3])
        elif kind is op.MAX_REPEAT:
            low, high, body = value
            one, part, power = language(body), set(), EMPTY
            for n in range(high + 1):
                part |= power if n >= low else set()
                power = concat(power, one)
        else:
            raise ValueError(f"{kind} in a pattern")
        found = concat(found, part)
    return found


def national_numbers(regions: tuple[str, ...], kinds: tuple[str, ...]) -> Language:
    found: Language = set()
    for region in regions:
        metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
        for kind in kinds:
            described = getattr(metadata, kind)
            if described is not None and described.national_number_pattern:
                lengths = described.possible_length
                words = language(sre.parse(described.national_number_pattern))
                found |= {(prefix, length) for prefix, length in words if length in lengths}
    return found


def shortest_prefixes(words: Language, prefix: str = "") -> dict[str, frozenset[int]]:
    """The lengths of each prefix; prefixes whose extensions all have the same lengths are not extended."""
    below = {word for word in words if word[0].startswith(prefix)}
    lengths = frozenset(length for _, length in below)
    if not below or len(prefix) == DEPTH:
        return {prefix: lengths}
    extended: dict[str, frozenset[int]] = {}
    for digit in "0123456789":
        extended |= shortest_prefixes(words, prefix + digit)
    if set(extended.values()) == {lengths}:
        return {prefix: lengths}
    return extended


def ranges(prefixes: list[str]) -> str:
    written: list[list[str]] = []
    for prefix in sorted(prefixes, key=lambda p: (len(p), p)):
        last = written[-1] if written else None
        if last and len(last[-1]) == len(prefix) and int(last[-1]) + 1 == int(prefix):
            last[1:] = [prefix]
        else:
            written.append([prefix])
    return ",".join("-".join(part) for part in written) if prefixes != [""] else "*"


def rules(words: Language) -> str:
    by_lengths: dict[frozenset[int], list[str]] = {}
    for prefix, lengths in shortest_prefixes(words).items():
        if lengths:
            by_lengths.setdefault(lengths, []).append(prefix)
    parts = sorted(by_lengths.items(), key=lambda item: sorted(item[0]))
    return " ".join(f"{'/'.join(map(str, sorted(lengths)))}={ranges(prefixes)}" for lengths, prefixes in parts)


def main() -> None:
    lines = []
    for code, regions in sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()):
        if regions == ("001",):
            continue
        known = [geocoder._region_display_name(regions[0], language) for language in ("en", "es")]
        names = known if all(known) else NAMES[regions[0]]
        metadata = phonenumbers.PhoneMetadata.metadata_for_region(regions[0])
        trunk = metadata.national_prefix or ""
        mobile = {(prefix[0], length) for prefix, length in national_numbers(regions, ("mobile",))}
        classes = ",".join(f"{first}/{length}" for first, length in sorted(mobile))
        fields = [str(code), ",".join(regions), *names, trunk, classes, rules(national_numbers(regions, KINDS))]
        assert all(fields[:4]) and not any(";" in field for field in fields), fields
        lines.append(";".join(fields))
    Path(__file__).with_name("countries.txt").write_text("\n".join(lines) + "\n")


main()
