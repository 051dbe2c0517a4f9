//! What a running proxy tells of itself.

use std::net::IpAddr;

use http::StatusCode;
use serde_json::Value;

use crate::program::{eventually, get};

/// Waits until it is ready.
pub(crate) async fn ready(ip: IpAddr) {
    eventually("it is ready", async || {
        get(ip, 9633, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
}

/// The value of a metric with these labels; `None` where it has none.
pub(crate) async fn metric(ip: IpAddr, series: &str) -> Option<f64> {
    let (_, text) = get(ip, 9633, "/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a number"))
}

/// The newest event of this kind, as `/events/recent` tells it.
pub(crate) async fn event(ip: IpAddr, kind: &str) -> Option<Value> {
    let (_, text) = get(ip, 9633, "/events/recent").await?;
    let mut recent: Value = serde_json::from_str(&text).expect("JSON");
    let mut events = recent["events"].as_array_mut()?.drain(..);
    events.find(|event| event["kind"] == kind)
}
