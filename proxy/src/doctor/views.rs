//! What the nodes say of each other, taken together.

use std::collections::{BTreeMap, BTreeSet};

use qdrant_router::topology::{ClusterView, PeerId, Version, ViewKind};

use super::{Finding, listed, node::Node};

/// The oldest version whose cluster API is known.
const OLDEST: Version = Version { major: 1, minor: 12, patch: 0 };

/// Whether all nodes run one version, and a known one.
pub(super) fn versions(nodes: &[Node]) -> Vec<Finding> {
    let versions: BTreeSet<Version> = nodes.iter().filter_map(|node| node.version).collect();
    let mut findings = Vec::new();
    if versions.first().is_some_and(|&oldest| oldest < OLDEST) {
        findings.push(Finding::problem(
            "version",
            format!("a node runs Qdrant {}", listed(versions.first())),
            format!("upgrade to {OLDEST} or later"),
        ));
    }
    match versions.len() {
        0 => {}
        1 => findings.push(Finding::ok("version", format!("all nodes run Qdrant {}", listed(&versions)))),
        _ => findings.push(Finding::warning(
            "version",
            format!("the nodes run different versions: {}", listed(&versions)),
            "finish the upgrade; Qdrant supports neighbouring minor versions side by side, one after the other",
        )),
    }
    findings
}

/// One node's view of a cluster.
struct Member<'a> {
    label: String,
    peer: PeerId,
    peers: BTreeMap<PeerId, Option<&'a str>>,
    leader: Option<PeerId>,
    settled: bool,
}

/// Whether the nodes agree who they are. `in_dns` is how many addresses the headless Service lists.
pub(super) fn examine(nodes: &[Node], in_dns: Option<usize>) -> Vec<Finding> {
    let views = nodes.iter().filter_map(|node| Some((node.address.to_string(), node.view.as_ref().ok()?)));
    let views: Vec<(String, &ClusterView)> = views.collect();
    judge(&views, in_dns)
}

fn judge(views: &[(String, &ClusterView)], in_dns: Option<usize>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut members = Vec::new();
    for (label, view) in views {
        match &view.kind {
            ViewKind::Standalone => findings.push(Finding::problem(
                "cluster",
                format!("{label} runs without cluster mode"),
                "set `cluster.enabled: true` on every node; a single server needs no router",
            )),
            ViewKind::Member { peer, peers, leader, settled } => members.push(Member {
                label: label.clone(),
                peer: *peer,
                peers: peers.iter().map(|(&peer, host)| (peer, host.as_deref())).collect(),
                leader: *leader,
                settled: *settled,
            }),
        }
    }
    if !members.is_empty() {
        let before = findings.len();
        findings.extend(disagreements(&members));
        findings.extend(absentees(&members, in_dns));
        if findings.len() == before {
            let what = format!("{} nodes agree who they are and who leads", members.len());
            findings.push(Finding::ok("cluster", what));
        }
    }
    findings
}

fn disagreements(members: &[Member<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut by_peers: BTreeMap<Vec<PeerId>, Vec<&str>> = BTreeMap::new();
    let mut by_leader: BTreeMap<Option<PeerId>, Vec<&str>> = BTreeMap::new();
    for member in members {
        by_peers.entry(member.peers.keys().copied().collect()).or_default().push(&member.label);
        by_leader.entry(member.leader).or_default().push(&member.label);
    }
    if by_peers.len() > 1 {
        let views = by_peers.iter().map(|(peers, who)| format!("{} know {}", listed(who), listed(peers)));
        findings.push(Finding::problem(
            "cluster",
            format!("the nodes disagree about who is in the cluster: {}", views.collect::<Vec<_>>().join("; ")),
            "if it stays so, a node has bootstrapped a cluster of its own or lost contact: compare `GET /cluster` of each, and check that the peers reach each other on port 6335",
        ));
    } else if let Some(leaderless) = by_leader.get(&None) {
        findings.push(Finding::problem(
            "cluster",
            format!("{} know no consensus leader", listed(leaderless)),
            "more than half of the peers must run and reach each other on port 6335; start the missing ones, or remove dead ones",
        ));
    } else if by_leader.len() > 1 {
        let views =
            by_leader.iter().map(|(leader, who)| format!("{} follow {}", listed(who), listed(leader)));
        findings.push(Finding::warning(
            "cluster",
            format!("the nodes disagree about who leads: {}", views.collect::<Vec<_>>().join("; ")),
            "an election may be under way; look again in a few seconds",
        ));
    }
    let lagging: Vec<&str> =
        members.iter().filter(|member| !member.settled).map(|member| member.label.as_str()).collect();
    if !lagging.is_empty() {
        findings.push(Finding::warning(
            "cluster",
            format!("{} have not applied all changes", listed(lagging)),
            "if it stays so, look for `consensus_thread_status` and `pending_operations` in `GET /cluster`, and into the log; a restart of the node may help",
        ));
    }
    findings
}

/// Peers that no address answers for.
fn absentees(members: &[Member<'_>], in_dns: Option<usize>) -> Vec<Finding> {
    let present: BTreeSet<PeerId> = members.iter().map(|member| member.peer).collect();
    let known: BTreeMap<PeerId, Option<&str>> =
        members.iter().flat_map(|member| member.peers.clone()).collect();
    let absent: Vec<String> = known
        .iter()
        .filter(|(peer, _)| !present.contains(peer))
        .map(|(peer, host)| match host {
            Some(host) => format!("{peer} ({host})"),
            None => peer.to_string(),
        })
        .collect();
    if absent.is_empty() {
        return Vec::new();
    }
    let what = format!("no address answers as peer {}", listed(&absent));
    // A Service that lists fewer addresses than there are peers hides those that are not ready.
    let fix = match in_dns {
        Some(listed) if listed < known.len() => format!(
            "DNS lists {listed} addresses for {} peers: set `publishNotReadyAddresses: true` on the headless Service and check that it is headless (`clusterIP: None`) and selects all pods; a peer that is gone for good is removed by `DELETE /cluster/peer/{{id}}`",
            known.len()
        ),
        _ => "start its node; a peer that is gone for good is removed by `DELETE /cluster/peer/{id}`"
            .to_owned(),
    };
    vec![Finding::problem("cluster", what, fix)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qdrant_router::topology::Epoch;

    use super::*;
    use crate::doctor::Level;

    fn member(peer: PeerId, peers: &[PeerId], leader: Option<PeerId>, settled: bool) -> ClusterView {
        let peers = Arc::new(peers.iter().map(|&peer| (peer, Some(format!("q-{peer}")))).collect());
        ClusterView { kind: ViewKind::Member { peer, peers, leader, settled }, epoch: Epoch::default() }
    }

    fn judged(views: &[ClusterView], in_dns: usize) -> Vec<(Level, String)> {
        let views: Vec<_> = views.iter().enumerate().map(|(i, view)| (format!("n{i}"), view)).collect();
        let findings = judge(&views, Some(in_dns));
        findings
            .into_iter()
            .map(|finding| (finding.level, format!("{} {}", finding.what, finding.fix.unwrap_or_default())))
            .collect()
    }

    #[test]
    fn views_are_compared() {
        let both = [1, 2];
        for (views, in_dns, level, says) in [
            (
                vec![member(1, &both, Some(1), true), member(2, &both, Some(1), true)],
                2,
                Level::Ok,
                "2 nodes agree",
            ),
            (
                vec![member(1, &both, Some(1), true), member(2, &[2], Some(2), true)],
                2,
                Level::Problem,
                "n0 know 1, 2; n1 know 2",
            ),
            (
                vec![member(1, &both, None, true), member(2, &both, None, true)],
                2,
                Level::Problem,
                "n0, n1 know no consensus leader",
            ),
            (
                vec![member(1, &both, Some(1), true), member(2, &both, Some(2), true)],
                2,
                Level::Warning,
                "n0 follow 1; n1 follow 2",
            ),
            (
                vec![member(1, &both, Some(1), true), member(2, &both, Some(1), false)],
                2,
                Level::Warning,
                "n1 have not applied all changes",
            ),
            (
                vec![member(1, &both, Some(1), true)],
                1,
                Level::Problem,
                "peer 2 (q-2) DNS lists 1 addresses for 2 peers: set `publishNotReadyAddresses: true`",
            ),
            (vec![member(1, &both, Some(1), true)], 2, Level::Problem, "peer 2 (q-2) start its node"),
        ] {
            let findings = judged(&views, in_dns);
            assert!(
                findings.len() == 1 && findings[0].0 == level && findings[0].1.contains(says),
                "{says}: {findings:?}"
            );
        }
        let standalone = ClusterView { kind: ViewKind::Standalone, epoch: Epoch::default() };
        assert_eq!(judged(&[standalone], 1)[0].0, Level::Problem);
    }
}
