//! What the command line and the environment say of the Kubernetes around the process.

use std::path::PathBuf;

/// The Kubernetes API of the pod that this runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesApi {
    /// `$KUBERNETES_SERVICE_HOST`
    pub host: String,
    /// `$KUBERNETES_SERVICE_PORT`
    pub port: u16,
    /// `--service-account-path`
    pub account: PathBuf,
}

/// The API, when the process runs in a pod.
///
/// # Errors
/// When the port is none.
pub(super) fn api(account: String) -> Result<Option<KubernetesApi>, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(host) = variable("KUBERNETES_SERVICE_HOST") else { return Ok(None) };
    let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let port = port.parse().map_err(|_| format!("KUBERNETES_SERVICE_PORT={port}: must be a port"))?;
    Ok(Some(KubernetesApi { host, port, account: account.into() }))
}
