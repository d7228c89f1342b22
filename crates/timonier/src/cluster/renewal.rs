//! The server's own certificates are made anew while it runs, before they end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use base::Stop;

use crate::pki::{Pki, Purpose};
use crate::tls::Identity;

/// How often certificates are looked at: they have months left when they are due.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificates in use.
#[derive(Default)]
pub(super) struct Renewals(Vec<(String, Purpose, Identity)>);

impl Renewals {
    /// The certificate of that name, and from now on its successors.
    pub(super) fn leaf(&mut self, pki: &Pki, name: &str, purpose: Purpose) -> Result<Identity> {
        let identity = Identity::of(&pki.leaf(name, &purpose)?)?;
        self.0.push((name.to_owned(), purpose, identity.clone()));
        Ok(identity)
    }

    /// Looks every day until `stop`.
    pub(super) async fn run(self, pki: Arc<Pki>, stop: Stop) {
        while stop.or_stopped(tokio::time::sleep(INTERVAL)).await.is_some() {
            for (name, purpose, identity) in &self.0 {
                if let Err(error) = pki.leaf(name, purpose).and_then(|leaf| identity.replace(&leaf)) {
                    tracing::error!(certificate = name, "cannot renew a certificate; trying again tomorrow: {error:#}");
                }
            }
        }
    }
}
