//! The ingress controller: takes requests from outside the cluster to the pods behind Services, as Ingresses of our classes say.
//!
//! `routes` and `backends` know where a request goes and are changed by the difference; `upstream` has the connections to pods,
//! `proxy` does one request, `server` listens, `certificates` chooses what TLS shows, `status` tells where an Ingress is
//! reached. Services, slices and secrets are not watched before there is an Ingress.

mod backends;
mod certificates;
pub mod metrics;
mod proxy;
pub mod routes;
mod server;
mod status;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use api::resources::{ENDPOINT_SLICES, INGRESS_CLASSES, INGRESSES, SECRETS, SERVICES};
use api::typed::networking::v1::{Ingress, IngressClass};
use api::{Key, Object, Typed};
use base::{Random, Stop, Tasks};
use control::{Cache, Change, Changes, Client, Informers, WatchScope};
use futures::future::join_all;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use self::backends::{Backends, Pool};
use self::certificates::Resolver;
use self::routes::{Backend, Routes};
use self::server::Door;

/// What an IngressClass of ours names as its controller.
pub const CONTROLLER: &str = "timonier.io/ingress";

/// Named before there were classes as objects.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
const POISON: &str = "no holder of a lock of the ingress controller panics";

/// What the ingress controller works with.
pub struct Config {
    /// Caches under its own identity.
    pub informers: Informers,
    /// Writes status.
    pub client: Client,
    /// Where plain requests come.
    pub http: Option<TcpListener>,
    /// Where requests over TLS come.
    pub https: Option<TcpListener>,
    /// The certificate for hosts without one.
    pub default_certificate: Arc<dyn ResolvesServerCert>,
    /// Where clients reach it; told in the status of Ingresses.
    pub addresses: Vec<IpAddr>,
    /// Chooses between endpoints.
    pub random: Random,
}

/// What all connections share.
struct Shared {
    routes: Arc<RwLock<Routes>>,
    backends: RwLock<Backends>,
    /// Whether all that was there at the start is known.
    ready: AtomicBool,
    https_port: Option<u16>,
    random: Random,
    tasks: Tasks,
}

impl Shared {
    fn routes(&self) -> RwLockReadGuard<'_, Routes> {
        self.routes.read().expect(POISON)
    }

    fn routes_mut(&self) -> RwLockWriteGuard<'_, Routes> {
        self.routes.write().expect(POISON)
    }

    fn backends_mut(&self) -> RwLockWriteGuard<'_, Backends> {
        self.backends.write().expect(POISON)
    }

    fn pool(&self, backend: &Backend) -> Arc<Pool> {
        let known = self.backends.read().expect(POISON).known(backend);
        known.unwrap_or_else(|| self.backends_mut().pool(backend))
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// Why the ingress controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// TLS.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Serves until `stop`.
pub async fn run(config: Config, stop: Stop) -> Result<(), IngressError> {
    let (tasks, done) = (Tasks::new("ingress"), stop.child());
    let https_port =
        config.https.as_ref().and_then(|listener| listener.local_addr().ok()).map(|address| address.port());
    let shared = Arc::new(Shared {
        routes: Arc::default(),
        backends: RwLock::default(),
        ready: AtomicBool::new(false),
        https_port,
        random: config.random,
        tasks: tasks.clone(),
    });
    let secrets: Secrets = Arc::default();
    let resolver =
        Resolver { routes: shared.routes.clone(), secrets: secrets.clone(), default: config.default_certificate };
    let mut doors = Vec::new();
    doors.extend(config.http.map(|listener| Door { listener, tls: None }));
    if let Some(listener) = config.https {
        doors.push(Door { listener, tls: Some(acceptor(resolver)?) });
    }
    let listening: Vec<SocketAddr> = doors.iter().filter_map(server::address).collect();
    tracing::info!(?listening, "ingress controller");
    let classes = Arc::new(RwLock::new(Classes::default()));
    let (name, named) = mpsc::channel(status::WAITING_MAX);
    let ingresses = config.informers.all(INGRESSES);
    let ours = classes.clone();
    let written = status::keep(
        config.client,
        ingresses.clone(),
        config.addresses,
        move |ingress| ours.read().expect(POISON).is_ours(ingress),
        named,
        done.child(),
    );
    tasks.spawn("status of Ingresses", written);
    let watcher = Watcher { shared: shared.clone(), secrets, classes, ingresses, name };
    let (until, informers) = (done.clone(), config.informers);
    tasks.spawn("routes", async move {
        let _ = until.or_stopped(watcher.keep_up(&informers)).await;
    });
    join_all(doors.into_iter().map(|door| server::serve(shared.clone(), door, done.child()))).await;
    stop.stopped().await;
    done.stop();
    tasks.join().await;
    Ok(())
}

/// Speaks with one client over any stream, of Ingresses whose Services have no endpoints: for those that throw bytes at it.
pub async fn speak_alone<S>(routes: Routes, stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let shared = Shared {
        routes: Arc::new(RwLock::new(routes)),
        backends: RwLock::default(),
        ready: AtomicBool::new(true),
        https_port: Some(443),
        random: Random::from_seed(0),
        tasks: Tasks::new("ingress"),
    };
    server::speak_alone(Arc::new(shared), stream).await;
}

fn acceptor(resolver: Resolver) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut tls = tls.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

type Secrets = Arc<RwLock<HashMap<Key, Arc<CertifiedKey>>>>;

/// Which classes are ours.
#[derive(Debug, Default)]
struct Classes {
    names: BTreeSet<Arc<str>>,
    /// Those that Ingresses without a class belong to.
    defaults: BTreeSet<Arc<str>>,
}

impl Classes {
    fn apply(&mut self, object: &Object) -> bool {
        let class = IngressClass::decode(object.json());
        let class = class.inspect_err(|error| tracing::warn!(class = %object.key(), %error, "skipped: cannot be read"));
        let Ok(class) = class else { return false };
        let is_ours = class.spec.and_then(|spec| spec.controller).as_deref() == Some(CONTROLLER);
        let annotations = class.metadata.annotations.unwrap_or_default();
        let is_default = is_ours && annotations.get(DEFAULT_CLASS).is_some_and(|value| value == "true");
        let name = &object.key().name;
        let changed = set(&mut self.names, name, is_ours);
        set(&mut self.defaults, name, is_default) || changed
    }

    fn remove(&mut self, key: &Key) -> bool {
        let changed = self.names.remove(&key.name);
        self.defaults.remove(&key.name) || changed
    }

    fn is_ours(&self, object: &Object) -> bool {
        let Ok(ingress) = Ingress::decode(object.json()) else { return false };
        let class = ingress.spec.and_then(|spec| spec.ingress_class_name);
        let old = || ingress.metadata.annotations?.get(CLASS_ANNOTATION).cloned();
        match class.or_else(old) {
            Some(name) => self.names.contains(name.as_str()),
            None => !self.defaults.is_empty(),
        }
    }
}

/// Whether it was otherwise.
fn set(names: &mut BTreeSet<Arc<str>>, name: &Arc<str>, is_in: bool) -> bool {
    if is_in { names.insert(name.clone()) } else { names.remove(name) }
}

/// Takes changes in.
struct Watcher {
    shared: Arc<Shared>,
    secrets: Secrets,
    classes: Arc<RwLock<Classes>>,
    ingresses: Cache,
    /// Names the Ingresses whose status may be wrong.
    name: mpsc::Sender<Key>,
}

/// What is watched once there is an Ingress.
struct Behind {
    services: Changes,
    slices: Changes,
    secrets: Changes,
    /// How many of the three are not complete yet.
    waiting: u8,
}

impl Behind {
    fn of(informers: &Informers) -> Self {
        Self {
            services: informers.all(SERVICES).changes(),
            slices: informers.all(ENDPOINT_SLICES).changes(),
            secrets: informers.cache(SECRETS, WatchScope::field("type", "kubernetes.io/tls")).changes(),
            waiting: 3,
        }
    }
}

impl Watcher {
    /// For ever.
    async fn keep_up(self, informers: &Informers) {
        let mut classes = informers.all(INGRESS_CLASSES).changes();
        // Without the classes nobody knows whose an Ingress is.
        while let change = classes.next().await
            && !matches!(change, Change::Synced)
        {
            self.class(change).await;
        }
        let mut ingresses = self.ingresses.changes();
        let (mut behind, mut waiting) = (None::<Behind>, true);
        loop {
            let next = async {
                match &mut behind {
                    Some(Behind { services, slices, secrets, .. }) => tokio::select! {
                        change = services.next() => From::Services(change),
                        change = slices.next() => From::Slices(change),
                        change = secrets.next() => From::Secrets(change),
                    },
                    None => std::future::pending().await,
                }
            };
            let from = tokio::select! {
                change = classes.next() => From::Classes(change),
                change = ingresses.next() => From::Ingresses(change),
                from = next => from,
            };
            match from {
                From::Classes(change) => self.class(change).await,
                From::Ingresses(Change::Synced) => waiting = false,
                From::Ingresses(change) => self.ingress(change).await,
                From::Services(Change::Synced) | From::Slices(Change::Synced) | From::Secrets(Change::Synced) => {
                    behind.iter_mut().for_each(|behind| behind.waiting -= 1);
                }
                From::Services(change) => self.service(&change),
                From::Slices(change) => self.slice(&change),
                From::Secrets(change) => self.secret(&change),
            }
            if behind.is_none() && !self.shared.routes().is_empty() {
                behind = Some(Behind::of(informers));
            }
            // Once complete it stays so: what comes later is as good as new.
            if !waiting && behind.as_ref().is_none_or(|behind| behind.waiting == 0) {
                self.shared.ready.store(true, Ordering::Release);
            }
        }
    }

    /// A class that becomes ours, or is it no longer, changes whose its Ingresses are.
    async fn class(&self, change: Change) {
        let changed = match change {
            Change::Applied(class) => self.classes.write().expect(POISON).apply(&class),
            Change::Deleted(class) => self.classes.write().expect(POISON).remove(class.key()),
            Change::Synced => false,
        };
        if changed {
            for ingress in self.ingresses.all() {
                self.ingress(Change::Applied(ingress)).await;
            }
        }
    }

    async fn ingress(&self, change: Change) {
        let object = match change {
            Change::Applied(object) => object,
            Change::Deleted(object) => return self.shared.routes_mut().remove(object.key()),
            Change::Synced => return,
        };
        let is_ours = self.classes.read().expect(POISON).is_ours(&object);
        match Ingress::decode(object.json()) {
            Ok(ingress) if is_ours => self.shared.routes_mut().apply(object.key(), &ingress),
            Ok(_) => self.shared.routes_mut().remove(object.key()),
            Err(error) => return report(&object, &error),
        }
        // The writer of status ends only when everything does.
        let _ = self.name.send(object.key().clone()).await;
    }

    fn service(&self, change: &Change) {
        match change {
            Change::Applied(object) => {
                if let Err(error) = self.shared.backends_mut().apply_service(object) {
                    report(object, &error);
                }
            }
            Change::Deleted(object) => self.shared.backends_mut().remove_service(object.key()),
            Change::Synced => {}
        }
    }

    fn slice(&self, change: &Change) {
        match change {
            Change::Applied(object) => {
                if let Err(error) = self.shared.backends_mut().apply_slice(object) {
                    report(object, &error);
                }
            }
            Change::Deleted(object) => self.shared.backends_mut().remove_slice(object.key()),
            Change::Synced => {}
        }
    }

    fn secret(&self, change: &Change) {
        let secrets = || self.secrets.write().expect(POISON);
        match change {
            Change::Applied(object) => match certificates::read(object) {
                Ok(certified) => drop(secrets().insert(object.key().clone(), Arc::new(certified))),
                Err(error) => {
                    report(object, &error);
                    secrets().remove(object.key());
                }
            },
            Change::Deleted(object) => drop(secrets().remove(object.key())),
            Change::Synced => {}
        }
    }
}

enum From {
    Classes(Change),
    Ingresses(Change),
    Services(Change),
    Slices(Change),
    Secrets(Change),
}

fn report(object: &Object, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(key = %object.key(), error = base::chain(error), "skipped: cannot be used");
}
