//! The administrator's kubeconfig: written at every start.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::data_dir::{DataDir, write_private};

/// The parts of a kubeconfig that we write; field names are the file format's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    current_context: String,
}

#[derive(Debug, Serialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Debug, Serialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

#[derive(Debug, Serialize)]
struct NamedContext {
    name: String,
    context: Context_,
}

#[derive(Debug, Serialize)]
struct Context_ {
    cluster: String,
    user: String,
}

/// Writes the file, 0600.
pub(crate) fn write(data: &DataDir, server: &str, ca: &str, certificate: &str, key: &str) -> Result<()> {
    let file = File {
        api_version: "v1".into(),
        kind: "Config".into(),
        clusters: vec![NamedCluster {
            name: "timonier".into(),
            cluster: Cluster { server: server.into(), certificate_authority_data: STANDARD.encode(ca) },
        }],
        users: vec![NamedUser {
            name: "timonier-admin".into(),
            user: User { client_certificate_data: STANDARD.encode(certificate), client_key_data: STANDARD.encode(key) },
        }],
        contexts: vec![NamedContext {
            name: "timonier".into(),
            context: Context_ { cluster: "timonier".into(), user: "timonier-admin".into() },
        }],
        current_context: "timonier".into(),
    };
    let text = serde_saphyr::to_string(&file).context("cannot write the kubeconfig as YAML")?;
    write_private(&data.path("kubeconfig"), text.as_bytes())
}

/// The file's text.
pub(crate) fn read(data: &DataDir) -> Result<String> {
    let path = data.path("kubeconfig");
    std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no cluster in {}: start one with `timonier up --data-dir {0}` ({})",
            data.root().display(),
            path.display()
        )
    })
}

/// A client with the administrator's identity, from the file.
pub(crate) fn client(data: &DataDir) -> Result<control::Client> {
    Ok(control::kubeconfig::client(&read(data)?, "timonier/cli")?)
}
