//! The node's two certificates: one that its agent shows to the API server, one that its kubelet serves with.
//!
//! Each is asked for with a signing request, lies beside its key in one file (0600), and is replaced when four fifths of its
//! time are over, with a new key, while everything goes on. A key never leaves the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use api::{Key, resources};
use base::{Backoff, Random, SharedClock, Stop};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::watch::{Event, Start};
use control::{Client, ClientError, WatchScope};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::data_dir::write_private;
use crate::pki::Leaf;
use crate::tls::Identity;
use crate::token::hex;

/// How long a request may stay without an answer. The cluster's own controllers take some milliseconds.
const ANSWER_SECONDS_MAX: u32 = 60;
/// How often it is looked whether a renewal is due, at least: a machine that slept does not know how long.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Shown to the API server.
    Client,
    /// Shown to who asks the kubelet, under this address.
    Serving(Ipv4Addr),
}

impl Kind {
    fn signer(&self) -> (&'static str, [&'static str; 2]) {
        match self {
            Self::Client => ("kubernetes.io/kube-apiserver-client-kubelet", ["digital signature", "client auth"]),
            Self::Serving(_) => ("kubernetes.io/kubelet-serving", ["digital signature", "server auth"]),
        }
    }
}

/// A certificate in its file, in use.
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) node: String,
    pub(super) identity: Identity,
}

impl Kept {
    /// Puts the one of the file into use, if it is good. Gives whether it is.
    pub(super) fn load(&self, now: Timestamp) -> Result<bool> {
        let Some((leaf, times)) = read(&self.path)? else { return Ok(false) };
        if times.ends <= now || !covers(&leaf, &self.kind, &self.node) {
            return Ok(false);
        }
        self.identity.replace(&leaf)?;
        Ok(true)
    }

    /// Writes one and puts it into use.
    pub(super) fn take(&self, leaf: &Leaf) -> Result<()> {
        write_private(&self.path, format!("{}{}", leaf.certificate, leaf.key).as_bytes())?;
        self.identity.replace(leaf)
    }

    /// Renews it in time until `stop`; `renewed` is told each time. What fails is tried again with back-off.
    pub(super) async fn keep(
        &self,
        client: &Client,
        clock: &SharedClock,
        random: &Random,
        renewed: impl Fn(),
        stop: &Stop,
    ) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            let times = read(&self.path).ok().flatten().filter(|(leaf, _)| covers(leaf, &self.kind, &self.node));
            let due = times.map_or(Duration::ZERO, |(_, times)| times.until_due(clock.now(), random.below(100)));
            if !due.is_zero() {
                if stop.or_stopped(tokio::time::sleep(due.min(LOOK_AGAIN))).await.is_none() {
                    return;
                }
                continue;
            }
            let asked = async { self.take(&obtain(client, &self.kind, &self.node).await?) };
            match stop.or_stopped(asked).await {
                None => return,
                Some(Ok(())) => {
                    tracing::info!(certificate = ?self.kind, "the node has a new certificate");
                    backoff.reset();
                    renewed();
                }
                Some(Err(error)) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(certificate = ?self.kind, ?delay, "cannot renew the node's certificate; trying again: {error:#}");
                    if stop.or_stopped(tokio::time::sleep(delay)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }
}

/// When a certificate came and when it ends.
#[derive(Debug, Clone, Copy)]
struct Times {
    came: Timestamp,
    ends: Timestamp,
}

impl Times {
    /// How long until it should be renewed: at 78 to 82 % of its time, so that nodes that joined together do not ask
    /// together. `chance` is below 100.
    fn until_due(self, now: Timestamp, chance: usize) -> Duration {
        let life = (self.ends.as_second() - self.came.as_second()).max(0);
        let share = 780 + i64::try_from(chance).unwrap_or(0) * 40 / 100;
        let due = self.came.as_second() + life * share / 1000;
        Duration::from_secs(u64::try_from(due - now.as_second()).unwrap_or(0))
    }
}

/// The certificate and key of a file; none where there is no file.
fn read(path: &Path) -> Result<Option<(Leaf, Times)>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let damaged = || format!("{} is damaged: remove it and join again with a token", path.display());
    let at = text.find("-----BEGIN PRIVATE KEY-----").with_context(damaged)?;
    let (certificate, key) = text.split_at(at);
    let ends = with_certificate(certificate, |certificate| certificate.validity().not_after.timestamp());
    let ends = ends.and_then(|ends| Timestamp::from_second(ends).ok()).with_context(damaged)?;
    let came = path.metadata().and_then(|metadata| metadata.modified());
    let came = came.with_context(|| format!("cannot read {}", path.display()))?;
    let came = Timestamp::try_from(came).with_context(damaged)?;
    Ok(Some((Leaf { certificate: certificate.to_owned(), key: key.to_owned() }, Times { came, ends })))
}

/// Whether a certificate is of this node, and for the address that it serves under now.
fn covers(leaf: &Leaf, kind: &Kind, node: &str) -> bool {
    use x509_parser::extensions::GeneralName;
    with_certificate(&leaf.certificate, |certificate| {
        let user = format!("system:node:{node}");
        let of_node = certificate.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == user));
        let Kind::Serving(address) = kind else { return of_node };
        let names = certificate.subject_alternative_name().ok().flatten();
        let octets = address.octets();
        of_node && names.is_some_and(|names| names.value.general_names.contains(&GeneralName::IPAddress(&octets)))
    })
    .unwrap_or(false)
}

fn with_certificate<T>(pem: &str, look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T) -> Option<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(look(&block.parse_x509().ok()?))
}

/// Asks for a certificate with a new key, and waits until it is signed.
pub(super) async fn obtain(client: &Client, kind: &Kind, node: &str) -> Result<Leaf> {
    let key = KeyPair::generate()?;
    let (signer, usages) = kind.signer();
    // Named for the key, so that nobody's request is taken for ours.
    let name = format!("node-csr-{}", &hex(&Sha256::digest(key.public_key_raw()))[..32]);
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": usages, "request": STANDARD.encode(request(&key, kind, node)?)}});
    let body = bytes::Bytes::from(request.to_string());
    let created = client.create(resources::CERTIFICATE_SIGNING_REQUESTS, "", body).await;
    created.map_err(unverified).context("cannot ask the cluster for a certificate")?;
    let certificate = signed(client, &name).await?;
    Ok(Leaf { certificate, key: key.serialize_pem() })
}

/// Says what to do where the server's certificate is for other names.
fn unverified(error: ClientError) -> anyhow::Error {
    let text = base::chain(&error);
    let error = anyhow::Error::from(error);
    if text.contains("NotValidForName") || text.contains("not valid for name") {
        return error.context(
            "the server's certificate does not name the address that it was reached at: start the server with --tls-san ADDRESS",
        );
    }
    error
}

fn request(key: &KeyPair, kind: &Kind, node: &str) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    if let Kind::Serving(address) = kind {
        params.subject_alt_names = vec![SanType::DnsName(node.try_into()?), SanType::IpAddress((*address).into())];
    }
    Ok(params.serialize_request(key)?.pem()?)
}

/// Waits until a request is answered.
async fn signed(client: &Client, name: &str) -> Result<String> {
    let scope = WatchScope::key(&Key::new("", name));
    let start = Start::with_initial_events(ANSWER_SECONDS_MAX);
    let mut events = client.watch(resources::CERTIFICATE_SIGNING_REQUESTS, &scope, start).await?;
    let answered = async {
        while let Some(event) = events.next().await {
            if let Event::Applied(request) = event?
                && let Some(certificate) = answer(&request.to_value()["status"])?
            {
                return Ok(Some(certificate));
            }
        }
        Ok::<_, anyhow::Error>(None)
    };
    let answered = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX.into()), answered).await;
    answered.ok().transpose()?.flatten().with_context(|| {
        format!("nobody approved the request {name}: look at it with `kubectl describe csr {name}`, and approve it with `kubectl certificate approve {name}`")
    })
}

/// The certificate of a request's status, once there is one.
fn answer(status: &Value) -> Result<Option<String>> {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refusal = conditions.iter().find(|condition| condition["type"] == "Denied" || condition["type"] == "Failed");
    if let Some(refusal) = refusal {
        bail!("the cluster refused the certificate: {}", refusal["message"].as_str().unwrap_or("it does not say why"));
    }
    let Some(text) = status["certificate"].as_str().filter(|text| !text.is_empty()) else { return Ok(None) };
    let pem = String::from_utf8(STANDARD.decode(text)?)?;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| anyhow!("what the cluster signed is no certificate: {error}"))?;
    Ok(Some(pem))
}

#[cfg(test)]
mod tests {
    use base::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_four_fifths_of_its_time_are_over() {
        let times = Times { came: Timestamp::UNIX_EPOCH, ends: Timestamp::from_second(1000).unwrap() };
        let due = |now: i64, chance| times.until_due(Timestamp::from_second(now).unwrap(), chance).as_secs();
        assert_eq!((due(0, 0), due(0, 50), due(0, 99)), (780, 800, 819));
        assert_eq!((due(799, 50), due(800, 50), due(5000, 50)), (1, 0, 0));
    }

    fn leaf(kind: &Kind) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        if let Kind::Serving(address) = kind {
            params.subject_alt_names = vec![SanType::IpAddress((*address).into())];
        }
        Leaf { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    #[test]
    fn what_a_file_holds_is_used_while_it_fits() {
        let folder = tempfile::tempdir().unwrap();
        let address = Ipv4Addr::new(192, 0, 2, 11);
        let kept = |kind: Kind, node: &str| Kept {
            path: folder.path().join("serving.pem"),
            kind,
            node: node.to_owned(),
            identity: Identity::none(),
        };
        let now = SystemClock.now();
        let own = kept(Kind::Serving(address), "a");
        assert!(!own.load(now).unwrap(), "there is none yet");
        own.take(&leaf(&own.kind)).unwrap();
        assert!(own.load(now).unwrap());
        let moved = Kind::Serving(Ipv4Addr::new(192, 0, 2, 12));
        assert!(!kept(moved, "a").load(now).unwrap(), "the node has another address");
        assert!(!kept(Kind::Client, "b").load(now).unwrap(), "it is another node's");
        assert!(!own.load("9999-01-01T00:00:00Z".parse().unwrap()).unwrap(), "it is over");
        std::fs::write(&own.path, "junk").unwrap();
        assert!(own.load(now).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn an_answer_is_a_certificate_or_a_reason() {
        assert!(answer(&json!({})).unwrap().is_none());
        assert!(answer(&json!({"conditions": [{"type": "Approved"}]})).unwrap().is_none());
        let certificate = leaf(&Kind::Client).certificate;
        assert_eq!(answer(&json!({"certificate": STANDARD.encode(&certificate)})).unwrap(), Some(certificate));
        let denied = answer(&json!({"conditions": [{"type": "Denied", "message": "no"}]})).unwrap_err();
        assert!(denied.to_string().ends_with(": no"), "{denied}");
    }
}
