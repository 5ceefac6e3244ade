//! Which room may open which door. The table is the architecture; this test keeps the source true to it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Lowest first: a room may import only rooms above it in this list, and of those only the ones it names.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("telemetry", &[]),
    ("metrics", &[]),
    ("supervision", &[]),
    ("store", &["domain", "metrics"]),
    ("egress", &["domain"]),
    ("provider", &["domain", "clock", "metrics", "store", "egress"]),
    ("events", &["domain", "metrics", "store"]),
    ("queue", &["domain", "clock", "metrics", "supervision", "store", "events"]),
    ("retry", &["domain", "supervision", "queue"]),
    ("contacts", &["domain", "clock", "metrics", "store"]),
    ("relay", &["domain", "clock", "metrics", "supervision", "store", "egress", "contacts"]),
    ("media", &["domain", "clock", "metrics", "store", "provider"]),
    (
        "inbound",
        &["domain", "clock", "metrics", "store", "provider", "events", "queue", "contacts", "relay", "media"],
    ),
    (
        "instance",
        &[
            "domain",
            "clock",
            "metrics",
            "supervision",
            "store",
            "egress",
            "provider",
            "events",
            "queue",
            "retry",
            "media",
            "inbound",
        ],
    ),
    ("bulk", &["domain", "clock", "supervision", "store", "events", "queue", "instance"]),
    ("webhook", &["domain", "clock", "metrics", "supervision", "store", "egress", "events"]),
    (
        "http",
        &[
            "domain", "clock", "events", "contacts", "relay", "media", "inbound", "queue", "instance",
            "bulk", "webhook",
        ],
    ),
    ("sandbox", &["domain", "clock"]),
    (
        "config",
        &[
            "domain",
            "telemetry",
            "store",
            "egress",
            "provider",
            "queue",
            "retry",
            "relay",
            "media",
            "inbound",
            "instance",
            "bulk",
            "webhook",
            "http",
        ],
    ),
    (
        "app",
        &[
            "domain",
            "clock",
            "metrics",
            "supervision",
            "store",
            "egress",
            "provider",
            "events",
            "queue",
            "retry",
            "contacts",
            "relay",
            "media",
            "inbound",
            "instance",
            "bulk",
            "webhook",
            "http",
            "sandbox",
            "config",
        ],
    ),
    ("cli", &["telemetry", "config", "app"]),
];

#[test]
fn every_door_opens_downward() {
    let mut below = Vec::new();
    for (room, doors) in ROOMS {
        for door in *doors {
            assert!(below.contains(door), "{room} may not name {door}: it is not below it in the table");
        }
        below.push(room);
    }
}

#[test]
fn imports_follow_the_table() {
    let mut breaches = Vec::new();
    let mut used: HashMap<(&str, &str), bool> = HashMap::new();
    for (room, doors) in ROOMS {
        used.extend(doors.iter().map(|door| ((*room, *door), false)));
        for (place, line) in lines_of(room) {
            for target in imports(&line) {
                if let Some(door) = doors.iter().find(|door| **door == target) {
                    used.insert((*room, *door), true);
                } else if target != *room {
                    breaches.push(format!("{place}: {room} imports {target}"));
                }
            }
            if line.contains("super::super::") {
                breaches.push(format!("{place}: climb by `crate::`, so that the table sees it"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    let idle: Vec<_> = used.iter().filter(|(_, seen)| !**seen).map(|(door, _)| door).collect();
    assert!(idle.is_empty(), "the table permits doors that nobody uses: {idle:?}");
}

#[test]
fn every_room_is_in_the_table() {
    for entry in fs::read_dir("src").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let room = name.trim_end_matches(".rs");
        if !["lib", "main"].contains(&room) {
            assert!(ROOMS.iter().any(|(known, _)| *known == room), "src/{name} is not in the table");
        }
    }
}

#[test]
fn sled_stays_behind_the_store_and_the_registry_unused() {
    for (room, _) in ROOMS.iter().filter(|(room, _)| *room != "store") {
        for (place, line) in lines_of(room) {
            assert!(!line.contains("sled::"), "{place}: sled types stay in the store");
            assert!(
                !line.contains("ractor::registry"),
                "{place}: the registry is process-global; pass handles"
            );
        }
    }
}

#[test]
fn files_stay_small() {
    for (room, _) in ROOMS {
        for path in files_of(room) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 520, "{path} has {lines} lines; is it one room?");
        }
    }
}

/// The rooms that a line of code names, alone (`crate::store::…`) or in a group (`crate::{queue, retry}`).
fn imports(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in group.char_indices() {
                    if start && depth == 0 && c.is_alphabetic() {
                        found.push(word(&group[at..]));
                        start = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// Every statement of a room that is not a comment, with its place. Statements that rustfmt broke are joined.
fn lines_of(room: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for path in files_of(room) {
        let text = fs::read_to_string(&path).unwrap();
        let mut pending: Option<(usize, String)> = None;
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let (first, mut statement) = pending.take().unwrap_or((n + 1, String::new()));
            statement.push_str(line.trim());
            if statement.contains("crate::{") && !statement.contains(';') {
                pending = Some((first, statement));
            } else {
                all.push((format!("{path}:{first}"), statement));
            }
        }
    }
    all
}

fn files_of(room: &str) -> Vec<String> {
    fn visit(path: &Path, files: &mut Vec<String>) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| visit(&entry.unwrap().path(), files));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.display().to_string());
        }
    }
    let folder = Path::new("src").join(room);
    let file = folder.with_extension("rs");
    let mut files = Vec::new();
    [folder, file].iter().filter(|path| path.exists()).for_each(|path| visit(path, &mut files));
    assert!(!files.is_empty(), "the table names {room}, but src has no such room");
    files.sort();
    files
}
