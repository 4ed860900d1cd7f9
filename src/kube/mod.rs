//! LEAF: the Kubernetes API, asked only for what a call cannot do without.
//!
//! Lives here: the connection, and the questions. Not here: what an answer means for
//! a CSI call. What a reader gets wrong: nothing is connected, and no memory is spent,
//! before the first question; and nothing is read from the environment or a kubeconfig
//! here, though the crate could: the address comes from `options/`.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::kube::config::AuthInfo;
use ::kube::{Api, Client, Config};
use k8s_openapi::api::core::v1::{Node, Secret as SecretObject};

mod error;

use crate::secret::Secret;

pub use error::{Fact, KubeError, Result};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the API may be silent on a connection that has been asked something.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest name of a node, a DNS subdomain (RFC 1123), in bytes.
const LONGEST_NAME: usize = 253;

/// A Kubernetes API, and the account that asks it.
#[derive(Clone)]
pub struct Kube {
    url: String,
    /// Holds `token` and `ca.crt`, which the kubelet renews.
    account: PathBuf,
    client: Arc<Mutex<Option<Client>>>,
}

impl Kube {
    /// The API at that host and port, asked as the service account whose files are in
    /// that folder.
    pub fn new(host: &str, port: u16, account: &Path) -> Self {
        // An IPv6 address is bare in the environment and bracketed in a URL.
        let url = match host.contains(':') {
            true => format!("https://[{host}]:{port}"),
            false => format!("https://{host}:{port}"),
        };
        Self { url, account: account.to_owned(), client: Arc::default() }
    }

    /// Whether the cluster has a node of that name. Asks for its metadata alone: the
    /// status of a node is some 50 KiB, mostly a list of images.
    ///
    /// # Errors
    /// See [`Fact`]; an answer that takes longer than `limit` is none.
    pub async fn has_node(&self, name: &str, limit: Duration) -> Result<bool> {
        // What is no name cannot be a node's, and must not become a part of the URL.
        if !is_name(name) {
            return Ok(false);
        }
        let asked = async {
            let nodes: Api<Node> = Api::all(self.client()?);
            nodes.get_metadata_opt(name).await
        };
        Ok(self.answered(asked, limit).await?.is_some())
    }

    /// The fields of a secret; `None` when there is none of that name. Fields that are no
    /// text are left out.
    ///
    /// # Errors
    /// As [`Kube::has_node`].
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        limit: Duration,
    ) -> Result<Option<BTreeMap<String, Secret>>> {
        if !is_name(namespace) || !is_name(name) {
            return Ok(None);
        }
        let asked = async {
            let secrets: Api<SecretObject> = Api::namespaced(self.client()?, namespace);
            secrets.get_opt(name).await
        };
        let Some(found) = self.answered(asked, limit).await? else { return Ok(None) };
        let fields = found.data.unwrap_or_default().into_iter();
        Ok(Some(
            fields
                .filter_map(|(key, value)| Some((key, Secret::new(String::from_utf8(value.0).ok()?))))
                .collect(),
        ))
    }

    async fn answered<T>(
        &self,
        asked: impl Future<Output = std::result::Result<T, ::kube::Error>>,
        limit: Duration,
    ) -> Result<T> {
        let answer = match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|error| KubeError::of(&self.url, &error)),
            Err(_) => Err(KubeError::silence(&self.url, limit)),
        };
        if let Err(KubeError { fact: Fact::Away, .. }) = &answer {
            // The next question begins with a new connection and newly read files.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        answer
    }

    fn client(&self) -> std::result::Result<Client, ::kube::Error> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.as_ref() {
            return Ok(client.clone());
        }
        let client = Client::try_from(self.config()?)?;
        *kept = Some(client.clone());
        Ok(client)
    }

    fn config(&self) -> std::result::Result<Config, ::kube::Error> {
        let url = self.url.parse().map_err(|error| ::kube::Error::HttpError(From::from(error)))?;
        let mut config = Config::new(url);
        // Both files are read again about once a minute by the crate, since both are renewed
        // while a pod runs. The empty list keeps the machine's own certificates out: only
        // the cluster's authority vouches for its API.
        config.root_cert = Some(Vec::new());
        config.root_cert_file = Some(self.account.join("ca.crt"));
        config.auth_info = AuthInfo { token_file: Some(self.path("token")), ..AuthInfo::default() };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.write_timeout = Some(SILENCE);
        // Else the time in which the connection was not used counts as silence.
        config.reset_reader_on_write = true;
        // Whoever asked tries again, and knows for how long that makes sense.
        config.default_retry = false;
        Ok(config)
    }

    fn path(&self, name: &str) -> String {
        self.account.join(name).display().to_string()
    }
}

fn is_name(text: &str) -> bool {
    let edge = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    text.len() <= LONGEST_NAME
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_the_url() {
        for good in ["node1", "ip-10-0-0-1.eu-central-1.compute.internal", &"n".repeat(253)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../secrets", "a/b", "a?b", "a b", "a%2fb", "-a", "ä", &"n".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn an_address_of_either_family_makes_a_url() {
        let url = |host| Kube::new(host, 443, Path::new("/account")).url;
        assert_eq!(url("10.96.0.1"), "https://10.96.0.1:443");
        assert_eq!(url("fd00::1"), "https://[fd00::1]:443");
    }
}
