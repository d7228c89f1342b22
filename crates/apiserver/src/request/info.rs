//! What a request is about, read from its method, path and query as the API reference's "URI" conventions define it.

use http::Method;
use http::request::Parts;
use machinery::FieldSelector;

use super::query::Query;
use crate::authorization::Attributes;

/// A request to a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// The resource's plural.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// The namespace; empty for all namespaces or cluster scope. Of a namespace object, its own name.
    pub namespace: String,
    /// The object's name; empty for the collection.
    pub name: String,
    /// What follows the subresource, for proxies.
    pub rest: String,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The API's verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or of a path that
    /// is no resource's the HTTP method in lower case.
    pub verb: &'static str,
    /// The decoded path.
    pub path: String,
    /// The resource; `None` for other paths.
    pub target: Option<Target>,
    /// The values that the field selector of a list, watch or deletion of a collection fixes, by field.
    pub fields: Vec<(String, String)>,
}

impl RequestInfo {
    /// Reads a request's head.
    pub fn of(parts: &Parts, query: &Query) -> Self {
        let path = super::query::percent_decode(parts.uri.path());
        let mut info = Self { verb: method_name(&parts.method), path, target: None, fields: Vec::new() };
        let Some((mut target, watch_path)) = target(&info.path) else { return info };
        info.verb = verb(&parts.method, &target, watch_path || query.flag("watch"));
        if matches!(info.verb, "list" | "watch" | "deletecollection")
            && let Some(Ok(selector)) = query.get("fieldSelector").map(FieldSelector::parse)
        {
            // Whoever may read one object only may list that one.
            if let Some(name) = selector.exact("metadata.name") {
                name.clone_into(&mut target.name);
            }
            let exact = selector.requirements().iter().filter(|requirement| !requirement.negated);
            info.fields = exact.map(|requirement| (requirement.field.clone(), requirement.value.clone())).collect();
        }
        info.target = Some(target);
        info
    }

    /// What the authorizer is asked.
    pub fn attributes(&self) -> Attributes {
        let Some(target) = &self.target else {
            return Attributes { verb: self.verb.to_owned(), path: self.path.clone(), ..Attributes::default() };
        };
        Attributes {
            verb: self.verb.to_owned(),
            group: target.group.clone(),
            version: target.version.clone(),
            resource: target.resource.clone(),
            subresource: target.subresource.clone(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            path: String::new(),
            fields: self.fields.clone(),
        }
    }
}

/// The target, and whether the path is one of the old `/watch/` ones.
fn target(path: &str) -> Option<(Target, bool)> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let mut rest: Vec<&str> = parts.collect();
    let watch = rest.first() == Some(&"watch");
    if watch {
        rest.remove(0);
    }
    let mut target = Target { group: group.to_owned(), version: version.to_owned(), ..Target::default() };
    if let ["namespaces", namespace, tail @ ..] = &rest[..] {
        target.namespace = (*namespace).to_owned();
        // `namespaces/x/status` and `/finalize` are about the namespace itself.
        if !tail.is_empty() && !["status", "finalize"].contains(&tail[0]) {
            rest.drain(..2);
        }
    }
    let mut rest = rest.into_iter();
    target.resource = rest.next()?.to_owned();
    target.name = rest.next().unwrap_or_default().to_owned();
    target.subresource = rest.next().unwrap_or_default().to_owned();
    target.rest = rest.collect::<Vec<_>>().join("/");
    if !target.rest.is_empty() && path.ends_with('/') {
        target.rest.push('/');
    }
    Some((target, watch))
}

fn verb(method: &Method, target: &Target, watch: bool) -> &'static str {
    let collection = target.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if watch && target.subresource.is_empty() => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths_as_upstream_does() {
        let table = [
            ("GET", "/api/v1/namespaces/a/pods/b/log", "get", Some("core pods b a log")),
            ("GET", "/api/v1/namespaces/a", "get", Some("core namespaces a a -")),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", Some("core namespaces a a finalize")),
            ("GET", "/api/v1/namespaces", "list", Some("core namespaces - - -")),
            ("GET", "/api/v1/watch/namespaces/a/pods", "watch", Some("core pods - a -")),
            ("GET", "/apis/apps/v1/deployments?watch=1", "watch", Some("apps deployments - - -")),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list", Some("core pods x - -")),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection", Some("apps deployments - a -")),
            ("GET", "/apis/apps/v1", "get", None),
            ("GET", "/healthz/ping", "get", None),
        ];
        for (method, uri, verb, expected) in table {
            let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
            let info = RequestInfo::of(&parts, &Query::of(&parts.uri));
            let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
            let seen = info.target.map(|target| {
                let Target { group, resource, name, namespace, subresource, .. } = target;
                let group = or(&group, "core");
                format!("{group} {resource} {} {} {}", or(&name, "-"), or(&namespace, "-"), or(&subresource, "-"))
            });
            assert_eq!((info.verb, seen.as_deref()), (verb, expected), "{method} {uri}");
        }
    }
}
