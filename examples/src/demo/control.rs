//! What may be typed while the demo stays up: `kill 1`, `restart 1`, `move 1`, for each of its nodes.

use std::{convert::Infallible, io::stdin};

use testkit::Cluster;
use tokio::sync::mpsc;

use crate::stage::Error;

/// Does what is typed until the demo ends. Standard input that is closed has nothing to say.
pub(crate) async fn obey(cluster: &Cluster) -> Infallible {
    let (sender, mut lines) = mpsc::channel(1);
    // A thread, because reading standard input cannot be given up.
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        match command(cluster, &line).await {
            Ok(()) => println!("{line}: done"),
            Err(error) => println!("{line}: {error}"),
        }
    }
    std::future::pending().await
}

async fn command(cluster: &Cluster, line: &str) -> Result<(), Error> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[verb, node] = words.as_slice() else {
        return Err("say `kill`, `restart` or `move`, and the number of a node".into());
    };
    let node: usize = node.parse()?;
    if node >= cluster.nodes().len() {
        return Err(format!("nodes are numbered 0 to {}", cluster.nodes().len() - 1).into());
    }
    match verb {
        "kill" => cluster.kill(node).await?,
        "restart" => cluster.restart(node).await?,
        "move" => _ = cluster.restart_at_new_address(node).await?,
        _ => return Err("say `kill`, `restart` or `move`".into()),
    }
    Ok(())
}
