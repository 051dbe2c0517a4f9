//! What nodes say they have been asked by each other.

use http::{HeaderValue, Method};
use serde_json::Value;

use super::{
    collection::Own,
    way::{Via, Way},
};

/// RPCs between nodes that carry a client's data. What is missing serves consensus, transfers and health.
const PREFIXES: [&str; 2] = ["/qdrant.PointsInternal/", "/qdrant.CollectionsInternal/Get"];
const UNRELATED: [&str; 2] = ["/qdrant.PointsInternal/Sync", "/qdrant.PointsInternal/SyncPoints"];

/// How many calls all nodes have had from their peers; `None` where one does not tell.
pub(super) async fn internal_rpcs(own: &Own) -> Option<u64> {
    let mut sum = 0;
    let topology = own.router.topology().snapshot();
    if topology.nodes().is_empty() {
        return None;
    }
    let via = Via::new(&Way::Sdk, &own.router, &own.work, 1, own.is_encrypted).ok()?;
    for node in topology.nodes() {
        let mut question = own.work.plain(Method::GET, "/telemetry", None);
        let name = node.peer.map_or_else(|| node.address.ip.to_string(), |peer| peer.to_string());
        let name = HeaderValue::try_from(name).ok()?;
        question.headers_mut().insert("x-qdrant-node", name);
        let answer = via.rest(question).await.ok()?;
        sum += count(&serde_json::from_slice(&answer).ok()?)?;
    }
    Some(sum)
}

/// The calls in one answer of `GET /telemetry`; `None` where it has no such section, as for a key that may
/// not see it.
fn count(answer: &Value) -> Option<u64> {
    let responses = answer["result"]["requests"]["grpc"]["responses"].as_object()?;
    let calls = responses
        .iter()
        .filter(|(path, _)| PREFIXES.iter().any(|prefix| path.starts_with(prefix)))
        .filter(|(path, _)| !UNRELATED.contains(&path.as_str()))
        .map(|(_, entry)| match entry["count"].as_u64() {
            Some(count) => count,
            // Since Qdrant 1.17, by status.
            None => entry.as_object().into_iter().flatten().filter_map(|(_, it)| it["count"].as_u64()).sum(),
        });
    Some(calls.sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_shapes_are_counted() {
        let answer =
            |responses: Value| json!({ "result": { "requests": { "grpc": { "responses": responses } } } });
        let new = answer(json!({
            "/qdrant.PointsInternal/Upsert": { "0": { "count": 4 }, "14": { "count": 2 } },
            "/qdrant.PointsInternal/Sync": { "0": { "count": 100 } },
            "/qdrant.CollectionsInternal/Get": { "0": { "count": 1 } },
            "/qdrant.Points/Query": { "0": { "count": 9 } },
        }));
        assert_eq!(count(&new), Some(7));
        assert_eq!(count(&answer(json!({ "/qdrant.PointsInternal/Get": { "count": 3 } }))), Some(3));
        assert_eq!(count(&json!({ "result": {} })), None);
    }
}
