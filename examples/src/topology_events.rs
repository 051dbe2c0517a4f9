//! Follows a cluster: nodes that come and go, the leader of consensus, the replicas of collections.
//!
//! ```text
//! cargo run --example topology_events -- HEADLESS_NAME [COLLECTION…]
//! ```
//!
//! Ctrl-C ends it.

use std::{collections::BTreeMap, env, error::Error};

use qdrant_router::{
    Router,
    topology::{Lookup, Node, PeerId, Topology},
};

use crate::arguments::{dns, headless};

mod arguments;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let collections: Vec<String> = env::args().skip(2).collect();
    let router = Router::builder().headless(headless()?).dns(dns()?).build()?;
    let mut topology = router.topology().clone();
    let mut known = BTreeMap::new();
    loop {
        // Placements are fetched for those who ask. Whoever asks again has them renewed when they are out of date.
        for collection in &collections {
            topology.knowing(collection).await;
        }
        let facts = facts(&topology.snapshot(), &collections);
        tell(&known, &facts);
        known = facts;
        topology.changed().await;
    }
}

/// What a snapshot says, by what it says it of.
fn facts(topology: &Topology, collections: &[String]) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for node in topology.nodes() {
        let state = if node.reachable { "answers" } else { "does not answer" };
        facts.insert(node.label(), format!("{state} at {}", node.address));
    }
    if let Some(leader) = topology.consensus_leader() {
        facts.insert("consensus".to_owned(), format!("led by {}", label(topology, leader)));
    }
    for name in collections {
        let Some(Lookup::Found(collection)) = topology.collection(name) else { continue };
        for shard in collection.shards() {
            for replica in &shard.replicas {
                let subject = format!("{name}, shard {} on {}", shard.id, label(topology, replica.peer));
                facts.insert(subject, replica.state.as_str().to_owned());
            }
        }
    }
    facts
}

fn tell(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
    for (subject, fact) in now {
        match before.get(subject) {
            None => println!("{subject}: {fact}"),
            Some(old) if old != fact => println!("{subject}: {fact} (before: {old})"),
            Some(_) => {}
        }
    }
    for subject in before.keys().filter(|subject| !now.contains_key(*subject)) {
        println!("{subject}: gone");
    }
}

/// The name of a node, as long as it is one.
fn label(topology: &Topology, peer: PeerId) -> String {
    topology.node(peer).map_or_else(|| format!("peer {peer}"), Node::label)
}
