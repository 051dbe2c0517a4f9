//! Finding out why a router would not work well, and how to fix it.
//!
//! The examination asks what `serve` would ask: the names in DNS, then each address that they have.
//! What is asked and what follows from the answers are apart: the second is in pure functions.

use std::{sync::Arc, time::SystemTime};

use qdrant_router::{
    discovery::{Address, DnsResolver, Sources},
    topology::{ClusterApi, HttpApi},
};
use serde::Serialize;
use tokio::task::JoinSet;

mod certificate;
mod names;
mod node;
pub(crate) mod shards;
mod views;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What it is about: `dns`, `node`, `credentials` and so on.
    pub(crate) about: &'static str,
    pub(crate) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, and could work better or fail later.
    Warning,
    /// Does not work.
    Problem,
}

/// What is examined: the cluster as the configuration names it.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) sources: Sources,
    pub(crate) resolver: DnsResolver,
    pub(crate) api: Arc<HttpApi>,
    /// The name that certificates are checked against; `None` without TLS.
    pub(crate) server_name: Option<String>,
    /// Whether the router has a key of its own.
    pub(crate) has_key: bool,
}

// === impl Patient ===

impl Patient {
    /// Looks at everything but the shards.
    pub(crate) async fn examine(&self) -> Vec<Finding> {
        let names = names::ask(&self.resolver, &self.sources).await;
        let mut findings = names.findings;
        if names.nodes.is_empty() {
            findings.push(Finding::problem(
                "node",
                "there is no address to look for a node at",
                "see what is said of DNS above, or name the nodes themselves (`node`)",
            ));
        }
        let nodes = self.probe(&names.nodes).await;
        for node in &nodes {
            findings.extend(node.findings());
        }
        if let Some(name) = &self.server_name {
            let certificates =
                nodes.iter().filter_map(|node| Some((node.address, node.certificate.as_ref()?)));
            findings.extend(
                certificates.map(|(address, certificate)| {
                    certificate.finding(address.rest(), name, SystemTime::now())
                }),
            );
        }
        findings.extend(node::credentials(&nodes, self.has_key));
        findings.extend(views::versions(&nodes));
        findings.extend(views::examine(&nodes, names.listed));
        findings.extend(self.fallback(&names.fallback).await);
        findings
    }

    async fn probe(&self, addresses: &[Address]) -> Vec<node::Node> {
        let mut probes = JoinSet::new();
        for &address in addresses {
            probes.spawn(node::probe(address, self.api.clone(), self.server_name.is_some()));
        }
        let mut nodes = probes.join_all().await;
        nodes.sort_by_key(|node| node.address);
        nodes
    }

    /// Whether the fallback answers a request that needs no credential.
    async fn fallback(&self, addresses: &[Address]) -> Vec<Finding> {
        if self.sources.fallback.is_empty() {
            return vec![Finding::warning(
                "fallback",
                "there is no fallback",
                "name the ClusterIP Service (`fallback`): it serves while no node can be used, or while none is known yet",
            )];
        }
        let mut findings = Vec::new();
        for &address in addresses {
            findings.push(match self.api.version(address).await {
                Ok(version) => Finding::ok("fallback", format!("{address} answers, Qdrant {version}")),
                Err(error) => Finding::problem(
                    "fallback",
                    format!("does not answer: {error}"),
                    "check that the Service has endpoints (`kubectl get endpointslices`) and names Qdrant's REST port",
                ),
            });
        }
        findings
    }
}

// === impl Finding ===

impl Finding {
    fn ok(about: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, about, what: what.into(), fix: None }
    }

    fn warning(about: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, about, what: what.into(), fix: Some(fix.into()) }
    }

    fn problem(about: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Problem, about, what: what.into(), fix: Some(fix.into()) }
    }
}

// === impl Level ===

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// Things by commas.
fn listed<T: ToString>(things: impl IntoIterator<Item = T>) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(", ")
}
