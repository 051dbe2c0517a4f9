//! `qdrant-router topology`

use std::{
    fmt::Write as _,
    io::{IsTerminal, stdout},
    time::Duration,
};

use clap::Args;
use qdrant_router::{
    Router,
    topology::{Collection, Node, Topology, WriteOrdering, leader},
};

use super::{CliError, connect::Connect, explain::Output};
use crate::admin::TopologyDocument;

/// How often `--watch` looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Show the nodes, and which of them hold the shards of which collection.
///
/// Each shard has a row and each node a column. The node that leads the writes of `medium` ordering is
/// marked with a star.
#[derive(Args, Clone, Debug)]
pub struct ShowTopology {
    #[command(flatten)]
    connect: Connect,

    /// A collection to show; repeatable [default: all that the key may see]
    #[arg(long = "collection", value_name = "NAME")]
    collections: Vec<String>,

    /// Look again every two seconds
    #[arg(long)]
    watch: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

// === impl ShowTopology ===

impl ShowTopology {
    pub(super) fn run(self) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> Result<(), CliError> {
        let router = self.connect.router()?;
        router.topology().surveyed().await;
        loop {
            let names = match self.collections.is_empty() {
                true => self.connect.collections(&router).await,
                false => Ok(self.collections.clone()),
            };
            // The nodes are shown all the same: a restart is when one wants to see them.
            let (names, failed) = match names {
                Ok(names) => (names, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            for name in &names {
                router.topology().knowing(name).await;
            }
            match self.output {
                Output::Text => {
                    let clear = if self.watch && stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
                    let style = Style { colours: stdout().is_terminal() };
                    print!("{clear}{}", text(&router, &names, style));
                }
                Output::Json => println!("{}", serde_json::json!(TopologyDocument::of(&router))),
            }
            match failed {
                Some(error) if self.watch => eprintln!("qdrant-router: {error}"),
                Some(error) => return Err(error),
                None if self.watch => {}
                None => return Ok(()),
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}

/// Whether states are coloured: on a terminal only.
#[derive(Clone, Copy, Debug)]
struct Style {
    colours: bool,
}

impl Style {
    /// `text` padded to `width`, green for what serves, red for what is dead, yellow in between.
    fn state(self, text: &str, state: &str, width: usize) -> String {
        let colour = match state {
            "Active" => 32,
            "Dead" => 31,
            _ => 33,
        };
        match self.colours {
            true => format!("\x1b[{colour}m{text:<width$}\x1b[0m"),
            false => format!("{text:<width$}"),
        }
    }
}

fn text(router: &Router, names: &[String], style: Style) -> String {
    let topology = router.topology().snapshot();
    let mut out = String::new();
    // Writing to a string cannot fail.
    match topology.epoch() {
        Some(epoch) => {
            let _ = writeln!(out, "epoch {epoch}");
        }
        None => out.push_str("no node has told its view of the cluster\n"),
    }
    for node in topology.nodes() {
        let peer = node.peer.map_or_else(|| "unknown peer".to_owned(), |peer| format!("peer {peer}"));
        let version = node.version.map_or_else(String::new, |version| format!("  {version}"));
        let leads = if node.peer.is_some() && node.peer == topology.consensus_leader() {
            "  consensus leader"
        } else {
            ""
        };
        let state = if node.reachable { "" } else { "  DOES NOT ANSWER" };
        let _ = writeln!(out, "  {:<20} {peer}  {}{version}{leads}{state}", node.label(), node.address);
    }
    for problem in router.topology().problems().iter() {
        let _ = writeln!(out, "  problem: {problem}");
    }
    for name in names {
        match topology.collections().find(|(known, _)| *known == topology.resolve(name)) {
            Some((_, collection)) => table(&mut out, name, collection, &topology, style),
            None => {
                let _ = writeln!(out, "\n{name}: no such collection, or it could not be read");
            }
        }
    }
    out
}

/// The shards of one collection, one row each.
fn table(out: &mut String, name: &str, collection: &Collection, topology: &Topology, style: Style) {
    let moving = match (collection.transfers, &collection.resharding) {
        (0, None) => String::new(),
        (transfers, None) => format!("  {transfers} transfers"),
        (_, Some(_)) => "  resharding".to_owned(),
    };
    let nodes: Vec<&Node> = topology.nodes().iter().filter(|node| node.peer.is_some()).collect();
    let width = |node: &Node| node.label().len().max(20);
    let _ = write!(out, "\n{name}{moving}\n  {:<16}", "shard");
    for node in &nodes {
        let _ = write!(out, "  {:<1$}", node.label(), width(node));
    }
    out.push('\n');
    for shard in collection.shards() {
        let key = shard.key.as_ref().map_or_else(String::new, |key| format!(" ({key})"));
        let _ = write!(out, "  {:<16}", format!("{}{key}", shard.id));
        let leader = leader(&shard.replicas, WriteOrdering::Medium);
        for node in &nodes {
            let replica = shard.replicas.iter().find(|replica| Some(replica.peer) == node.peer);
            let cell = match replica {
                Some(replica) => {
                    let star = if Some(replica.peer) == leader { "*" } else { "" };
                    let state = replica.state.as_str();
                    style.state(&format!("{state}{star}"), state, width(node))
                }
                None => format!("{:<1$}", "-", width(node)),
            };
            let _ = write!(out, "  {cell}");
        }
        out.push('\n');
    }
}
