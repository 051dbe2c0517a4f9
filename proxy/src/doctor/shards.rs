//! Whether every shard can be read and written, and survives the loss of a node.

use std::collections::BTreeSet;

use qdrant_router::topology::{Collection, Lookup, PeerId, Shard, ShardId, Topology, WriteOrdering, leader};

use super::{Finding, listed};

/// The topology is not known.
pub(crate) fn unknown() -> Finding {
    Finding::problem(
        "collections",
        "no node has told its view of the cluster, so the shards were not looked at",
        "see what is said of the nodes and of credentials above",
    )
}

/// The collections cannot be listed.
pub(crate) fn unlisted(error: &str) -> Finding {
    Finding::problem("collections", error, "see what is said of the nodes and of credentials above")
}

/// What there is to say of the collection `name`, which is configured to have `wanted` copies.
pub(crate) fn examine(name: &str, topology: &Topology, wanted: Option<u64>) -> Vec<Finding> {
    match topology.collection(name) {
        Some(Lookup::Found(collection)) => {
            let live = topology.nodes().iter().filter(|node| node.reachable);
            let live = live.filter_map(|node| node.peer).collect();
            judge(name, collection, wanted, &live, topology.nodes().len())
        }
        Some(Lookup::Absent(_)) => Vec::new(),
        None => vec![Finding::problem(
            "collections",
            format!("{name}: where its shards are could not be read"),
            "look into the logs of the nodes; a collection that is being created or removed takes a moment",
        )],
    }
}

fn judge(
    name: &str,
    collection: &Collection,
    wanted: Option<u64>,
    live: &BTreeSet<PeerId>,
    nodes: usize,
) -> Vec<Finding> {
    // Where the settings could not be read, the shard with the most copies shows what is meant.
    let most = collection.shards().iter().map(|shard| shard.replicas.len()).max().unwrap_or(0);
    let wanted = wanted.and_then(|wanted| usize::try_from(wanted).ok()).unwrap_or(0);
    // There cannot be two copies on one node.
    let copies = most.max(wanted.min(nodes));
    let which = |holds: &dyn Fn(&Shard) -> bool| {
        collection
            .shards()
            .iter()
            .filter(|shard| holds(shard))
            .map(|shard| shard.id)
            .collect::<Vec<ShardId>>()
    };
    let readable = |shard: &Shard| {
        let replicas = shard.replicas.iter();
        replicas.filter(|replica| replica.state.is_readable() && live.contains(&replica.peer)).count()
    };
    let unreadable = which(&|shard| readable(shard) == 0);
    let leaderless =
        which(&|shard| readable(shard) > 0 && leader(&shard.replicas, WriteOrdering::Medium).is_none());
    let thin = which(&|shard| (1..copies).contains(&readable(shard)));

    let mut findings = Vec::new();
    if !unreadable.is_empty() {
        findings.push(Finding::problem(
            "collections",
            format!("{name}: no copy of shards {} can be read", listed(unreadable)),
            "bring back the nodes that hold them, or recover them from a snapshot; `qdrant-router topology` shows who holds what",
        ));
    }
    if !leaderless.is_empty() {
        findings.push(Finding::problem(
            "collections",
            format!("{name}: nobody leads the writes of shards {}", listed(leaderless)),
            "wait for the transfers under way, or replicate the shards anew (`POST /collections/{collection}/cluster`)",
        ));
    }
    if !thin.is_empty() {
        findings.push(Finding::problem(
            "collections",
            format!("{name}: shards {} have fewer than {copies} copies that can be read", listed(thin)),
            "bring back the nodes that hold the others; Qdrant then recovers them by itself, unless they are over their quota of storage (`GET /quotas`, Qdrant 1.19). For a node that is gone for good, replicate the shards to another (`replicate_shard`)",
        ));
    }
    if copies == 1 && nodes > 1 {
        findings.push(Finding::warning(
            "collections",
            format!("{name}: one copy of each shard; what a node holds is gone while the node is"),
            "set `replication_factor: 2` or more and replicate its shards (`replicate_shard`)",
        ));
    }
    if collection.resharding.is_some() || collection.transfers > 0 {
        findings.push(Finding::warning(
            "collections",
            format!("{name}: shards are on the move ({} transfers)", collection.transfers),
            "nothing to do; until they arrive, some requests take a longer way",
        ));
    }
    if findings.is_empty() {
        let what =
            format!("{name}: {} shards, {copies} copies each, all can be read", collection.shards().len());
        findings.push(Finding::ok("collections", what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use qdrant_router::topology::{
        Epoch, Replica,
        ReplicaState::{self, Active, Dead, Listener},
    };

    use super::*;
    use crate::doctor::Level;

    /// Two nodes, 1 and 2; each shard as its replicas.
    fn judged(
        shards: &[&[(PeerId, ReplicaState)]],
        wanted: Option<u64>,
        live: &[PeerId],
    ) -> Vec<(Level, String)> {
        let shards = shards.iter().zip(0..).map(|(replicas, id)| Shard {
            id,
            key: None,
            replicas: replicas.iter().map(|&(peer, state)| Replica { peer, state }).collect(),
        });
        let collection = Collection::new(Epoch::default(), shards.collect(), None, 0);
        let findings = judge("books", &collection, wanted, &live.iter().copied().collect(), 2);
        findings.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    #[test]
    fn shards_are_judged_by_their_copies() {
        let whole: &[(PeerId, ReplicaState)] = &[(1, Active), (2, Active)];
        for (shards, wanted, live, level, says) in [
            (&[whole, whole][..], None, &[1, 2][..], Level::Ok, "2 shards, 2 copies each"),
            (
                &[whole, &[(1, Active), (2, Dead)]],
                None,
                &[1, 2],
                Level::Problem,
                "shards 1 have fewer than 2 copies",
            ),
            (&[whole, &[(1, Active)]], None, &[1, 2], Level::Problem, "shards 1 have fewer than 2 copies"),
            (&[whole, whole], None, &[1], Level::Problem, "shards 0, 1 have fewer than 2 copies"),
            (&[whole, &[(1, Dead), (2, Listener)]], None, &[1, 2], Level::Problem, "no copy of shards 1"),
            (
                &[&[(1, Active)], &[(2, Active)]],
                Some(2),
                &[1, 2],
                Level::Problem,
                "shards 0, 1 have fewer than 2 copies",
            ),
            (&[whole, whole], Some(3), &[1, 2], Level::Ok, "2 shards, 2 copies each"),
            (&[&[(1, Active)], &[(2, Active)]], None, &[1, 2], Level::Warning, "one copy of each shard"),
        ] {
            let findings = judged(shards, wanted, live);
            assert!(
                findings.len() == 1 && findings[0].0 == level && findings[0].1.contains(says),
                "{says}: {findings:?}"
            );
        }
    }
}
