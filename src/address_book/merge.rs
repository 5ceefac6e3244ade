//! Changes to the data of an entry.

use serde_json::{Map, Value};

/// The value that removes a key instead of setting it.
pub const DELETE: &str = "__DELETE__";

/// Sets the top-level keys of `data` to those of `changes`; nested objects are replaced as a whole. [`DELETE`] removes
/// a key.
pub(super) fn merge(data: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (key, value) in changes {
        if value.as_str() == Some(DELETE) {
            data.remove(key);
        } else {
            data.insert(key.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_sets_and_removes_top_level_keys_only() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let mut data = object(json!({ "a": 1, "b": 2, "deep": { "x": 1, "y": 2 } }));
        let changes =
            object(json!({ "a": "__DELETE__", "c": null, "deep": { "x": 9 }, "none": "__DELETE__" }));
        merge(&mut data, &changes);
        assert_eq!(Value::Object(data), json!({ "b": 2, "c": null, "deep": { "x": 9 } }));
    }
}
