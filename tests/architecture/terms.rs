//! Names are the words that a reader who knows the field searches for. `docs/GLOSSARY.md` has the terms.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::source::{code_of, rust_files};

/// File stems that were replaced by standard terms. They do not come back.
const RETIRED_FILES: &[&str] = &[
    "advance",
    "ahead",
    "api_door",
    "arrivals",
    "book",
    "courier",
    "dead",
    "desk",
    "doorman",
    "draft",
    "earlier",
    "feed",
    "flask",
    "hearing",
    "hub",
    "kept",
    "kinds",
    "lanes",
    "later",
    "library",
    "line",
    "lives",
    "moment",
    "names",
    "notes",
    "nudges",
    "opting",
    "pace",
    "parting",
    "phone_lines",
    "places",
    "pulse",
    "ratchets",
    "reading",
    "readings",
    "refer",
    "replays",
    "scratch",
    "seen",
    "shelf",
    "tails",
    "taking",
    "telling",
    "tidying",
    "topology",
    "upkeep",
    "verdict",
    "vouching",
    "wishes",
    "wrapping",
    "writing",
];

/// Type names that said too little or meant several things. A qualified name (`RowRecord`, `PageQuery`) replaces them.
const RETIRED_TYPES: &[&str] = &[
    "Answer",
    "Asked",
    "Body",
    "Book",
    "Courier",
    "Desk",
    "Doorman",
    "Ear",
    "Entry",
    "Fate",
    "Frame",
    "Happening",
    "Haste",
    "Hungry",
    "Keep",
    "Kept",
    "Known",
    "Manner",
    "Noted",
    "Nudges",
    "Parting",
    "Place",
    "Press",
    "Road",
    "Room",
    "Row",
    "Said",
    "Seats",
    "Shared",
    "Standing",
    "Taken",
    "Telling",
    "Tidying",
    "Told",
    "Trouble",
    "Turn",
    "Wanted",
    "Wish",
];

/// Nouns of the field and resources of the API that have the form of a gerund or participle.
const PERMITTED_STEMS: &[&str] =
    &["leasing", "lid_mapping", "pairing", "parked", "retry_failed", "scheduled", "sending_hours"];

/// Type names that are generic by convention: the module qualifies them (`queue::Error`).
const GENERIC_TYPES: &[&str] =
    &["Arguments", "Error", "Handle", "Inner", "Msg", "Options", "Result", "State"];

#[test]
fn file_names_are_nouns_of_the_field() {
    let mut wrong = Vec::new();
    for path in rust_files(&["src", "crates", "tests", "benches"]) {
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        let is_verbal = stem.ends_with("ing") || stem.ends_with("ed");
        if RETIRED_FILES.contains(&stem.as_str()) {
            wrong.push(format!("{path}: `{stem}` is a retired name; docs/GLOSSARY.md has the term"));
        } else if is_verbal && !PERMITTED_STEMS.contains(&stem.as_str()) {
            wrong.push(format!("{path}: name the file by a noun, not by a gerund or participle"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_type_name_has_one_meaning() {
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in rust_files(&["src", "crates"]) {
        for (_, line) in code_of(&path) {
            if let Some(name) = declared_type(&line) {
                declared.entry(name.to_owned()).or_default().push(path.clone());
            }
        }
    }
    let mut wrong = Vec::new();
    for (name, mut places) in declared {
        places.dedup();
        if RETIRED_TYPES.contains(&name.as_str()) {
            wrong.push(format!("`{name}` is a retired name: {}", places.join(", ")));
        } else if places.len() > 2 && !GENERIC_TYPES.contains(&name.as_str()) {
            wrong.push(format!("`{name}` is declared in {} modules: {}", places.len(), places.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The type that a line declares at the level of a module.
fn declared_type(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let rest =
        ["struct ", "enum ", "trait ", "union "].iter().find_map(|keyword| line.strip_prefix(keyword))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    rest.get(..end)
}

#[test]
fn every_file_says_what_it_holds() {
    let silent: Vec<_> = rust_files(&["src", "crates", "tests", "benches"])
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "these files do not open with `//!`:\n{}", silent.join("\n"));
}

/// Paths in backticks that contain a slash or end in `.rs`: relative to the repository, to `src/`, or a folder.
#[test]
fn documents_name_paths_that_exist() {
    let mut missing = Vec::new();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/GLOSSARY.md"] {
        let text = fs::read_to_string(document).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in line.split('`').skip(1).step_by(2).filter(|word| is_path(word)) {
                let exists = ["", "src/"].iter().any(|base| Path::new(&format!("{base}{word}")).exists());
                if !exists {
                    missing.push(format!("{document}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "paths that do not exist:\n{}", missing.join("\n"));
}

fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    plain
        && word.contains('/')
        && !word.starts_with('/')
        && (word.ends_with(".rs") || word.ends_with(".py") || word.ends_with('/'))
}
