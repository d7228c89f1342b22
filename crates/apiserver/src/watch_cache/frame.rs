//! Event frames: the bytes that a watch sends for one event, of which the cached object's own bytes are a slice.

use bytes::Bytes;

use super::EventKind;

const REVISION: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";
const END: &[u8] = b"}\n";

/// `{"type":"ADDED","object":...}` and a line feed, from the stored bytes and their revision.
pub fn frame(kind: EventKind, stored: &[u8], revision: u64) -> Bytes {
    let mut out = Vec::with_capacity(kind.head().len() + stored.len() + 48);
    out.extend_from_slice(kind.head());
    api::object::with_revision(stored, revision, &mut out);
    out.extend_from_slice(END);
    // The capacity was a guess, and the frame lives as long as its object.
    out.shrink_to_fit();
    out.into()
}

/// The object's bytes within its frame. Shares the frame's memory.
pub fn object_in_frame(kind: EventKind, frame: &Bytes) -> Bytes {
    frame.slice(kind.head().len()..frame.len() - END.len())
}

/// A frame around the bytes of an object that carries its revision already.
pub(crate) fn wrap(kind: EventKind, json: &[u8]) -> Bytes {
    [kind.head(), json, END].concat().into()
}

/// Like [`wrap`], with the object's resource version replaced: deletions show the last state at the deleting revision.
pub(crate) fn wrap_restamped(kind: EventKind, json: &[u8], revision: u64) -> Bytes {
    let mut out = Vec::with_capacity(kind.head().len() + json.len() + 24);
    out.extend_from_slice(kind.head());
    restamp(json, revision, &mut out);
    out.extend_from_slice(END);
    out.into()
}

/// Appends an object's bytes with another resource version. The bytes are as [`api::object::with_revision`] made them.
pub fn restamp(json: &[u8], revision: u64, out: &mut Vec<u8>) {
    let Some(start) = json.windows(REVISION.len()).position(|window| window == REVISION).map(|at| at + REVISION.len())
    else {
        out.extend_from_slice(json);
        return;
    };
    let digits = json[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    out.extend_from_slice(&json[..start]);
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(&json[start + digits..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_a_slice_of_its_frame() {
        let stored = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{}}"#;
        let frame = frame(EventKind::Added, stored, 7);
        let object = object_in_frame(EventKind::Added, &frame);
        let with = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"7","name":"a"},"data":{}}"#;
        assert_eq!(object, with);
        assert_eq!(frame, format!("{{\"type\":\"ADDED\",\"object\":{with}}}\n"));
        assert!(frame.as_ptr_range().contains(&object.as_ptr()));
        let deleted = wrap_restamped(EventKind::Deleted, &object, 12);
        assert_eq!(deleted, format!("{{\"type\":\"DELETED\",\"object\":{}}}\n", with.replace("\"7\"", "\"12\"")));
    }
}
