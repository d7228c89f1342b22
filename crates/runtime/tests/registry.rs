//! Pulls from a registry that the test serves on the loopback: an honest one, and ones that hang, lie, break off, send us in
//! circles, or want to know who we are; and, over TLS, ones that an authority of our own vouches for, also behind a proxy.
//! Needs root, since layers are unpacked with their owners.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use cri::v1;
use runtime::images::Store;
use runtime::registry::{Config, HostConfig, Mirror, Patience, Proxies, Registries, Tls};
use serde_json::json;
use sha2::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What goes wrong with one answer.
#[derive(Clone)]
enum Fault {
    /// The connection ends after so many bytes of the body.
    BreakAfter(usize),
    /// A status and a header.
    Status(u16, &'static str),
    /// The body is another one.
    Lie(Vec<u8>),
    /// Nothing comes.
    Hang,
    /// The head comes and half of the body, then nothing.
    Stall,
}

/// Who is let in.
#[derive(Clone, PartialEq)]
enum Access {
    Everybody,
    Basic(&'static str),
    /// With a token that `login` (or nobody, where it is empty) gets from `/token`.
    Token(&'static str),
    /// Whatever is shown is refused.
    Nobody,
}

#[derive(Default)]
struct State {
    /// By path below `/v2/REPOSITORY/`.
    content: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    /// Every request: path, then what authorizes it, then its range.
    requests: Vec<(String, String, String)>,
    /// Sends blobs elsewhere.
    blobs_at: Option<String>,
}

struct Registry {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
    stop: base::Stop,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

fn sha(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

impl Registry {
    async fn start(access: Access) -> Self {
        Self::start_with(access, None).await
    }

    async fn start_with(access: Access, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, stop) = (Arc::new(Mutex::new(State::default())), base::Stop::new());
        let (shared, ended, tasks) = (state.clone(), stop.clone(), base::Tasks::new("registry"));
        let own = tasks.clone();
        tasks.spawn("accept", async move {
            while let Some(Ok((stream, _))) = ended.or_stopped(listener.accept()).await {
                let (state, access, ended, tls) = (shared.clone(), access.clone(), ended.clone(), tls.clone());
                own.spawn("connection", async move {
                    let Some(tls) = tls else {
                        ended.or_stopped(serve(stream, &state, &access, address)).await;
                        return;
                    };
                    if let Some(Ok(stream)) = ended.or_stopped(tls.accept(stream)).await {
                        ended.or_stopped(serve(stream, &state, &access, address)).await;
                    }
                });
            }
        });
        Self { address, state, stop }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        self.state().content.insert(path.to_owned(), bytes);
    }

    fn blob(&self, bytes: Vec<u8>) -> serde_json::Value {
        let descriptor = json!({"digest": sha(&bytes), "size": bytes.len()});
        self.put(&format!("blobs/{}", sha(&bytes)), bytes);
        descriptor
    }

    fn manifest(&self, name: &str, manifest: &serde_json::Value) -> String {
        let bytes = manifest.to_string().into_bytes();
        let digest = sha(&bytes);
        self.put(&format!("manifests/{digest}"), bytes.clone());
        self.put(&format!("manifests/{name}"), bytes);
        digest
    }

    /// An image whose layers are packed as told; returns the digests of its manifest and its layers.
    fn image(&self, name: &str, layers: &[(&str, Pack)]) -> (String, Vec<String>) {
        let plain: Vec<_> = layers.iter().map(|(text, _)| layer(text)).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": plain.iter().map(|layer| sha(layer)).collect::<Vec<_>>()}});
        let packed: Vec<_> = plain.iter().zip(layers).map(|(layer, (_, pack))| self.blob(pack(layer))).collect();
        let digests = packed.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect();
        let manifest =
            json!({"schemaVersion": 2, "config": self.blob(config.to_string().into_bytes()), "layers": packed});
        (self.manifest(name, &manifest), digests)
    }

    fn fault(&self, path: &str, faults: &[Fault]) {
        self.state().faults.insert(path.to_owned(), faults.to_vec().into());
    }

    fn paths(&self) -> Vec<String> {
        self.state().requests.iter().map(|(path, ..)| path.clone()).collect()
    }

    fn name(&self, tag: &str) -> String {
        format!("127.0.0.1:{}/team/app{tag}", self.address.port())
    }
}

type Pack = fn(&[u8]) -> Vec<u8>;

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A layer with one file of its own, large enough to break in the middle.
fn layer(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let content = format!("{text}\n").repeat(80_000);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, text, content.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: &Mutex<State>,
    access: &Access,
    address: std::net::SocketAddr,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let url = head.split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map(|line| line[name.len() + 1..].trim().to_owned()).unwrap_or_default()
    };
    let (shown, range) = (header("authorization"), header("range"));
    let path = url.split('?').next().unwrap().trim_start_matches("/v2/team/app/").to_owned();
    let (content, fault, blobs_at) = {
        let mut state = state.lock().unwrap();
        state.requests.push((path.clone(), shown.clone(), range.clone()));
        let fault = state.faults.get_mut(&path).and_then(VecDeque::pop_front);
        (state.content.get(&path).cloned(), fault, state.blobs_at.clone())
    };
    let basic = |login: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login));
    let answer = |status: u16, headers: &str, body: &[u8]| {
        let mut all = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
        all.extend_from_slice(body);
        all
    };
    if path == "/token" {
        let fine = matches!(access, Access::Token(login) if login.is_empty() || shown == basic(login));
        let body = if fine { &br#"{"token":"GOOD"}"#[..] } else { b"{}" };
        let _ = stream.write_all(&answer(if fine { 200 } else { 401 }, "", body)).await;
        return;
    }
    let challenge = match access {
        Access::Everybody => None,
        Access::Basic(login) => (shown != basic(login)).then(|| "Basic realm=\"r\"".to_owned()),
        Access::Token(_) if shown == "Bearer GOOD" => None,
        Access::Token(_) | Access::Nobody => Some(format!("Bearer realm=\"http://{address}/token\",service=\"s\"")),
    };
    if let Some(challenge) = challenge {
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let _ = stream.write_all(&answer(401, &format!("www-authenticate: {challenge}\r\n"), body)).await;
        return;
    }
    if let Some(elsewhere) = blobs_at.filter(|_| path.starts_with("blobs/")) {
        let _ = stream.write_all(&answer(307, &format!("location: {elsewhere}{path}\r\n"), b"")).await;
        return;
    }
    let Some(mut content) = content else {
        let _ = stream.write_all(&answer(404, "", b"")).await;
        return;
    };
    let mut status = (200, String::new());
    if let Some(from) = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok())
    {
        let total = content.len();
        content = content[from..].to_vec();
        status = (206, format!("content-range: bytes {from}-{}/{total}\r\n", total - 1));
    }
    let whole = answer(status.0, &status.1, &content);
    let body_at = whole.len() - content.len();
    match fault {
        None => drop(stream.write_all(&whole).await),
        Some(Fault::BreakAfter(bytes)) => drop(stream.write_all(&whole[..body_at + bytes]).await),
        Some(Fault::Status(status, header)) => drop(stream.write_all(&answer(status, header, b"no")).await),
        Some(Fault::Lie(bytes)) => drop(stream.write_all(&answer(200, "", &bytes)).await),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Stall) => {
            let _ = stream.write_all(&whole[..body_at + content.len() / 2]).await;
            std::future::pending::<()>().await;
        }
    }
}

/// A node's images and its way to registries.
struct Node {
    store: Arc<Store>,
    registries: Registries,
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let patience = Patience { idle: Duration::from_millis(400), retry_first: Duration::from_millis(1) };
        Self { store, registries: Registries::new(Config { patience, ..config }), directory }
    }

    async fn pull(&self, image: &str, auth: Option<&v1::AuthConfig>) -> Result<runtime::images::Image, String> {
        self.registries.pull(&self.store, image, auth).await.map_err(|error| base::chain(&error))
    }

    /// What is on the way when nothing should be.
    fn left_over(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("images/spool")).unwrap().count()
    }

    fn has(&self, image: &runtime::images::Image, file: &str) -> bool {
        image.layers.iter().any(|layer| self.directory.path().join("layers").join(layer).join(file).exists())
    }
}

fn login(username: &str, password: &str) -> v1::AuthConfig {
    v1::AuthConfig { username: username.into(), password: password.into(), ..Default::default() }
}

#[tokio::test]
async fn an_image_comes_by_tag_and_by_digest_with_all_kinds_of_layers() {
    let (registry, node) = (Registry::start(Access::Everybody).await, Node::new());
    let (digest, _) = registry.image("1", &[("plain", plain), ("gzip", gzip), ("zstd", zstd)]);
    let image = node.pull(&registry.name(":1"), None).await.unwrap();
    assert_eq!(image.names.iter().cloned().collect::<Vec<_>>(), [registry.name(":1")]);
    assert_eq!(image.reference(), registry.name(&format!("@{digest}")));
    assert!(["plain", "gzip", "zstd"].iter().all(|file| node.has(&image, file)));
    assert!(!image.pinned, "what can be pulled again may be collected");
    assert_eq!(node.left_over(), 0);
    // Another image of the same layers: only what is new is fetched.
    registry.image("2", &[("plain", plain), ("gzip", gzip), ("more", gzip)]);
    let before = registry.paths().len();
    node.pull(&registry.name(":2"), None).await.unwrap();
    let fetched = registry.paths()[before..].to_vec();
    assert_eq!(fetched.len(), 3, "a manifest, a configuration and one layer: {fetched:?}");
    // By digest it has no name, and is the same image.
    let again = node.pull(&registry.name(&format!("@{digest}")), None).await.unwrap();
    assert_eq!(again.id, image.id);
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine() {
    let (registry, node) = (Registry::start(Access::Everybody).await, Node::new());
    let (ours, _) = registry.image("ours", &[("here", gzip)]);
    let size = registry.state().content["manifests/ours"].len();
    let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entry = |digest: &str, architecture: &str| json!({"digest": digest, "size": size, "platform": {"os": "linux", "architecture": architecture}});
    let other = sha(b"never asked for");
    let index = |list: &[serde_json::Value]| json!({"schemaVersion": 2, "manifests": list});
    let inner = registry.manifest("inner", &index(&[entry(&other, "s390x"), entry(&ours, machine)]));
    let top = registry.manifest("multi", &index(&[entry(&inner, machine)]));
    let image = node.pull(&registry.name(":multi"), None).await.unwrap();
    assert_eq!(image.reference(), registry.name(&format!("@{top}")), "its digest is the index's");
    registry.manifest("foreign", &index(&[entry(&other, "s390x")]));
    let error = node.pull(&registry.name(":foreign"), None).await.unwrap_err();
    assert!(error.contains("nothing for this machine; it has linux/s390x"), "{error}");
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with() {
    let (registry, node) = (Registry::start(Access::Everybody).await, Node::new());
    let (_, layers) = registry.image("1", &[("a", plain), ("b", plain)]);
    let first = format!("blobs/{}", layers[0]);
    registry
        .fault(&first, &[Fault::BreakAfter(70_000), Fault::Status(503, ""), Fault::BreakAfter(50_000), Fault::Stall]);
    registry.fault(&format!("blobs/{}", layers[1]), &[Fault::BreakAfter(10), Fault::Status(429, "retry-after: 0\r\n")]);
    registry.fault("manifests/1", &[Fault::Status(500, ""), Fault::BreakAfter(3), Fault::Hang]);
    let image = node.pull(&registry.name(":1"), None).await.unwrap();
    assert!(node.has(&image, "a") && node.has(&image, "b"));
    let ranges: Vec<_> =
        registry.state().requests.iter().filter(|(path, ..)| *path == first).map(|(.., range)| range.clone()).collect();
    assert_eq!(ranges[..4], ["", "bytes=70000-", "bytes=70000-", "bytes=120000-"]);
}

#[tokio::test]
async fn lies_are_found_and_leave_nothing() {
    let (registry, node) = (Registry::start(Access::Everybody).await, Node::new());
    let (digest, layers) = registry.image("1", &[("a", plain)]);
    let blob = format!("blobs/{}", layers[0]);
    let length = registry.state().content[&blob].len();
    for (path, faults, wanted) in [
        (blob.as_str(), vec![Fault::Lie(vec![7; length])], "sends other content than"),
        (blob.as_str(), vec![Fault::Lie(vec![7; length + 1])], "longer than"),
        (blob.as_str(), vec![Fault::Lie(vec![7; 3]); 9], "bytes of"),
        (blob.as_str(), vec![Fault::Status(404, "")], "has no team/app/blobs/"),
        (blob.as_str(), vec![Fault::Status(302, "location: file:///etc/passwd\r\n")], "no URL that can be asked"),
        (blob.as_str(), vec![Fault::Status(302, "location: x\r\n"); 20], "has no"),
        (blob.as_str(), vec![Fault::Hang; 9], "said nothing for"),
        (blob.as_str(), vec![Fault::Status(500, ""); 9], "answers 500"),
    ] {
        registry.fault(path, &faults);
        let error = node.pull(&registry.name(":1"), None).await.unwrap_err();
        assert!(error.contains(wanted), "{wanted}: {error}");
        assert_eq!((node.left_over(), node.store.list().unwrap().len()), (0, 0), "{wanted}");
    }
    registry.fault(&blob, &[]);
    registry.fault(&format!("manifests/{digest}"), &[Fault::Lie(b"{}".to_vec())]);
    let error = node.pull(&registry.name(&format!("@{digest}")), None).await.unwrap_err();
    assert!(error.contains("sends other content than"), "{error}");
    registry.put("manifests/big", vec![b' '; 5 << 20]);
    assert!(node.pull(&registry.name(":big"), None).await.unwrap_err().contains("bytes of big"));
    registry.put("manifests/old", br#"{"schemaVersion":1}"#.to_vec());
    assert!(node.pull(&registry.name(":old"), None).await.unwrap_err().contains("schema 1"));
    node.pull(&registry.name(":1"), None).await.unwrap();
}

#[tokio::test]
async fn credentials_are_shown_to_who_asks_for_them() {
    let node = Node::new();
    let basic = Registry::start(Access::Basic("u:p")).await;
    basic.image("1", &[("a", plain)]);
    let error = node.pull(&basic.name(":1"), None).await.unwrap_err();
    assert!(
        error.contains("401") && error.contains("(authentication required)") && error.contains("pull secret"),
        "{error}"
    );
    assert!(node.pull(&basic.name(":1"), Some(&login("u", "wrong"))).await.is_err());
    node.pull(&basic.name(":1"), Some(&login("u", "p"))).await.unwrap();
    let token = Registry::start(Access::Token("u:p")).await;
    token.image("1", &[("b", plain), ("c", gzip)]);
    let error = node.pull(&token.name(":1"), Some(&login("u", "wrong"))).await.unwrap_err();
    assert!(error.contains("the token server answers 401"), "{error}");
    node.pull(&token.name(":1"), Some(&login("u", "p"))).await.unwrap();
    let anonymous = Registry::start(Access::Token("")).await;
    anonymous.image("1", &[("d", plain), ("e", plain), ("f", plain)]);
    node.pull(&anonymous.name(":1"), None).await.unwrap();
    let tokens = anonymous.paths().iter().filter(|path| *path == "/token").count();
    assert_eq!(tokens, 1, "one token serves the whole pull");
    // One that refuses whatever it gets is not asked for ever.
    let nobody = Registry::start(Access::Nobody).await;
    assert!(node.pull(&nobody.name(":1"), Some(&login("u", "p"))).await.is_err());
    assert!(nobody.paths().len() <= 4, "{:?}", nobody.paths());
}

#[tokio::test]
async fn what_authorizes_us_is_not_shown_to_another_host() {
    let node = Node::new();
    let (registry, elsewhere) = (Registry::start(Access::Basic("u:p")).await, Registry::start(Access::Everybody).await);
    registry.image("1", &[("a", plain)]);
    elsewhere.image("1", &[("a", plain)]);
    registry.state().blobs_at = Some(format!("http://{}/v2/team/app/", elsewhere.address));
    node.pull(&registry.name(":1"), Some(&login("u", "p"))).await.unwrap();
    let shown: Vec<_> = elsewhere.state().requests.iter().map(|(_, shown, _)| shown.clone()).collect();
    assert_eq!(shown, ["", ""], "the configuration and the layer");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_a_broken_one_costs_nothing_but_time() {
    let (registry, mirror) = (Registry::start(Access::Everybody).await, Registry::start(Access::Everybody).await);
    let (digest, layers) = registry.image("1", &[("a", plain), ("b", plain)]);
    mirror.image("1", &[("a", plain), ("b", plain)]);
    let length = registry.state().content[&format!("blobs/{}", layers[1])].len();
    mirror.fault(&format!("blobs/{}", layers[1]), &[Fault::Lie(vec![0; length])]);
    let host = format!("127.0.0.1:{}", registry.address.port());
    let endpoint = vec!["http://127.0.0.1:1".to_owned(), format!("http://{}", mirror.address)];
    let config = Config { mirrors: [(host, Mirror { endpoint, ..Mirror::default() })].into(), ..Config::default() };
    let node = Node::with(config);
    let image = node.pull(&registry.name(":1"), Some(&login("u", "p"))).await.unwrap();
    assert_eq!(image.reference(), registry.name(&format!("@{digest}")));
    // The layers come at the same time, and whoever lied is asked for no more: only what it lied about was surely asked.
    assert!(mirror.paths().contains(&format!("blobs/{}", layers[1])));
    // The mirror is asked anonymously, for the registry that it stands in for.
    assert!(mirror.state().requests.iter().all(|(_, shown, _)| shown.is_empty()));
    let fetched = registry.paths();
    assert!(fetched.contains(&format!("blobs/{}", layers[1])), "what the mirror lied about: {fetched:?}");
}

/// A registry that speaks TLS as `localhost` and `registry.test`, and the file of the authority that vouches for it.
async fn secure_registry(directory: &std::path::Path) -> (Registry, std::path::PathBuf) {
    use rustls_pki_types::PrivateKeyDer;
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let own_key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "registry.test".to_owned()];
    let own = rcgen::CertificateParams::new(names).unwrap().signed_by(&own_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], PrivateKeyDer::Pkcs8(own_key.serialize_der().into()))
        .unwrap();
    let file = directory.join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    (Registry::start_with(Access::Everybody, Some(Arc::new(config).into())).await, file)
}

/// What is believed of one host.
fn believing(host: &str, authority: &std::path::Path) -> BTreeMap<String, HostConfig> {
    let tls = Some(Tls { ca_file: Some(authority.to_owned()), ..Tls::default() });
    [(host.to_owned(), HostConfig { tls, ..HostConfig::default() })].into()
}

#[tokio::test]
async fn only_a_configured_authority_vouches_for_a_registry() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, authority) = secure_registry(directory.path()).await;
    registry.image("1", &[("a", gzip)]);
    let host = format!("localhost:{}", registry.address.port());
    let mirror = |name: &str| {
        let endpoint = vec![format!("https://{name}:{}", registry.address.port())];
        // The registry itself is nobody: what comes can only come from the mirror.
        BTreeMap::from([("127.0.0.1:1".to_owned(), Mirror { endpoint, ..Mirror::default() })])
    };
    for (name, configs) in [
        ("localhost", BTreeMap::new()),
        ("localhost", believing("other.test", &authority)),
        // Its certificate does not have this name.
        ("127.0.0.1", believing(&format!("127.0.0.1:{}", registry.address.port()), &authority)),
    ] {
        let node = Node::with(Config { mirrors: mirror(name), configs, ..Config::default() });
        node.pull("127.0.0.1:1/team/app:1", None).await.unwrap_err();
        assert!(registry.paths().is_empty(), "{name}: nothing is asked of who is not believed");
    }
    let configs = believing(&host, &authority);
    let node = Node::with(Config { mirrors: mirror("localhost"), configs, ..Config::default() });
    let image = node.pull("127.0.0.1:1/team/app:1", None).await.unwrap();
    assert!(node.has(&image, "a"));
}

/// Joins a client with the registry, wherever it asks to be led; returns what it asked for.
async fn proxy(registry: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>, base::Stop) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, stop, tasks) = (Arc::new(Mutex::new(Vec::new())), base::Stop::new(), base::Tasks::new("proxy"));
    let (shared, ended, own) = (asked.clone(), stop.clone(), tasks.clone());
    tasks.spawn("accept", async move {
        while let Some(Ok((mut client, _))) = ended.or_stopped(listener.accept()).await {
            let (asked, ended) = (shared.clone(), ended.clone());
            own.spawn("connection", async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                asked.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                let mut server = TcpStream::connect(registry).await.unwrap();
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                ended.or_stopped(tokio::io::copy_bidirectional(&mut client, &mut server)).await;
            });
        }
    });
    (address, asked, stop)
}

#[tokio::test]
async fn a_registry_behind_a_proxy_is_reached_through_its_tunnel() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, authority) = secure_registry(directory.path()).await;
    registry.image("1", &[("a", gzip)]);
    let (address, asked, stop) = proxy(registry.address).await;
    let proxies = Proxies { https: Some(format!("http://{address}")), ..Proxies::default() };
    let config = Config { configs: believing("registry.test", &authority), proxies, ..Config::default() };
    let image = Node::with(config.clone()).pull("registry.test/team/app:1", None).await.unwrap();
    assert_eq!(image.names.iter().collect::<Vec<_>>(), ["registry.test/team/app:1"]);
    let lines = std::mem::take(&mut *asked.lock().unwrap());
    assert!(!lines.is_empty());
    assert!(lines.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{lines:?}");
    // The proxy leads elsewhere than the name says: the certificate is what counts.
    let strangers = Config { configs: BTreeMap::new(), ..config };
    Node::with(strangers).pull("registry.test/team/app:1", None).await.unwrap_err();
    stop.stop();
}

/// Two pods of one image that start together fetched every layer twice.
#[tokio::test]
async fn pulls_at_the_same_time_fetch_each_layer_once() {
    let (registry, node) = (Registry::start(Access::Everybody).await, Node::new());
    let (_, layers) = registry.image("1", &[("a", plain), ("b", gzip)]);
    let name = registry.name(":1");
    let (first, second, third) = tokio::join!(node.pull(&name, None), node.pull(&name, None), node.pull(&name, None));
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    let paths = registry.paths();
    for layer in layers {
        assert_eq!(paths.iter().filter(|path| **path == format!("blobs/{layer}")).count(), 1);
    }
}
