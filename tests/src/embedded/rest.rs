//! The REST front-end: one table of routes, the envelope, and nothing that decides.
//!
//! The table doubles as the list of names under which telemetry counts, and says which access a route needs. Routes that
//! Qdrant has and the embedded cluster lacks are in it too, so that a client learns the difference between "unknown" (404)
//! and "not imitated" (501).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

mod body;
mod collections;
mod describe;
mod encoding;
mod points;
mod routes;
mod service;
mod snapshots;

use self::encoding::Undecodable;
use self::routes::{Route, find};
use super::affinity::{self, Affinity};
use super::auth::Access;
use super::engine::Engine;
use super::error::{Kind, OpError, OpResult};
use super::fault::stall;

/// A request whose route is known and whose caller may make it.
#[derive(Debug)]
struct Ask {
    params: Vec<String>,
    query: HashMap<String, String>,
    body: Bytes,
    affinity: Option<Affinity>,
}

/// What a handler answers.
#[derive(Debug)]
enum Reply {
    /// The `result` of the usual envelope.
    Result(Value),
    /// 202: the work goes on.
    Accepted,
    /// A whole JSON document without the envelope.
    Document(Value),
    Text(StatusCode, Cow<'static, str>),
    File(String, Vec<u8>),
    /// What claims to be JSON.
    Garbage(&'static str),
}

/// Answers one request, whatever is wrong with it.
pub(crate) async fn answer(engine: Arc<Engine>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let began = Instant::now();
    let path = request.uri().path().to_owned();
    // Doubled and trailing slashes do not count.
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let method = request.method().clone();
    let found = find(method.as_str(), &segments);
    let response = match found {
        Some((route, params)) => respond(&engine, route, params, request, began).await,
        // An unknown path needs a key like any other.
        None => match engine.keys.check(request.headers()) {
            Ok(_) => {
                Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).unwrap_or_default()
            }
            Err(text) => plain(StatusCode::UNAUTHORIZED, text),
        },
    };
    stall(&engine.fault).await;
    if let Some((route, _)) = find(method.as_str(), &segments) {
        engine.telemetry.rest(method.as_str(), route.pattern, response.status().as_u16(), began.elapsed());
    }
    response
}

async fn respond(
    engine: &Arc<Engine>,
    route: &'static Route,
    params: Vec<String>,
    request: Request<Incoming>,
    began: Instant,
) -> Response<Full<Bytes>> {
    let mut access = Access::Full;
    if let Some(need) = route.needs(&params) {
        access = match engine.keys.check(request.headers()) {
            Ok(access) => access,
            Err(text) => return plain(StatusCode::UNAUTHORIZED, text),
        };
        if let Err(text) = access.check(need) {
            return envelope(Err(OpError::new(Kind::Forbidden, text)), began);
        }
    }
    let query = request
        .uri()
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned()))
        .collect();
    let limit = route.max_body();
    let unreadable = |error: &dyn fmt::Display| {
        let text = format!("Error that occur during reading payload: {error}.");
        envelope(Err(OpError::new(Kind::Invalid, text)), began)
    };
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_large(limit, began),
        Err(error) => return unreadable(&error),
    };
    let body = match encoding::plain(&head.headers, body, limit) {
        Ok(body) => body,
        Err(Undecodable::TooLarge) => return too_large(limit, began),
        Err(Undecodable::Broken(error)) => return unreadable(&error),
    };
    if route.is_about_points()
        && let Some(canned) = engine.misconduct.cans.take()
    {
        return canned.rest(began);
    }
    let affinity = engine.affinity(head.headers.get(affinity::HEADER).map(HeaderValue::as_bytes));
    let reply = route.run(engine, Ask { params, query, body, affinity }).await;
    envelope(reply.map(|reply| reply.seen_with(&access)), began)
}

/// Where the framework's own limit applies, so does its own answer.
fn too_large(limit: usize, began: Instant) -> Response<Full<Bytes>> {
    let text = format!("JSON payload has exceeded limit ({limit} bytes).");
    if limit == routes::MAX_BODY {
        envelope(Err(OpError::new(Kind::Invalid, text)), began)
    } else {
        plain(StatusCode::PAYLOAD_TOO_LARGE, text)
    }
}

fn envelope(outcome: OpResult<Reply>, began: Instant) -> Response<Full<Bytes>> {
    let time = began.elapsed().as_secs_f64();
    match outcome {
        Ok(Reply::Result(result)) => {
            document(StatusCode::OK, &json!({ "result": result, "status": "ok", "time": time }))
        }
        Ok(Reply::Accepted) => document(StatusCode::ACCEPTED, &json!({ "status": "accepted", "time": time })),
        Ok(Reply::Document(value)) => document(StatusCode::OK, &value),
        Ok(Reply::Text(status, text)) => plain(status, text),
        Ok(Reply::Garbage(text)) => json_bytes(StatusCode::OK, Bytes::from_static(text.as_bytes())),
        Ok(Reply::File(name, content)) => {
            let mut response = Response::new(Full::new(content.into()));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
                headers.insert(http::header::CONTENT_DISPOSITION, value);
            }
            response
        }
        Err(error) => {
            // What never reached a handler took no time worth telling, and Qdrant says so.
            let time = if error.kind == Kind::Invalid { 0.0 } else { time };
            document(error.http_status(), &json!({ "status": { "error": error.to_string() }, "time": time }))
        }
    }
}

/// An error that no handler has made.
pub(crate) fn refusal(error: OpError, began: Instant) -> Response<Full<Bytes>> {
    envelope(Err(error), began)
}

fn document(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    json_bytes(status, value.to_string().into())
}

fn json_bytes(status: StatusCode, bytes: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

// === impl Reply ===

impl Reply {
    /// What of it may be seen: lists leave out what the caller may not know of.
    fn seen_with(mut self, access: &Access) -> Self {
        if let (Self::Result(Value::Object(fields)), Access::Collections(_)) = (&mut self, access) {
            let names = ["name", "collection_name", "alias_name"];
            for list in ["collections", "aliases"] {
                if let Some(Value::Array(rows)) = fields.get_mut(list) {
                    rows.retain(|row| {
                        names.iter().filter_map(|name| row[name].as_str()).all(|name| access.covers(name))
                    });
                }
            }
            // Of telemetry.
            fields.remove("cluster");
            fields.remove("requests");
        }
        self
    }
}

// === impl Ask ===

impl Ask {
    fn param(&self, index: usize) -> &str {
        self.params.get(index).map_or("", String::as_str)
    }

    /// The shard id that a variable part of the path names.
    fn shard(&self, index: usize) -> OpResult<u32> {
        let text = self.param(index);
        text.parse().map_err(|_| {
            let text = format!("Deserialize error in path parameters: can not parse `{text}` to a u32");
            OpError::new(Kind::Invalid, text)
        })
    }

    /// A flag of the query string; off when absent.
    fn flag(&self, name: &str, default: bool) -> OpResult<bool> {
        match self.query.get(name).map(String::as_str) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(OpError::new(
                Kind::Invalid,
                "Deserialize error in query parameters: provided string was not `true` or `false`".to_owned(),
            )),
        }
    }

    fn number(&self, name: &str) -> OpResult<Option<u64>> {
        self.query
            .get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    OpError::new(
                        Kind::Invalid,
                        "Deserialize error in query parameters: invalid digit found in string",
                    )
                })
            })
            .transpose()
    }
}
