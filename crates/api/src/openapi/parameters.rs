//! The parameters of operations: each is described once, and operations name the set that they take.

use serde_json::{Map, Value, json};

use super::Dialect;

/// A parameter in the path or the query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    place: &'static str,
    kind: &'static str,
    about: &'static str,
}

const fn query(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: "query", kind, about }
}

const fn path(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: "path", kind: "string", about }
}

pub(super) static NAME: Parameter = path("name", "name of the object");
pub(super) static NAMESPACE: Parameter = path("namespace", "the object's namespace");
pub(super) static REST: Parameter = path("path", "what follows in the path: passed on");
pub(super) static PRETTY: Parameter = query("pretty", "string", "If 'true', the answer is indented.");
static DRY_RUN: Parameter =
    query("dryRun", "string", "'All': do everything but store the result. Any other value is an error.");
static FIELD_MANAGER: Parameter =
    query("fieldManager", "string", "Who makes the change: at most 128 printable characters. Apply requests need it.");
static FIELD_VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "What becomes of unknown and repeated fields. 'Ignore': they are dropped. 'Warn' (the default): they are dropped and the answer has a warning for each. 'Strict': the request is refused.",
);
static FORCE: Parameter = query(
    "force",
    "boolean",
    "Whether an apply request takes over the fields of other managers that it conflicts with.",
);
static GRACE_PERIOD: Parameter = query(
    "gracePeriodSeconds",
    "integer",
    "Seconds until the object is deleted; zero deletes at once. Without it, the kind's own default holds.",
);
static IGNORE_READ_ERRORS: Parameter = query(
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Deletes an object that cannot be read from the store, without regard for its finalizers.",
);
static ORPHAN: Parameter =
    query("orphanDependents", "boolean", "Deprecated: use propagationPolicy. Whether dependents stay.");
static PROPAGATION: Parameter = query(
    "propagationPolicy",
    "string",
    "What becomes of dependents: 'Orphan' (they stay), 'Background' (deleted later), 'Foreground' (deleted first).",
);
static CONTINUE: Parameter = query("continue", "string", "The token of the list's previous page.");
static FIELD_SELECTOR: Parameter = query("fieldSelector", "string", "Only objects whose fields have these values.");
static LABEL_SELECTOR: Parameter = query("labelSelector", "string", "Only objects whose labels match.");
static LIMIT: Parameter = query("limit", "integer", "The most objects in a page.");
static RESOURCE_VERSION: Parameter = query("resourceVersion", "string", "The resource version to read at or from.");
static VERSION_MATCH: Parameter =
    query("resourceVersionMatch", "string", "How resourceVersion holds for lists: 'Exact' or 'NotOlderThan'.");
static SEND_INITIAL: Parameter = query(
    "sendInitialEvents",
    "boolean",
    "Whether a watch begins with the present objects and a bookmark behind them.",
);
static TIMEOUT: Parameter = query("timeoutSeconds", "integer", "The longest that the list or watch may take.");
static BOOKMARKS: Parameter = query("allowWatchBookmarks", "boolean", "Whether a watch may have bookmark events.");
static WATCH: Parameter = query("watch", "boolean", "Whether to send changes instead of a list.");
static COMMAND: Parameter = query("command", "string", "The command and its arguments, one each; no shell.");
static CONTAINER: Parameter =
    query("container", "string", "The container; may be left out where the pod has only one.");
static STDIN: Parameter = query("stdin", "boolean", "Whether the container's standard input is connected.");
static STDOUT: Parameter = query("stdout", "boolean", "Whether the container's standard output is connected.");
static STDERR: Parameter = query("stderr", "boolean", "Whether the container's standard error is connected.");
static TTY: Parameter = query("tty", "boolean", "Whether there is a terminal.");
static PORTS: Parameter = query("ports", "integer", "The ports to forward, one each.");
static PROXY_PATH: Parameter = query("path", "string", "The path of the request that is passed on.");
static FOLLOW: Parameter = query("follow", "boolean", "Whether to go on as the log grows.");
static INSECURE: Parameter =
    query("insecureSkipTLSVerifyBackend", "boolean", "Whether the node's certificate is not verified.");
static LIMIT_BYTES: Parameter = query("limitBytes", "integer", "The most bytes to send.");
static PREVIOUS: Parameter = query("previous", "boolean", "Whether to read the log of the container's previous run.");
static SINCE: Parameter = query("sinceSeconds", "integer", "Only lines of this many last seconds.");
static STREAM: Parameter = query("stream", "string", "'All', 'Stdout' or 'Stderr'.");
static TAIL: Parameter = query("tailLines", "integer", "Only this many last lines.");
static TIMESTAMPS: Parameter = query("timestamps", "boolean", "Whether lines begin with their time.");

/// A set of parameters.
pub(super) type Parameters = &'static [&'static Parameter];

pub(super) static NONE: Parameters = &[];
pub(super) static WRITE: Parameters = &[&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION];
pub(super) static PATCH: Parameters = &[&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION, &FORCE];
pub(super) static DELETE: Parameters = &[&DRY_RUN, &GRACE_PERIOD, &IGNORE_READ_ERRORS, &ORPHAN, &PROPAGATION];
pub(super) static LIST: Parameters = &[
    &BOOKMARKS,
    &CONTINUE,
    &FIELD_SELECTOR,
    &LABEL_SELECTOR,
    &LIMIT,
    &RESOURCE_VERSION,
    &VERSION_MATCH,
    &SEND_INITIAL,
    &TIMEOUT,
    &WATCH,
];
pub(super) static DELETE_COLLECTION: Parameters = &[
    &CONTINUE,
    &DRY_RUN,
    &FIELD_SELECTOR,
    &GRACE_PERIOD,
    &IGNORE_READ_ERRORS,
    &LABEL_SELECTOR,
    &LIMIT,
    &ORPHAN,
    &PROPAGATION,
    &RESOURCE_VERSION,
    &VERSION_MATCH,
    &SEND_INITIAL,
    &TIMEOUT,
];
static EXEC: Parameters = &[&COMMAND, &CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY];
static ATTACH: Parameters = &[&CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY];
static FORWARD: Parameters = &[&PORTS];
static PROXY: Parameters = &[&PROXY_PATH];
static LOG: Parameters =
    &[&CONTAINER, &FOLLOW, &INSECURE, &LIMIT_BYTES, &PREVIOUS, &SINCE, &STREAM, &TAIL, &TIMESTAMPS];

/// What a subresource takes besides what all take.
pub(super) fn of_subresource(name: &str) -> Parameters {
    match name {
        "attach" => ATTACH,
        "exec" => EXEC,
        "log" => LOG,
        "portforward" => FORWARD,
        "proxy" => PROXY,
        _ => NONE,
    }
}

impl Parameter {
    pub(super) fn to_json(&self, dialect: Dialect) -> Value {
        let mut parameter = Map::from_iter([
            ("name".to_owned(), Value::from(self.name)),
            ("in".to_owned(), self.place.into()),
            ("description".to_owned(), self.about.into()),
        ]);
        if self.place == "path" {
            parameter.insert("required".into(), true.into());
        }
        match dialect {
            Dialect::V2 => parameter.extend([("type".to_owned(), self.kind.into()), unique()]),
            Dialect::V3 => {
                let schema = Map::from_iter([("type".to_owned(), Value::from(self.kind)), unique()]);
                parameter.insert("schema".into(), schema.into());
            }
        }
        Value::Object(parameter)
    }

    /// In v2, what all operations share is written once. Clients look for the two that are in `IN_LINE` by name and follow
    /// no reference; names in the path mean something else in each.
    pub(super) fn to_reference(&self, dialect: Dialect) -> Value {
        if dialect == Dialect::V2 && self.place == "query" && !IN_LINE.contains(&self.name) {
            return json!({"$ref": format!("#/parameters/{}", self.name)});
        }
        self.to_json(dialect)
    }
}

const IN_LINE: &[&str] = &["dryRun", "fieldValidation"];

fn unique() -> (String, Value) {
    ("uniqueItems".to_owned(), true.into())
}

/// The parameters that v2's operations refer to.
pub(super) fn shared() -> Value {
    let sets = [WRITE, PATCH, DELETE, LIST, DELETE_COLLECTION, EXEC, ATTACH, FORWARD, PROXY, LOG, &[&PRETTY]];
    let shared = sets.iter().flat_map(|set| set.iter()).filter(|parameter| !IN_LINE.contains(&parameter.name));
    shared.map(|parameter| (parameter.name.to_owned(), parameter.to_json(Dialect::V2))).collect()
}
