//! What a question about the cluster gets: a pure function of index, name and type.
//!
//! A name that exists without records of the type asked for is no error (NODATA); a name that does not exist is NXDOMAIN.
//! Both come with the zone's SOA record, so that clients remember them no longer than [`TTL`]. A name exists when one below
//! it does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Key;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::index::{Endpoint, Index, Port, ServiceEntry, Target};

/// For how many seconds clients may remember an answer. Short: services come and go.
pub const TTL: u32 = 5;

/// The version of the specification that is answered by.
const SPECIFICATION: &str = "1.1.0";

/// The names that are the cluster's.
#[derive(Debug, Clone)]
pub struct Zone {
    name: Name,
    labels: Vec<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Records; the additional ones are what the client will ask for next.
    Records {
        /// Of the type that was asked for.
        answers: Vec<Record>,
        /// Addresses of targets.
        additionals: Vec<Record>,
    },
    /// The name is another name for `target`, which may be anybody's.
    Alias {
        /// The CNAME record.
        record: Box<Record>,
        /// Where to go on.
        target: Name,
    },
    /// The name exists, without such records.
    NoData,
    /// The name does not exist.
    NoName,
    /// The index is not complete yet.
    NotReady,
    /// The name is not the cluster's.
    NotOurs,
}

impl Zone {
    /// The zone of a cluster domain such as `cluster.local`.
    pub fn new(domain: &str) -> Result<Self, hickory_proto::ProtoError> {
        let mut name = Name::from_utf8(domain)?.to_lowercase();
        name.set_fqdn(true);
        Ok(Self { labels: labels(&name), name })
    }

    /// The labels before the zone's own, lower case. `None`: not in the zone.
    fn within(&self, name: &Name) -> Option<Vec<String>> {
        let mut all = labels(name);
        let inner = all.len().checked_sub(self.labels.len())?;
        (all[inner..] == self.labels).then(|| {
            all.truncate(inner);
            all
        })
    }

    /// A name in the zone. `None` where a label is none, which the API server does not let through.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        name.append_domain(&self.name).ok()
    }

    fn service_name(&self, service: &Key, first: &[&str]) -> Option<Name> {
        let rest: [&str; 3] = [&service.name, &service.namespace, "svc"];
        self.name(&[first, &rest].concat())
    }

    /// The zone's SOA record, for answers that say no.
    pub fn soa(&self, index: &Index) -> Record {
        let server = self.name(&["ns", "dns"]).unwrap_or_else(|| self.name.clone());
        let mail = self.name(&["hostmaster"]).unwrap_or_else(|| self.name.clone());
        let soa = SOA::new(server, mail, index.serial(), 7200, 1800, 86400, TTL);
        Record::from_rdata(self.name.clone(), TTL, RData::SOA(soa))
    }
}

fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// Answers a question of class IN.
pub fn answer(index: &Index, zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    let Some(labels) = zone.within(name) else { return reverse(index, zone, name, kind) };
    if !index.is_synced() {
        return Answer::NotReady;
    }
    let query = Query { index, zone, name, kind };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match &*labels {
        [] => query.apex(),
        ["dns-version"] => {
            query.of_kind(RecordType::TXT, || vec![RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))])
        }
        ["svc" | "pod" | "dns"] => Answer::NoData,
        ["ns", "dns"] => match index.service(&Key::new("kube-system", "kube-dns")).map(|service| &service.target) {
            Some(Target::ClusterIps(ips)) => query.addresses(ips.iter().copied()),
            _ => Answer::NoData,
        },
        [namespace, "svc" | "pod"] => exists_if(index.has_namespace(namespace)),
        [pod, _, "pod"] => match undashed(pod) {
            Some(ip) => query.addresses([ip]),
            None => Answer::NoName,
        },
        [inner @ .., service, namespace, "svc"] => query.service(&Key::new(*namespace, *service), inner),
        _ => Answer::NoName,
    }
}

fn exists_if(exists: bool) -> Answer {
    if exists { Answer::NoData } else { Answer::NoName }
}

/// Whose an address is. Only addresses of the cluster are answered here; the others may have names elsewhere.
fn reverse(index: &Index, zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    let Some(ip) = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len()) else {
        return Answer::NotOurs;
    };
    if !index.is_synced() {
        return Answer::NotReady;
    }
    let ip = ip.addr();
    let mut names: BTreeSet<Name> = index.services_at(ip).filter_map(|key| zone.service_name(key, &[])).collect();
    if names.is_empty() {
        let headless = index.endpoints_at(ip).filter(|(service, _)| {
            matches!(index.service(service).map(|service| &service.target), Some(Target::Endpoints { .. }))
        });
        names.extend(headless.filter_map(|(service, hostname)| zone.service_name(service, &[hostname])));
    }
    if names.is_empty() {
        return Answer::NotOurs;
    }
    let query = Query { index, zone, name, kind };
    query.of_kind(RecordType::PTR, || names.into_iter().map(|name| RData::PTR(PTR(name))).collect())
}

struct Query<'a> {
    index: &'a Index,
    zone: &'a Zone,
    name: &'a Name,
    kind: RecordType,
}

impl Query<'_> {
    fn apex(&self) -> Answer {
        match self.kind {
            RecordType::SOA => Answer::Records { answers: vec![self.zone.soa(self.index)], additionals: vec![] },
            RecordType::NS => {
                let server = self.zone.name(&["ns", "dns"]);
                self.of_kind(RecordType::NS, || server.into_iter().map(|name| RData::NS(NS(name))).collect())
            }
            _ => Answer::NoData,
        }
    }

    /// The records, if they are of the kind that was asked for.
    fn of_kind(&self, kind: RecordType, records: impl FnOnce() -> Vec<RData>) -> Answer {
        if self.kind != kind {
            return Answer::NoData;
        }
        let records: Vec<_> = records().into_iter().map(|data| self.record(data)).collect();
        if records.is_empty() { Answer::NoData } else { Answer::Records { answers: records, additionals: vec![] } }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    /// Each address once.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
        let wanted = |ip: &IpAddr| match self.kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            _ => false,
        };
        let ips: BTreeSet<IpAddr> = ips.into_iter().filter(wanted).collect();
        let answers: Vec<_> = ips.into_iter().map(|ip| self.record(address(ip))).collect();
        if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals: vec![] } }
    }

    /// A name of a service, with what stands before it.
    fn service(&self, key: &Key, inner: &[&str]) -> Answer {
        let Some(service) = self.index.service(key) else { return Answer::NoName };
        if let Target::External(target) = &service.target {
            return if inner.is_empty() { self.alias(target) } else { Answer::NoName };
        }
        let named = |port: &Port, name: &str| format!("_{}", port.name) == name;
        let speaks = |port: &Port, protocol: &str| format!("_{}", port.protocol) == protocol;
        match inner {
            [] if self.kind == RecordType::SRV => self.srv(key, service, |_| true),
            [] => self.addresses(self.service_addresses(key, service)),
            [protocol] if protocol.starts_with('_') => {
                exists_if(service.ports.iter().any(|port| speaks(port, protocol)))
            }
            [hostname] => self.endpoint(key, service, hostname),
            [port, protocol] => {
                let wanted = |candidate: &Port| named(candidate, port) && speaks(candidate, protocol);
                if !service.ports.iter().any(wanted) {
                    Answer::NoName
                } else if self.kind == RecordType::SRV {
                    self.srv(key, service, wanted)
                } else {
                    Answer::NoData
                }
            }
            _ => Answer::NoName,
        }
    }

    fn service_addresses(&self, key: &Key, service: &ServiceEntry) -> Vec<IpAddr> {
        match &service.target {
            Target::ClusterIps(ips) => ips.clone(),
            Target::Endpoints { .. } => {
                let slices = self.index.slices(key);
                let endpoints = slices.flat_map(|slice| &slice.endpoints);
                endpoints.filter(|endpoint| shown(service, endpoint)).map(|endpoint| endpoint.ip).collect()
            }
            Target::External(_) => Vec::new(),
        }
    }

    /// The name of one endpoint, such as `web-0` of a stateful set.
    fn endpoint(&self, key: &Key, service: &ServiceEntry, hostname: &str) -> Answer {
        let endpoints = self.index.slices(key).flat_map(|slice| &slice.endpoints);
        let mut found = endpoints.filter(|e| e.hostname == hostname && shown(service, e)).peekable();
        if found.peek().is_none() {
            return Answer::NoName;
        }
        self.addresses(found.map(|endpoint| endpoint.ip))
    }

    /// One record for a service with an address, one for each endpoint of one without.
    fn srv(&self, key: &Key, service: &ServiceEntry, wanted: impl Fn(&Port) -> bool) -> Answer {
        // Target, port and address of each record.
        let mut targets: Vec<(Name, u16, IpAddr)> = Vec::new();
        match &service.target {
            Target::ClusterIps(ips) => {
                for port in service.ports.iter().filter(|port| wanted(port)) {
                    let Some(name) = self.zone.service_name(key, &[]) else { continue };
                    targets.extend(ips.iter().map(|ip| (name.clone(), port.number, *ip)));
                }
            }
            Target::Endpoints { .. } => {
                for slice in self.index.slices(key) {
                    for port in slice.ports.iter().filter(|port| wanted(port)) {
                        for endpoint in slice.endpoints.iter().filter(|endpoint| shown(service, endpoint)) {
                            let Some(name) = self.zone.service_name(key, &[&endpoint.hostname]) else { continue };
                            targets.push((name, port.number, endpoint.ip));
                        }
                    }
                }
            }
            Target::External(_) => {}
        }
        if targets.is_empty() {
            return Answer::NoData;
        }
        let records: BTreeSet<(&Name, u16)> = targets.iter().map(|(name, port, _)| (name, *port)).collect();
        let weight = u16::try_from(100 / records.len()).unwrap_or(1).max(1);
        let answers = records
            .iter()
            .map(|(name, port)| self.record(RData::SRV(SRV::new(0, weight, *port, (*name).clone()))))
            .collect();
        let addresses: BTreeSet<(&Name, IpAddr)> = targets.iter().map(|(name, _, ip)| (name, *ip)).collect();
        let additionals = addresses.into_iter().map(|(name, ip)| Record::from_rdata(name.clone(), TTL, address(ip)));
        Answer::Records { answers, additionals: additionals.collect() }
    }

    fn alias(&self, target: &str) -> Answer {
        let Ok(mut target) = Name::from_utf8(target) else { return Answer::NoData };
        target.set_fqdn(true);
        let record = Box::new(self.record(RData::CNAME(CNAME(target.clone()))));
        Answer::Alias { record, target }
    }
}

fn shown(service: &ServiceEntry, endpoint: &Endpoint) -> bool {
    endpoint.ready || service.target == Target::Endpoints { not_ready_too: true }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// `10-42-0-7` or `fd00--1`.
fn undashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()
}
