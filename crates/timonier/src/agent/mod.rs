//! A machine that is a node of a cluster whose servers are elsewhere.
//!
//! The first start joins with a token; what came of it lies in `agent/` in the data directory, so that later starts need
//! nothing but the machine. The node goes on without its servers: pods run, services and names are answered as they were
//! known last, and whatever was missed is caught up with when a server answers again.

mod certificates;
mod join;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::resources::CONFIG_MAPS;
use api::{Key, Resource};
use base::{Clock, SystemClock};
use clap::Args;
use control::{Client, HttpTransport, WatchScope};
use serde_json::{Value, json};

use crate::cluster::components::{self, Node};
use crate::cluster::settings::{CONFIG_MAP, Settings};
use crate::cluster::{Base, Ended, NodeOptions, Told, run_until_told, runtime};
use crate::data_dir::{DataDir, create_private, write_private};
use crate::tls::{self, Identity};
use crate::token::JoinToken;
use crate::{preflight, token};

use certificates::{Kept, Kind};

/// How long a node that knows its cluster's settings waits for a server at its start: then it goes on by what it knows.
const SETTINGS_WAIT: Duration = Duration::from_secs(5);

/// Flags of `timonier agent`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A server of the cluster, such as https://192.0.2.10:6443; may be given several times. Remembered.
    #[arg(long = "server", value_name = "URL")]
    servers: Vec<String>,
    #[command(flatten)]
    node: NodeOptions,
}

/// What a node remembers of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) servers: Vec<String>,
    pub(crate) node_name: String,
    settings: Settings,
}

impl State {
    /// What the data directory holds; nothing where it is not an agent's.
    pub(crate) fn read(data: &DataDir) -> Result<Option<Self>> {
        let path = path(data, "cluster.json");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let damaged = || format!("{} is damaged: start over with `timonier reset --yes`", path.display());
        let value: Value = serde_json::from_str(&text).with_context(damaged)?;
        let servers = value["servers"].as_array().with_context(damaged)?;
        Ok(Some(Self {
            servers: servers.iter().filter_map(|server| server.as_str().map(str::to_owned)).collect(),
            node_name: value["nodeName"].as_str().with_context(damaged)?.to_owned(),
            settings: Settings::from_data(&value["settings"]).with_context(damaged)?,
        }))
    }

    fn write(&self, data: &DataDir) -> Result<()> {
        let value = json!({"servers": self.servers, "nodeName": self.node_name, "settings": self.settings.to_data()});
        write_private(&path(data, "cluster.json"), format!("{value:#}\n").as_bytes())
    }
}

fn path(data: &DataDir, name: &str) -> PathBuf {
    data.path("agent").join(name)
}

/// A client with the node's own identity, for commands beside the running agent.
pub(crate) fn client(data: &DataDir, state: &State) -> Result<Client> {
    let ca_pem = read_ca(data)?.context("the node's CA is missing: join again with a token")?;
    let kept = client_certificate(data, &state.node_name);
    if !kept.load(SystemClock.now())? {
        bail!("the node's certificate is over: join again with `timonier agent --token`");
    }
    let transport = HttpTransport::to_any(&state.servers, tls::client(kept.identity, &ca_pem)?, None)?;
    Ok(Client::new(Arc::new(transport), "timonier/cli"))
}

fn client_certificate(data: &DataDir, node: &str) -> Kept {
    let (path, node) = (path(data, "client.pem"), node.to_owned());
    Kept { path, kind: Kind::Client, node, identity: Identity::none() }
}

fn read_ca(data: &DataDir) -> Result<Option<String>> {
    let path = path(data, "ca.crt");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Runs a node until it is told to stop. `on_ready` is called once, with the node's name, when the node is ready.
pub(crate) fn run(
    data: &DataDir,
    options: &Options,
    token: Option<&JoinToken>,
    on_ready: impl FnOnce(&str) -> Result<()> + Send + 'static,
) -> Result<()> {
    data.create()?;
    preflight::check_disk(data.root())?;
    preflight::raise_file_limit()?;
    let _lock = data.lock()?;
    if data.path("pki").exists() {
        bail!(
            "{} holds a server with its own cluster: start it with `timonier up`, or make it forget with `timonier reset --yes`",
            data.root().display()
        );
    }
    create_private(&data.path("agent"))?;
    let listener = preflight::listen(options.node.kubelet_port, "--kubelet-port")?;
    runtime()?.block_on(async {
        let (mut told, mut on_ready, mut token) = (Told::new()?, Some(on_ready), token);
        loop {
            // Only the first time is there somebody who waits, and a token to be used.
            let tell = on_ready.take();
            let on_ready = move |node: &str| tell.map_or(Ok(()), |tell| tell(node));
            let listener = listener.try_clone().context("cannot share the node server's socket")?;
            match live(data, options, token.take(), &mut told, on_ready, listener).await? {
                Ended::Told => return Ok(()),
                Ended::Outdated => tracing::info!("starting again under the machine's new address"),
            }
        }
    })
}

/// From joining to the end, under one address.
async fn live(
    data: &DataDir,
    options: &Options,
    token: Option<&JoinToken>,
    told: &mut Told,
    on_ready: impl FnOnce(&str) -> Result<()> + Send + 'static,
    listener: std::net::TcpListener,
) -> Result<Ended> {
    let joined = tokio::select! {
        joined = enter(data, options, token) => joined?,
        () = told.wait() => return Ok(Ended::Told),
    };
    let base = Arc::new(Base::new(data, &options.node, joined.state.settings.clone()).await?);
    let serving = keep_certificates(&base, &joined)?;
    let transport = Arc::new(joined.transport);
    let node = Node { base: base.clone(), transport, serving, ca_pem: joined.ca_pem, listener };
    let ready = components::start(node).await?;
    run_until_told(&base, ready, told, on_ready, moved(&base)).await
}

/// Ends when other machines reach this one under another address; one that was given stays.
async fn moved(base: &Base) {
    if base.node.node_ip.is_some() {
        return std::future::pending().await;
    }
    match network::node_address_other_than(base.net.as_ref(), base.node_ip).await {
        Ok(now) => tracing::warn!(was = %base.node_ip, %now, "the machine has another address"),
        Err(error) => {
            tracing::error!(
                error = base::chain(&error),
                "changes of the machine's address are not seen: start the agent again when it has another"
            );
            std::future::pending::<()>().await;
        }
    }
}

/// A machine that belongs to its cluster.
struct Member {
    state: State,
    ca_pem: String,
    client: Kept,
    transport: HttpTransport,
}

/// Becomes a node of the cluster, or finds that the machine is one.
async fn enter(data: &DataDir, options: &Options, token: Option<&JoinToken>) -> Result<Member> {
    let known = State::read(data)?;
    let servers = match (&options.servers[..], &known) {
        ([], Some(known)) => known.servers.clone(),
        ([], None) => {
            bail!("no server was named: say --server https://ADDRESS:6443, as `timonier token create` prints it")
        }
        (given, _) => given.to_vec(),
    };
    options.node.check()?;
    let node_name = options.node.name()?;
    let client = client_certificate(data, &node_name);
    let ca_pem = match read_ca(data)? {
        Some(ca_pem) if client.load(SystemClock.now())? => {
            same_cluster(&ca_pem, token)?;
            ca_pem
        }
        known => {
            let token = token.with_context(|| no_token(known.is_some()))?;
            if let Some(ca_pem) = &known {
                same_cluster(ca_pem, Some(token))?;
            }
            let joined = join::join(&servers, token, &node_name).await?;
            write_private(&path(data, "ca.crt"), joined.ca_pem.as_bytes())?;
            client.take(&joined.client)?;
            joined.ca_pem
        }
    };
    let transport = HttpTransport::to_any(&servers, tls::client(client.identity.clone(), &ca_pem)?, None)?;
    let settings = settings(&transport, known.map(|known| known.settings)).await?;
    let state = State { servers, node_name, settings };
    state.write(data)?;
    Ok(Member { state, ca_pem, client, transport })
}

fn no_token(was_member: bool) -> &'static str {
    if was_member {
        "the node's certificate is over, missing or another node's: join again with --token, which `timonier token create` on the \
         server prints"
    } else {
        "this machine is no node yet, and to become one it needs a token: say --token, which `timonier token create` on the server \
         prints"
    }
}

/// A token of another cluster is a mistake: the node would not know whom to believe.
fn same_cluster(ca_pem: &str, token: Option<&JoinToken>) -> Result<()> {
    let Some(token) = token else { return Ok(()) };
    for certificate in tls::certificates(ca_pem)? {
        if token::hash(&certificate)? != token.ca {
            bail!(
                "this machine is a node of another cluster than the token's: leave that with `timonier reset --yes` first, which \
                 removes its pods"
            );
        }
    }
    Ok(())
}

/// What the nodes agree on: as the cluster says, or as it said last where no server answers.
async fn settings(transport: &HttpTransport, known: Option<Settings>) -> Result<Settings> {
    let client = Client::new(Arc::new(transport.clone()), "timonier/agent");
    let key = Key::new(CONFIG_MAP.0, CONFIG_MAP.1);
    let asked = async { Ok::<_, anyhow::Error>(client.get(CONFIG_MAPS, &key).await?) };
    let found = match &known {
        Some(_) => tokio::time::timeout(SETTINGS_WAIT, asked).await.map_err(anyhow::Error::from).flatten(),
        None => asked.await,
    };
    match (found, known) {
        (Ok(map), _) => Settings::from_data(&map.to_value()["data"]),
        (Err(error), Some(known)) => {
            tracing::warn!("no server tells the cluster's settings; going on with those that were known: {error:#}");
            Ok(known)
        }
        (Err(error), None) => Err(error).context("cannot read the cluster's settings for nodes"),
    }
}

/// Keeps both certificates in time; gives the one to serve with, which comes when the node is registered.
fn keep_certificates(base: &Arc<Base>, member: &Member) -> Result<Identity> {
    let (identity, node) = (Identity::none(), base.node_name.clone());
    let serving = Kept {
        path: path(&base.data, "serving.pem"),
        kind: Kind::Serving(base.node_ip),
        node: node.clone(),
        identity: identity.clone(),
    };
    serving.load(base.clock.now())?;
    let client =
        Kept { path: member.client.path.clone(), kind: Kind::Client, node, identity: member.client.identity.clone() };
    let (shared, transport) = (base.clone(), member.transport.clone());
    base.tasks.spawn("certificates", async move {
        let (clock, random, stop) = (&shared.clock, &shared.random, &shared.stop);
        let api = Client::new(Arc::new(transport.clone()), "timonier/certificates");
        // New connections show the new one; the old ones end by themselves.
        let renewed = || transport.reconnect();
        let served = async {
            if stop.or_stopped(registered(&shared, &api)).await.is_some() {
                serving.keep(&api, clock, random, || {}, stop).await;
            }
        };
        tokio::join!(client.keep(&api, clock, random, renewed, stop), served);
    });
    Ok(identity)
}

/// Waits until the cluster knows the node under its address: it signs for no other.
async fn registered(base: &Base, client: &Client) {
    let watching = base.stop.child();
    let informers = control::Informers::new(client.clone(), base.tasks.clone(), watching.clone());
    let nodes: &Resource = api::resources::NODES;
    let cache = informers.cache(nodes, WatchScope::field("metadata.name", &base.node_name));
    let key = Key::new("", base.node_name.as_str());
    let known = |node: api::Object| {
        let node = node.to_value();
        let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        addresses.iter().any(|address| address["address"] == base.node_ip.to_string().as_str())
    };
    cache.wait_until(|cache| cache.get(&key).is_some_and(known)).await;
    watching.stop();
}
