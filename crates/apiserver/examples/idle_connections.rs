//! How much memory idle connections take: another process opens 10,000 (or as many as the argument says) over TLS, asks
//! one thing on each and stays. Prints the server's resident memory before and after.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Config, EncryptionKeys, Limits, Server, Version};
use base::{Random, Stop, SystemClock, Tasks};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Addresses of the loopback network, so that ports do not run out.
const CLIENT_ADDRESSES: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    raise_file_limit()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [client, address, certificate, count] if client == "--client" => {
            connect_all(address.parse()?, certificate, count.parse()?).await
        }
        [] => serve(10_000).await,
        [count, ..] => serve(count.parse()?).await,
    }
}

fn raise_file_limit() -> Result<(), Failure> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as f64 / f64::from(1 << 20)
}

#[expect(clippy::print_stdout, reason = "printing is what it is for")]
async fn serve(count: usize) -> Result<(), Failure> {
    let (config, certificate) = config()?;
    let (tasks, stop) = (Tasks::new("apiserver"), Stop::new());
    let server = Box::pin(Server::start(config, tasks.clone(), stop.clone())).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tasks.spawn("listener", server.serve(listener, stop.clone()));
    let file = std::env::temp_dir().join(format!("idle-connections-{}", std::process::id()));
    std::fs::write(&file, certificate.as_ref())?;
    let before = resident_mib();
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["--client", &address]).arg(&file).arg(count.to_string());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stdout.take().ok_or("the client has an output")?).lines();
    let opened = tokio::task::spawn_blocking(move || said.next()).await?.ok_or("the client failed")??;
    let after = resident_mib();
    println!("{opened} connections: {before:.1} MiB before, {after:.1} MiB after");
    println!("{:.1} KiB each", (after - before) * 1024.0 / opened.parse::<f64>()?);
    drop(child.stdin.take());
    child.wait()?;
    std::fs::remove_file(&file)?;
    stop.stop();
    tasks.join().await;
    Ok(())
}

/// Opens the connections, says how many, and holds them until its input ends.
#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn connect_all(address: SocketAddr, certificate: &str, count: usize) -> Result<(), Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate)?))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(tls));
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let socket = tokio::net::TcpSocket::new_v4()?;
        let own = [127, 0, 0, u8::try_from(2 + number % CLIENT_ADDRESSES)?];
        socket.bind(SocketAddr::from((own, 0)))?;
        let stream: TcpStream = socket.connect(address).await?;
        let name = ServerName::try_from("localhost")?;
        let mut stream = connector.connect(name, stream).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        let mut some = [0; 64];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut some)).await??;
        if read == 0 {
            return Err(format!("connection {number} was closed").into());
        }
        held.push(stream);
    }
    println!("{}", held.len());
    std::io::stdout().flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    Ok(())
}

fn config() -> Result<(Config, CertificateDer<'static>), Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rcgen::KeyPair::generate()?;
    let names = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    let certificate = names.self_signed(&key)?;
    let private = PrivateKeyDer::try_from(key.serialize_der())?;
    let tls = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private)?;
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = Config {
        store: Arc::new(store::memory::MemoryStore::default()),
        clock: Arc::new(SystemClock),
        random: Random::from_os(),
        tls: Arc::new(tls),
        ca_pem: certificate.pem().into(),
        service_account_key_pem: key.serialize_pem().into(),
        issuer: "https://localhost".to_owned(),
        service_cidr: "10.43.0.0/16".parse()?,
        service_cidr_second: None,
        node_port_range: (30_000, 32_767),
        advertise: "192.0.2.1:6443".parse()?,
        kubelet_client: Arc::new(client.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()),
        version: Version {
            git_version: "v1.36.2".to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
            platform: String::new(),
        },
        static_tokens: Default::default(),
        audit: None,
        encryption: Arc::new(EncryptionKeys::ephemeral()),
        // The client takes longer to open them all than it may stay without a request.
        limits: Limits { header_time_max: Duration::from_secs(3600), ..Limits::default() },
        metrics: Vec::new(),
        components: Vec::new(),
    };
    Ok((config, certificate.der().clone()))
}
