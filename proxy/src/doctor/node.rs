//! What one address says, and whether it says anything.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use qdrant_router::{
    discovery::Address,
    topology::{ApiError, ClusterApi, ClusterView, HttpApi, Version},
};
use tokio::net::TcpStream;

use super::{Finding, certificate::Certificate, listed};

/// How long a connection may take; `serve` gives it as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What was seen at one address.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) rest: io::Result<()>,
    pub(super) grpc: io::Result<()>,
    pub(super) view: Result<ClusterView, ApiError>,
    pub(super) version: Option<Version>,
    /// Whether the router is configured to speak TLS.
    pub(super) wants_tls: bool,
    /// The certificate that it shows on its REST port, where it speaks TLS.
    pub(super) certificate: Option<Certificate>,
}

pub(super) async fn probe(address: Address, api: Arc<HttpApi>, wants_tls: bool) -> Node {
    let (rest, grpc, view, version) = tokio::join!(
        connect(address.rest()),
        connect(address.grpc()),
        api.cluster(address),
        api.version(address)
    );
    let version = version.ok();
    // Without TLS, a certificate is looked for only to explain why nothing is understood.
    let certificate = match (&rest, wants_tls || version.is_none()) {
        (Ok(()), true) => Certificate::shown_at(address.rest()).await,
        _ => None,
    };
    Node { address, rest, grpc, view, version, wants_tls, certificate }
}

async fn connect(address: SocketAddr) -> io::Result<()> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

// === impl Node ===

impl Node {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let Address { ip, rest_port, grpc_port } = self.address;
        let mut findings = Vec::new();
        for (outcome, protocol, port, key) in [
            (&self.rest, "REST", rest_port, "upstream_rest_port"),
            (&self.grpc, "gRPC", grpc_port, "upstream_grpc_port"),
        ] {
            if let Err(error) = outcome {
                let fix = match error.kind() {
                    io::ErrorKind::TimedOut => format!(
                        "the machine may be gone, or a NetworkPolicy drops what is sent to port {port}; allow it from the router's pods"
                    ),
                    _ => format!(
                        "check that Qdrant runs there and that its {protocol} port is {port} (`{key}`)"
                    ),
                };
                let what = format!("{ip}: the {protocol} port {port} cannot be reached: {error}");
                findings.push(Finding::problem("node", what, fix));
            }
        }
        if self.rest.is_ok()
            && let Err(error) = &self.view
            && let Some(fix) = self.fix_of(error)
        {
            findings.push(Finding::problem("node", error.to_string(), fix));
        }
        if findings.is_empty() {
            let version = self.version.map_or_else(String::new, |version| format!(", Qdrant {version}"));
            findings.push(Finding::ok("node", format!("{ip}: both ports can be reached{version}")));
        }
        findings
    }

    /// What to do where the node was connected to and not understood. Refusals are judged together.
    fn fix_of(&self, error: &ApiError) -> Option<String> {
        let reason = match error {
            ApiError::Refused { .. } => return None,
            ApiError::Unreachable { reason, .. } => reason.as_str(),
            _ => "",
        };
        Some(match (self.wants_tls, &self.certificate) {
            (false, Some(_)) => "the node speaks TLS; set `upstream_tls: true`".to_owned(),
            (true, None) => {
                "the node speaks no TLS; leave out `upstream_tls`, or set `service.enable_tls` on the node"
                    .to_owned()
            }
            (true, Some(_)) if reason.contains("UnknownIssuer") => {
                "name the CA that issued the certificate (`upstream_ca_file`)".to_owned()
            }
            (true, Some(_)) if reason.contains("certificate") => {
                "see what is said of its certificate".to_owned()
            }
            _ => "look into the node's log; it may be starting, overloaded, or no Qdrant at all".to_owned(),
        })
    }
}

/// Whether the nodes let the router read the topology.
pub(super) fn credentials(nodes: &[Node], has_key: bool) -> Option<Finding> {
    let refusing: Vec<&Node> =
        nodes.iter().filter(|node| matches!(node.view, Err(ApiError::Refused { .. }))).collect();
    if !refusing.is_empty() {
        let who = listed(refusing.iter().map(|node| node.address));
        let (what, fix) = match has_key {
            true => (
                "do not accept the router's key",
                "check that the file holds the key as the servers have it; a key for some collections only, or one about to expire, does not do",
            ),
            false => ("ask for a key", "give the router a read-only key of its own (`api_key_file`)"),
        };
        return Some(Finding::problem("credentials", format!("{who} {what}"), fix));
    }
    if !nodes.iter().any(|node| node.view.is_ok()) {
        return None;
    }
    let what = match has_key {
        true => "the router's key reads the topology",
        false => "the nodes ask for no key",
    };
    Some(Finding::ok("credentials", what))
}
