//! In which form an answer is wanted, and in which a body is written.

use api::{ApiError, Reason};
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};

use super::query::Query;

/// What an answer shows of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// All of it.
    #[default]
    Whole,
    /// Columns for people: `as=Table`.
    Table,
    /// `as=PartialObjectMetadata` and `PartialObjectMetadataList`.
    Metadata,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Syntax {
    /// `application/json`
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Syntax {
    /// In the order in which a wildcard takes them.
    const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What an endpoint can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Documents as they are: errors, discovery.
    Documents,
    /// Objects of a kind that has a protobuf form, and views of them.
    Objects,
    /// Objects of a kind that has none. Their metadata has one.
    Custom,
    /// Answers to what is posted and not stored: nobody has columns for them.
    Posted,
}

/// What a table's row holds beside its cells: `includeObject`. Sorting by a field takes the whole object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowObject {
    /// `Metadata`: a `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// `Object`: all of it.
    Whole,
    /// `None`
    Nothing,
}

impl RowObject {
    /// Reads the query parameter.
    pub fn parse(parameter: Option<&str>) -> Result<Self, ApiError> {
        match parameter {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("Object") => Ok(Self::Whole),
            Some("None") => Ok(Self::Nothing),
            Some(other) => {
                let message =
                    format!("includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty");
                Err(ApiError::new(Reason::BadRequest, message))
            }
        }
    }
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// What it shows.
    pub view: View,
    /// What the rows of a table hold.
    pub rows: RowObject,
    /// How it is written.
    pub syntax: Syntax,
    /// Whether it may be compressed.
    pub gzip: bool,
    /// Whether JSON is written for people: indented.
    pub pretty: bool,
}

impl Form {
    /// What the client likes best of what there is; JSON when it does not say.
    pub fn of(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Self, ApiError> {
        let gzip = header(headers, &ACCEPT_ENCODING).split(',').any(|encoding| {
            let mut parts = encoding.split(';').map(str::trim);
            parts.next() == Some("gzip") && !parts.any(|part| part == "q=0")
        });
        let pretty = match query.get("pretty") {
            Some(value) => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
            None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| header(headers, &USER_AGENT).starts_with(tool)),
        };
        let basic = Self { gzip, pretty, ..Self::default() };
        let accept = header(headers, &ACCEPT);
        if accept.is_empty() {
            return Ok(basic);
        }
        let accepted = clauses(accept).into_iter().find_map(|clause| clause.choice(offer));
        let (view, syntax, pretty) = accepted.ok_or_else(|| not_acceptable(Syntax::ALL.iter(), ""))?;
        Ok(Self { view, syntax, pretty: basic.pretty || pretty, ..basic })
    }

    /// Refuses what cannot be written event by event.
    pub fn check_streams(self) -> Result<(), ApiError> {
        if self.syntax == Syntax::Yaml {
            return Err(not_acceptable([Syntax::Json, Syntax::Protobuf].iter(), ";stream=watch"));
        }
        Ok(())
    }
}

fn not_acceptable<'a>(offered: impl Iterator<Item = &'a Syntax>, suffix: &str) -> ApiError {
    let offered: Vec<String> = offered.map(|syntax| format!("{}{suffix}", syntax.media_type())).collect();
    let message = format!("only the following media types are accepted: {}", offered.join(", "));
    ApiError::new(Reason::NotAcceptable, message)
}

/// One media range of `Accept`.
#[derive(Debug, Default)]
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

/// The ranges of `Accept`, best first: by quality, then wildcards last, then as they are written. As upstream's library, which
/// also puts a wildcard behind a named type of lower quality; what is no media range is left out.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = Vec::new();
    for clause in accept.split(',').filter_map(Clause::parse) {
        let better = |other: &Clause<'_>| {
            clause.quality > other.quality
                || (clause.kind != "*" && other.kind == "*")
                || (clause.subtype != "*" && other.subtype == "*")
        };
        let at = clauses.iter().rposition(|other| !better(other)).map_or(0, |at| at + 1);
        clauses.insert(at, clause);
    }
    clauses
}

impl<'a> Clause<'a> {
    fn parse(range: &'a str) -> Option<Self> {
        let mut parts = range.split(';');
        let media = parts.next()?.trim();
        let (kind, subtype) = match media.split_once('/') {
            Some((kind, subtype)) => (kind.trim(), subtype.trim()),
            None if media == "*" => ("*", "*"),
            None => return None,
        };
        let mut clause = Self { kind, subtype, quality: 1.0, parameters: Vec::new() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                "q" => clause.quality = value.trim().parse().unwrap_or(0.0),
                name => clause.parameters.push((name, value.trim())),
            }
        }
        Some(clause)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().rfind(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// The first syntax that the range names and the offer has in the view that it asks for.
    fn choice(&self, offer: Offer) -> Option<(View, Syntax, bool)> {
        let named = |syntax: &Syntax| match (self.kind, self.subtype) {
            ("*" | "application", "*") => true,
            (kind, subtype) => syntax.media_type().split_once('/') == Some((kind, subtype)),
        };
        Syntax::ALL.into_iter().filter(named).find_map(|syntax| {
            let view = self.view(offer, syntax)?;
            let streams = match self.get("stream") {
                None | Some("") => true,
                Some(stream) => stream == "watch" && syntax != Syntax::Yaml,
            };
            let version = self.get("sv").is_none_or(|version| version.is_empty() || version == "v1");
            (streams && version).then_some((view, syntax, self.get("pretty") == Some("1")))
        })
    }

    fn view(&self, offer: Offer, syntax: Syntax) -> Option<View> {
        let target = (self.get("as"), self.get("g"), self.get("v"));
        match target {
            (None, None, None) => (offer != Offer::Custom || syntax != Syntax::Protobuf).then_some(View::Whole),
            _ if offer == Offer::Documents => None,
            (Some("Table"), ..) if offer == Offer::Posted => None,
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => (syntax != Syntax::Protobuf).then_some(View::Table),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                Some(View::Metadata)
            }
            _ => None,
        }
    }
}

/// How a body is written, from its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf form.
    Protobuf,
    /// A JSON patch.
    JsonPatch,
    /// A merge patch.
    MergePatch,
    /// A strategic merge patch.
    StrategicPatch,
    /// A server-side apply configuration.
    Apply,
}

impl BodyKind {
    /// The kind of an object's body.
    pub fn of_object(headers: &HeaderMap) -> Result<Self, ApiError> {
        match media_type(headers) {
            "" | "application/json" => Ok(Self::Json),
            "application/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Self::Protobuf),
            _ => {
                let message = "the body of the request was in an unknown format - accepted media types include: \
                               application/json, application/yaml, application/vnd.kubernetes.protobuf";
                Err(ApiError::new(Reason::UnsupportedMediaType, message))
            }
        }
    }

    /// The kind of a patch.
    pub fn of_patch(headers: &HeaderMap) -> Result<Self, ApiError> {
        match media_type(headers) {
            "application/json-patch+json" => Ok(Self::JsonPatch),
            "application/merge-patch+json" => Ok(Self::MergePatch),
            "application/strategic-merge-patch+json" => Ok(Self::StrategicPatch),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => {
                let message = "the body of the request was in an unknown format - accepted media types include: \
                               application/json-patch+json, application/merge-patch+json, \
                               application/strategic-merge-patch+json";
                Err(ApiError::new(Reason::UnsupportedMediaType, message))
            }
        }
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    const TABLE: &str = ";as=Table;v=v1;g=meta.k8s.io";
    const METADATA: &str = ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

    fn seen(accept: &str, offer: Offer) -> Option<(View, Syntax)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        Form::of(&headers, &Query::default(), offer).ok().map(|form| (form.view, form.syntax))
    }

    #[test]
    fn takes_what_the_client_likes_best_of_what_there_is() {
        let json = Some((View::Whole, Syntax::Json));
        let protobuf = Some((View::Whole, Syntax::Protobuf));
        let table = Some((View::Table, Syntax::Json));
        // What a client accepts; what it gets of a built-in kind; of a custom one; of a document.
        let rows = [
            (String::new(), json, json, json),
            ("*/*".to_owned(), json, json, json),
            ("application/*".to_owned(), json, json, json),
            (format!("{PROTOBUF},application/json"), protobuf, json, protobuf),
            (PROTOBUF.to_owned(), protobuf, None, protobuf),
            (format!("{PROTOBUF};stream=watch,application/json;stream=watch"), protobuf, json, protobuf),
            (format!("{PROTOBUF};stream=other,application/json"), json, json, json),
            ("application/yaml;stream=watch".to_owned(), None, None, None),
            (format!("application/json;q=0.8,{PROTOBUF}"), protobuf, json, protobuf),
            (format!("{PROTOBUF};q=0.2,application/json;q=0.3"), json, json, json),
            (
                "*/*,application/yaml;q=0.5".to_owned(),
                Some((View::Whole, Syntax::Yaml)),
                Some((View::Whole, Syntax::Yaml)),
                Some((View::Whole, Syntax::Yaml)),
            ),
            (format!("{PROTOBUF}{TABLE},application/json{TABLE}"), table, table, None),
            (format!("application/json{TABLE},application/json"), table, table, json),
            ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json".to_owned(), json, json, json),
            ("application/json;as=Pod,application/json".to_owned(), json, json, json),
            (
                format!("{PROTOBUF}{METADATA},application/json"),
                Some((View::Metadata, Syntax::Protobuf)),
                Some((View::Metadata, Syntax::Protobuf)),
                json,
            ),
            ("text/html".to_owned(), None, None, None),
            ("nonsense, application/json".to_owned(), json, json, json),
            ("application/json;sv=v2".to_owned(), None, None, None),
        ];
        for (accept, built_in, custom, document) in rows {
            let expected = (built_in, custom, document);
            let seen = (seen(&accept, Offer::Objects), seen(&accept, Offer::Custom), seen(&accept, Offer::Documents));
            assert_eq!(seen, expected, "{accept}");
        }
    }

    #[test]
    fn says_what_there_is() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, "text/html".parse().unwrap());
        let error = Form::of(&headers, &Query::default(), Offer::Objects).unwrap_err();
        let types = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        assert_eq!(error.message, format!("only the following media types are accepted: {types}"));
        assert_eq!(error.code, 406);
        let error = Form { syntax: Syntax::Yaml, ..Form::default() }.check_streams().unwrap_err();
        let types = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(error.message, format!("only the following media types are accepted: {types}"));
    }

    #[test]
    fn people_get_indented_json() {
        let pretty = |agent: &'static str, uri: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, agent.parse().unwrap());
            Form::of(&headers, &Query::of(&uri.parse().unwrap()), Offer::Objects).unwrap().pretty
        };
        assert!(pretty("curl/8.5.0", "/api"));
        assert!(!pretty("curl/8.5.0", "/api?pretty=false"));
        assert!(pretty("kubectl/v1.36.0", "/api?pretty=true"));
        assert!(!pretty("kubectl/v1.36.0", "/api"));
    }
}
