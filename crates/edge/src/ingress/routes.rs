//! Which backend a request goes to, by host and path. Changed by the difference: an Ingress that changes costs the hosts that
//! it names.
//!
//! The most specific host that any Ingress names decides: the name itself, then a wildcard (one label in place of the star),
//! then rules without a host. Within it an exact path wins over a prefix, a longer prefix over a shorter; prefixes match by
//! element, so `/foo` is one of `/foo/bar` and not of `/foobar`. `ImplementationSpecific` is `Prefix` here. Where two
//! Ingresses say the same, the older has it. What no path matches goes to the default backend of the oldest Ingress that named
//! the host and has one, else to that of the oldest Ingress that has one. Public behaviour: the Ingress API reference.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::Key;
use api::typed::networking::v1 as networking;

/// Annotations that keep plain HTTP where there is TLS: our own, and the one that most charts carry.
const NO_REDIRECT: [&str; 2] = ["timonier.io/ssl-redirect", "nginx.ingress.kubernetes.io/ssl-redirect"];

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
    Name(Box<str>),
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To a Service.
    To(Arc<Backend>),
    /// To something that is no Service, which nobody here serves.
    Unserved,
    /// Nowhere.
    Nowhere,
}

/// Older Ingresses come first: when they were made, and their names.
type Age = (String, Key);

/// All rules.
#[derive(Debug, Default)]
pub struct Routes {
    ingresses: HashMap<Key, Rules>,
    /// The Ingresses that name a host; `""` is any, `*.` and a name a wildcard.
    by_host: HashMap<String, BTreeSet<Age>>,
    hosts: HashMap<String, Host>,
    /// The Ingresses with a default backend.
    defaults: BTreeSet<Age>,
    /// The secrets with certificates of a host, of the oldest Ingress first.
    secrets: HashMap<String, BTreeSet<(Age, Key)>>,
}

/// What one Ingress says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    age: Age,
    hosts: Vec<(String, Vec<PathRule>)>,
    default: Option<Arc<Backend>>,
    tls: Vec<Certificate>,
    redirects: bool,
}

/// A secret with the certificate of some hosts, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Certificate {
    secret: Key,
    hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PathRule {
    exact: bool,
    path: String,
    /// `None`: no Service.
    backend: Option<Arc<Backend>>,
}

/// The rules of one host, of all Ingresses together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    exact: HashMap<String, Option<Arc<Backend>>>,
    /// Without a slash at the end, longest first.
    prefixes: Vec<(String, Option<Arc<Backend>>)>,
    default: Option<Arc<Backend>>,
    /// Whether plain HTTP is sent to HTTPS.
    redirects: bool,
}

impl Routes {
    /// Takes in an Ingress' state.
    pub fn apply(&mut self, key: &Key, ingress: &networking::Ingress) {
        let rules = Rules::of(key, ingress);
        if self.ingresses.get(key) != Some(&rules) {
            let mut touched = self.take_out(key);
            touched.extend(rules.names());
            for host in &touched {
                if rules.names().any(|name| name == *host) {
                    self.by_host.entry(host.clone()).or_default().insert(rules.age.clone());
                }
            }
            if rules.default.is_some() {
                self.defaults.insert(rules.age.clone());
            }
            for (host, secret) in rules.secrets() {
                self.secrets.entry(host.clone()).or_default().insert((rules.age.clone(), secret.clone()));
            }
            self.ingresses.insert(key.clone(), rules);
            self.compile(touched);
        }
    }

    /// Takes an Ingress out.
    pub fn remove(&mut self, key: &Key) {
        let touched = self.take_out(key);
        self.compile(touched);
    }

    fn take_out(&mut self, key: &Key) -> BTreeSet<String> {
        let Some(old) = self.ingresses.remove(key) else { return BTreeSet::new() };
        self.defaults.remove(&old.age);
        for (host, secret) in old.secrets() {
            if let Some(named) = self.secrets.get_mut(host) {
                named.remove(&(old.age.clone(), secret.clone()));
                if named.is_empty() {
                    self.secrets.remove(host);
                }
            }
        }
        let names: BTreeSet<String> = old.names().collect();
        for name in &names {
            if let Some(owners) = self.by_host.get_mut(name) {
                owners.remove(&old.age);
            }
        }
        names
    }

    fn compile(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            let owners = self.by_host.get(&name).into_iter().flatten();
            let owners: Vec<&Rules> = owners.filter_map(|(_, key)| self.ingresses.get(key)).collect();
            if owners.is_empty() {
                self.by_host.remove(&name);
                self.hosts.remove(&name);
            } else {
                let host = Host::of(&name, &owners);
                self.hosts.insert(name, host);
            }
        }
    }

    /// Where a request for this host (without a port) and path goes, and whether it must come over TLS.
    pub fn route(&self, host: &str, path: &str) -> (Route, bool) {
        let Some(host) = self.host(host) else { return (self.fallback(), false) };
        (host.route(path).unwrap_or_else(|| self.default_of(host)), host.redirects)
    }

    fn host(&self, host: &str) -> Option<&Host> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || {
            let (_, rest) = name.split_once('.')?;
            self.hosts.get(&format!("*.{rest}"))
        };
        self.hosts.get(&name).filter(|_| !name.is_empty()).or_else(wildcard).or_else(|| self.hosts.get(""))
    }

    fn default_of(&self, host: &Host) -> Route {
        host.default.clone().map_or_else(|| self.fallback(), Route::To)
    }

    fn fallback(&self) -> Route {
        let oldest = self.defaults.first().and_then(|(_, key)| self.ingresses.get(key)?.default.clone());
        oldest.map_or(Route::Nowhere, Route::To)
    }

    /// The secrets whose certificates may be shown for a host, the best first.
    pub fn secrets(&self, host: &str) -> impl Iterator<Item = &Key> {
        let name = host.to_ascii_lowercase();
        let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let named = [Some(name), wildcard].into_iter().flatten().filter_map(|name| self.secrets.get(&name));
        named.flatten().map(|(_, secret)| secret)
    }

    /// Whether there is no Ingress.
    pub fn is_empty(&self) -> bool {
        self.ingresses.is_empty()
    }
}

impl Rules {
    fn of(key: &Key, ingress: &networking::Ingress) -> Self {
        let made = ingress.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
        let age = (made.unwrap_or_default(), key.clone());
        let spec = ingress.spec.clone().unwrap_or_default();
        let default = spec.default_backend.as_ref().and_then(|backend| Backend::of(&key.namespace, backend));
        let mut hosts: Vec<(String, Vec<PathRule>)> = Vec::new();
        for rule in spec.rules.iter().flatten() {
            let name = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            let paths = paths.map(|path| PathRule {
                exact: path.path_type == "Exact",
                path: path.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
                backend: Backend::of(&key.namespace, &path.backend),
            });
            hosts.push((name, paths.collect()));
        }
        let named: Vec<String> = hosts.iter().map(|(name, _)| name.clone()).filter(|name| !name.is_empty()).collect();
        let tls = spec.tls.unwrap_or_default().into_iter().map(|tls| {
            let hosts = tls.hosts.filter(|hosts| !hosts.is_empty());
            let hosts = hosts.map(|hosts| hosts.iter().map(|host| host.to_ascii_lowercase()).collect());
            let secret = Key::new(key.namespace.clone(), tls.secret_name.unwrap_or_default());
            Certificate { secret, hosts: hosts.unwrap_or_else(|| named.clone()) }
        });
        let says_no = |name: &str| ingress.metadata.annotations.as_ref()?.get(name).map(|value| value == "false");
        let redirects = !NO_REDIRECT.iter().any(|name| says_no(name) == Some(true));
        Self { age, hosts, default, tls: tls.collect(), redirects }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(|(name, _)| name.clone())
    }

    fn secrets(&self) -> impl Iterator<Item = (&String, &Key)> {
        let named = self.tls.iter().filter(|tls| !tls.secret.name.is_empty());
        named.flat_map(|tls| tls.hosts.iter().map(|host| (host, &tls.secret)))
    }

    fn has_tls_for(&self, host: &str) -> bool {
        self.tls.iter().flat_map(|tls| &tls.hosts).any(|name| name == host)
    }
}

impl Host {
    /// Of the Ingresses that name it, the oldest first.
    fn of(name: &str, owners: &[&Rules]) -> Self {
        let mut host = Self::default();
        for rules in owners {
            if host.default.is_none() {
                host.default.clone_from(&rules.default);
            }
            host.redirects |= rules.redirects && rules.has_tls_for(name);
            for rule in rules.hosts.iter().filter(|(host, _)| host == name).flat_map(|(_, paths)| paths) {
                if rule.exact {
                    host.exact.entry(rule.path.clone()).or_insert_with(|| rule.backend.clone());
                } else {
                    host.prefixes.push((rule.path.trim_end_matches('/').to_owned(), rule.backend.clone()));
                }
            }
        }
        // The sort keeps the order of equals: the older first.
        host.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        host
    }

    fn route(&self, path: &str) -> Option<Route> {
        let is_below =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let prefix = || self.prefixes.iter().find(|(prefix, _)| is_below(prefix)).map(|(_, backend)| backend);
        let found = self.exact.get(path).or_else(prefix)?;
        Some(found.clone().map_or(Route::Unserved, Route::To))
    }
}

impl Backend {
    /// `None` where it is no Service.
    fn of(namespace: &Arc<str>, backend: &networking::IngressBackend) -> Option<Arc<Self>> {
        let service = backend.service.as_ref()?;
        let port = service.port.as_ref()?;
        let number = || port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
        let name = port.name.as_deref().filter(|name| !name.is_empty());
        let port = name.map(|name| Port::Name(name.into())).or_else(|| number().map(Port::Number))?;
        Some(Arc::new(Self { service: Key::new(namespace.clone(), service.name.as_str()), port }))
    }
}

#[cfg(test)]
mod tests {
    use api::Typed;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn ingress(name: &str, spec: &Value) -> (Key, networking::Ingress) {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        (Key::new("ns", name), networking::Ingress::decode(object.to_string().as_bytes()).unwrap())
    }

    fn backend(service: &str) -> Value {
        json!({"service": {"name": service, "port": {"number": 80}}})
    }

    fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
        let paths: Vec<Value> = paths
            .iter()
            .map(|(kind, path, service)| json!({"pathType": kind, "path": path, "backend": backend(service)}))
            .collect();
        if host.is_empty() {
            json!({"http": {"paths": paths}})
        } else {
            json!({"host": host, "http": {"paths": paths}})
        }
    }

    fn of(ingresses: &[(Key, networking::Ingress)]) -> Routes {
        let mut routes = Routes::default();
        ingresses.iter().for_each(|(key, ingress)| routes.apply(key, ingress));
        routes
    }

    fn name(route: &Route) -> String {
        match route {
            Route::To(backend) => backend.service.name.to_string(),
            Route::Unserved => "unserved".to_owned(),
            Route::Nowhere => "nowhere".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_host_and_path_decide() {
        let ingresses = [
            ingress(
                "a",
                &json!({"defaultBackend": backend("default-of-a"), "rules": [
                rule("foo.example.com", &[("Prefix", "/", "root"), ("Prefix", "/aaa", "aaa"), ("Prefix", "/aaa/bbb/", "bbb"),
                    ("Exact", "/aaa/bbb", "exact"), ("ImplementationSpecific", "/impl", "impl")]),
                rule("*.example.com", &[("Prefix", "/aaa", "wild")]),
                rule("exact.example.com", &[("Exact", "/foo", "foo"), ("Exact", "/foo/", "foo-slash")])]}),
            ),
            ingress(
                "b",
                &json!({"rules": [rule("", &[("Prefix", "/b", "any")]), rule("foo.example.com", &[("Prefix", "/aaa", "late")]),
                {"host": "thing.example.com", "http": {"paths": [{"pathType": "Prefix", "path": "/",
                    "backend": {"resource": {"kind": "Bucket", "name": "b"}}}]}}]}),
            ),
        ];
        let routes = of(&ingresses);
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
            assert_eq!(name(&routes.route(host, path).0), expected, "{host}{path}");
        }
        assert_eq!(of(&ingresses[1..]).route("example.com", "/").0, Route::Nowhere);
    }

    #[test]
    fn a_host_with_a_certificate_wants_tls_unless_told_otherwise() {
        let spec = json!({"tls": [{"hosts": ["a.example.com"], "secretName": "s"}],
            "rules": [rule("a.example.com", &[("Prefix", "/", "a")]), rule("b.example.com", &[("Prefix", "/", "b")])]});
        let (key, mut ingress) = ingress("a", &spec);
        let routes = of(&[(key.clone(), ingress.clone())]);
        assert!(routes.route("a.example.com", "/").1 && !routes.route("b.example.com", "/").1);
        assert_eq!(routes.secrets("A.example.com").collect::<Vec<_>>(), [&Key::new("ns", "s")]);
        assert_eq!(routes.secrets("b.example.com").count(), 0);
        let no = [(NO_REDIRECT[0].to_owned(), "false".to_owned())];
        ingress.metadata.annotations = Some(no.into());
        assert!(!of(&[(key, ingress)]).route("a.example.com", "/").1);
    }

    fn any_ingress() -> impl Strategy<Value = Option<Value>> {
        let host = prop::sample::select(vec!["", "a.x", "*.x", "b.x"]);
        let path = prop::sample::select(vec![("Exact", "/a"), ("Prefix", "/a"), ("Prefix", "/"), ("Prefix", "/a/b")]);
        let service = prop::sample::select(vec!["s", "t", "u"]);
        let rule = (host, prop::collection::vec((path, service), 0..3)).prop_map(|(host, paths)| {
            let paths: Vec<_> = paths.iter().map(|((kind, path), service)| (*kind, *path, *service)).collect();
            rule(host, &paths)
        });
        let default = prop::option::of(prop::sample::select(vec!["d", "e"]));
        prop::option::of((prop::collection::vec(rule, 0..3), default).prop_map(|(rules, default)| {
            let mut spec = json!({ "rules": rules });
            if let Some(default) = default {
                spec["defaultBackend"] = backend(default);
            }
            spec
        }))
    }

    proptest! {
        #[test]
        fn rules_by_difference_are_the_rules_from_nothing(
            changes in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), any_ingress()), 0..20)
        ) {
            let mut routes = Routes::default();
            let mut present: std::collections::BTreeMap<&str, Value> = Default::default();
            for (name, spec) in changes {
                match spec {
                    Some(spec) => {
                        let (key, object) = ingress(name, &spec);
                        routes.apply(&key, &object);
                        present.insert(name, spec);
                    }
                    None => {
                        routes.remove(&Key::new("ns", name));
                        present.remove(name);
                    }
                }
            }
            let all: Vec<_> = present.iter().map(|(name, spec)| ingress(name, spec)).collect();
            let fresh = of(&all);
            prop_assert_eq!(&routes.hosts, &fresh.hosts);
            prop_assert_eq!(&routes.by_host, &fresh.by_host);
            prop_assert_eq!(&routes.secrets, &fresh.secrets);
            prop_assert_eq!(routes.fallback(), fresh.fallback());
            prop_assert_eq!(routes.is_empty(), all.is_empty());
        }
    }
}
