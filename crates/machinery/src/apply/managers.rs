//! Who owns which fields of an object: `metadata.managedFields`.

use serde::Deserialize;
use serde_json::Value;

use super::set::Set;

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Operation {
    /// It applied a configuration.
    Apply,
    /// It wrote in any other way.
    Update,
}

/// One manager with its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Manager {
    /// Its name, such as `kubectl`.
    pub name: String,
    /// How it writes: the same name may do both, and is two managers then.
    pub operation: Operation,
    /// The version in which its fields are named.
    pub api_version: String,
    /// The subresource it writes to; empty for the object itself.
    pub subresource: String,
    /// When its fields last changed by its own doing, in RFC 3339 with seconds; empty where that is not known.
    pub time: String,
    /// Its fields.
    pub fields: Set,
}

impl Manager {
    /// Whether it is the one that writes now: an applier stays the same one in whatever version it applies.
    pub fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As messages of conflicts name it.
    pub fn described(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                text.push_str(&format!(" at {}", self.time));
            }
        }
        text
    }
}

/// The managers of one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Managers(pub Vec<Manager>);

/// An entry that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManagersError(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    manager: String,
    operation: Option<Operation>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    fields_type: String,
    #[serde(default)]
    fields_v1: Option<Set>,
    #[serde(default)]
    subresource: String,
}

impl Entry {
    fn read(self, at: usize) -> Result<Manager, ManagersError> {
        let refuse = |why: String| Err(ManagersError(why));
        let Some(operation) = self.operation else { return refuse("operation must be `Apply` or `Update`".to_owned()) };
        if self.api_version.is_empty() {
            return refuse("apiVersion must not be empty".to_owned());
        }
        match &*self.fields_type {
            "FieldsV1" => {}
            "" => return refuse(format!("missing fieldsType in managed fields entry {at}")),
            other => return refuse(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        Ok(Manager {
            name: self.manager,
            operation,
            api_version: self.api_version,
            subresource: self.subresource,
            time: self.time,
            fields: self.fields_v1.unwrap_or_default(),
        })
    }
}

impl Managers {
    /// Reads encoded `managedFields`.
    pub fn parse(json: &[u8]) -> Result<Self, ManagersError> {
        Self::read(serde_json::from_slice(json))
    }

    /// Reads the `managedFields` of a tree.
    pub fn from_value(value: &Value) -> Result<Self, ManagersError> {
        Self::read(Vec::deserialize(value))
    }

    fn read(entries: Result<Vec<Entry>, serde_json::Error>) -> Result<Self, ManagersError> {
        let entries = entries.map_err(|error| ManagersError(error.to_string()))?;
        let mut managers = Self::default();
        for (at, entry) in entries.into_iter().enumerate() {
            let manager = entry.read(at)?;
            // Of two entries of one manager the later holds.
            managers.0.retain(|other| !other.is(&manager));
            managers.0.push(manager);
        }
        Ok(managers)
    }

    /// Whether nobody owns anything, or nobody kept count.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the same own the same, whenever they came to.
    pub fn same_but_for_times(&self, other: &Self) -> bool {
        let same = |a: &Manager, b: &Manager| a.is(b) && a.api_version == b.api_version && a.fields == b.fields;
        self.0.len() == other.0.len() && self.0.iter().all(|own| other.0.iter().any(|other| same(own, other)))
    }

    /// Encodes `managedFields`, in upstream's order: appliers first, each kind from the oldest to the newest.
    pub fn encode(&self) -> Vec<u8> {
        let mut all: Vec<&Manager> = self.0.iter().collect();
        all.sort_by(|a, b| {
            let key = |manager: &Manager| (manager.operation, manager.time.clone(), manager.name.clone());
            key(a).cmp(&key(b)).then_with(|| (&a.api_version, &a.subresource).cmp(&(&b.api_version, &b.subresource)))
        });
        let mut out = Vec::with_capacity(256 + 512 * all.len());
        out.push(b'[');
        for (at, manager) in all.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            manager.write(&mut out);
        }
        out.push(b']');
        out
    }
}

impl Manager {
    fn write(&self, out: &mut Vec<u8>) {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let before = [("manager", &*self.name), ("operation", operation), ("apiVersion", &self.api_version)];
        let between = [("time", &*self.time), ("fieldsType", "FieldsV1")];
        let mut first = true;
        for (name, text) in before.into_iter().chain(between).filter(|(_, text)| !text.is_empty()) {
            out.extend_from_slice(if std::mem::replace(&mut first, false) { b"{\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            serde_json::to_writer(&mut *out, text).expect("writing JSON to memory does not fail");
        }
        out.extend_from_slice(b",\"fieldsV1\":");
        self.fields.write(out);
        if !self.subresource.is_empty() {
            out.extend_from_slice(b",\"subresource\":");
            serde_json::to_writer(&mut *out, &self.subresource).expect("writing JSON to memory does not fail");
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_read_and_write_as_upstream_has_them() {
        let entries = json!([
            {"manager": "b", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}, "subresource": "status"},
            {"manager": "a", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}},
            {"manager": "z", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}},
            {"manager": "z", "operation": "Apply", "apiVersion": "v2", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}}
        ]);
        let managers = Managers::from_value(&entries).unwrap();
        let written = String::from_utf8(managers.encode()).unwrap();
        assert_eq!(Managers::parse(written.as_bytes()).unwrap().encode(), written.as_bytes());
        let expected = r#"[{"manager":"z","operation":"Apply","apiVersion":"v2","fieldsType":"FieldsV1","fieldsV1":{"f:a":{}}},
            {"manager":"a","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:a":{}}},
            {"manager":"b","operation":"Update","apiVersion":"v1","time":"2026-01-02T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:a":{}},"subresource":"status"}]"#;
        assert_eq!(written, expected.replace("\n            ", ""));
        let described: Vec<_> = managers.0.iter().map(Manager::described).collect();
        assert_eq!(
            described,
            [
                "\"b\" with subresource \"status\" using v1 at 2026-01-02T00:00:00Z",
                "\"a\" using v1 at 2026-01-01T00:00:00Z",
                "\"z\""
            ]
        );
    }

    #[test]
    fn entries_that_are_none_say_why() {
        for (entry, why) in [
            (json!({"apiVersion": "v1", "fieldsType": "FieldsV1"}), "operation must be `Apply` or `Update`"),
            (json!({"operation": "Apply", "fieldsType": "FieldsV1"}), "apiVersion must not be empty"),
            (json!({"operation": "Apply", "apiVersion": "v1"}), "missing fieldsType in managed fields entry 0"),
            (
                json!({"operation": "Apply", "apiVersion": "v1", "fieldsType": "x"}),
                "invalid fieldsType \"x\" in managed fields entry 0",
            ),
        ] {
            assert_eq!(Managers::from_value(&json!([entry])).unwrap_err().to_string(), why);
        }
    }
}
