//! What the command line and the environment say of the Kubernetes around the process.

use std::path::{Path, PathBuf};

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

/// Registering with the kubelet without a registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletRegistration {
    /// `--kubelet-registration-path`: the CSI socket as the node sees it.
    pub endpoint: String,
    /// `--plugin-registration-path`: where the kubelet looks for plugins, as this process sees it.
    pub folder: PathBuf,
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

/// Whether and where to register.
///
/// # Errors
/// When it is asked for and cannot work.
pub(super) fn registration(
    path: String,
    folder: String,
    node: bool,
    endpoint: &str,
) -> Result<Option<KubeletRegistration>, String> {
    let wrong = |why: &str| Err(format!("--kubelet-registration-path={path}: {why}"));
    if path.is_empty() {
        return Ok(None);
    }
    if !node {
        return wrong("only a node plugin registers with the kubelet: --nodeserver=true is missing");
    }
    if !Path::new(&path).is_absolute() {
        return wrong("must be the absolute path of the CSI socket on the node");
    }
    if !endpoint.starts_with("unix://") {
        return wrong("the kubelet reaches a plugin by a socket: --endpoint must be unix://PATH");
    }
    Ok(Some(KubeletRegistration { endpoint: path, folder: folder.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, node: bool, endpoint: &str) -> Result<Option<KubeletRegistration>, String> {
        registration(path.to_owned(), "/registration".to_owned(), node, endpoint)
    }

    #[test]
    fn registering_is_asked_for_by_a_path_and_needs_a_node_and_a_socket() {
        const SOCKET: &str = "/var/lib/kubelet/plugins/rbd.csi.ceph.com/csi.sock";
        let found = asked(SOCKET, true, "unix:///csi/csi.sock").unwrap().unwrap();
        assert_eq!((found.endpoint.as_str(), found.folder), (SOCKET, PathBuf::from("/registration")));
        assert_eq!(asked("", false, "tcp://:1"), Ok(None));
        for (path, node, endpoint, word) in [
            (SOCKET, false, "unix:///csi/csi.sock", "--nodeserver"),
            ("csi.sock", true, "unix:///csi/csi.sock", "absolute"),
            (SOCKET, true, "tcp://127.0.0.1:1", "--endpoint"),
        ] {
            let why = asked(path, node, endpoint).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
