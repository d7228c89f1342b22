//! Names that are not the cluster's, asked of the name servers in a `resolv.conf`.
//!
//! Bounded in flight, in time and in memory. The file is looked at again when a question comes and the last look is some
//! seconds old, so that a machine that changes networks needs no restart. This server's own addresses in it are left out:
//! it would ask itself for ever.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Beyond this, questions fail at once: name servers that do not answer must not eat the memory.
const IN_FLIGHT_MAX: usize = 512;
/// Clients ask again after 5 s; an answer after that is for nobody.
const TIME_MAX: Duration = Duration::from_secs(4);
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// How many answers are remembered.
const CACHE_SIZE: u64 = 4096;
/// How old a look at `resolv.conf` may be.
const CONFIG_AGE_MAX: Duration = Duration::from_secs(5);

/// What another name server said.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Whether it found the name.
    pub code: ResponseCode,
    /// Records.
    pub answers: Vec<Record>,
    /// The SOA record of a "no".
    pub authorities: Vec<Record>,
}

impl Reply {
    /// Nobody could be asked, or nobody answered.
    pub fn failure() -> Self {
        Self { code: ResponseCode::ServFail, answers: vec![], authorities: vec![] }
    }
}

/// Asks other name servers.
pub struct Forwarder {
    source: Source,
    permits: Semaphore,
    state: Mutex<State>,
}

enum Source {
    File {
        path: PathBuf,
        never: Vec<IpAddr>,
    },
    #[cfg(test)]
    Fixed,
}

#[derive(Default)]
struct State {
    /// The text that `resolver` was made from.
    text: Vec<u8>,
    looked: Option<Instant>,
    resolver: Option<Arc<TokioResolver>>,
}

impl Forwarder {
    /// Asks the name servers in the file at `path`, but none of `never`.
    pub fn new(path: PathBuf, never: Vec<IpAddr>) -> Self {
        Self { source: Source::File { path, never }, permits: Semaphore::new(IN_FLIGHT_MAX), state: Mutex::default() }
    }

    #[cfg(test)]
    pub(crate) fn fixed(config: ResolverConfig) -> Self {
        let state = State { resolver: resolver(config, ResolverOpts::default()), ..State::default() };
        Self { source: Source::Fixed, permits: Semaphore::new(IN_FLIGHT_MAX), state: Mutex::new(state) }
    }

    /// Asks. `is_ours` tells more addresses that lead back here, such as the cluster IP of cluster DNS.
    pub async fn ask(&self, name: Name, kind: RecordType, is_ours: impl Fn(IpAddr) -> bool) -> Reply {
        let Ok(_permit) = self.permits.try_acquire() else {
            tracing::debug!(%name, "too many questions to other name servers are under way");
            return Reply::failure();
        };
        let Some(resolver) = self.resolver(is_ours).await else { return Reply::failure() };
        match tokio::time::timeout(TIME_MAX, resolver.lookup(name.clone(), kind)).await {
            Ok(Ok(found)) => {
                Reply { code: ResponseCode::NoError, answers: found.answers().to_vec(), authorities: vec![] }
            }
            Ok(Err(error)) => refusal(&name, error),
            Err(_) => Reply::failure(),
        }
    }

    /// The resolver for what the file says now.
    async fn resolver(&self, is_ours: impl Fn(IpAddr) -> bool) -> Option<Arc<TokioResolver>> {
        let (path, never) = match &self.source {
            Source::File { path, never } => (path, never),
            #[cfg(test)]
            Source::Fixed => return self.lock().resolver.clone(),
        };
        {
            let mut state = self.lock();
            if state.looked.is_some_and(|looked| looked.elapsed() < CONFIG_AGE_MAX) {
                return state.resolver.clone();
            }
            state.looked = Some(Instant::now());
        }
        let text = match tokio::fs::read(path).await {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read which name servers to ask");
                return self.lock().resolver.clone();
            }
        };
        let mut state = self.lock();
        if state.resolver.is_none() || state.text != text {
            state.resolver = from_file(&text, |ip| leads_back(never, ip) || is_ours(ip));
            state.text = text;
        }
        state.resolver.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the forwarder's lock panics")
    }
}

/// Whether a server that listens on `own` is reached at `ip`. On the unspecified address it is at every local one.
fn leads_back(own: &[IpAddr], ip: IpAddr) -> bool {
    own.iter().any(|own| *own == ip || (own.is_unspecified() && ip.is_loopback()))
}

fn from_file(text: &[u8], is_ours: impl Fn(IpAddr) -> bool) -> Option<Arc<TokioResolver>> {
    let (config, options) = match parse_resolv_conf(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            tracing::warn!(%error, "no name servers to ask for names outside of the cluster");
            return None;
        }
    };
    let (_, _, servers) = config.into_parts();
    let others: Vec<_> = servers.into_iter().filter(|server| !is_ours(server.ip)).collect();
    if others.is_empty() {
        tracing::warn!("resolv.conf names only this server: names outside of the cluster have no answer");
        return None;
    }
    resolver(ResolverConfig::from_name_servers(others), options)
}

fn resolver(config: ResolverConfig, mut options: ResolverOpts) -> Option<Arc<TokioResolver>> {
    options.timeout = options.timeout.min(ATTEMPT_MAX);
    options.cache_size = CACHE_SIZE;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.edns0 = true;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    match builder.with_options(options).build() {
        Ok(resolver) => Some(Arc::new(resolver)),
        Err(error) => {
            tracing::warn!(%error, "cannot ask other name servers");
            None
        }
    }
}

fn refusal(name: &Name, error: NetError) -> Reply {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(no)) => {
            let soa = no.soa.map(|soa| soa.into_record_of_rdata());
            Reply { code: no.response_code, answers: vec![], authorities: soa.into_iter().collect() }
        }
        NetError::Dns(DnsError::ResponseCode(code)) => Reply { code, answers: vec![], authorities: vec![] },
        error => {
            tracing::debug!(%name, %error, "other name servers did not answer");
            Reply::failure()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_asks_itself() {
        let own: Vec<IpAddr> = vec!["10.43.0.10".parse().unwrap(), "0.0.0.0".parse().unwrap()];
        for (text, usable) in [
            ("nameserver 10.43.0.10", false),
            ("nameserver 127.0.0.53", false),
            ("nameserver 10.43.0.10\nnameserver 192.0.2.1", true),
            ("search example.com", false),
        ] {
            assert_eq!(from_file(text.as_bytes(), |ip| leads_back(&own, ip)).is_some(), usable, "{text}");
        }
    }
}
