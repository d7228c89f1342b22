//! The protocol: questions in over UDP and TCP, answers out.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use api::Object;
use api::resources::{ENDPOINT_SLICES, SERVICES};
use base::{Stop, Tasks};
use control::{Change, Changes, Informers};
use hickory_proto::op::{Edns, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use super::answer::{Answer, Zone, answer};
use super::forward::{Forwarder, Reply};
use super::index::Index;

/// A TCP connection that is silent for longer is closed: without, idle clients would use up the descriptors.
const TCP_IDLE_MAX: Duration = Duration::from_secs(5);
/// How many answers wait on a TCP connection whose client does not read.
const TCP_ANSWERS_MAX: usize = 16;
/// The largest UDP answer that no network on the way has to split.
const UDP_BYTES_MAX: u16 = 1232;
/// How many names may stand for each other in a row: they may do so in a circle.
const ALIASES_MAX: usize = 8;

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
    /// The server ended.
    #[error("the DNS server failed")]
    Serve(#[source] hickory_server::net::NetError),
}

/// Answers until `stop`.
pub async fn run(config: Config, stop: Stop) -> Result<(), DnsError> {
    run_and_tell(config, stop, |_| {}).await
}

/// The same, telling where it listens.
pub(crate) async fn run_and_tell(config: Config, stop: Stop, tell: impl FnOnce(&[SocketAddr])) -> Result<(), DnsError> {
    let zone =
        Zone::new(&config.domain).map_err(|source| DnsError::Domain { domain: config.domain.clone(), source })?;
    let index = Arc::new(RwLock::new(Index::default()));
    // Name servers in resolv.conf are asked on port 53: who listens elsewhere is not meant by them.
    let own = config.listeners.iter().filter(|address| address.port() == 53).map(SocketAddr::ip).collect();
    let forwarder = Forwarder::new(config.resolv_conf, own);
    let mut server = Server::new(Handler { zone, index: index.clone(), forwarder, turn: AtomicUsize::new(0) });
    let mut bound = Vec::with_capacity(config.listeners.len());
    for address in config.listeners {
        bound.push(listen(&mut server, address).await.map_err(|source| DnsError::Listen { address, source })?);
    }
    tell(&bound);
    let tasks = Tasks::new("dns");
    let (services, slices) =
        (config.informers.all(SERVICES).changes(), config.informers.all(ENDPOINT_SLICES).changes());
    let done = stop.child();
    let until = done.clone();
    tasks.spawn("index", async move {
        let _ = until.or_stopped(keep_up(services, slices, &index)).await;
    });
    let ended = stop.or_stopped(server.block_until_done()).await;
    done.stop();
    let result = match ended {
        Some(ended) => ended,
        None => server.shutdown_gracefully().await,
    };
    tasks.join().await;
    result.map_err(DnsError::Serve)
}

async fn listen<T: RequestHandler>(server: &mut Server<T>, address: SocketAddr) -> std::io::Result<SocketAddr> {
    let udp = UdpSocket::bind(address).await?;
    // Port 0 is for tests: both protocols then have the port that the first one got.
    let bound = udp.local_addr()?;
    let tcp = TcpListener::bind(bound).await?;
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE_MAX, TCP_ANSWERS_MAX);
    Ok(bound)
}

/// Takes changes into the index for ever.
async fn keep_up(mut services: Changes, mut slices: Changes, index: &RwLock<Index>) {
    loop {
        tokio::select! {
            change = services.next() => match change {
                Change::Applied(object) => report(&object, write(index).apply_service(&object)),
                Change::Deleted(object) => write(index).remove_service(object.key()),
                Change::Synced => write(index).services_synced(),
            },
            change = slices.next() => match change {
                Change::Applied(object) => report(&object, write(index).apply_slice(&object)),
                Change::Deleted(object) => write(index).remove_slice(object.key()),
                Change::Synced => write(index).slices_synced(),
            },
        }
    }
}

fn report(object: &Object, result: Result<(), impl std::error::Error>) {
    if let Err(error) = result {
        tracing::warn!(key = %object.key(), %error, "skipped: cannot be read");
    }
}

fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().expect("no holder of the index's lock panics")
}

pub(crate) struct Handler {
    pub(crate) zone: Zone,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) forwarder: Forwarder,
    /// Counts answers: each begins with another address, which spreads clients that take the first.
    pub(crate) turn: AtomicUsize,
}

/// All that goes into a response.
struct Response {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Response {
    fn of_code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: vec![], authorities: vec![], additionals: vec![] }
    }
}

impl Handler {
    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return Response::of_code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Response::of_code(ResponseCode::FormErr) };
        if info.query.query_class() != DNSClass::IN {
            return Response::of_code(ResponseCode::Refused);
        }
        self.resolve(info.query.original().name().clone(), info.query.query_type()).await
    }

    /// Answers, following aliases to wherever they lead.
    async fn resolve(&self, mut name: Name, kind: RecordType) -> Response {
        let mut aliases: Vec<Record> = Vec::new();
        for _ in 0..ALIASES_MAX {
            let (answer, soa) = {
                let index = self.index();
                (answer(&index, &self.zone, &name, kind), self.zone.soa(&index))
            };
            let mut response = match answer {
                Answer::Records { answers, additionals } => {
                    let mut response = Response::of_code(ResponseCode::NoError);
                    (response.answers, response.additionals) = (self.turned(answers), additionals);
                    response.authoritative = true;
                    response
                }
                Answer::Alias { record, target } if kind != RecordType::CNAME && kind != RecordType::ANY => {
                    aliases.push(*record);
                    name = target;
                    continue;
                }
                Answer::Alias { record, .. } => {
                    let answers = vec![*record];
                    Response { answers, authoritative: true, ..Response::of_code(ResponseCode::NoError) }
                }
                Answer::NoData => refusal(ResponseCode::NoError, soa),
                Answer::NoName => refusal(ResponseCode::NXDomain, soa),
                Answer::NotReady => Response::of_code(ResponseCode::ServFail),
                Answer::NotOurs => self.forward(name, kind).await,
            };
            if !aliases.is_empty() {
                // The code is that of the last name (RFC 6604).
                aliases.append(&mut response.answers);
                response.answers = aliases;
            }
            return response;
        }
        Response::of_code(ResponseCode::ServFail)
    }

    async fn forward(&self, name: Name, kind: RecordType) -> Response {
        let is_ours = |ip: IpAddr| self.index().services_at(ip).next().is_some();
        let Reply { code, answers, authorities } = self.forwarder.ask(name, kind, is_ours).await;
        Response { answers, authorities, ..Response::of_code(code) }
    }

    fn turned(&self, mut answers: Vec<Record>) -> Vec<Record> {
        if answers.len() > 1 {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
            answers.rotate_left(by);
        }
        answers
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no holder of the index's lock panics")
    }
}

fn refusal(code: ResponseCode, soa: Record) -> Response {
    Response { authoritative: true, authorities: vec![soa], ..Response::of_code(code) }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let found = self.respond(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = found.code;
        metadata.authoritative = found.authoritative;
        metadata.recursion_available = true;
        // A client that says how much it takes gets as much, within reason; what is more is cut, and asked for over TCP.
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_BYTES_MAX)).set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let (answers, authorities, none): (_, _, Vec<Record>) = (&found.answers, &found.authorities, vec![]);
        let message = builder.build(metadata, answers, authorities, &none, &found.additionals);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot send an answer");
                metadata.response_code = ResponseCode::ServFail;
                hickory_proto::op::Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}
