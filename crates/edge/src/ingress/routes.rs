//! Which backend a request goes to: a pure function of the Ingresses, a host and a path.
//!
//! The most specific host that any Ingress names decides: the name itself, then a wildcard (one label in place of the star),
//! then rules without a host. Within it an exact path wins over a prefix, a longer prefix over a shorter; prefixes match by
//! element, so `/foo` is one of `/foo/bar` and not of `/foobar`. `ImplementationSpecific` is `Prefix` here. Where two
//! Ingresses say the same, the older has it. What no path matches goes to the default backend of the Ingress that named the
//! host, else to that of the oldest Ingress that has one. Public behaviour: the Ingress API reference.

use std::collections::HashMap;

use api::Key;
use api::typed::networking::v1 as networking;

/// A port of a Service, as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The Service.
    pub service: Key,
    /// Its port.
    pub port: Port,
}

/// How a port is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// All rules.
#[derive(Debug, Default)]
pub struct Routes {
    hosts: HashMap<String, Host>,
    /// By what stands behind the star, its dot included.
    wildcards: HashMap<String, Host>,
    any: Option<Host>,
    default: Option<Backend>,
}

/// The rules of one host.
#[derive(Debug, Default)]
struct Host {
    exact: HashMap<String, Option<Backend>>,
    /// Without a slash at the end, longest first.
    prefixes: Vec<(String, Option<Backend>)>,
    default: Option<Backend>,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// To a Service.
    To(&'a Backend),
    /// To something that is no Service, which nobody here serves.
    Unserved,
    /// Nowhere.
    Nowhere,
}

impl Routes {
    /// Of these Ingresses, the oldest first.
    pub fn of<'a>(ingresses: impl IntoIterator<Item = &'a networking::Ingress>) -> Self {
        let mut routes = Self::default();
        for ingress in ingresses {
            routes.add(ingress);
        }
        let all = routes.hosts.values_mut().chain(routes.wildcards.values_mut()).chain(&mut routes.any);
        for host in all {
            // The sort keeps the order of equals: the older first.
            host.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
        routes
    }

    fn add(&mut self, ingress: &networking::Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let default = spec.default_backend.as_ref().and_then(|backend| Backend::of(namespace, backend));
        if self.default.is_none() {
            self.default.clone_from(&default);
        }
        for rule in spec.rules.iter().flatten() {
            let name = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let host = match (name.as_str(), name.strip_prefix('*')) {
                ("", _) => self.any.get_or_insert_default(),
                (_, Some(behind)) => self.wildcards.entry(behind.to_owned()).or_default(),
                (name, None) => self.hosts.entry(name.to_owned()).or_default(),
            };
            if host.default.is_none() {
                host.default.clone_from(&default);
            }
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let backend = Backend::of(namespace, &path.backend);
                let text = path.path.clone().unwrap_or_else(|| "/".to_owned());
                if path.path_type == "Exact" {
                    host.exact.entry(text).or_insert(backend);
                } else {
                    host.prefixes.push((text.trim_end_matches('/').to_owned(), backend));
                }
            }
        }
    }

    /// Where a request for this host (without a port) and path goes.
    pub fn route(&self, host: &str, path: &str) -> Route<'_> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || self.wildcards.get(&name[name.find('.')?..]);
        match self.hosts.get(&name).or_else(wildcard).or(self.any.as_ref()) {
            Some(host) => host.route(path).unwrap_or_else(|| to(host.default.as_ref().or(self.default.as_ref()))),
            None => to(self.default.as_ref()),
        }
    }

    /// Every backend that is named.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let hosts = self.hosts.values().chain(self.wildcards.values()).chain(&self.any);
        hosts
            .flat_map(|host| {
                let paths = host.exact.values().chain(host.prefixes.iter().map(|(_, backend)| backend));
                paths.flatten().chain(&host.default)
            })
            .chain(&self.default)
    }
}

fn to(backend: Option<&Backend>) -> Route<'_> {
    backend.map_or(Route::Nowhere, Route::To)
}

impl Host {
    fn route(&self, path: &str) -> Option<Route<'_>> {
        let is_below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let prefix = || self.prefixes.iter().find(|(prefix, _)| is_below(prefix)).map(|(_, backend)| backend);
        let found = self.exact.get(path).or_else(prefix)?;
        Some(found.as_ref().map_or(Route::Unserved, Route::To))
    }
}

impl Backend {
    /// `None` where it is no Service.
    fn of(namespace: &str, backend: &networking::IngressBackend) -> Option<Self> {
        let service = backend.service.as_ref()?;
        let port = service.port.as_ref()?;
        let number = || port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
        let name = port.name.clone().filter(|name| !name.is_empty());
        let port = name.map(Port::Name).or_else(|| number().map(Port::Number))?;
        Some(Self { service: Key::new(namespace, service.name.as_str()), port })
    }
}

#[cfg(test)]
mod tests {
    use api::Typed;
    use serde_json::{Value, json};

    use super::*;

    fn ingress(name: &str, spec: Value) -> networking::Ingress {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        networking::Ingress::decode(object.to_string().as_bytes()).unwrap()
    }

    fn backend(service: &str) -> Value {
        json!({"service": {"name": service, "port": {"number": 80}}})
    }

    fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
        let paths: Vec<Value> = paths
            .iter()
            .map(|(kind, path, service)| json!({"pathType": kind, "path": path, "backend": backend(service)}))
            .collect();
        if host.is_empty() { json!({"http": {"paths": paths}}) } else { json!({"host": host, "http": {"paths": paths}}) }
    }

    #[test]
    fn the_most_specific_host_and_path_decide() {
        let ingresses = [
            ingress("a", json!({"defaultBackend": backend("default-of-a"), "rules": [
                rule("foo.example.com", &[("Prefix", "/", "root"), ("Prefix", "/aaa", "aaa"), ("Prefix", "/aaa/bbb/", "bbb"),
                    ("Exact", "/aaa/bbb", "exact"), ("ImplementationSpecific", "/impl", "impl")]),
                rule("*.example.com", &[("Prefix", "/aaa", "wild")]),
                rule("exact.example.com", &[("Exact", "/foo", "foo"), ("Exact", "/foo/", "foo-slash")])]})),
            ingress("b", json!({"rules": [rule("", &[("Prefix", "/b", "any")]), rule("foo.example.com", &[("Prefix", "/aaa", "late")]),
                {"host": "thing.example.com", "http": {"paths": [{"pathType": "Prefix", "path": "/",
                    "backend": {"resource": {"kind": "Bucket", "name": "b"}}}]}}]})),
        ];
        let routes = Routes::of(&ingresses);
        for (host, path, expected) in [
            ("foo.example.com", "/", "root"),
            ("FOO.example.COM.", "/x", "root"),
            ("foo.example.com", "/aaa", "aaa"),
            ("foo.example.com", "/aaa/", "aaa"),
            ("foo.example.com", "/aaab", "root"),
            ("foo.example.com", "/aaa/ccc", "aaa"),
            ("foo.example.com", "/aaa/bbb", "exact"),
            ("foo.example.com", "/aaa/bbb/", "bbb"),
            ("foo.example.com", "/aaa/bbb/ccc", "bbb"),
            ("foo.example.com", "/impl/x", "impl"),
            ("bar.example.com", "/aaa", "wild"),
            ("bar.example.com", "/bbb", "default-of-a"),
            ("baz.bar.example.com", "/aaa", "default-of-a"),
            ("baz.bar.example.com", "/b", "any"),
            ("example.com", "/b/c", "any"),
            ("example.com", "/", "default-of-a"),
            ("exact.example.com", "/foo", "foo"),
            ("exact.example.com", "/foo/", "foo-slash"),
            ("exact.example.com", "/foo/bar", "default-of-a"),
            ("", "/b", "any"),
            ("thing.example.com", "/", "unserved"),
        ] {
            let found = match routes.route(host, path) {
                Route::To(backend) => backend.service.name.to_string(),
                Route::Unserved => "unserved".to_owned(),
                Route::Nowhere => "nowhere".to_owned(),
            };
            assert_eq!(found, expected, "{host}{path}");
        }
        assert_eq!(Routes::of(&ingresses[1..]).route("example.com", "/"), Route::Nowhere);
    }
}
