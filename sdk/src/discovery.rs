//! Which addresses may be nodes: a headless Service in DNS, or a fixed list.
//!
//! The answer is a list of *candidates*. Headless Services of Qdrant publish pods that are starting,
//! failing or terminating, and a dead machine's address may stay for minutes, so nothing here says
//! that a node is healthy. In the other direction no answer is no news: the last good one is kept
//! through NXDOMAIN, SERVFAIL, empty answers and timeouts.
//!
//! This module knows nothing of Qdrant.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

mod preset;
mod resolver;
mod worker;

pub use self::{
    preset::{Preset, PresetError},
    resolver::{Answer, DnsResolver, Resolve, ResolveError, ResolverError},
    worker::{Candidates, DiscoveryHandle, Sources},
};

/// Qdrant's REST port.
pub const REST_PORT: u16 = 6333;

/// Qdrant's gRPC port.
pub const GRPC_PORT: u16 = 6334;

/// A host with the ports of Qdrant's two public protocols: `HOST[:REST[:GRPC]]`.
///
/// ```
/// use qdrant_router::discovery::Host;
///
/// let host: Host = "qdrant.demo.svc:7333".parse()?;
/// assert_eq!((&*host.name, host.rest_port, host.grpc_port), ("qdrant.demo.svc", Some(7333), None));
/// let host: Host = "[::1]:6333:6334".parse()?;
/// assert_eq!(&*host.name, "::1");
/// # Ok::<(), qdrant_router::discovery::HostError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A DNS name or an IP address.
    pub name: String,
    /// The REST port; the configured default where `None`.
    pub rest_port: Option<u16>,
    /// The gRPC port; the configured default where `None`.
    pub grpc_port: Option<u16>,
}

/// Text is not `HOST[:REST[:GRPC]]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not HOST[:REST[:GRPC]]: {reason}; examples: `qdrant.demo.svc`, `10.0.0.7:6333:6334`, `[fd00::7]:6333`"
)]
pub struct HostError {
    text: String,
    reason: &'static str,
}

/// Where a node is dialled: an address from discovery, and the ports of its two public protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Address {
    /// The IP address.
    pub ip: IpAddr,
    /// The REST port (6333 unless configured otherwise).
    pub rest_port: u16,
    /// The gRPC port (6334 unless configured otherwise).
    pub grpc_port: u16,
}

// === impl Address ===

impl Address {
    /// The socket address of the REST port.
    #[must_use]
    pub fn rest(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.rest_port)
    }

    /// The socket address of the gRPC port.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.grpc_port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.rest().fmt(f)
    }
}

// === impl Host ===

impl Host {
    /// A host with the default ports.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), rest_port: None, grpc_port: None }
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let error = |reason| HostError { text: text.to_owned(), reason };
        let (name, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, ports) = rest.split_once(']').ok_or_else(|| error("the bracket is not closed"))?;
                if name.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(error("only an IPv6 address goes in brackets"));
                }
                (name, ports)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if name.is_empty() || !name.chars().all(is_host) {
            return Err(error("the host is empty or has a character that no host name has"));
        }
        let mut ports = match ports.strip_prefix(':') {
            Some(ports) => ports.split(':').map(Some).collect(),
            None if ports.is_empty() => Vec::new(),
            None => return Err(error("ports follow a colon")),
        };
        if ports.len() > 2 {
            return Err(error(
                "there are at most two ports, REST and gRPC (an IPv6 address goes in brackets)",
            ));
        }
        ports.resize(2, None);
        let port = |port: Option<&str>| {
            port.map(|port| match port.parse() {
                Ok(0) | Err(_) => Err(error("a port is a number from 1 to 65535")),
                Ok(port) => Ok(port),
            })
            .transpose()
        };
        Ok(Self { name: name.to_owned(), rest_port: port(ports[0])?, grpc_port: port(ports[1])? })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        if let Some(port) = self.rest_port {
            write!(f, ":{port}")?;
        }
        if let (Some(_), Some(port)) = (self.rest_port, self.grpc_port) {
            write!(f, ":{port}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_parse_and_print() {
        for (text, name, rest, grpc) in [
            ("qdrant", "qdrant", None, None),
            ("q.demo.svc.cluster.local.", "q.demo.svc.cluster.local.", None, None),
            ("10.0.0.7:1", "10.0.0.7", Some(1), None),
            ("q:6333:6334", "q", Some(6333), Some(6334)),
            ("[fd00::7]", "fd00::7", None, None),
            ("[fd00::7]:6333:6334", "fd00::7", Some(6333), Some(6334)),
        ] {
            let host: Host = text.parse().expect(text);
            assert_eq!((&*host.name, host.rest_port, host.grpc_port), (name, rest, grpc));
            assert_eq!(host.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_host() {
        for text in [
            "",
            ":6333",
            "q:",
            "q:0",
            "q:65536",
            "q:x",
            "q:1:2:3",
            "fd00::7",
            "[fd00::7",
            "[q]:1",
            "[::1]6333",
            "a b",
            "http://q",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
