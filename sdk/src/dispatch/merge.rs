//! One reply out of the replies to the parts of a write.
//!
//! The merged reply is the one that a single coordinator would have given: the highest status, the
//! highest operation id, the summed usage. Where some parts failed and others did not, it is Qdrant's
//! own error for that case, with the code of the first failure and the number of shards that failed.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use prost::Message;
use qdrant_client::qdrant::{
    ListSnapshotsResponse, PointsOperationResponse, SnapshotDescription, UpdateStatus, Usage,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    Failure,
    refusal::{GRPC_MESSAGE, refuse},
};
use crate::request::Protocol;

/// The reply to one part.
#[derive(Debug)]
pub(crate) struct PartReply {
    /// How many shards the part touched.
    pub(crate) shards: usize,
    pub(crate) reply: Result<Reply, Failure>,
}

/// A whole response in memory.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Merges the replies to all parts, of which there is at least one; `took` is what the whole took.
pub(crate) fn merge(protocol: Protocol, parts: Vec<PartReply>, took: Duration) -> Reply {
    let parts = replies(protocol, parts);
    let failed = parts.iter().filter(|(_, reply)| reply.error(protocol).is_some()).count();
    let merged = match failed {
        0 => protocol.merge_successes(&parts, took),
        failed if failed < parts.len() => protocol.merge_failure(&parts, took, SHARDS_FAILED),
        // Nothing was applied anywhere: one of the errors tells it as well as all of them.
        _ => None,
    };
    let one = |(_, reply): &(usize, Reply)| failed == 0 || reply.error(protocol).is_some();
    merged.or_else(|| parts.into_iter().find(one).map(|(_, reply)| reply)).unwrap_or_else(Reply::empty)
}

/// Merges what all nodes list into one list, each name once. Lists of nodes that failed are missing:
/// their places are returned too. Where all failed, the reply is the first failure.
pub(crate) fn merge_lists(protocol: Protocol, parts: Vec<PartReply>, took: Duration) -> (Reply, Vec<usize>) {
    let replies: Vec<Reply> = replies(protocol, parts).into_iter().map(|(_, reply)| reply).collect();
    let failed: Vec<usize> = (0..replies.len()).filter(|&at| replies[at].error(protocol).is_some()).collect();
    let lists: Vec<&Reply> = replies.iter().filter(|reply| reply.error(protocol).is_none()).collect();
    let Some(first) = lists.first() else {
        return (replies.into_iter().next().unwrap_or_else(Reply::empty), failed);
    };
    let body = match protocol {
        Protocol::Rest => {
            let rows = lists.iter().filter_map(|reply| {
                let mut body: Value = serde_json::from_slice(&reply.body).ok()?;
                match body.get_mut("result")?.take() {
                    Value::Array(rows) => Some(rows),
                    _ => None,
                }
            });
            let mut seen = HashSet::new();
            let rows: Vec<Value> =
                rows.flatten().filter(|row| seen.insert(row["name"].to_string())).collect();
            let body = json!({ "result": rows, "status": "ok", "time": took.as_secs_f64() });
            Bytes::from(body.to_string())
        }
        Protocol::Grpc => {
            let mut seen = HashSet::new();
            let mut merged = ListSnapshotsResponse { time: took.as_secs_f64(), ..Default::default() };
            for reply in &lists {
                let list = reply.body.get(5..).and_then(|body| ListSnapshotsResponse::decode(body).ok());
                let rows = list.map(|list| list.snapshot_descriptions).unwrap_or_default();
                let is_new = |row: &SnapshotDescription| seen.insert(row.name.clone());
                merged.snapshot_descriptions.extend(rows.into_iter().filter(is_new));
            }
            crate::request::frame(&merged.encode_to_vec())
        }
    };
    (first.with_body(body), failed)
}

/// Merges the replies of nodes that each made a snapshot: over REST the list of their descriptions; over
/// gRPC, whose reply has room for one, that of the first node. One failure fails the whole.
pub(crate) fn merge_created(protocol: Protocol, parts: Vec<PartReply>, took: Duration) -> Reply {
    let parts = replies(protocol, parts);
    if parts.iter().any(|(_, reply)| reply.error(protocol).is_some()) {
        let failed = |(_, reply): &(usize, Reply)| reply.error(protocol).is_some();
        let merged = match parts.iter().all(failed) {
            true => None,
            false => protocol.merge_failure(&parts, took, "nodes failed to create a snapshot"),
        };
        let first = parts.into_iter().find(failed).map(|(_, reply)| reply);
        return merged.or(first).unwrap_or_else(Reply::empty);
    }
    let Some((_, first)) = parts.first() else { return Reply::empty() };
    let rows: Option<Vec<Value>> = parts
        .iter()
        .map(|(_, reply)| Some(serde_json::from_slice::<Value>(&reply.body).ok()?.get_mut("result")?.take()))
        .collect();
    match rows.filter(|_| protocol == Protocol::Rest) {
        Some(rows) => {
            let body = json!({ "result": rows, "status": "ok", "time": took.as_secs_f64() });
            first.with_body(Bytes::from(body.to_string()))
        }
        // With `wait=false` there is nothing to merge: all say that they have begun.
        None => first.clone(),
    }
}

/// The replies, with refusals in place of those that never came.
fn replies(protocol: Protocol, parts: Vec<PartReply>) -> Vec<(usize, Reply)> {
    let reply = |part: PartReply| {
        let reply = part.reply.unwrap_or_else(|failure| Reply::from(refuse(protocol, &failure)));
        (part.shards, reply)
    };
    parts.into_iter().map(reply).collect()
}

impl Protocol {
    fn merge_successes(self, parts: &[(usize, Reply)], took: Duration) -> Option<Reply> {
        let (_, first) = parts.first()?;
        match self {
            Self::Rest => {
                let bodies: Vec<Value> = parts
                    .iter()
                    .map(|(_, reply)| serde_json::from_slice(&reply.body).ok())
                    .collect::<Option<_>>()?;
                let result = |body: &Value| body.get("result").cloned();
                let status = bodies
                    .iter()
                    .filter_map(|body| result(body)?.get("status")?.as_str().map(str::to_owned))
                    .max_by_key(|status| rank(status))?;
                let operation_id =
                    bodies.iter().filter_map(|body| result(body)?.get("operation_id")?.as_u64()).max();
                let mut result = json!({ "status": status });
                if let Some(operation_id) = operation_id {
                    result["operation_id"] = operation_id.into();
                }
                let mut merged = json!({ "result": result, "status": "ok", "time": took.as_secs_f64() });
                let usage = bodies.iter().filter_map(|body| body.get("usage")).cloned().reduce(add);
                if let Some(usage) = usage {
                    merged["usage"] = usage;
                }
                Some(first.with_body(Bytes::from(merged.to_string())))
            }
            Self::Grpc => {
                let replies: Vec<PointsOperationResponse> = parts
                    .iter()
                    .map(|(_, reply)| PointsOperationResponse::decode(reply.body.get(5..)?).ok())
                    .collect::<Option<_>>()?;
                let rank = |status: i32| match UpdateStatus::try_from(status) {
                    Ok(UpdateStatus::Acknowledged) => 1,
                    Ok(UpdateStatus::Completed) => 2,
                    Ok(UpdateStatus::WaitTimeout) => 3,
                    Ok(UpdateStatus::UnknownUpdateStatus | UpdateStatus::ClockRejected) | Err(_) => 0,
                };
                let mut merged = PointsOperationResponse { time: took.as_secs_f64(), ..Default::default() };
                for reply in replies {
                    merged.usage = sum_usage(merged.usage, reply.usage);
                    match (&mut merged.result, reply.result) {
                        (Some(all), Some(one)) => {
                            all.operation_id = all.operation_id.max(one.operation_id);
                            if rank(one.status) > rank(all.status) {
                                all.status = one.status;
                            }
                        }
                        (all, one) => *all = all.take().or(one),
                    }
                }
                Some(first.with_body(crate::request::frame(&merged.encode_to_vec())))
            }
        }
    }

    fn merge_failure(self, parts: &[(usize, Reply)], took: Duration, what: &str) -> Option<Reply> {
        let total: usize = parts.iter().map(|(shards, _)| shards).sum();
        let errors = parts.iter().filter_map(|(shards, reply)| Some((*shards, reply.error(self)?)));
        let failed: usize = errors.map(|(shards, error)| inner_failures(&error).unwrap_or(shards)).sum();
        let (_, first) = parts.iter().find(|(_, reply)| reply.error(self).is_some())?;
        let message = partial_failure(failed, total, what, &first.error(self)?);
        Some(match self {
            Self::Rest => {
                let body = json!({ "status": { "error": message }, "time": took.as_secs_f64() });
                first.with_body(Bytes::from(body.to_string()))
            }
            Self::Grpc => {
                let mut reply = first.clone();
                let message = utf8_percent_encode(&message, GRPC_MESSAGE).to_string();
                if let Ok(message) = HeaderValue::from_str(&message) {
                    let said = match &mut reply.trailers {
                        Some(trailers) if trailers.contains_key("grpc-status") => trailers,
                        _ => &mut reply.headers,
                    };
                    said.insert("grpc-message", message);
                }
                reply
            }
        })
    }
}

// === impl Reply ===

impl Reply {
    fn empty() -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new(), trailers: None }
    }

    pub(super) fn with_body(&self, body: Bytes) -> Self {
        let mut reply = Self { body, ..self.clone() };
        reply.headers.remove(header::CONTENT_LENGTH);
        reply
    }

    /// The error that the reply is, in words.
    fn error(&self, protocol: Protocol) -> Option<String> {
        match protocol {
            Protocol::Rest if self.status.is_success() => None,
            Protocol::Rest => {
                let body: Option<Value> = serde_json::from_slice(&self.body).ok();
                let error = body.as_ref().and_then(|body| body.get("status")?.get("error")?.as_str());
                Some(error.map_or_else(|| String::from_utf8_lossy(&self.body).into_owned(), str::to_owned))
            }
            Protocol::Grpc => {
                let field = |name| {
                    self.trailers.as_ref().and_then(|t| t.get(name)).or_else(|| self.headers.get(name))
                };
                if field("grpc-status").is_some_and(|status| status == "0") {
                    return None;
                }
                let message = field("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
                let message = String::from_utf8_lossy(message);
                Some(percent_decode_str(&message).decode_utf8_lossy().into_owned())
            }
        }
    }
}

impl From<Response<Bytes>> for Reply {
    fn from(response: Response<Bytes>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body, trailers: None }
    }
}

/// The kinds that Qdrant's errors begin with; the same kind begins the error of the whole.
const KINDS: [&str; 10] = [
    "Wrong input: ",
    "Not found: ",
    "Service internal error: ",
    "Bad request: ",
    "Storage locked: ",
    "Timeout: ",
    "Forbidden: ",
    "Pre-condition failure: ",
    "Shard temporarily unavailable: ",
    "Insufficient storage: ",
];

const OUT_OF: &str = " out of ";
const SHARDS_FAILED: &str = "shards failed to apply operation";
const CAPTURED: &str = ". First error captured: ";

/// Qdrant's sentence for what some did and others did not; `what` says who failed to do what.
fn partial_failure(failed: usize, total: usize, what: &str, first: &str) -> String {
    let kind = KINDS.into_iter().find(|kind| first.starts_with(kind)).unwrap_or_default();
    let captured = match first.split_once(what) {
        Some((_, captured)) => captured.strip_prefix(CAPTURED).unwrap_or(captured),
        None => first,
    };
    format!("{kind}{failed}{OUT_OF}{total} {what}{CAPTURED}{captured}")
}

/// The number of shards that failed within a part, where its error tells one.
fn inner_failures(error: &str) -> Option<usize> {
    let (counts, _) = error.split_once(SHARDS_FAILED)?;
    let (failed, _) = counts.split_once(OUT_OF)?;
    failed.rsplit(' ').next()?.parse().ok()
}

/// acknowledged < completed < wait_timeout
fn rank(status: &str) -> u8 {
    match status {
        "acknowledged" => 1,
        "completed" => 2,
        "wait_timeout" => 3,
        _ => 0,
    }
}

/// Adds up all numbers of two JSON documents, field by field.
fn add(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Object(mut a), Value::Object(b)) => {
            for (name, b) in b {
                let sum = match a.remove(&name) {
                    Some(a) => add(a, b),
                    None => b,
                };
                a.insert(name, sum);
            }
            Value::Object(a)
        }
        (Value::Number(a), Value::Number(b)) => match (a.as_u64(), b.as_u64()) {
            (Some(a), Some(b)) => a.saturating_add(b).into(),
            _ => (a.as_f64().unwrap_or_default() + b.as_f64().unwrap_or_default()).into(),
        },
        (Value::Null, b) => b,
        (a, _) => a,
    }
}

/// The sum of the usages of several replies, where any tells one.
pub(super) fn merge_usage<'a>(usages: impl Iterator<Item = &'a RawValue>) -> Option<Value> {
    usages.filter_map(|usage| serde_json::from_str(usage.get()).ok()).reduce(add)
}

/// The sum of two usages, where given.
pub(crate) fn sum_usage(a: Option<Usage>, b: Option<Usage>) -> Option<Usage> {
    let (Some(mut a), Some(b)) = (a.clone(), b.clone()) else { return a.or(b) };
    match (&mut a.hardware, b.hardware) {
        (Some(a), Some(b)) => {
            a.cpu += b.cpu;
            a.payload_io_read += b.payload_io_read;
            a.payload_io_write += b.payload_io_write;
            a.payload_index_io_read += b.payload_index_io_read;
            a.payload_index_io_write += b.payload_index_io_write;
            a.vector_io_read += b.vector_io_read;
            a.vector_io_write += b.vector_io_write;
        }
        (a, b) => *a = a.take().or(b),
    }
    match (&mut a.inference, b.inference) {
        (Some(a), Some(b)) => {
            for (model, usage) in b.models {
                a.models.entry(model).or_default().tokens += usage.tokens;
            }
        }
        (a, b) => *a = a.take().or(b),
    }
    Some(a)
}

#[cfg(test)]
mod tests {
    use qdrant_client::qdrant::{HardwareUsage, UpdateResult};

    use super::*;

    const TOOK: Duration = Duration::from_millis(250);

    fn rest(status: u16, body: &Value) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("content-length", HeaderValue::from_static("7"));
        let status = StatusCode::from_u16(status).expect("a status");
        Reply { status, headers, body: Bytes::from(body.to_string()), trailers: None }
    }

    fn merged(protocol: Protocol, parts: Vec<(usize, Reply)>) -> Reply {
        let parts = parts.into_iter().map(|(shards, reply)| PartReply { shards, reply: Ok(reply) }).collect();
        merge(protocol, parts, TOOK)
    }

    fn json(reply: &Reply) -> Value {
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    #[test]
    fn successes_have_the_highest_status_and_the_sum_of_usage() {
        let part = |id: u64, status: &str, cpu: u64| {
            let usage = json!({ "hardware": { "cpu": cpu, "vector_io_read": 1 }, "inference": null });
            rest(
                200,
                &json!({ "result": { "operation_id": id, "status": status }, "status": "ok", "time": 0.1, "usage": usage }),
            )
        };
        let reply = merged(
            Protocol::Rest,
            vec![
                (1, part(4, "completed", 10)),
                (2, part(9, "wait_timeout", 5)),
                (1, part(1, "acknowledged", 1)),
            ],
        );
        assert_eq!(reply.status, 200);
        assert!(!reply.headers.contains_key("content-length"), "it is not the length of this body");
        assert_eq!(
            json(&reply),
            json!({
                "result": { "operation_id": 9, "status": "wait_timeout" }, "status": "ok", "time": 0.25,
                "usage": { "hardware": { "cpu": 16, "vector_io_read": 3 }, "inference": null },
            })
        );
    }

    #[test]
    fn a_partial_failure_is_qdrants_own() {
        let ok = rest(
            200,
            &json!({ "result": { "operation_id": 1, "status": "completed" }, "status": "ok", "time": 0.1 }),
        );
        let dimension = "Wrong input: Vector dimension error: expected dim: 4, got 2";
        let error = |text: &str| rest(400, &json!({ "status": { "error": text }, "time": 0.1 }));
        let reply = merged(Protocol::Rest, vec![(2, ok.clone()), (1, error(dimension))]);
        assert_eq!(reply.status, 400);
        assert_eq!(
            json(&reply)["status"]["error"],
            format!(
                "Wrong input: 1 out of 3 shards failed to apply operation. First error captured: {dimension}"
            )
        );

        let nested = format!(
            "Wrong input: 1 out of 2 shards failed to apply operation. First error captured: {dimension}"
        );
        let reply = merged(Protocol::Rest, vec![(2, error(&nested)), (2, ok), (1, error(dimension))]);
        assert_eq!(
            json(&reply)["status"]["error"],
            format!(
                "Wrong input: 2 out of 5 shards failed to apply operation. First error captured: {dimension}"
            )
        );
    }

    #[test]
    fn when_all_fail_one_error_is_passed_on_as_it_is() {
        let error = |code, text: &str| rest(code, &json!({ "status": { "error": text }, "time": 0.1 }));
        let reply = merged(Protocol::Rest, vec![(1, error(404, "Not found: it")), (1, error(500, "other"))]);
        assert_eq!(
            (reply.status.as_u16(), json(&reply)["status"]["error"].as_str()),
            (404, Some("Not found: it"))
        );
    }

    fn grpc(result: Option<(u64, UpdateStatus)>, error: Option<(&'static str, &'static str)>) -> Reply {
        let mut trailers = HeaderMap::new();
        let (code, message) = error.unwrap_or(("0", ""));
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        let reply = PointsOperationResponse {
            result: result.map(|(id, status)| UpdateResult { operation_id: Some(id), status: status.into() }),
            time: 0.1,
            usage: Some(Usage {
                hardware: Some(HardwareUsage { cpu: 2, ..Default::default() }),
                inference: None,
            }),
        };
        let body = result.map(|_| crate::request::frame(&reply.encode_to_vec())).unwrap_or_default();
        Reply { status: StatusCode::OK, headers: HeaderMap::new(), body, trailers: Some(trailers) }
    }

    #[test]
    fn grpc_replies_merge_alike() {
        let parts = vec![
            (1, grpc(Some((7, UpdateStatus::Acknowledged)), None)),
            (1, grpc(Some((3, UpdateStatus::Completed)), None)),
        ];
        let reply = merged(Protocol::Grpc, parts);
        let message = PointsOperationResponse::decode(&reply.body[5..]).expect("a message");
        let result = message.result.expect("a result");
        assert_eq!((result.operation_id, result.status()), (Some(7), UpdateStatus::Completed));
        assert_eq!(
            (message.time, message.usage.and_then(|usage| usage.hardware).map(|h| h.cpu)),
            (0.25, Some(4))
        );
        assert_eq!(reply.error(Protocol::Grpc), None);

        let parts = vec![
            (2, grpc(Some((7, UpdateStatus::Completed)), None)),
            (1, grpc(None, Some(("3", "Wrong input: 100%25 wrong")))),
        ];
        let reply = merged(Protocol::Grpc, parts);
        assert_eq!(reply.trailers.as_ref().expect("trailers")["grpc-status"], "3");
        assert_eq!(
            reply.error(Protocol::Grpc).as_deref(),
            Some(
                "Wrong input: 1 out of 3 shards failed to apply operation. First error captured: Wrong input: 100% wrong"
            )
        );
    }

    #[test]
    fn a_part_that_nobody_answered_counts_as_failed() {
        let ok = rest(
            200,
            &json!({ "result": { "operation_id": 1, "status": "completed" }, "status": "ok", "time": 0.1 }),
        );
        let parts = vec![
            PartReply { shards: 2, reply: Ok(ok) },
            PartReply { shards: 2, reply: Err(Failure::NoNode { problems: Vec::new() }) },
        ];
        let reply = merge(Protocol::Rest, parts, TOOK);
        assert_eq!(reply.status, 503);
        assert!(
            json(&reply)["status"]["error"]
                .as_str()
                .is_some_and(|error| error.starts_with("2 out of 4 shards failed"))
        );
    }
}
