//! What runs: listeners over UDP and TCP, and what keeps the index as the cluster is.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use api::Object;
use api::resources::{ENDPOINT_SLICES, SERVICES};
use base::{Stop, Tasks};
use control::{Change, Changes, Informers};
use tokio::net::{TcpListener, UdpSocket};

use super::answer::Zone;
use super::forward::Forwarder;
use super::index::Index;
use super::respond::{Asked, Responder};
use super::{metrics, tcp, udp};

/// What cluster DNS works with.
pub struct Config {
    /// Where to listen, each over UDP and TCP.
    pub listeners: Vec<SocketAddr>,
    /// The cluster domain, such as `cluster.local`.
    pub domain: String,
    /// Where services and endpoint slices come from.
    pub informers: Informers,
    /// The file that names the servers to ask for all other names.
    pub resolv_conf: PathBuf,
}

/// Why cluster DNS cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The domain is none.
    #[error("the cluster domain {domain:?} is not a domain name")]
    Domain {
        /// What was given.
        domain: String,
        /// Why.
        #[source]
        source: hickory_proto::ProtoError,
    },
    /// Someone else listens there, or the machine has no such address.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Answers until `stop`.
pub async fn run(config: Config, stop: Stop) -> Result<(), DnsError> {
    run_and_tell(config, stop, |_| {}).await
}

/// The same, telling where it listens.
pub(crate) async fn run_and_tell(config: Config, stop: Stop, tell: impl FnOnce(&[SocketAddr])) -> Result<(), DnsError> {
    let zone =
        Zone::new(&config.domain).map_err(|source| DnsError::Domain { domain: config.domain.clone(), source })?;
    let (tasks, done) = (Tasks::new("dns"), stop.child());
    // Name servers in resolv.conf are asked on port 53: who listens elsewhere is not meant by them.
    let own = config.listeners.iter().filter(|address| address.port() == 53).map(SocketAddr::ip).collect();
    let forwarder = Forwarder::new(config.resolv_conf, own, tasks.clone(), done.clone());
    let server = Arc::new(Server { responder: Responder::new(zone, Index::default()), forwarder });
    let mut bound = Vec::with_capacity(config.listeners.len());
    for address in config.listeners {
        match server.listen(address, &tasks, &done).await {
            Ok(address) => bound.push(address),
            Err(source) => {
                done.stop();
                tasks.join().await;
                return Err(DnsError::Listen { address, source });
            }
        }
    }
    tell(&bound);
    let services = config.informers.all(SERVICES).changes();
    let slices = config.informers.all(ENDPOINT_SLICES).changes();
    let _ = stop.or_stopped(keep_up(services, slices, &server.responder)).await;
    done.stop();
    tasks.join().await;
    Ok(())
}

/// Answers questions from what it knows, and others' from what others know.
pub(crate) struct Server {
    pub(crate) responder: Responder,
    pub(crate) forwarder: Forwarder,
}

impl Server {
    /// Answers at an address, over both protocols, until `stop`. Gives the address: port 0 is for tests.
    pub(crate) async fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
        tasks: &Tasks,
        stop: &Stop,
    ) -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind(address).await?;
        // Both protocols have the port that the first one got.
        let bound = socket.local_addr()?;
        let listener = TcpListener::bind(bound).await?;
        tasks.spawn("dns over udp", udp::serve(self.clone(), socket, stop.clone()));
        tasks.spawn("dns over tcp", tcp::accept(self.clone(), listener, tasks.clone(), stop.clone()));
        Ok(bound)
    }

    /// The answer to a question that is others', where it is remembered.
    pub(crate) fn remembered(&self, asked: &Asked) -> Option<Vec<u8>> {
        self.forwarder.remembered(asked).map(|(body, age)| asked.answer(&body, age))
    }

    /// The same, as others answer it.
    pub(crate) async fn ask(&self, asked: Box<Asked>) -> Vec<u8> {
        let is_ours = |ip: IpAddr| self.responder.index().services_at(ip).next().is_some();
        let (body, age) = self.forwarder.ask(&asked, is_ours).await;
        asked.answer(&body, age)
    }
}

/// Takes changes into the index for ever.
async fn keep_up(mut services: Changes, mut slices: Changes, responder: &Responder) {
    metrics::ready(false);
    loop {
        tokio::select! {
            change = services.next() => match change {
                Change::Applied(object) => report(&object, responder.index_mut().apply_service(&object)),
                Change::Deleted(object) => responder.index_mut().remove_service(object.key()),
                Change::Synced => responder.index_mut().services_synced(),
            },
            change = slices.next() => match change {
                Change::Applied(object) => report(&object, responder.index_mut().apply_slice(&object)),
                Change::Deleted(object) => responder.index_mut().remove_slice(object.key()),
                Change::Synced => responder.index_mut().slices_synced(),
            },
        }
        metrics::ready(responder.index().is_synced());
    }
}

fn report(object: &Object, result: Result<(), impl std::error::Error>) {
    if let Err(error) = result {
        tracing::warn!(key = %object.key(), %error, "skipped: cannot be read");
    }
}
