//! What DNS says of the configured names.

use std::{net::IpAddr, time::Duration};

use qdrant_router::discovery::{Address, Answer, DnsResolver, Host, Resolve, ResolveError, Sources};

use super::{Finding, listed};

/// A new pod should not have to wait longer than this for its record to be seen.
const LONG_TTL: Duration = Duration::from_secs(30);

/// The addresses behind the names, and what there is to say of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) nodes: Vec<Address>,
    pub(super) fallback: Vec<Address>,
    /// How many addresses the headless Service lists; `None` without one that resolves.
    pub(super) listed: Option<usize>,
    pub(super) findings: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Headless,
    Node,
    Fallback,
}

pub(super) async fn ask(resolver: &DnsResolver, sources: &Sources) -> Names {
    let hosts = sources.headless.iter().map(|host| (host, Role::Headless));
    let hosts = hosts.chain(sources.nodes.iter().map(|host| (host, Role::Node)));
    let hosts = hosts.chain(sources.fallback.iter().map(|host| (host, Role::Fallback)));
    let (mut names, mut missing) = (Names::default(), Vec::new());
    for (host, role) in hosts {
        let ips = match host.name.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => {
                let (asked, outcome) = resolve(resolver, &host.name).await;
                let findings = match role {
                    Role::Fallback if outcome.is_err() => &mut missing,
                    Role::Headless | Role::Node | Role::Fallback => &mut names.findings,
                };
                findings.push(finding(&asked, role, &outcome));
                outcome.map(|answer| answer.addresses).unwrap_or_default()
            }
        };
        if role == Role::Headless && !ips.is_empty() {
            names.listed = Some(ips.len());
        }
        let addresses = ips.into_iter().map(|ip| address(ip, host, sources));
        match role {
            Role::Headless | Role::Node => names.nodes.extend(addresses),
            // Of several names, the first that resolves.
            Role::Fallback if names.fallback.is_empty() => names.fallback.extend(addresses),
            Role::Fallback => {}
        }
    }
    // One of several names for the ClusterIP Service is enough.
    if names.fallback.is_empty() {
        names.findings.append(&mut missing);
    }
    names.nodes.sort();
    names.nodes.dedup();
    names
}

fn address(ip: IpAddr, host: &Host, sources: &Sources) -> Address {
    Address {
        ip,
        rest_port: host.rest_port.unwrap_or(sources.rest_port),
        grpc_port: host.grpc_port.unwrap_or(sources.grpc_port),
    }
}

/// The reading of `name` that has an answer; where none has, the name and why.
async fn resolve(resolver: &DnsResolver, name: &str) -> (String, Result<Answer, ResolveError>) {
    let outcome = resolver.resolve(name).await;
    if outcome.is_ok() {
        for reading in resolver.readings(name) {
            if let Ok(answer) = resolver.resolve(&reading).await {
                return (reading, Ok(answer));
            }
        }
    }
    (name.to_owned(), outcome)
}

fn finding(asked: &str, role: Role, outcome: &Result<Answer, ResolveError>) -> Finding {
    let fix = match role {
        Role::Headless => {
            "check the name and the namespace, that the Service exists, and that this host uses the cluster's DNS; a headless Service without `publishNotReadyAddresses: true` has no record while no pod is ready"
        }
        Role::Node | Role::Fallback => {
            "check the name and the namespace, that the Service exists, and that this host uses the cluster's DNS"
        }
    };
    match outcome {
        Err(error) => Finding::problem(
            "dns",
            format!("{}: {} (asked for {})", error.name, error.reason, error.asked),
            fix,
        ),
        Ok(Answer { addresses, ttl }) => {
            let (a, aaaa): (Vec<&IpAddr>, Vec<&IpAddr>) = addresses.iter().partition(|ip| ip.is_ipv4());
            let mut records = Vec::new();
            for (kind, ips) in [("A", a), ("AAAA", aaaa)] {
                if !ips.is_empty() {
                    records.push(format!("{} {kind} ({})", ips.len(), listed(ips)));
                }
            }
            let what = format!("{asked} has {}, TTL {} s", records.join(" and "), ttl.as_secs());
            if *ttl > LONG_TTL {
                let fix = "a changed pod may stay unseen for as long; lower `ttl` in the `kubernetes` block of CoreDNS, whose own default is 5";
                return Finding::warning("dns", what, fix);
            }
            Finding::ok("dns", what)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_name_is_told_with_its_records_and_their_age() {
        let answer = |ttl| Answer {
            addresses: vec!["10.0.0.1".parse().expect("IP"), "fd00::1".parse().expect("IP")],
            ttl: Duration::from_secs(ttl),
        };
        let of = |outcome: Result<Answer, ResolveError>| finding("q.svc.", Role::Headless, &outcome);
        let known = of(Ok(answer(5)));
        assert_eq!(known.level, Level::Ok);
        assert_eq!(known.what, "q.svc. has 1 A (10.0.0.1) and 1 AAAA (fd00::1), TTL 5 s");
        assert_eq!(of(Ok(answer(300))).level, Level::Warning);

        let error =
            ResolveError { name: "q".to_owned(), asked: "q.a., q.".to_owned(), reason: "no".to_owned() };
        let unknown = of(Err(error));
        assert_eq!((unknown.level, &*unknown.what), (Level::Problem, "q: no (asked for q.a., q.)"));
        assert!(unknown.fix.expect("a fix").contains("publishNotReadyAddresses"));
    }
}
