//! The two patches that need no schema: JSON merge patch (RFC 7386) and JSON patch (RFC 6902).
//!
//! A stranger's JSON patch is bounded: in how many operations it has, and in how much its `copy` operations may add, since
//! a dozen of copies, each of all before it, would otherwise fill the memory.

use json_patch::{Patch, PatchErrorKind, PatchOperation, TestOperation};
use serde_json::Value;

/// More operations than anybody writes, and as many as upstream takes.
pub const OPERATIONS_MAX: usize = 10_000;
/// How much JSON the copies of one patch may add, in bytes.
pub const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Why a patch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is not one: HTTP 400.
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// The patch is too large: HTTP 413.
    #[error("{0}")]
    TooLarge(String),
    /// The patch does not fit the object: HTTP 422.
    #[error("{0}")]
    Inapplicable(String),
}

/// Applies an RFC 7386 merge patch: null removes, objects merge, all else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// Applies an RFC 6902 patch. After an error the target is half patched: throw it away.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {operations}"
        )));
    }
    let Patch(operations) =
        serde_json::from_value(patch.clone()).map_err(|error| PatchError::Malformed(error.to_string()))?;
    let mut copied = 0;
    for operation in &operations {
        if let PatchOperation::Copy(copy) = operation {
            copied += target.pointer(copy.from.as_str()).map_or(0, encoded_length);
            if copied > COPIED_BYTES_MAX {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                     limit {COPIED_BYTES_MAX}"
                )));
            }
        }
        if matches!(operation, PatchOperation::Test(test) if finds_nothing_where_nothing_is_wanted(test, target)) {
            continue;
        }
        json_patch::patch_unsafe(target, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Inapplicable(explain(operation, &error.kind)))?;
    }
    Ok(())
}

/// Upstream takes a member that is not there for null, unlike RFC 6902: clients test so that nobody has set a field before
/// they add it, such as the first finalizer.
fn finds_nothing_where_nothing_is_wanted(test: &TestOperation, target: &Value) -> bool {
    let parent = test.path.parent().and_then(|parent| target.pointer(parent.as_str()));
    test.value.is_null() && parent.is_some_and(Value::is_object) && target.pointer(test.path.as_str()).is_none()
}

/// In the words of the library that upstream uses: clients and tests look for them.
fn explain(operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    match (operation, kind) {
        (PatchOperation::Test(_), _) => format!("testing value {path} failed: test failed"),
        (PatchOperation::Add(_), _) => {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Remove(_), _) => {
            format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        (PatchOperation::Move(op), PatchErrorKind::InvalidFromPointer) => {
            format!("move operation does not apply: doc is missing from path: {}: missing value", op.from)
        }
        (PatchOperation::Copy(op), PatchErrorKind::InvalidFromPointer) => {
            format!("copy operation does not apply: doc is missing from path: {}: missing value", op.from)
        }
        (PatchOperation::Move(_), PatchErrorKind::CannotMoveInsideItself) => {
            format!("move operation does not apply: {path} lies in what is moved")
        }
        (PatchOperation::Move(_), _) => {
            format!("move operation does not apply: doc is missing destination path: {path}: missing value")
        }
        (PatchOperation::Copy(_), _) => {
            format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
        }
    }
}

fn encoded_length(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting bytes does not fail");
    count.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_removes_nulls_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut target, &json!({"a": {"b": null, "c": [3]}, "d": {"e": 1}}));
        assert_eq!(target, json!({"a": {"c": [3]}, "d": {"e": 1}}));
    }

    #[test]
    fn json_patch_applies_or_says_why_not() {
        let mut target = json!({"a": [1, 2], "x~y/z": 1});
        let patch = json!([{"op": "test", "path": "/a/0", "value": 1}, {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/x~0y~1z"}, {"op": "copy", "from": "/a", "path": "/b"},
            {"op": "move", "from": "/b/0", "path": "/c"}, {"op": "replace", "path": "/a/0", "value": null}]);
        json(&mut target, &patch).unwrap();
        assert_eq!(target, json!({"a": [null, 2, 3], "b": [2, 3], "c": 1}));
        for (patch, message) in [
            (json!([{"op": "test", "path": "/c", "value": 2}]), "testing value /c failed: test failed"),
            (
                json!([{"op": "remove", "path": "/no"}]),
                "remove operation does not apply: doc is missing path: \"/no\": missing value",
            ),
            (
                json!([{"op": "add", "path": "/no/x", "value": 1}]),
                "add operation does not apply: doc is missing path: \"/no/x\": missing value",
            ),
        ] {
            assert_eq!(json(&mut target.clone(), &patch).unwrap_err().to_string(), message);
        }
        assert!(matches!(json(&mut target, &json!({"op": "add"})), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn json_patch_takes_a_missing_member_for_null() {
        let add = |path: &str| json!([{"op": "test", "path": path, "value": null}, {"op": "add", "path": "/metadata/finalizers", "value": ["a"]}]);
        let mut target = json!({"metadata": {}});
        json(&mut target, &add("/metadata/finalizers")).unwrap();
        assert_eq!(target, json!({"metadata": {"finalizers": ["a"]}}));
        // What is there, what has no parent and what lies outside a list are no nulls.
        for path in ["/metadata/finalizers", "/spec/field", "/metadata/finalizers/1"] {
            assert!(matches!(json(&mut target, &add(path)), Err(PatchError::Inapplicable(_))), "{path}");
        }
    }

    #[test]
    fn json_patch_is_bounded() {
        let operations = vec![json!({"op": "test", "path": "", "value": 1}); OPERATIONS_MAX + 1];
        assert!(matches!(json(&mut json!(1), &operations.into()), Err(PatchError::TooLarge(_))));
        // Each copy doubles the object: unbounded, 40 of them would want a terabyte.
        let doubling: Vec<_> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
        let mut target = json!({"x": "y".repeat(100)});
        assert!(matches!(json(&mut target, &doubling.into()), Err(PatchError::TooLarge(_))));
    }
}
