//! Looking a name up, with the time for which the answer holds.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};

/// How long one name server may take to answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// What fits a UDP datagram on any path; larger answers come truncated and are asked for over TCP.
const EDNS_PAYLOAD: u16 = 1232;

/// Addresses of a name, A and AAAA together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, in no particular order. Never empty.
    pub addresses: Vec<IpAddr>,
    /// The shortest time to live among the records.
    pub ttl: Duration,
}

/// A name did not resolve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name}: {reason} (asked for {asked}); check the name, that the Service exists, and that this host uses the cluster's DNS"
)]
pub struct ResolveError {
    /// The name as configured.
    pub name: String,
    /// The absolute names that were asked for.
    pub asked: String,
    /// The last answer.
    pub reason: String,
}

/// The resolver could not be set up.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the system's resolver configuration cannot be used: {0}; check /etc/resolv.conf, or name a resolver with `--dns IP:PORT`"
)]
pub struct ResolverError(String);

/// What discovery asks of a resolver; a trait so that tests can answer in its place.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `name`.
    fn resolve(&self, name: &str) -> impl Future<Output = Result<Answer, ResolveError>> + Send;
}

/// Resolves through DNS (hickory-resolver), without a cache of its own: time to live is the caller's
/// business.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    resolver: TokioResolver,
    search: Vec<Name>,
}

// === impl DnsResolver ===

impl DnsResolver {
    /// Uses the system's configuration (`/etc/resolv.conf`).
    ///
    /// # Errors
    ///
    /// When the configuration cannot be read.
    pub fn system() -> Result<Self, ResolverError> {
        let (config, _) = hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| ResolverError(error.to_string()))?;
        Self::build(config)
    }

    /// Asks the one server at `server`, over UDP and TCP.
    ///
    /// # Errors
    ///
    /// When the resolver cannot be built.
    pub fn at(server: SocketAddr) -> Result<Self, ResolverError> {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        let name_server = NameServerConfig::new(server.ip(), true, connections);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
        Self::build(config)
    }

    fn build(config: ResolverConfig) -> Result<Self, ResolverError> {
        let search = config.search().to_vec();
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        options(builder.options_mut());
        let resolver = builder.build().map_err(|error| ResolverError(error.to_string()))?;
        Ok(Self { resolver, search })
    }

    /// The absolute names that `name` may stand for, in the order in which they are asked for.
    #[must_use]
    pub fn readings(&self, name: &str) -> Vec<String> {
        absolute_names(name, &self.search).iter().map(ToString::to_string).collect()
    }

    async fn records(&self, name: &Name, kind: RecordType) -> Result<(Vec<IpAddr>, Duration), NetError> {
        let lookup = match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => lookup,
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => return Ok((Vec::new(), Duration::MAX)),
            Err(error) => return Err(error),
        };
        let mut addresses = Vec::new();
        let mut ttl = Duration::MAX;
        for record in lookup.answers() {
            let address = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
                _ => continue,
            };
            addresses.push(address);
            ttl = ttl.min(Duration::from_secs(record.ttl.into()));
        }
        Ok((addresses, ttl))
    }
}

fn options(options: &mut ResolverOpts) {
    options.timeout = QUERY_TIMEOUT;
    options.attempts = 2;
    options.edns0 = true;
    options.edns_payload_len = EDNS_PAYLOAD;
    options.try_tcp_on_error = true;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Auto;
    options.cache_size = 0;
}

impl Resolve for DnsResolver {
    async fn resolve(&self, name: &str) -> Result<Answer, ResolveError> {
        let mut asked = Vec::new();
        let mut reason = "not a DNS name".to_owned();
        for name in absolute_names(name, &self.search) {
            let (a, aaaa) =
                tokio::join!(self.records(&name, RecordType::A), self.records(&name, RecordType::AAAA));
            asked.push(name.to_string());
            let mut addresses = Vec::new();
            let mut ttl = Duration::MAX;
            let mut failure = None;
            for family in [a, aaaa] {
                match family {
                    Ok((family, family_ttl)) => {
                        addresses.extend(family);
                        ttl = ttl.min(family_ttl);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if !addresses.is_empty() {
                return Ok(Answer { addresses, ttl });
            }
            match failure {
                None => reason = "no such name, or no address under it".to_owned(),
                // A search domain that its server refuses to answer for does not speak for the others.
                Some(error @ NetError::Dns(DnsError::ResponseCode(_))) => reason = error.to_string(),
                // A server that does not answer will not answer for another name either.
                Some(error) => {
                    reason = error.to_string();
                    break;
                }
            }
        }
        Err(ResolveError { name: name.to_owned(), asked: asked.join(", "), reason })
    }
}

/// The absolute names that `name` may stand for, likeliest first.
///
/// Kubernetes' `ndots:5` makes resolvers try every search domain before the name itself, which costs
/// three or more needless answers for the full name of a Service. The likeliest reading is known
/// here: `{svc}.{ns}.svc` belongs under the cluster's domain, and a name of four dots or more is
/// complete.
fn absolute_names(name: &str, search: &[Name]) -> Vec<Name> {
    let Ok(mut base) = Name::from_utf8(name) else { return Vec::new() };
    if name.ends_with('.') {
        return vec![base];
    }
    let searched = search.iter().filter_map(|domain| base.clone().append_domain(domain).ok());
    let mut names: Vec<Name>;
    let dots = name.matches('.').count();
    if dots >= 4 || search.is_empty() {
        base.set_fqdn(true);
        names = vec![base.clone()];
        names.extend(search.iter().filter_map(|domain| {
            let mut relative = base.clone();
            relative.set_fqdn(false);
            relative.append_domain(domain).ok()
        }));
    } else {
        names = searched.collect();
        if name.ends_with(".svc") {
            // The cluster's domain is what follows `svc.` in the search list, and is itself there.
            let zone = search
                .iter()
                .filter(|domain| domain.iter().next() == Some(b"svc"))
                .map(Name::base_name)
                .next();
            if let Some(best) = zone.and_then(|zone| base.clone().append_domain(&zone).ok()) {
                names.retain(|name| *name != best);
                names.insert(0, best);
            }
        }
        base.set_fqdn(true);
        names.push(base);
    }
    for name in &mut names {
        name.set_fqdn(true);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(name: &str, search: &[&str]) -> Vec<String> {
        let search: Vec<Name> =
            search.iter().map(|domain| Name::from_utf8(domain).expect("a name")).collect();
        absolute_names(name, &search).iter().map(ToString::to_string).collect()
    }

    const POD: [&str; 3] = ["demo.svc.cluster.local", "svc.cluster.local", "cluster.local"];

    #[test]
    fn the_likeliest_reading_is_asked_first() {
        assert_eq!(absolute("q.demo.svc.cluster.local.", &POD), ["q.demo.svc.cluster.local."]);
        assert_eq!(absolute("q.demo.svc.cluster.local", &POD)[0], "q.demo.svc.cluster.local.");
        assert_eq!(absolute("q.demo.svc", &POD)[0], "q.demo.svc.cluster.local.");
        assert_eq!(absolute("q", &POD)[0], "q.demo.svc.cluster.local.");
        assert_eq!(absolute("q.other", &POD)[1], "q.other.svc.cluster.local.");
    }

    #[test]
    fn every_reading_is_asked_once() {
        for name in ["q", "q.demo", "q.demo.svc", "q.demo.svc.cluster.local"] {
            let mut names = absolute(name, &POD);
            assert_eq!(names.len(), 4, "{name}: {names:?}");
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 4, "{name}: {names:?}");
        }
        assert_eq!(absolute("q.demo.svc", &[]), ["q.demo.svc."]);
    }

    #[test]
    fn what_is_not_a_name_resolves_to_nothing() {
        assert!(absolute(&"x".repeat(64), &POD).is_empty());
    }
}
