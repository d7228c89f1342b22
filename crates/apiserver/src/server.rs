//! The server: what all requests share, and how it starts.

use std::sync::Arc;

use api::{Resource, Row, Verb};
use base::{Stop, Tasks};
use control::Transport;
use tokio::net::TcpListener;

use crate::admission::{self, Plugin};
use crate::audit::Audit;
use crate::authentication::UserInfo;
use crate::custom::{self, Definitions};
use crate::encryption::SealedStore;
use crate::flow::FlowControl;
use crate::metrics::Measured;
use crate::registry::{self, Parts, Plain, Posted, Strategy};
use crate::watch_cache::{Caches, ResourceCache, stored_form};
use crate::{Access, Config, StartError, bootstrap, discovery, listener, openapi, resource_metrics, transport};

/// A resource as it is served: its row of the table and its behaviour.
pub struct Served {
    /// The row.
    pub resource: Row,
    /// The row of the form that is stored.
    pub stored: Row,
    /// The behaviour.
    pub strategy: Arc<dyn Strategy>,
    /// What is posted to it and answered, not stored.
    pub posted: Vec<&'static Posted>,
    /// The version of the definition that made it, where it is a custom resource.
    pub custom: Option<Arc<custom::Version>>,
    /// Its cache, where that is not the built-in row's.
    pub cache: Option<Arc<ResourceCache>>,
}

impl Served {
    /// Whether objects are stored as they are shown.
    pub fn is_stored_form(&self) -> bool {
        std::ptr::eq(&*self.resource, &*self.stored)
    }

    /// A resource without behaviour of its own.
    #[cfg(test)]
    pub(crate) fn plain(resource: &'static Resource) -> Self {
        let stored = stored_form(resource).into();
        Self {
            resource: resource.into(),
            stored,
            strategy: Arc::new(Plain),
            posted: Vec::new(),
            custom: None,
            cache: None,
        }
    }

    /// Whether objects of it are kept.
    pub fn is_stored(&self) -> bool {
        self.resource.serves(Verb::Get) && self.resource.serves(Verb::Create) || self.resource.serves(Verb::List)
    }
}

/// A running API server.
pub struct Server {
    pub(crate) config: Arc<Config>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) tasks: Tasks,
    pub(crate) stop: Stop,
    /// Sorted by group, version and plural.
    served: Vec<Arc<Served>>,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) plugins: Vec<Arc<dyn Plugin>>,
    pub(crate) access: Arc<Access>,
    pub(crate) flow: Arc<FlowControl>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) discovery: discovery::Kept,
    pub(crate) openapi: openapi::Kept,
    pub(crate) resource_metrics: resource_metrics::Kept,
}

impl Server {
    /// Starts the server: loads what authentication and authorization need and writes what every cluster has. Its tasks run
    /// until `stop`.
    pub async fn start(mut config: Config, tasks: Tasks, stop: Stop) -> Result<Arc<Self>, StartError> {
        let sealed = SealedStore::new(Arc::new(Measured(config.store)), config.encryption.clone());
        sealed.check().await?;
        let sealed = Arc::new(sealed);
        config.store = sealed.clone();
        let caches = Caches::start(config.store.clone(), &tasks, stop.clone()).await?;
        let config = Arc::new(config);
        let access = Access::start(&config, &caches).await?;
        let (seats, time_max) = (config.limits.requests_max, config.limits.request_time_max);
        let flow = FlowControl::start(&caches, seats, time_max).await;
        let path = "/apis/flowcontrol.apiserver.k8s.io/v1".to_owned();
        let flow = flow.map_err(|source| StartError::Bootstrap { path, source })?;
        let audit = Audit::start(config.audit.clone(), config.clock.clone(), &tasks, stop.clone());
        let definitions = Definitions::follow(&caches).await.map_err(|source| {
            let path = api::resources::CUSTOM_RESOURCE_DEFINITIONS.path(None, None);
            StartError::Bootstrap { path, source }
        })?;
        let parts = Parts {
            caches: caches.clone(),
            config: config.clone(),
            access: access.clone(),
            definitions: definitions.clone(),
        };
        let server = Arc::new(Self {
            served: served(&parts),
            plugins: admission::PLUGINS.iter().map(|descriptor| (descriptor.plugin)(&parts)).collect(),
            config,
            caches,
            tasks,
            stop,
            access,
            flow,
            audit: Arc::new(audit),
            definitions,
            discovery: discovery::Kept::default(),
            openapi: openapi::Kept::default(),
            resource_metrics: resource_metrics::Kept::default(),
        });
        bootstrap::write(&server).await?;
        server.tasks.spawn("sealing of old secrets", async move {
            match sealed.reseal().await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "secrets that were plain or under an older key are encrypted anew"),
                Err(error) => tracing::error!(error = base::chain(&error), "cannot encrypt old secrets anew"),
            }
        });
        bootstrap::keep(&server);
        let (this, stop) = (server.clone(), server.stop.clone());
        server.tasks.spawn("last uses of tokens", crate::authentication::last_used::run(this, stop));
        server.tasks.spawn("event expiry", crate::expiry::run(server.clone(), server.stop.clone()));
        let (this, stop) = (server.clone(), server.stop.clone());
        server.tasks.spawn("custom resource definitions", custom::controller::run(this, stop));
        Ok(server)
    }

    /// Serves a listener until `stop`, then lets requests end.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: Stop) {
        listener::serve(self, listener, stop).await;
    }

    /// Calls the request function directly, as `user`: no socket, no TLS, no encoding that a client would undo.
    pub fn transport(self: &Arc<Self>, user: UserInfo) -> Arc<dyn Transport> {
        Arc::new(transport::InProcess::new(self.clone(), user))
    }

    /// How the server was started.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The objects of all resources.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// Who may come in, and what they may do.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// A resource by its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        let wanted = (group, version, plural);
        match self.served.binary_search_by(|served| sort_key(&served.resource).cmp(&wanted)) {
            Ok(at) => self.served.get(at).cloned(),
            Err(_) => self.definitions.find(group, version, plural),
        }
    }

    /// All built-in resources.
    pub fn served(&self) -> &[Arc<Served>] {
        &self.served
    }
}

fn sort_key(resource: &Resource) -> (&str, &str, &str) {
    (&resource.group, &resource.version, &resource.plural)
}

fn served(parts: &Parts) -> Vec<Arc<Served>> {
    let mut all: Vec<_> = api::resources::RESOURCES.iter().map(|resource| Arc::new(serve(resource, parts))).collect();
    all.sort_by(|a, b| sort_key(&a.resource).cmp(&sort_key(&b.resource)));
    all
}

fn serve(resource: &'static Resource, parts: &Parts) -> Served {
    let same = |row: &Resource| sort_key(row) == sort_key(resource);
    let descriptor = registry::STRATEGIES.iter().find(|descriptor| same(descriptor.resource));
    let strategy =
        descriptor.map_or_else(|| Arc::new(Plain) as Arc<dyn Strategy>, |descriptor| (descriptor.strategy)(parts));
    let posted = registry::POSTED.iter().filter(|posted| same(posted.resource)).collect();
    Served {
        resource: resource.into(),
        stored: stored_form(resource).into(),
        strategy,
        posted,
        custom: None,
        cache: None,
    }
}
