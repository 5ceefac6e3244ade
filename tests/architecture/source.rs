//! Reads the project's Rust files.

use std::fs;
use std::path::Path;

/// The Rust files below the given folders, sorted.
pub fn rust_files(folders: &[&str]) -> Vec<String> {
    folders.iter().flat_map(|folder| files_under(Path::new(folder))).collect()
}

/// The Rust files of one module of `src/`.
pub fn files_of(module: &str) -> Vec<String> {
    let folder = Path::new("src").join(module);
    let file = folder.with_extension("rs");
    let files: Vec<_> =
        [folder, file].iter().filter(|path| path.exists()).flat_map(|path| files_under(path)).collect();
    assert!(!files.is_empty(), "the table names {module}, but src has no such module");
    files
}

/// The statements of a module, with their places. Comments are left out; imports that rustfmt broke are joined.
pub fn lines_of(module: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for path in files_of(module) {
        let mut pending: Option<(usize, String)> = None;
        for (number, line) in code_of(&path) {
            let (first, mut statement) = pending.take().unwrap_or((number, String::new()));
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

/// The lines of a file that are not comments, with their numbers.
pub fn code_of(path: &str) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines.map(|(index, line)| (index + 1, line.to_owned())).collect()
}

/// The Rust files in a folder and the folders in it, or the file itself.
fn files_under(path: &Path) -> Vec<String> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files.extend(files_under(&entry.unwrap().path()));
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.display().to_string());
    }
    files.sort();
    files
}
