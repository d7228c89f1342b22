//! What must hold of every strategy, and what strategies, admission and authentication do with objects in a store.

use std::sync::Arc;

use api::{Key, Resource, resources};
use base::{FakeClock, Random, Stop, Tasks};
use serde_json::{Value, json};
use store::{MemoryStore, Store, Txn, Write};

use super::*;
use crate::Access;
use crate::admission::{Attempt, Operation, PLUGINS};
use crate::config::Version;

/// A server's parts over an empty store in memory.
pub(crate) struct Fixture {
    pub(crate) parts: Parts,
    store: Arc<MemoryStore>,
    stop: Stop,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let (store, stop) = (Arc::new(MemoryStore::new()), Stop::new());
        let config = Arc::new(config(store.clone()));
        let caches = Caches::start(store.clone(), &Tasks::new("test"), stop.clone()).await.unwrap();
        let access = Access::start(&config, &caches).await.unwrap();
        let definitions = Definitions::follow(&caches).await.unwrap();
        Self { parts: Parts { caches, config, access, definitions }, store, stop }
    }

    /// Stores an object as it is, under the given uid.
    pub(crate) async fn put(&self, resource: &'static Resource, object: &Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = api::storage_key::of(resource, &Key::new(text("namespace"), text("name")));
        let write = Write::Put(key.into(), api::object::encode(object).into());
        self.store.txn(Txn { preconditions: Vec::new(), writes: vec![write] }).await.unwrap();
        self.parts.caches.fresh().await;
    }

    pub(crate) async fn delete(&self, resource: &'static Resource, key: &Key) {
        let write = Write::Delete(api::storage_key::of(resource, key).into());
        self.store.txn(Txn { preconditions: Vec::new(), writes: vec![write] }).await.unwrap();
        self.parts.caches.fresh().await;
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

fn config(store: Arc<MemoryStore>) -> Config {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let tls = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let tls_key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Config {
        store,
        clock: Arc::new(FakeClock::default()),
        random: Random::from_seed(1),
        tls: Arc::new(tls.with_single_cert(vec![certificate.der().clone()], tls_key).unwrap()),
        ca_pem: certificate.pem().into(),
        service_account_key_pem: key.serialize_pem().into(),
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_cidr: "10.43.0.0/28".parse().unwrap(),
        service_cidr_second: None,
        node_port_range: (30000, 30003),
        advertise: "127.0.0.1:6443".parse().unwrap(),
        kubelet_client: Arc::new(client.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()),
        version: Version {
            git_version: "v1.36.2".to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
            platform: "linux/amd64".to_owned(),
        },
        static_tokens: Default::default(),
        audit: None,
        encryption: Arc::new(crate::EncryptionKeys::ephemeral()),
        limits: crate::Limits::default(),
        metrics: Vec::new(),
        components: Vec::new(),
    }
}

static NOTES: std::sync::LazyLock<crate::request::notes::Notes> = std::sync::LazyLock::new(Default::default);

fn context<'a>(parts: &'a Parts, user: &'a UserInfo) -> Context<'a> {
    Context { user, now: parts.config.clock.now(), random: &parts.config.random, dry_run: false, notes: &NOTES }
}

/// What the strategy of a resource makes of objects.
pub(crate) struct Bench(Fixture);

impl Bench {
    pub(crate) async fn new() -> Self {
        Self(Fixture::new().await)
    }

    fn strategy(&self, resource: &Resource) -> Arc<dyn Strategy> {
        let row = STRATEGIES.iter().find(|row| row.resource == resource).unwrap();
        (row.strategy)(&self.0.parts)
    }

    pub(crate) fn defaulted(&self, resource: &Resource, mut object: Value) -> Value {
        self.strategy(resource).default(&mut object);
        object
    }

    pub(crate) fn complaints(&self, resource: &Resource, object: &Value) -> Vec<String> {
        let user = UserInfo::new("eve", &[]);
        let errors = self.strategy(resource).validate(&context(&self.0.parts, &user), object);
        errors.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn complaints_of_update(&self, resource: &Resource, new: &Value, old: &Value) -> Vec<String> {
        let user = UserInfo::new("eve", &[]);
        let errors = self.strategy(resource).validate_update(&context(&self.0.parts, &user), new, old);
        errors.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn warnings(&self, resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
        self.strategy(resource).warnings(new, old)
    }

    /// What becomes of `new` when it is written to the status of `old`.
    pub(crate) fn with_status(&self, resource: &Resource, new: &Value, old: &Value) -> Value {
        let (user, mut new) = (UserInfo::new("eve", &[]), new.clone());
        let context = context(&self.0.parts, &user);
        self.strategy(resource).prepare_for_subresource_update(&context, "status", &mut new, old);
        new
    }

    pub(crate) fn complaints_of_status(&self, resource: &Resource, new: &Value, old: &Value) -> Vec<String> {
        let user = UserInfo::new("eve", &[]);
        let context = context(&self.0.parts, &user);
        let errors = self.strategy(resource).validate_subresource_update(&context, "status", new, old);
        errors.iter().map(ToString::to_string).collect()
    }
}

/// Whatever a client sends: no strategy panics, and defaulting twice is defaulting once.
#[tokio::test]
async fn every_strategy_bears_any_tree_and_defaults_idempotently() {
    let fixture = Fixture::new().await;
    let user = UserInfo::new("eve", &[]);
    let context = context(&fixture.parts, &user);
    let odd = [Value::Null, json!(1), json!("x"), json!([]), json!([1, {}]), json!({"template": 1}), json!({})];
    let mut trees: Vec<Value> =
        odd.iter().map(|odd| json!({"metadata": {"name": "n"}, "spec": odd, "status": odd})).collect();
    for field in
        ["containers", "volumes", "ports", "template", "jobTemplate", "selector", "strategy", "clusterIPs", "taints"]
    {
        trees.extend(odd.iter().map(|odd| json!({"metadata": {"name": "n"}, "spec": {field: odd}})));
    }
    for field in ["rules", "subjects", "roleRef", "subsets", "endpoints", "data", "stringData", "metadata"] {
        trees.extend(odd.iter().map(|odd| json!({field: odd})));
    }
    for descriptor in STRATEGIES {
        let strategy = (descriptor.strategy)(&fixture.parts);
        for tree in &trees {
            let mut once = tree.clone();
            strategy.default(&mut once);
            let mut twice = once.clone();
            strategy.default(&mut twice);
            assert_eq!(once, twice, "{}: {tree}", descriptor.resource.plural);
            strategy.prepare_for_create(&context, &mut twice);
            strategy.validate(&context, &twice);
            strategy.prepare_for_update(&context, &mut twice, tree);
            strategy.validate_update(&context, &twice, tree);
            for subresource in ["status", "finalize", "resize", "ephemeralcontainers"] {
                let mut changed = twice.clone();
                strategy.prepare_for_subresource_update(&context, subresource, &mut changed, tree);
                strategy.validate_subresource_update(&context, subresource, &changed, tree);
            }
        }
    }
}

/// Compares a strategy's complaints with upstream's: each line of `rows` holds an object as a patch of `least`, what it is
/// an update of, if it is one, and what upstream said of it. Upstream walks maps in any order, so order is left out.
pub(crate) async fn judge(descriptor: &Descriptor, least: Value, rows: &str) {
    let fixture = Fixture::new().await;
    let mut wrong = Vec::new();
    for line in rows.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        wrong.extend(difference(&fixture.parts, descriptor, &least, &row));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same for whole objects of any kind.
#[tokio::test]
async fn kinds_are_judged_as_upstream_judges_them() {
    let fixture = Fixture::new().await;
    let mut wrong = Vec::new();
    for line in include_str!("testdata/kinds.jsonl").lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| row["object"][field].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").rsplit_once('/').unwrap_or(("", text("apiVersion")));
        let resource = api::resources::by_kind(group, version, text("kind")).unwrap();
        let descriptor = STRATEGIES.iter().find(|row| row.resource == resource).unwrap();
        wrong.extend(difference(&fixture.parts, descriptor, &json!({}), &row));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How what we say of a row differs from what upstream does.
fn difference(parts: &Parts, descriptor: &Descriptor, least: &Value, row: &Value) -> Option<String> {
    let strategy = (descriptor.strategy)(parts);
    let user = UserInfo::new("eve", &[]);
    let context = context(parts, &user);
    let read = |patch: &Value| {
        let mut object = least.clone();
        machinery::patch::merge(&mut object, patch);
        let of = api::schema::type_of(descriptor.resource).unwrap();
        let mut object = api::schema::check(&object, of, api::schema::Strictness::Ignore).unwrap().value;
        crate::request::body::drop_nulls(&mut object);
        strategy.default(&mut object);
        object
    };
    let said = complaints(descriptor.resource, &*strategy, &context, row, read);
    let mut expected: Vec<String> = serde_json::from_value(row["errors"].clone()).unwrap();
    expected.sort();
    (said != expected).then(|| format!("{}\n  we say {said:#?}\n  upstream {expected:#?}", row["object"]))
}

fn complaints(
    resource: &Resource,
    strategy: &dyn Strategy,
    context: &Context<'_>,
    row: &Value,
    read: impl Fn(&Value) -> Value,
) -> Vec<String> {
    use crate::request::metadata;
    let mut object = read(&row["object"]);
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = Key::new(text("namespace"), text("name"));
    let errors = if row["old"].is_null() {
        strategy.prepare_for_create(context, &mut object);
        let mut errors = metadata::validate(resource, strategy, &object, &key);
        errors.extend(strategy.validate(context, &object));
        errors
    } else {
        let old = read(&row["old"]);
        let subresource = row["subresource"].as_str().unwrap_or_default();
        match subresource {
            "" => strategy.prepare_for_update(context, &mut object, &old),
            name => strategy.prepare_for_subresource_update(context, name, &mut object, &old),
        }
        metadata::keep_for_update(&mut object, &old);
        let mut errors = metadata::validate_update(resource, strategy, &object, &old, &key);
        errors.extend(match subresource {
            "" => strategy.validate_update(context, &object, &old),
            name => strategy.validate_subresource_update(context, name, &object, &old),
        });
        errors
    };
    // What changed is shown with the API's names and not with those of upstream's internal types.
    let first_line = |error: &FieldError| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut said: Vec<String> = errors.iter().map(first_line).collect();
    said.sort();
    said.dedup();
    said
}

#[tokio::test]
async fn addresses_and_node_ports_are_given_once_and_given_back() {
    let fixture = Fixture::new().await;
    let user = UserInfo::new("eve", &[]);
    let context = context(&fixture.parts, &user);
    let strategy = (core::service::DESCRIPTOR.strategy)(&fixture.parts);
    let service = |name: &str, spec: Value| {
        let mut service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        strategy.default(&mut service);
        service
    };
    let mut first = service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let held = strategy.reserve(&context, &mut first, None).await.unwrap();
    assert_eq!(strategy.validate(&context, &first), []);
    let (address, port) = (first["spec"]["clusterIP"].clone(), first["spec"]["ports"][0]["nodePort"].clone());
    assert!(address.as_str().unwrap().starts_with("10.43.0."));
    assert!((30000..=30003).contains(&port.as_i64().unwrap()));
    // Taken while the write is under way, and when it is stored.
    let mut same = service("b", json!({"clusterIP": address, "ports": [{"port": 80}]}));
    let refused = |error: ApiError| error.message;
    let why = format!(
        r#"Service "b" is invalid: spec.clusterIPs: Invalid value: [{address}]: failed to allocate IP {}: provided IP is already allocated"#,
        address.as_str().unwrap()
    );
    assert_eq!(strategy.reserve(&context, &mut same, None).await.map(drop).map_err(refused), Err(why.clone()));
    fixture.put(resources::SERVICES, &first).await;
    drop(held);
    assert_eq!(strategy.reserve(&context, &mut same, None).await.map(drop).map_err(refused), Err(why));
    let mut taken = service("c", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    let why = format!(
        r#"Service "c" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"#
    );
    assert_eq!(strategy.reserve(&context, &mut taken, None).await.map(drop).map_err(refused), Err(why));
    // An update of its own service is no conflict.
    let mut again = first.clone();
    strategy.reserve(&context, &mut again, Some(&first)).await.unwrap();
    assert_eq!(again, first);
    // All other addresses can be had, then the range is full.
    let mut all = Vec::new();
    while let Ok(held) = strategy.reserve(&context, &mut service("d", json!({"ports": [{"port": 1}]})), None).await {
        all.push(held);
    }
    assert_eq!(all.len(), 13, "14 usable addresses, one of them taken");
    fixture.delete(resources::SERVICES, &Key::new("default", "a")).await;
    assert!(strategy.reserve(&context, &mut same, None).await.is_ok(), "a deleted service gives its address back");
}

async fn admit(fixture: &Fixture, user: &UserInfo, pod: &mut Value) -> Result<(), ApiError> {
    let (context, key) = (context(&fixture.parts, user), Key::new("default", "p"));
    let attempt = Attempt {
        context: &context,
        operation: Operation::Create,
        resource: resources::PODS,
        subresource: "",
        key: &key,
        old: None,
        strategy: &Plain,
        again: Default::default(),
    };
    for descriptor in PLUGINS {
        let plugin = (descriptor.plugin)(&fixture.parts);
        plugin.mutate(&attempt, pod).await?;
        plugin.validate(&attempt, pod).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_gets_account_token_tolerations_and_priority() {
    let fixture = Fixture::new().await;
    let user = UserInfo::new("eve", &[]);
    let pod = || json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let error = admit(&fixture, &user, &mut pod()).await.unwrap_err();
    assert_eq!(error.message, r#"namespaces "default" not found"#);
    let namespace = json!({"metadata": {"name": "default", "uid": "n"}});
    fixture.put(resources::NAMESPACES, &namespace).await;
    let error = admit(&fixture, &user, &mut pod()).await.unwrap_err();
    let why = r#"pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#;
    assert_eq!((error.message.as_str(), error.code), (why, 403));
    let account = json!({"metadata": {"name": "default", "namespace": "default", "uid": "a"}});
    fixture.put(resources::SERVICE_ACCOUNTS, &account).await;
    let mut admitted = pod();
    admit(&fixture, &user, &mut admitted).await.unwrap();
    let spec = &admitted["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(tree::list(&spec["tolerations"]).len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == "kube-api-access-".len() + 5);
    let mount = json!({"name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));
    assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    let mut high = pod();
    high["spec"]["priorityClassName"] = "high".into();
    let error = admit(&fixture, &user, &mut high).await.unwrap_err();
    assert_eq!(error.message, r#"pods "p" is forbidden: no PriorityClass with name high was found"#);
    let class = json!({"metadata": {"name": "high", "uid": "h"}, "value": 7, "preemptionPolicy": "Never"});
    fixture.put(resources::PRIORITY_CLASSES, &class).await;
    admit(&fixture, &user, &mut high).await.unwrap();
    assert_eq!((&high["spec"]["priority"], &high["spec"]["preemptionPolicy"]), (&json!(7), &json!("Never")));
    let error = admit(&fixture, &UserInfo::node("n1"), &mut pod()).await.unwrap_err();
    assert!(error.message.ends_with(r#"node "n1" can only create mirror pods"#), "{}", error.message);
    let mut ending = namespace;
    ending["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    fixture.put(resources::NAMESPACES, &ending).await;
    let error = admit(&fixture, &user, &mut pod()).await.unwrap_err();
    let why =
        r#"pods "p" is forbidden: unable to create new content in namespace default because it is being terminated"#;
    assert_eq!(error.message, why);
}

#[tokio::test]
async fn a_token_lives_as_long_as_its_account_and_pod() {
    use crate::tokens::{Bindings, Claims, Reference, TokenError};
    let fixture = Fixture::new().await;
    let object = |name: &str, uid: &str| json!({"metadata": {"name": name, "namespace": "default", "uid": uid}});
    fixture.put(resources::SERVICE_ACCOUNTS, &object("bot", "a")).await;
    fixture.put(resources::PODS, &object("p", "1")).await;
    let access = &fixture.parts.access;
    let now = fixture.parts.config.clock.now().as_second();
    let reference = |name: &str, uid: &str| Reference { name: name.to_owned(), uid: uid.to_owned() };
    let bound = Bindings {
        namespace: "default".to_owned(),
        serviceaccount: reference("bot", "a"),
        pod: Some(reference("p", "1")),
        ..Bindings::default()
    };
    let audiences = vec![access.tokens.issuer().to_owned()];
    let token = access.tokens.sign(&Claims {
        aud: audiences.clone(),
        exp: now + 60,
        iat: now,
        iss: access.tokens.issuer().to_owned(),
        jti: "j".to_owned(),
        kubernetes: bound,
        nbf: now,
        sub: "system:serviceaccount:default:bot".to_owned(),
    });
    let (user, _) = access.authenticator.token(&token, &audiences, &NOTES).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:default:bot", "a"));
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    // Another pod of the same name is not the one that the token was for.
    fixture.put(resources::PODS, &object("p", "2")).await;
    assert_eq!(access.authenticator.token(&token, &audiences, &NOTES).await.unwrap(), Err(TokenError::Invalid));
    fixture.put(resources::PODS, &object("p", "1")).await;
    assert!(access.authenticator.token(&token, &audiences, &NOTES).await.unwrap().is_ok());
    fixture.delete(resources::SERVICE_ACCOUNTS, &Key::new("default", "bot")).await;
    assert_eq!(access.authenticator.token(&token, &audiences, &NOTES).await.unwrap(), Err(TokenError::Invalid));
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let refused = access.authenticator.authenticate(None, "/healthz", &mut headers, &NOTES).await.unwrap_err();
    assert_eq!(refused.code, 401, "a bad credential is refused even where none is needed");
    assert_eq!(
        access.authenticator.authenticate(None, "/healthz", &mut headers, &NOTES).await.unwrap(),
        UserInfo::anonymous().into()
    );
    assert_eq!(access.authenticator.authenticate(None, "/api", &mut headers, &NOTES).await.unwrap_err().code, 401);
}

#[tokio::test]
async fn nobody_gives_rights_that_they_lack() {
    let fixture = Fixture::new().await;
    let role = |name: &str, resource: &str| {
        json!({"metadata": {"name": name, "uid": name},
            "rules": [{"verbs": ["create", "get"], "apiGroups": ["", "rbac.authorization.k8s.io"], "resources": [resource]}]})
    };
    fixture.put(resources::CLUSTER_ROLES, &role("own", "pods")).await;
    let binding = json!({"metadata": {"name": "b", "uid": "b"}, "roleRef": {"kind": "ClusterRole", "name": "own"},
        "subjects": [{"kind": "User", "name": "eve"}]});
    fixture.put(resources::CLUSTER_ROLE_BINDINGS, &binding).await;
    let plugin = PLUGINS.iter().find(|descriptor| descriptor.name == "RBACEscalation").unwrap();
    let plugin = (plugin.plugin)(&fixture.parts);
    let try_it = async |user: &UserInfo, wanted: &Value| {
        let (context, key) = (context(&fixture.parts, user), Key::new("", "r"));
        let attempt = Attempt {
            context: &context,
            operation: Operation::Create,
            resource: resources::CLUSTER_ROLES,
            subresource: "",
            key: &key,
            old: None,
            strategy: &Plain,
            again: Default::default(),
        };
        plugin.validate(&attempt, wanted).await
    };
    let eve = UserInfo::new("eve", &[]);
    assert_eq!(try_it(&eve, &role("r", "pods")).await, Ok(()));
    let error = try_it(&eve, &role("r", "secrets")).await.unwrap_err();
    let start = r#"clusterroles.rbac.authorization.k8s.io "r" is forbidden: user "eve" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:"#;
    assert!(error.message.starts_with(start), "{}", error.message);
    assert!(error.message.contains(r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#), "{}", error.message);
    assert_eq!(try_it(&UserInfo::new("root", &["system:masters"]), &role("r", "secrets")).await, Ok(()));
}
