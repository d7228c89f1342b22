//! The ingress controller on a server: its sockets, its rights, and the class that Ingresses belong to unless they name another.
//!
//! It has an identity of its own: the node's may not read the secrets that Ingresses name.

use std::net::IpAddr;
use std::sync::Arc;

use api::Resource;
use api::resources::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, INGRESS_CLASSES};
use apiserver::authentication::UserInfo;
use control::ClientError;
use edge::ingress::{Config, IngressError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::control_plane::ControlPlane;
use crate::preflight;
use crate::tls::Identity;

/// The service account that it acts as, of `kube-system`.
const ACCOUNT: &str = "timonier-ingress";
/// Its role, and the binding to that.
const ROLE: &str = "timonier:ingress";
const CLASS: &str = "timonier";

/// Where requests come: each is `None` where it was switched off, or where another program has the port.
pub(super) struct Sockets {
    http: Option<std::net::TcpListener>,
    https: Option<std::net::TcpListener>,
}

impl Sockets {
    /// Listens; 0 switches a port off. A web server that has the port does not keep the cluster from starting.
    pub(super) fn open(http: u16, https: u16) -> Self {
        let open = |port: u16, flag: &str| {
            let opened = (port != 0).then(|| preflight::listen(port, flag))?;
            opened.inspect_err(|error| tracing::warn!("Ingresses are not served on port {port}: {error:#}")).ok()
        };
        Self { http: open(http, "--ingress-http-port"), https: open(https, "--ingress-https-port") }
    }

    fn is_closed(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    fn clones(&self) -> std::io::Result<(Option<TcpListener>, Option<TcpListener>)> {
        let clone = |socket: &Option<std::net::TcpListener>| {
            socket.as_ref().map(|socket| socket.try_clone().and_then(TcpListener::from_std)).transpose()
        };
        Ok((clone(&self.http)?, clone(&self.https)?))
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot put the class and rights of the ingress controller into the cluster")]
    Objects(#[from] ClientError),
    #[error("cannot listen")]
    Listen(#[from] std::io::Error),
    #[error(transparent)]
    Controller(#[from] IngressError),
}

/// Starts it. `certificate` is shown for hosts that have none.
pub(super) fn start(plane: &Arc<ControlPlane>, sockets: Sockets, certificate: Identity) {
    if sockets.is_closed() {
        return;
    }
    let (shared, sockets) = (plane.clone(), Arc::new(sockets));
    plane.base.tasks.supervise("ingress controller", plane.base.stop.clone(), move |stop| {
        let (plane, sockets, certificate) = (shared.clone(), sockets.clone(), certificate.clone());
        async move {
            put_objects(&plane).await?;
            let client = plane.client(UserInfo::service_account("kube-system", ACCOUNT), ACCOUNT);
            // A controller that is started again listens on the same sockets.
            let (http, https) = sockets.clones()?;
            let config = Config {
                informers: plane.base.informers(&client, &stop),
                client,
                http,
                https,
                default_certificate: Arc::new(certificate),
                addresses: vec![IpAddr::V4(plane.base.node_ip)],
                random: plane.base.random.clone(),
            };
            edge::ingress::run(config, stop).await?;
            Ok::<_, StartError>(())
        }
    });
}

/// What is there already is left alone: who wants another default class, or less, changes it.
async fn put_objects(plane: &ControlPlane) -> Result<(), ClientError> {
    let client = plane.own_client();
    for (resource, object) in objects() {
        match client.create(resource, "", object.to_string().into()).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn objects() -> [(&'static Resource, Value); 3] {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let (networking, read) = ("networking.k8s.io", ["get", "list", "watch"]);
    let rules = [
        rule(networking, &["ingresses", "ingressclasses"], &read),
        rule(networking, &["ingresses/status"], &["patch"]),
        rule("", &["services", "secrets"], &read),
        rule("discovery.k8s.io", &["endpointslices"], &read),
    ];
    let rbac = "rbac.authorization.k8s.io";
    let default = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    [
        (
            CLUSTER_ROLES,
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": ROLE}, "rules": rules}),
        ),
        (
            CLUSTER_ROLE_BINDINGS,
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": ROLE},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": ROLE},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "kube-system"}]}),
        ),
        (
            INGRESS_CLASSES,
            json!({"apiVersion": format!("{networking}/v1"), "kind": "IngressClass",
                "metadata": {"name": CLASS, "annotations": default}, "spec": {"controller": edge::ingress::CONTROLLER}}),
        ),
    ]
}
