//! What would be sent, without sending it.

use super::{Dispatcher, Job, Now, Placement};
use crate::{
    request::{Call, Intent, Points},
    route::{Explanation, Plan, Reason, candidates, plan},
};

impl Dispatcher {
    /// Where `job` would go.
    pub(crate) async fn explain(&self, call: &Call, job: &mut Job) -> Explanation {
        let dealt = if job.lists_points() { self.deal(call, job).await } else { Ok(None) };
        let parts = dealt.unwrap_or_default();
        let topology = &job.snapshot;
        let named = job.collection.as_deref();
        let resolved = named.map(|name| topology.resolve(name)).filter(|&name| Some(name) != named);
        let mut explanation = Explanation {
            protocol: job.protocol.as_str(),
            class: job.class.as_str(),
            collection: named.map(str::to_owned),
            resolved: resolved.map(str::to_owned),
            epoch: topology.epoch().map(|epoch| epoch.to_string()),
            shards: None,
            reason: None,
            parts: Vec::new(),
            internal_rpcs: None,
            candidates: Vec::new(),
            followed: true,
        };
        let change = self.topology.change();
        let conditions = Now::of(self, &change, topology, job.class, named);
        if let Placement::Points(collection, intent) = &job.placement
            && let Some((shards, candidates)) = candidates(intent, collection, topology, &conditions)
        {
            explanation.shards = Some(shards.to_vec());
            explanation.candidates = candidates;
        }
        if matches!(job.placement, Placement::AllNodes) {
            let to_each = topology
                .nodes()
                .iter()
                .filter(|node| node.peer.is_some())
                .map(|node| (Plan::at(node.address, node.peer, Reason::AllNodes), None));
            explanation.go(Reason::AllNodes, &to_each.collect::<Vec<_>>(), topology);
        } else if let Some(parts) = parts {
            let plans = parts.iter().filter_map(|part| {
                let points = match &part.job.placement {
                    Placement::Points(_, intent) => points(intent),
                    _ => None,
                };
                Some((plan(part.job.target(), topology, &conditions, &[], 0)?, points))
            });
            explanation.go(Reason::Split, &plans.collect::<Vec<_>>(), topology);
        } else if let Some(read) = self.direct(call, job) {
            let plans: Vec<_> = read.parts.iter().map(|part| (part.plan, Some(part.ids.len()))).collect();
            explanation.go(Reason::DirectRead, &plans, topology);
        } else if let Some(plan) = plan(job.target(), topology, &conditions, &job.excluded(), 0) {
            explanation.go(plan.reason, &[(plan, None)], topology);
        }
        explanation
    }
}

fn points(intent: &Intent) -> Option<usize> {
    match &intent.scopes.first()?.points {
        Points::Ids(ids) => Some(ids.len()),
        Points::Owned { ids, .. } => Some(*ids),
        Points::All => None,
    }
}
