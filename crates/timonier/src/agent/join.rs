//! How a machine comes to know its cluster, and the cluster it: once, with a token.
//!
//! The CA is fetched from `cluster-info`, which everybody may read, over a connection that nothing is believed of but what
//! the token's hash vouches for. All that follows is verified by that CA: the secret goes to nobody else.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use api::{Key, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::{Client, ClientError, HttpTransport};
use serde_json::Value;

use super::certificates::{Kind, obtain};
use crate::pki::Leaf;
use crate::tls;
use crate::token::{self, JoinToken};

/// What a join brings.
pub(super) struct Joined {
    pub(super) ca_pem: String,
    pub(super) client: Leaf,
}

/// Joins the cluster of the token as node `name`.
pub(super) async fn join(servers: &[String], token: &JoinToken, name: &str) -> Result<Joined> {
    let ca_pem = fetch_ca(servers, token).await?;
    let transport = HttpTransport::to_any(servers, tls::anonymous_client(&ca_pem)?, Some(&token.bearer()))?;
    let client = Client::new(Arc::new(transport), "timonier/join");
    let client = obtain(&client, &Kind::Client, name).await.map_err(|error| refused(error, token))?;
    Ok(Joined { ca_pem, client })
}

/// Says what to do where the cluster refuses the token.
fn refused(error: anyhow::Error, token: &JoinToken) -> anyhow::Error {
    let code = error.chain().find_map(|cause| match cause.downcast_ref::<ClientError>() {
        Some(ClientError::Api(error)) => Some(error.code),
        _ => None,
    });
    match code {
        Some(401) => anyhow!(
            "the cluster does not know token {}: it has expired, was deleted, or its secret is another; make a new one with \
             `timonier token create` on the server",
            token.id
        ),
        Some(403) => error.context(format!(
            "token {} may not join machines: make one with `timonier token create` on the server",
            token.id
        )),
        _ => error,
    }
}

/// The cluster's CA, if one of the servers has the one that the token names.
async fn fetch_ca(servers: &[String], token: &JoinToken) -> Result<String> {
    let mut last = None;
    for server in servers {
        match fetch_ca_of(server, token).await {
            Ok(ca_pem) => return Ok(ca_pem),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow!("no server was named: say --server https://ADDRESS:6443")))
}

async fn fetch_ca_of(server: &str, token: &JoinToken) -> Result<String> {
    // Nothing that a stranger says is believed unless the token's hash vouches for it.
    let stranger = HttpTransport::new(server, control::unverified_tls(), None)?;
    let client = Client::new(Arc::new(stranger), "timonier/join");
    let key = Key::new("kube-public", "cluster-info");
    let found = client.get(resources::CONFIG_MAPS, &key).await;
    let found = found.map_err(|error| match error {
        ClientError::Transport(_) => anyhow::Error::from(error).context(format!(
            "no API server answers at {server}: check the address, and that its port is open to this machine"
        )),
        _ => anyhow::Error::from(error).context(format!("{server} does not tell which cluster it is")),
    })?;
    let config = found.to_value()["data"]["kubeconfig"].as_str().unwrap_or_default().to_owned();
    let ca_pem =
        ca_of(&config).with_context(|| format!("{server} tells of its cluster in a form that is not known"))?;
    check(&ca_pem, token).with_context(|| format!("{server} is not the server that the token is for"))?;
    Ok(ca_pem)
}

fn ca_of(kubeconfig: &str) -> Result<String> {
    let config: Value = serde_saphyr::from_str(kubeconfig).map_err(|error| anyhow!("not YAML: {error}"))?;
    let data = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().context("it names no CA")?;
    String::from_utf8(STANDARD.decode(data).context("the CA is not base64")?).context("the CA is not PEM")
}

/// Every certificate of the CA must have the key that the token vouches for.
fn check(ca_pem: &str, token: &JoinToken) -> Result<()> {
    let certificates = tls::certificates(ca_pem)?;
    let hashes = certificates.iter().map(|certificate| token::hash(certificate)).collect::<Result<Vec<_>>>()?;
    match hashes.iter().find(|hash| **hash != token.ca) {
        Some(other) => bail!(
            "its CA is {}, and the token's is {}: check --server, or make a new token with `timonier token create` on it",
            token::show(other),
            token::show(&token.ca)
        ),
        None if hashes.is_empty() => bail!("it shows no CA"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ca_that_the_token_names_is_trusted() {
        let ca = || {
            let made = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
            (made.cert.pem(), token::hash(made.cert.der()).unwrap())
        };
        let ((pem, hash), (other, _)) = (ca(), ca());
        let config =
            |pem: &str| format!("clusters: [{{cluster: {{certificate-authority-data: {}}}}}]", STANDARD.encode(pem));
        let token = JoinToken::generate(hash).unwrap();
        assert_eq!(ca_of(&config(&pem)).unwrap(), pem);
        check(&pem, &token).unwrap();
        // A stranger's beside it makes the whole bundle a stranger's.
        for bundle in [other.clone(), format!("{pem}{other}")] {
            let error = check(&bundle, &token).unwrap_err().to_string();
            assert!(error.contains(&token::show(&hash)) && error.contains("timonier token create"), "{error}");
        }
        assert!(check("", &token).is_err());
    }
}
