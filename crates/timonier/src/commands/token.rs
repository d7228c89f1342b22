//! `timonier token`: what machines join with. Tokens are Kubernetes' bootstrap tokens, secrets in `kube-system`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::{Key, Object, resources};
use base::{Clock, SystemClock};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use control::{Client, DeleteOptions, WatchScope};
use machinery::time;
use serde_json::{Value, json};

use super::{DataDirArg, say};
use crate::cluster::duration;
use crate::token::{self, JoinToken};
use crate::{kubeconfig, tls};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";

/// Makes, lists and deletes what machines join with.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    data: DataDirArg,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token, and print it with the command that joins a machine.
    Create {
        /// How long machines may join with it; `0` for ever.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = ttl)]
        ttl: Ttl,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List tokens, without their secrets.
    List,
    /// Delete a token: nobody joins with it any more. Machines that joined stay.
    Delete {
        /// The part of the token before its dot.
        id: String,
    },
}

/// How long a token is good; nothing: for ever.
#[derive(Debug, Clone, Copy)]
struct Ttl(Option<Duration>);

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "0" { Ok(Ttl(None)) } else { duration(text).map(|ttl| Ttl(Some(ttl))) }
}

impl Token {
    pub(super) fn run(self) -> Result<()> {
        let client = kubeconfig::client(&self.data.open()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.action {
                Action::Create { ttl, description } => create(&client, ttl, description.as_deref()).await,
                Action::List => list(&client).await,
                Action::Delete { id } => delete(&client, &id).await,
            }
        })
    }
}

async fn create(client: &Client, Ttl(ttl): Ttl, description: Option<&str>) -> Result<()> {
    let (server, ca) = cluster(client).await?;
    let token = JoinToken::generate(ca)?;
    let expires = ttl.map(|ttl| SystemClock.now().checked_add(ttl)).transpose().context("the time is too long")?;
    let secret = secret(&token, expires.map(time::seconds).as_deref(), description);
    client.create(resources::SECRETS, NAMESPACE, secret.to_string().into()).await.context("cannot make the token")?;
    say(token.reveal());
    let until = expires.map_or_else(|| "for ever".to_owned(), |at| format!("until {}", time::seconds(at)));
    say(format_args!(
        "\nGood {until}. On a machine that is to join:\n\n  timonier agent --server {server} --token {}",
        token.reveal()
    ));
    Ok(())
}

/// Where the cluster tells machines that join to go, and the hash of its CA.
async fn cluster(client: &Client) -> Result<(String, token::CaHash)> {
    let info = client.get(resources::CONFIG_MAPS, &Key::new("kube-public", "cluster-info")).await?.to_value();
    let config = info["data"]["kubeconfig"].as_str().unwrap_or_default();
    let config: Value = serde_saphyr::from_str(config).context("cluster-info in kube-public is not YAML")?;
    let cluster = &config["clusters"][0]["cluster"];
    let ca = STANDARD.decode(cluster["certificate-authority-data"].as_str().unwrap_or_default())?;
    let ca = tls::certificates(std::str::from_utf8(&ca)?)?;
    let ca = ca.first().context("cluster-info in kube-public names no CA")?;
    Ok((cluster["server"].as_str().unwrap_or_default().to_owned(), token::hash(ca)?))
}

fn secret(token: &JoinToken, expires: Option<&str>, description: Option<&str>) -> Value {
    let mut data = json!({"token-id": token.id, "token-secret": token.secret,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true"});
    for (field, value) in [("expiration", expires), ("description", description)] {
        if let Some(value) = value {
            data[field] = value.into();
        }
    }
    json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "stringData": data,
        "metadata": {"name": format!("{PREFIX}{}", token.id), "namespace": NAMESPACE}})
}

async fn list(client: &Client) -> Result<()> {
    let secrets = client.list(resources::SECRETS, &WatchScope::field("type", TYPE)).await?.items;
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["ID", "EXPIRES", "DESCRIPTION"]);
    for secret in secrets.iter().filter(|secret| *secret.key().namespace == *NAMESPACE) {
        table.add_row([
            field(secret, "token-id").unwrap_or_default(),
            field(secret, "expiration").unwrap_or_else(|| "never".to_owned()),
            field(secret, "description").unwrap_or_default(),
        ]);
    }
    say(table);
    Ok(())
}

fn field(secret: &Object, name: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(secret.to_value()["data"][name].as_str()?).ok()?).ok()
}

async fn delete(client: &Client, id: &str) -> Result<()> {
    // Whoever gives the whole token means the same.
    let id = id.split('.').next().unwrap_or_default();
    let key = Key::new(NAMESPACE, format!("{PREFIX}{id}").as_str());
    match client.delete(resources::SECRETS, &key, &DeleteOptions::default()).await {
        Err(error) if error.is_not_found() => bail!("there is no token {id}: `timonier token list` lists them"),
        deleted => deleted?,
    }
    say(format_args!("deleted token {id}"));
    Ok(())
}
