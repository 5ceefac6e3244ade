//! Which crate and which module may import which other. The tables are the architecture; this test compares the manifests
//! and the source with them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

mod handlers;
mod source;
mod terms;

use std::collections::HashMap;
use std::fs;

use source::{lines_of, rust_files};

/// The crates, lowest first. A crate may depend on the crates that its row names; its manifest names the same ones.
const CRATES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("metrics", &[]),
    ("store", &["clock", "domain", "metrics"]),
    ("egress", &["domain"]),
    ("provider", &["clock", "domain", "egress", "store"]),
    ("cloud-api", PROVIDER),
    ("linked-device", PROVIDER),
    ("recipients-file", &["domain"]),
    ("sandbox", &["clock", "domain"]),
    ("sandbox-web", &["clock", "domain", "linked-device"]),
];

/// What an implementation of the provider's trait may depend on.
const PROVIDER: &[&str] = &["clock", "domain", "egress", "metrics", "provider", "store"];

/// The modules of the node, lowest first. A module may import the modules and crates (`relevo_…`) that its row names;
/// every named module stands above it in this list.
const ROOMS: &[(&str, &[&str])] = &[
    ("telemetry", &[]),
    ("supervisor", &["relevo_domain"]),
    ("provider", &["relevo_domain", "relevo_provider", "relevo_cloud_api", "relevo_linked_device"]),
    ("events", &["relevo_domain", "relevo_metrics", "relevo_store"]),
    ("queue", &["relevo_domain", "relevo_clock", "relevo_metrics", "relevo_store", "supervisor", "events"]),
    ("retry", &["relevo_domain", "relevo_clock", "supervisor", "queue"]),
    ("address_book", &["relevo_domain", "relevo_clock", "relevo_metrics", "relevo_store"]),
    ("suppression", &["relevo_domain", "relevo_clock", "relevo_metrics", "relevo_store"]),
    (
        "relay",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_metrics",
            "relevo_store",
            "relevo_egress",
            "supervisor",
            "address_book",
        ],
    ),
    ("media", &["relevo_domain", "relevo_clock", "relevo_metrics", "relevo_store", "relevo_provider"]),
    (
        "inbound",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_metrics",
            "relevo_store",
            "relevo_cloud_api",
            "events",
            "queue",
            "address_book",
            "suppression",
            "relay",
            "media",
        ],
    ),
    (
        "instance",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_metrics",
            "relevo_store",
            "relevo_egress",
            "relevo_provider",
            "supervisor",
            "provider",
            "events",
            "queue",
            "retry",
            "media",
            "inbound",
        ],
    ),
    (
        "bulk",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_store",
            "relevo_recipients_file",
            "supervisor",
            "events",
            "queue",
            "instance",
        ],
    ),
    (
        "webhook",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_metrics",
            "relevo_store",
            "relevo_egress",
            "supervisor",
            "events",
        ],
    ),
    ("accounts", &["relevo_domain", "relevo_clock", "relevo_store", "supervisor", "instance", "webhook"]),
    (
        "http",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_metrics",
            "events",
            "address_book",
            "suppression",
            "relay",
            "media",
            "inbound",
            "queue",
            "instance",
            "bulk",
            "webhook",
            "accounts",
        ],
    ),
    (
        "config",
        &[
            "relevo_domain",
            "relevo_clock",
            "relevo_store",
            "relevo_egress",
            "relevo_provider",
            "telemetry",
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
            "relevo_domain",
            "relevo_clock",
            "relevo_metrics",
            "relevo_store",
            "relevo_egress",
            "relevo_provider",
            "relevo_sandbox",
            "relevo_sandbox_web",
            "supervisor",
            "events",
            "queue",
            "retry",
            "address_book",
            "suppression",
            "relay",
            "media",
            "inbound",
            "instance",
            "bulk",
            "webhook",
            "accounts",
            "http",
            "config",
        ],
    ),
    ("cli", &["telemetry", "config", "app"]),
];

#[test]
fn every_row_names_only_what_stands_above_it() {
    for (table, crates) in [(CRATES, true), (ROOMS, false)] {
        let mut above = Vec::new();
        for (name, imports) in table {
            for import in imports.iter().filter(|import| crates || !import.starts_with("relevo_")) {
                assert!(
                    above.contains(import),
                    "{name} may not import {import}: it is not above it in the table"
                );
            }
            above.push(name);
        }
    }
}

#[test]
fn modules_import_what_their_rows_name() {
    let mut breaches = Vec::new();
    let mut used: HashMap<(&str, &str), bool> = HashMap::new();
    for (room, imports) in ROOMS {
        used.extend(imports.iter().map(|import| ((*room, *import), false)));
        for (place, line) in lines_of(room) {
            for target in imports_of(&line) {
                if let Some(import) = imports.iter().find(|import| **import == target) {
                    used.insert((*room, *import), true);
                } else if target != *room {
                    breaches.push(format!("{place}: {room} imports {target}"));
                }
            }
            if line.contains("super::super::") {
                breaches.push(format!("{place}: use `crate::`, which the table sees"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    let unused: Vec<_> = used.iter().filter(|(_, seen)| !**seen).map(|(import, _)| import).collect();
    assert!(unused.is_empty(), "the table permits imports that no file has: {unused:?}");
}

#[test]
fn crates_depend_on_what_their_rows_name() {
    for (name, imports) in CRATES {
        let manifest = manifest(&format!("crates/relevo-{name}/Cargo.toml"));
        let mut found: Vec<_> = table(&manifest, "dependencies")
            .filter_map(|dependency| dependency.strip_prefix("relevo-").map(str::to_owned))
            .collect();
        found.sort();
        assert_eq!(found, *imports, "the relevo crates in the manifest of relevo-{name}");
    }
}

#[test]
fn every_module_and_crate_is_in_the_tables() {
    for entry in fs::read_dir("src").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let room = name.trim_end_matches(".rs");
        if !["lib", "main"].contains(&room) {
            assert!(ROOMS.iter().any(|(known, _)| *known == room), "src/{name} is not in the table");
        }
    }
    for entry in fs::read_dir("crates").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = CRATES.iter().any(|(known, _)| format!("relevo-{known}") == name);
        assert!(known, "crates/{name} is not in the table");
    }
}

/// sled's types stay in the store. The client's licence (AGPL-3.0 in part) and its switch that accepts any certificate
/// stay in one crate, which restricts such a client to this machine.
#[test]
fn each_guarded_dependency_is_in_one_manifest() {
    let manifests: Vec<_> = fs::read_dir("crates")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("Cargo.toml").display().to_string())
        .chain(["Cargo.toml".to_owned()])
        .collect();
    for (dependency, owner) in [("sled", "relevo-store"), ("whatsapp-rust", "relevo-linked-device")] {
        for path in &manifests {
            let manifest = manifest(path);
            let sections = ["dependencies", "dev-dependencies"];
            let named =
                sections.iter().any(|section| table(&manifest, section).any(|name| name == dependency));
            assert_eq!(named, path.contains(&format!("{owner}/")), "{path} and {dependency}");
        }
    }
    for path in &manifests {
        let named = fs::read_to_string(path).unwrap().contains("danger-skip-cert-chain-verify");
        assert_eq!(named, path.contains("relevo-linked-device/"), "{path} and the check of certificates");
    }
}

#[test]
fn actors_are_found_by_handles() {
    for (room, _) in ROOMS {
        for (place, line) in lines_of(room) {
            assert!(
                !line.contains("ractor::registry"),
                "{place}: the registry is process-global; pass handles"
            );
        }
    }
}

#[test]
fn files_stay_small() {
    for path in rust_files(&["src", "crates"]) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 520, "{path} has {lines} lines; does it hold one concept?");
    }
}

fn manifest(path: &str) -> toml::Table {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

/// The names in one table of a manifest.
fn table<'a>(manifest: &'a toml::Table, section: &str) -> impl Iterator<Item = &'a str> {
    let names = manifest.get(section).and_then(toml::Value::as_table);
    names.into_iter().flat_map(|names| names.keys().map(String::as_str))
}

/// The modules and crates that a line of code names: `crate::queue::…`, `crate::{queue, retry}`, `relevo_store::…`.
fn imports_of(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found: Vec<_> = CRATES
        .iter()
        .map(|(name, _)| format!("relevo_{}", name.replace('-', "_")))
        .filter(|name| line.contains(&format!("{name}::")) || line.contains(&format!("use {name} ")))
        .collect();
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
