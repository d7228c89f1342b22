//! One registry's documents and blobs, asked for until they came whole: what breaks off is gone on with from where it ended,
//! what is refused is asked for once more with what the registry wants, what is not there is not asked for again.

use std::path::Path;
use std::time::Duration;

use base::Backoff;
use cri::is_digest;
use http::{StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::Mutex;

use super::PullError;
use super::authorization;
use super::config::{Credentials, Endpoint};
use super::connection::{Answer, Request, Route};
use super::manifest::{ACCEPT, Descriptor};
use crate::images::hex;

/// Tries in a row that bring nothing. A try that brought some bytes of a blob counts as none.
const ATTEMPTS_MAX: u32 = 5;
/// Tries where not even a connection is made: who is down is mostly down for longer.
const CONNECTIONS_MAX: u32 = 2;
/// Tries of one blob in total: a registry that sends a byte at a time must not hold a pull for ever.
const BLOB_ATTEMPTS_MAX: u32 = 100;
/// The longest wait between two tries, also where the registry asks for a longer one: the kubelet's own back-off comes after.
const RETRY_MAX: Duration = Duration::from_secs(20);
/// A refusal's words.
const DETAIL_BYTES_MAX: u64 = 1_000;
/// Bytes that are collected before they are written.
const WRITE_BYTES: usize = 512 << 10;

/// Talks to one endpoint about one repository.
pub(super) struct Session {
    route: Route,
    endpoint: Endpoint,
    retry_first: Duration,
    /// The header that the registry let in last, and how often it was made anew.
    authorization: Mutex<(u64, Option<String>)>,
}

impl Session {
    pub(super) fn new(route: Route, endpoint: Endpoint, retry_first: Duration) -> Self {
        let first = match &endpoint.credentials {
            Some(Credentials::Bearer(token)) => Some(format!("Bearer {token}")),
            _ => None,
        };
        Self { route, endpoint, retry_first, authorization: Mutex::new((0, first)) }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_first, RETRY_MAX)
    }

    /// A manifest or a configuration by tag or digest, with its digest.
    pub(super) async fn document(&self, kind: &str, name: &str, max: u64) -> Result<(String, Vec<u8>), PullError> {
        let what = format!("{kind}/{name}");
        let (mut backoff, mut attempt) = (self.backoff(), 1);
        let bytes = loop {
            let read = async {
                let mut answer = self.ask(&what, 0).await?;
                Ok::<_, PullError>((answer.bytes(max).await?, answer))
            };
            match read.await {
                Ok((bytes, _)) if bytes.len() as u64 > max => {
                    return Err(self.size(name, max, bytes.len() as u64));
                }
                Ok((bytes, answer)) => match claimed_length(&answer).filter(|length| *length != bytes.len() as u64) {
                    None => break bytes,
                    Some(length) if attempt >= ATTEMPTS_MAX => {
                        return Err(self.size(name, length, bytes.len() as u64));
                    }
                    Some(_) => {}
                },
                Err(error) if attempt >= attempts_max(&error) || !may_pass(&error) => return Err(error),
                Err(error) => tracing::debug!(what, error = base::chain(&error), "asking a registry again"),
            }
            attempt += 1;
            tokio::time::sleep(backoff.next_delay()).await;
        };
        let actual = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if is_digest(name) && actual != name {
            return Err(self.digest(name, actual));
        }
        Ok((actual, bytes))
    }

    /// A blob, into a file.
    pub(super) async fn blob(&self, blob: &Descriptor, path: &Path) -> Result<(), PullError> {
        let failed = |error| PullError::File(path.to_owned(), error);
        let file = tokio::fs::File::create(path).await.map_err(failed)?;
        let mut target = Target { file: BufWriter::with_capacity(WRITE_BYTES, file), hash: Sha256::new(), written: 0 };
        let (mut backoff, mut in_vain) = (self.backoff(), 0);
        for _ in 0..BLOB_ATTEMPTS_MAX {
            let before = target.written;
            let ended = self.blob_once(blob, &mut target, path).await;
            if target.written == blob.bytes() && ended.is_ok() {
                target.file.flush().await.map_err(failed)?;
                let actual = format!("sha256:{}", hex(&target.hash.finalize()));
                return if actual == blob.digest { Ok(()) } else { Err(self.digest(&blob.digest, actual)) };
            }
            in_vain = if target.written > before { 0 } else { in_vain + 1 };
            let error = ended.err().unwrap_or_else(|| self.size(&blob.digest, blob.bytes(), target.written));
            if in_vain >= attempts_max(&error) || !may_pass(&error) {
                return Err(error);
            }
            tracing::debug!(
                blob = blob.digest,
                bytes = target.written,
                error = base::chain(&error),
                "going on with a blob"
            );
            if in_vain == 0 {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(self.size(&blob.digest, blob.bytes(), target.written))
    }

    async fn blob_once(&self, blob: &Descriptor, target: &mut Target, path: &Path) -> Result<(), PullError> {
        if target.written == blob.bytes() {
            return Ok(());
        }
        let failed = |error| PullError::File(path.to_owned(), error);
        let mut answer = self.ask(&format!("blobs/{}", blob.digest), target.written).await?;
        if target.written > 0 && !continues(&answer, target.written) {
            // It begins anew, and so do we.
            target.start_over().await.map_err(failed)?;
        }
        while let Some(piece) = answer.piece().await? {
            if target.written + piece.len() as u64 > blob.bytes() {
                return Err(PullError::Digest {
                    registry: self.endpoint.authority.clone(),
                    digest: blob.digest.clone(),
                    actual: format!("of something longer than {} bytes", blob.bytes()),
                });
            }
            target.hash.update(&piece);
            target.file.write_all(&piece).await.map_err(failed)?;
            target.written += piece.len() as u64;
        }
        Ok(())
    }

    /// Asks, with authorization where that is wanted; only an answer that has what was asked for is returned.
    async fn ask(&self, what: &str, from: u64) -> Result<Answer, PullError> {
        let (generation, authorization) = self.authorization.lock().await.clone();
        let request = |authorization| Request {
            url: self.endpoint.url(what),
            accept: Some(if what.starts_with("manifests/") { ACCEPT } else { "*/*" }),
            authorization,
            from,
            form: None,
        };
        let mut answer = self.route.send(request(authorization)).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && let Some(authorization) = self.authorize(generation, &answer.headers).await?
        {
            answer = self.route.send(request(Some(authorization))).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::PARTIAL_CONTENT if from > 0 => Ok(answer),
            _ => Err(self.failure(what, answer).await),
        }
    }

    /// What answers a refusal. Of several requests that were refused at the same time, one fetches the token for all.
    async fn authorize(&self, generation: u64, refusal: &http::HeaderMap) -> Result<Option<String>, PullError> {
        let mut known = self.authorization.lock().await;
        if known.0 == generation {
            let made = authorization::answer(&self.route, &self.endpoint, refusal).await?;
            *known = (generation + 1, made);
        }
        Ok(known.1.clone())
    }

    async fn failure(&self, what: &str, mut answer: Answer) -> PullError {
        let (registry, what, status) = (self.endpoint.authority.clone(), self.named(what), answer.status);
        let wait = answer.header(header::RETRY_AFTER).and_then(|value| value.parse::<u64>().ok());
        if status == StatusCode::TOO_MANY_REQUESTS
            && let Some(seconds) = wait
        {
            tokio::time::sleep(Duration::from_secs(seconds).min(RETRY_MAX)).await;
        }
        let body = answer.bytes(DETAIL_BYTES_MAX).await.unwrap_or_default();
        let detail = detail(&body);
        match status {
            StatusCode::NOT_FOUND => PullError::NotFound { registry, what },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PullError::Refused { registry, what, status, detail },
            _ => PullError::Status { registry, what, status, detail },
        }
    }

    fn named(&self, what: &str) -> String {
        format!("{}/{what}", self.endpoint.repository)
    }

    fn digest(&self, digest: &str, actual: String) -> PullError {
        PullError::Digest { registry: self.endpoint.authority.clone(), digest: digest.to_owned(), actual }
    }

    fn size(&self, digest: &str, wanted: u64, actual: u64) -> PullError {
        PullError::Size { registry: self.endpoint.authority.clone(), digest: digest.to_owned(), wanted, actual }
    }
}

/// A blob on its way.
struct Target {
    file: BufWriter<tokio::fs::File>,
    hash: Sha256,
    written: u64,
}

impl Target {
    async fn start_over(&mut self) -> std::io::Result<()> {
        use tokio::io::AsyncSeekExt;
        self.file.flush().await?;
        self.file.get_mut().set_len(0).await?;
        self.file.seek(std::io::SeekFrom::Start(0)).await?;
        (self.hash, self.written) = (Sha256::new(), 0);
        Ok(())
    }
}

/// Whether an answer goes on where we ended.
fn continues(answer: &Answer, from: u64) -> bool {
    answer.status == StatusCode::PARTIAL_CONTENT
        && answer
            .header(header::CONTENT_RANGE)
            .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok())
            .is_some_and(|start| start == from)
}

fn claimed_length(answer: &Answer) -> Option<u64> {
    answer.header(header::CONTENT_LENGTH)?.parse().ok()
}

fn attempts_max(error: &PullError) -> u32 {
    match error {
        PullError::Connection(super::ConnectionError::Connect(..)) => CONNECTIONS_MAX,
        _ => ATTEMPTS_MAX,
    }
}

/// Whether the same question may have another answer in a moment.
fn may_pass(error: &PullError) -> bool {
    match error {
        PullError::Connection(error) => !matches!(
            error,
            super::ConnectionError::Url(_)
                | super::ConnectionError::Redirects(_)
                | super::ConnectionError::Proxy { .. }
        ),
        PullError::Status { status, .. } => {
            status.is_server_error()
                || *status == StatusCode::TOO_MANY_REQUESTS
                || *status == StatusCode::REQUEST_TIMEOUT
        }
        PullError::Size { .. } => true,
        _ => false,
    }
}

/// The registry's own words: its first error's message, or nothing.
fn detail(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = value["errors"][0]["message"].as_str().unwrap_or_default();
    let shown: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    if shown.is_empty() { shown } else { format!(" ({shown})") }
}
