//! `grpc-timeout`: the time that a client gives its call, every attempt together.

use std::{future::Future, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout_at};

use super::Failure;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// When the client of these headers stops waiting; `None` where it does not say.
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(parse(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)?)
}

/// What `work` comes to, unless the client stops waiting before.
pub(crate) async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout_at(deadline, work).await.unwrap_or(Err(Failure::Late))
}

/// Tells the node how much of the time is left.
pub(super) fn shrink(headers: &mut HeaderMap, deadline: Instant) {
    // At most eight digits; in microseconds that is a minute and a half.
    let left = deadline.saturating_duration_since(Instant::now());
    let (number, unit) = match left.as_micros() {
        micros if micros < 100_000_000 => (micros, 'u'),
        micros => ((micros / 1000).min(99_999_999), 'm'),
    };
    if let Ok(value) = HeaderValue::from_str(&format!("{number}{unit}")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// One to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_of_every_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("1n", Some(Duration::from_nanos(1))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("1", None),
            ("1x", None),
            ("1é", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn later_attempts_have_less_time() {
        let mut headers = HeaderMap::new();
        assert_eq!(deadline(&headers), None);
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("5S"));
        let deadline = deadline(&headers).expect("a deadline");
        tokio::time::advance(Duration::from_secs(2)).await;
        shrink(&mut headers, deadline);
        assert_eq!(headers[GRPC_TIMEOUT], "3000000u");
        tokio::time::advance(Duration::from_secs(9)).await;
        shrink(&mut headers, deadline);
        assert_eq!(headers[GRPC_TIMEOUT], "0u");
        shrink(&mut headers, Instant::now() + Duration::from_secs(3600));
        assert_eq!(headers[GRPC_TIMEOUT], "3600000m");
    }
}
