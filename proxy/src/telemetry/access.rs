//! The access log: one line per request, among the lines of the log and in their format.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use qdrant_router::{request::Protocol, route::Reason};

use super::Told;

/// The target of its lines, which the filter of the log always lets through.
pub(crate) const TARGET: &str = "qdrant_router::access";

/// From here on a request is slow, and always has a line.
const SLOW: Duration = Duration::from_secs(1);

/// Which requests have a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AccessPolicy {
    /// None.
    #[default]
    Off,
    /// One of so many, and all that failed or were slow.
    OneIn(u32),
    /// All.
    All,
}

/// The access log of a proxy.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    /// Of how many requests one has a line; zero where none has.
    one_in: AtomicU32,
    seen: AtomicU32,
}

// === impl AccessPolicy ===

impl FromStr for AccessPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "off" => Ok(Self::Off),
            "all" => Ok(Self::All),
            _ => match text.strip_prefix("1/").and_then(|count| count.parse().ok()) {
                Some(count @ 2..) => Ok(Self::OneIn(count)),
                _ => Err("use `off`, `all`, or a share of the requests such as `1/100`"),
            },
        }
    }
}

impl fmt::Display for AccessPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::OneIn(count) => write!(f, "1/{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

// === impl AccessLog ===

impl AccessLog {
    pub(super) fn set(&self, policy: AccessPolicy) {
        let one_in = match policy {
            AccessPolicy::Off => 0,
            AccessPolicy::OneIn(count) => count,
            AccessPolicy::All => 1,
        };
        self.one_in.store(one_in, Ordering::Relaxed);
    }

    pub(super) fn is_on(&self) -> bool {
        self.one_in.load(Ordering::Relaxed) != 0
    }

    /// Writes the line of a request, if it has one; `bytes` are those of its body and of the answer's, where
    /// they are known without counting.
    pub(super) fn tell(
        &self,
        told: &Told<'_>,
        took: Duration,
        bytes: [Option<u64>; 2],
        trace_id: Option<&str>,
    ) {
        let one_in = match self.one_in.load(Ordering::Relaxed) {
            0 => return,
            one_in => one_in,
        };
        let is_drawn = self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(one_in);
        if !(is_drawn || told.is_failure() || took >= SLOW) {
            return;
        }
        let routed = told.routed;
        let [request_bytes, answer_bytes] = bytes;
        tracing::info!(
            target: TARGET,
            protocol = routed.protocol.as_str(),
            method = (routed.protocol == Protocol::Rest).then_some(told.method),
            operation = routed.operation,
            collection = routed.collection.as_deref(),
            status = told.status,
            grpc_status = told.grpc_status,
            outcome = told.outcome,
            reason = routed.reason.map(Reason::as_str),
            observed_reason = routed.observed.as_ref().and_then(|observed| observed.reason).map(Reason::as_str),
            node = routed.node(),
            attempts = routed.attempts,
            parts = routed.parts,
            head_ms = took.as_micros() as f64 / 1000.0,
            request_bytes,
            answer_bytes,
            trace_id,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for policy in [AccessPolicy::Off, AccessPolicy::OneIn(100), AccessPolicy::All] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for text in ["", "on", "1", "1/", "1/0", "1/1", "2/100", "1/-5", "0.1"] {
            assert!(text.parse::<AccessPolicy>().is_err(), "{text}");
        }
    }
}
