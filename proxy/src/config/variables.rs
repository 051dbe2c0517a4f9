//! Environment variables that look like keys and are none: a mistake, unless Kubernetes has set them.
//!
//! For each Service of a namespace Kubernetes gives every pod variables of the Service's name
//! (`QDRANT_ROUTER_SERVICE_HOST`, `QDRANT_ROUTER_PORT_6333_TCP_ADDR`, …), so that a Service that is called
//! `qdrant-router`, or `qdrant-router-admin`, sets some that begin as the keys do.

use std::collections::BTreeMap;

/// What the variables of keys begin with.
const PREFIX: &str = "QDRANT_ROUTER_";

/// Variables that begin as the keys do, and are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Strangers {
    /// Set by Kubernetes, by name.
    pub(super) of_services: Vec<String>,
    /// Set by somebody who means a key: the first by name, without the prefix and in the form of a key.
    pub(super) mistyped: Option<String>,
}

// === impl Strangers ===

impl Strangers {
    /// Those of `variables` of which `is_known` knows nothing.
    pub(super) fn among(
        variables: impl IntoIterator<Item = (String, String)>,
        is_known: impl Fn(&str) -> bool,
    ) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX) && !is_known(name));
        let mut strangers = Self::default();
        for (name, value) in ours.collect::<BTreeMap<_, _>>() {
            let rest = &name[PREFIX.len()..];
            if is_of_a_service(rest, &value) {
                strangers.of_services.push(name);
            } else {
                strangers.mistyped.get_or_insert_with(|| rest.to_lowercase());
            }
        }
        strangers
    }
}

/// Whether Kubernetes would set `name` (without the prefix) to `value` for a Service whose name begins with
/// `qdrant-router`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    let is_address = || {
        let scheme = value.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| PROTOCOLS.contains(&scheme))
    };
    // The name of a Service may go on before these.
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_protocol = |word: &str| PROTOCOLS.contains(&word.to_lowercase().as_str());
    match words[..] {
        [.., "SERVICE", "HOST"] => true,
        [.., "PORT", number, protocol] | [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"]
            if is_number(number) && is_protocol(protocol) =>
        {
            true
        }
        [.., "PORT"] if is_address() => true,
        // The port's own name follows.
        _ => words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) && is_number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(variables: &[(&str, &str)]) -> Strangers {
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Strangers::among(variables, |name| name == "QDRANT_ROUTER_UPSTREAM_REST_PORT")
    }

    #[test]
    fn what_kubernetes_sets_is_told_from_what_is_mistyped() {
        for (name, value) in [
            ("QDRANT_ROUTER_PORT", "tcp://10.96.0.7:6333"),
            ("QDRANT_ROUTER_SERVICE_HOST", "10.96.0.7"),
            ("QDRANT_ROUTER_SERVICE_PORT", "6333"),
            ("QDRANT_ROUTER_SERVICE_PORT_GRPC", "6334"),
            ("QDRANT_ROUTER_SERVICE_PORT_HTTP_METRICS", "9633"),
            ("QDRANT_ROUTER_PORT_6333_TCP", "tcp://10.96.0.7:6333"),
            ("QDRANT_ROUTER_PORT_6333_TCP_PROTO", "tcp"),
            ("QDRANT_ROUTER_PORT_6333_TCP_PORT", "6333"),
            ("QDRANT_ROUTER_PORT_6333_TCP_ADDR", "10.96.0.7"),
            ("QDRANT_ROUTER_PORT_53_UDP_ADDR", "10.96.0.7"),
            ("QDRANT_ROUTER_ADMIN_SERVICE_HOST", "10.96.0.8"),
            ("QDRANT_ROUTER_ADMIN_PORT", "tcp://10.96.0.8:9633"),
            ("QDRANT_ROUTER_ADMIN_PORT_9633_TCP_PORT", "9633"),
        ] {
            let of_services = vec![name.to_owned()];
            assert_eq!(among(&[(name, value)]), Strangers { of_services, mistyped: None }, "{name}");
        }
        for (name, value, key) in [
            ("QDRANT_ROUTER_HEDLESS", "q", "hedless"),
            ("QDRANT_ROUTER_PORT", "6333", "port"),
            ("QDRANT_ROUTER_UPSTREAM_GPRC_PORT", "6334", "upstream_gprc_port"),
            ("QDRANT_ROUTER_PORT_X_TCP", "1", "port_x_tcp"),
            ("QDRANT_ROUTER_SERVICE_PORT", "http", "service_port"),
            ("QDRANT_ROUTER_", "1", ""),
        ] {
            let mistyped = Some(key.to_owned());
            assert_eq!(among(&[(name, value)]), Strangers { of_services: Vec::new(), mistyped }, "{name}");
        }
    }

    #[test]
    fn keys_and_what_begins_otherwise_are_no_strangers() {
        let variables = [
            ("QDRANT_ROUTER_UPSTREAM_REST_PORT", "6333"),
            ("QDRANT_ROUTERS_PORT", "1"),
            ("QDRANT_ROUTER", "1"),
            ("PATH", "/bin"),
        ];
        assert_eq!(among(&variables), Strangers::default());
    }
}
