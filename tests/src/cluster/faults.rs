//! Breaking nodes and mending them.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::node::{Backend, Condition};
use super::{Cluster, ClusterError, HEADLESS, Node};
use crate::embedded::{Canned, EmbeddedNode, Fault, Lie};
use crate::lock;

/// How long Kubernetes waits between the two signals, unless a pod says otherwise.
const GRACE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Ends node `i` without warning. DNS and the balancer keep listing it.
    ///
    /// # Errors
    ///
    /// None so far; as for the other faults, so that a suite treats them alike.
    pub async fn kill(&self, i: usize) -> Result<(), ClusterError> {
        let node = self.node(i);
        match &node.backend {
            Backend::Embedded(embedded) => embedded.kill().await,
            Backend::Real(real) => real.kill(),
        }
        node.set_condition(Condition::Down);
        Ok(())
    }

    /// Ends node `i` as Kubernetes does: `SIGTERM`, and `SIGKILL` where that is not enough. Connections are told to end. An
    /// embedded node drains its gRPC connections and then breaks those of REST, where a real server would finish what is
    /// in flight on them.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn terminate(&self, i: usize) -> Result<(), ClusterError> {
        let node = self.node(i);
        match &node.backend {
            Backend::Embedded(embedded) => {
                embedded.goaway();
                embedded.kill().await;
            }
            Backend::Real(real) => {
                let ended = real.terminate(GRACE).await;
                ended.map_err(|source| node.failed("terminate", source))?;
            }
        }
        node.set_condition(Condition::Down);
        Ok(())
    }

    /// Starts node `i` again with the data it had, and returns when it answers requests. It may take longer until its
    /// replicas are active again: see [`Cluster::settled`].
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub async fn restart(&self, i: usize) -> Result<(), ClusterError> {
        let node = self.node(i);
        let started = match &node.backend {
            Backend::Embedded(embedded) => embedded.restart().await,
            Backend::Real(real) => real.restart(),
        };
        started.map_err(|source| node.failed("restart", source))?;
        self.wait_answering(node).await
    }

    /// As [`Cluster::restart`], at another address, which replaces the old one in DNS and behind the balancer. This is
    /// what happens to a pod that is deleted and created again.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub async fn restart_at_new_address(&self, i: usize) -> Result<IpAddr, ClusterError> {
        let node = self.node(i);
        let old = node.ip();
        let new = self.block.spare(self.moves.fetch_add(1, Ordering::Relaxed));
        self.kill(i).await?;
        let started = match &node.backend {
            Backend::Embedded(embedded) => embedded.restart_at(new).await,
            Backend::Real(real) => real.restart_at(new),
        };
        lock(&node.place).ip = new;
        started.map_err(|source| node.failed("restart at a new address", source))?;
        let replaced =
            |listed: Vec<IpAddr>| listed.into_iter().map(|ip| if ip == old { new } else { ip }).collect();
        self.dns.set(HEADLESS, replaced(self.dns.get(HEADLESS)));
        self.dns.set(&node.host(), vec![new]);
        self.balancer.set_backends(replaced(self.balancer.backends()));
        self.wait_answering(node).await?;
        Ok(new)
    }

    /// Stops node `i` in its tracks: connections stay open, nothing is answered.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn hang(&self, i: usize) -> Result<(), ClusterError> {
        let node = self.node(i);
        match &node.backend {
            Backend::Embedded(embedded) => embedded.set_fault(Some(Fault::Hang)),
            Backend::Real(real) => real.hang().map_err(|source| node.failed("hang", source))?,
        }
        node.set_condition(Condition::Silent);
        Ok(())
    }

    /// Lets a hung node go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn resume(&self, i: usize) -> Result<(), ClusterError> {
        self.heal(i).await
    }

    /// Makes node `i` take this much longer for every answer.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn slow(&self, i: usize, delay: Duration) -> Result<(), ClusterError> {
        self.inject(i, "be slow", Fault::Slow(delay), Condition::Up)
    }

    /// Makes node `i` refuse connections while it lives on.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn refuse(&self, i: usize) -> Result<(), ClusterError> {
        self.inject(i, "refuse connections", Fault::Refuse, Condition::Silent)
    }

    /// Makes node `i` reset connections in the middle of its answers. The requests are executed, and the other nodes
    /// find nothing wrong with it.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn reset(&self, i: usize) -> Result<(), ClusterError> {
        self.inject(i, "reset connections", Fault::Reset, Condition::Silent)
    }

    /// Makes node `i` answer requests about points, over either protocol, without serving them: for the number of times
    /// that `canned` names, or until it is healed.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn answer_with(&self, i: usize, canned: Canned) -> Result<(), ClusterError> {
        self.embedded(i, "answer with errors")?.answer_with(Some(canned));
        Ok(())
    }

    /// How many such answers node `i` has given.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn canned_answers(&self, i: usize) -> Result<u64, ClusterError> {
        Ok(self.embedded(i, "answer with errors")?.canned_answers())
    }

    /// Has node `i` send GOAWAY on the gRPC connections it has, finish the streams under way and close them.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn goaway(&self, i: usize) -> Result<(), ClusterError> {
        self.embedded(i, "send GOAWAY")?.goaway();
        Ok(())
    }

    /// Has node `i` refuse its next gRPC streams with `REFUSED_STREAM`.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn refuse_streams(&self, i: usize, count: u64) -> Result<(), ClusterError> {
        self.embedded(i, "refuse streams")?.refuse_streams(count);
        Ok(())
    }

    /// Has node `i` lie about peers and placement. Waiting methods of the handle no longer ask it.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn lie(&self, i: usize, lie: Lie) -> Result<(), ClusterError> {
        self.embedded(i, "lie")?.lie(Some(lie));
        self.node(i).set_condition(Condition::Lying);
        Ok(())
    }

    /// Has node `i` be of another version from now on, as a rolling upgrade would. It stays so when healed.
    ///
    /// # Errors
    ///
    /// When it is a real server.
    pub async fn set_version(&self, i: usize, version: &str) -> Result<(), ClusterError> {
        self.embedded(i, "be of another version")?.set_version(version);
        Ok(())
    }

    /// Ends whatever fault node `i` shows and whatever it was told to do wrong, except death: that is
    /// [`Cluster::restart`].
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn heal(&self, i: usize) -> Result<(), ClusterError> {
        let node = self.node(i);
        match &node.backend {
            Backend::Embedded(embedded) => embedded.heal(),
            Backend::Real(real) => real.resume().map_err(|source| node.failed("resume", source))?,
        }
        if matches!(node.condition(), Condition::Silent | Condition::Lying) {
            node.set_condition(Condition::Up);
        }
        Ok(())
    }

    /// Scales out by one node, which DNS and the balancer list from now on.
    ///
    /// # Errors
    ///
    /// When it does not come up or is not accepted in time.
    pub async fn add_node(&mut self) -> Result<&Node, ClusterError> {
        let index = self.nodes.len();
        self.join().await?;
        self.wait_ready().await?;
        Ok(&self.nodes[index])
    }

    fn inject(
        &self,
        i: usize,
        name: &'static str,
        fault: Fault,
        then: Condition,
    ) -> Result<(), ClusterError> {
        self.embedded(i, name)?.set_fault(Some(fault));
        self.node(i).set_condition(then);
        Ok(())
    }

    /// Node `i`, for what no real server can be made to do.
    fn embedded(&self, i: usize, name: &'static str) -> Result<&EmbeddedNode, ClusterError> {
        self.node(i).embedded().ok_or(ClusterError::Unsupported { fault: name })
    }
}
