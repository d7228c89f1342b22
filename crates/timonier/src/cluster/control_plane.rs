//! The control plane's part of a server: API server, controllers, scheduler, and what they write for nodes. Each component
//! has an identity of its own: one function a component, one line in [`ControlPlane::start`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use api::Key;
use api::resources::{CONFIG_MAPS, SERVICES};
use apiserver::authentication::UserInfo;
use control::{Client, ClientError, PatchType};
use controllers::serviceaccount_token::TokenSigner;
use serde_json::json;
use store::embedded::EmbeddedStore;
use tokio::net::TcpListener;

use super::components::DNS_PORT;
use super::options::{NODE_PREFIX, Options};
use super::renewal::Renewals;
use super::running::Running;
use super::settings::CONFIG_MAP;
use super::{Base, KUBELET_CLIENT, encryption, ingress, storage_class, version};
use crate::data_dir::{DATASTORE, DataDir};
use crate::pki::{Leaf, Pki, Purpose};
use crate::tls::Identity;
use crate::{kubeconfig, tls};

/// What the control plane's components are made from.
pub(super) struct ControlPlane {
    pub(super) base: Arc<Base>,
    options: Options,
    pki: Arc<Pki>,
    api_server: Arc<apiserver::Server>,
    running: Running,
}

impl ControlPlane {
    /// Opens the datastore and starts the API server, without its listener.
    pub(super) async fn open(
        base: Arc<Base>,
        options: &Options,
        pki: Arc<Pki>,
        renewals: &mut Renewals,
    ) -> Result<Self> {
        let store = EmbeddedStore::open(base.data.path(DATASTORE), store::embedded::Options::default())
            .context("cannot open the datastore")?;
        let serving = renewals.leaf(&pki, "apiserver", server_purpose(options, &base))?;
        let kubelet_client = renewals.leaf(&pki, "kubelet-client", kubelet_client())?;
        let running = Running::default();
        let config = apiserver::Config {
            store: Arc::new(store),
            clock: base.clock.clone(),
            random: base.random.clone(),
            tls: tls::server(serving, pki.ca_pem(), &["h2", "http/1.1"])?,
            ca_pem: pki.ca_pem().to_owned().into(),
            service_account_key_pem: pki.service_account_key()?.into(),
            issuer: format!("https://kubernetes.default.svc.{}", base.settings.cluster_domain),
            service_cidr: base.settings.service_cidr.into(),
            service_cidr_second: None,
            node_port_range: (30_000, 32_767),
            advertise: SocketAddr::from((base.node_ip, options.api_port)),
            kubelet_client: Arc::new(tls::client(kubelet_client, pki.ca_pem())?),
            version: version(),
            static_tokens: options.static_tokens()?,
            audit: Some(options.audit(&base.data)?),
            encryption: Arc::new(encryption::keys(&base.data)?),
            limits: apiserver::Limits::default(),
            metrics: [scheduler::metrics::METRICS, edge::dns::metrics::METRICS, edge::ingress::metrics::METRICS]
                .concat(),
            components: vec![
                running.controllers.component("controller-manager"),
                running.scheduler.component("scheduler"),
            ],
        };
        let api_server = apiserver::Server::start(config, base.tasks.clone(), base.stop.child()).await;
        let api_server = api_server.context("cannot start the API server")?;
        write_kubeconfig(&base.data, options, &pki)?;
        Ok(Self { base, options: options.clone(), pki, api_server, running })
    }

    /// How the node's components call the API server: directly.
    pub(super) fn node_transport(&self) -> Arc<dyn control::Transport> {
        self.api_server.transport(UserInfo::node(&self.base.node_name))
    }

    /// Starts all components.
    pub(super) fn start(self, listener: TcpListener, doors: ingress::Sockets, unnamed: Identity) -> Result<()> {
        let plane = Arc::new(self);
        let (server, serving) = (plane.api_server.clone(), plane.base.stop.child());
        plane.base.tasks.spawn("api server listener", async move { server.serve(listener, serving).await });
        controllers(&plane)?;
        scheduler(&plane);
        cluster_dns_service(&plane);
        storage_class::make(&plane);
        ingress::start(&plane, doors, unnamed);
        node_settings(&plane);
        Ok(())
    }

    /// A client with an identity, that calls the API server's request function directly. The component's name, up to a slash, is
    /// the manager of the fields that it writes: upstream's names, which tools know and leave out.
    pub(super) fn client(&self, user: UserInfo, component: &str) -> Client {
        Client::new(self.api_server.transport(user), component)
    }

    /// The cluster's own identity, for objects that it puts there itself.
    pub(super) fn own_client(&self) -> Client {
        self.client(UserInfo::new("system:apiserver", &["system:masters"]), "timonier/up")
    }
}

fn kubelet_client() -> Purpose {
    Purpose::Client { user: KUBELET_CLIENT.to_owned(), groups: vec![] }
}

fn server_purpose(options: &Options, base: &Base) -> Purpose {
    let domain = &base.settings.cluster_domain;
    let mut names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(base.node_name.clone());
    let own = [Ipv4Addr::LOCALHOST, base.node_ip, base.settings.kubernetes_service_ip()];
    let mut addresses: Vec<IpAddr> = own.map(IpAddr::V4).into();
    for name in &options.tls_sans {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    Purpose::Server { names, addresses }
}

fn write_kubeconfig(data: &DataDir, options: &Options, pki: &Pki) -> Result<()> {
    let admin = Purpose::Client { user: "timonier-admin".to_owned(), groups: vec!["system:masters".to_owned()] };
    let Leaf { certificate, key } = pki.leaf("admin", &admin)?;
    kubeconfig::write(data, &format!("https://127.0.0.1:{}", options.api_port), pki.ca_pem(), &certificate, &key)
}

fn controllers(plane: &Arc<ControlPlane>) -> Result<()> {
    let authority = Arc::new(plane.pki.authority()?);
    let key = plane.pki.service_account_key()?;
    let token_signer = TokenSigner::from_pem(&key).context("the service account key cannot sign tokens")?;
    let shared = plane.clone();
    plane.base.tasks.spawn("controllers", async move {
        let plane = shared.clone();
        let clients = move |name: &str| {
            let component = format!("kube-controller-manager/{name}");
            plane.client(UserInfo::service_account("kube-system", name), &component)
        };
        let config = controllers::Config {
            informers: shared.client(UserInfo::new("system:kube-controller-manager", &[]), "kube-controller-manager"),
            clients: Arc::new(clients),
            clock: shared.base.clock.clone(),
            random: shared.base.random.clone(),
            settings: controllers::Settings {
                root_ca_pem: shared.pki.ca_pem().to_owned(),
                authority: Some(authority),
                token_signer: Some(Arc::new(token_signer)),
                autoscalers: Arc::default(),
                daemon_failures: Arc::default(),
                noticed_taints: Arc::default(),
                zones: Arc::default(),
                cluster_cidr: shared.base.settings.cluster_cidr,
                node_cidr_mask: NODE_PREFIX,
                cluster_cidr_second: None,
                load_balancers: shared.options.load_balancers(),
                node_monitor_grace: shared.options.node_monitor_grace_period,
                signing_duration: shared.options.cluster_signing_duration,
            },
        };
        let _running = shared.running.controllers.begin();
        controllers::run(config, shared.base.stop.child()).await;
    });
    Ok(())
}

fn scheduler(plane: &Arc<ControlPlane>) {
    let shared = plane.clone();
    plane.base.tasks.supervise("scheduler", plane.base.stop.clone(), move |stop| {
        let client = shared.client(UserInfo::new("system:kube-scheduler", &[]), "kube-scheduler");
        let config = scheduler::Config {
            informers: shared.base.informers(&client, &stop),
            recorder: shared.base.recorder(&client, &stop, "default-scheduler"),
            clock: shared.base.clock.clone(),
            random: shared.base.random.clone(),
            client,
        };
        let running = shared.running.scheduler.begin();
        async move {
            let _running = running;
            scheduler::run(config, stop).await
        }
    });
}

/// The Service `kube-dns`, so that the cluster's DNS is found where people look for it. It selects nothing: every node
/// answers on its address itself.
fn cluster_dns_service(plane: &Arc<ControlPlane>) {
    let shared = plane.clone();
    plane.base.tasks.supervise("cluster DNS service", plane.base.stop.clone(), move |stop| {
        let plane = shared.clone();
        async move {
            let client = plane.own_client();
            // Its address is taken where it is there already, which would be the answer to whoever makes it again.
            match client.get(SERVICES, &Key::new("kube-system", "kube-dns")).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    stop.stopped().await;
                    return Ok(());
                }
            }
            let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
            let ports = json!([
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP"}, {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"}]);
            let service = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
                "spec": {"clusterIP": plane.base.settings.dns_ip().to_string(), "ports": ports}});
            match client.create(SERVICES, "kube-system", service.to_string().into()).await {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => {
                    stop.stopped().await;
                    Ok::<_, ClientError>(())
                }
            }
        }
    });
}

/// What nodes must agree on, as this server was started. An agent reads it at its start.
fn node_settings(plane: &Arc<ControlPlane>) {
    let shared = plane.clone();
    plane.base.tasks.supervise("settings for nodes", plane.base.stop.clone(), move |stop| {
        let plane = shared.clone();
        async move {
            let (namespace, name) = CONFIG_MAP;
            let client = plane.own_client();
            let data = json!({"data": plane.base.settings.to_data()});
            let patched = client.patch(CONFIG_MAPS, &Key::new(namespace, name), None, PatchType::Merge, &data).await;
            match patched {
                Err(error) if error.is_not_found() => {
                    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                    map["data"] = data["data"].clone();
                    client.create(CONFIG_MAPS, namespace, map.to_string().into()).await?;
                }
                patched => drop(patched?),
            }
            stop.stopped().await;
            Ok::<_, ClientError>(())
        }
    });
}
