//! The values that keys take: text in, a value or the reason against it out.
//!
//! Reasons do not repeat the value; whoever reports them names it.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use tracing_subscriber::EnvFilter;

/// Text that parses as a `T` and is kept as text.
pub(crate) fn checked<T: FromStr>(text: &str) -> Result<String, T::Err> {
    text.parse::<T>().map(|_| text.to_owned())
}

/// A port.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a port is a number from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

/// An address with a port, to listen on or to ask.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "not IP:PORT; examples are `0.0.0.0:6333` and `[::]:6333` (a name is not resolved here)".to_owned()
    })
}

/// A duration from `shortest` to `longest`: a whole number and its unit.
pub(crate) fn duration(
    shortest: Duration,
    longest: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let milliseconds = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let duration = milliseconds
            .zip(number.parse::<u64>().ok())
            .and_then(|(unit, number)| Some(Duration::from_millis(number.checked_mul(unit)?)));
        match duration {
            Some(duration) if (shortest..=longest).contains(&duration) => Ok(duration),
            Some(_) => Err(format!("give a duration from {} to {}", show(shortest), show(longest))),
            None => Err("a duration is a whole number and its unit, ms, s, m or h, such as `30s`".to_owned()),
        }
    }
}

/// A duration from `shortest` to `longest`, or zero for none.
pub(crate) fn duration_or_none(
    shortest: Duration,
    longest: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let (none, some) = (duration(Duration::ZERO, Duration::ZERO), duration(shortest, longest));
    move |text| none(text).or_else(|_| some(text).map_err(|reason| format!("{reason}, or `0s` for none")))
}

/// A duration as [`duration`] reads it.
pub(crate) fn show(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds > 0 && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

/// A number of bytes from `least` to `most`, plain or in KiB, MiB or GiB.
pub(crate) fn bytes(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        match unit.zip(number.parse::<usize>().ok()).map(|(unit, number)| number.checked_mul(unit)) {
            Some(Some(bytes)) if (least..=most).contains(&bytes) => Ok(bytes),
            Some(_) => Err(format!("give from {least} to {most} bytes")),
            None => {
                Err("a size is a whole number of bytes, or of KiB, MiB or GiB, such as `32MiB`".to_owned())
            }
        }
    }
}

/// A whole number from `least` to `most`.
pub(crate) fn count(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(count) if (least..=most).contains(&count) => Ok(count),
        _ => Err(format!("give a whole number from {least} to {most}")),
    }
}

/// What is logged: a level, or a level per target.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fix = "use off, error, warn, info, debug or trace, alone or as TARGET=LEVEL, several by commas";
    let is_plain = |directive: &str| {
        directive.contains(['=', '[']) || LEVELS.contains(&directive.trim().to_ascii_lowercase().as_str())
    };
    // A lone word is a target to EnvFilter, so that a mistyped level would silence everything.
    if !text.split(',').all(is_plain) {
        return Err(fix.to_owned());
    }
    checked::<EnvFilter>(text).map_err(|error| format!("{error}; {fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_range() {
        let parse = duration(Duration::from_millis(100), Duration::from_secs(3600));
        for (text, milliseconds) in
            [("100ms", 100), ("30s", 30_000), ("90s", 90_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse(text), Ok(duration));
            assert_eq!(show(duration), text);
        }
        for text in
            ["", "30", "-30s", "1.5s", "s", "30 s", "30sec", "99ms", "0s", "2h", "99999999999999999999s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_duration_is_zero() {
        let parse = duration_or_none(Duration::from_secs(1), Duration::from_secs(60));
        for (text, milliseconds) in [("0s", 0), ("0ms", 0), ("1s", 1000), ("1m", 60_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["", "0", "999ms", "61s"] {
            assert!(parse(text).is_err_and(|reason| reason.ends_with("or `0s` for none")), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        let parse = bytes(1024, 1 << 30);
        for (text, size) in [("1024", 1024), ("1KiB", 1024), ("32MiB", 32 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse(text), Ok(size));
        }
        for text in ["", "-1", "1MB", "32 MiB", "1023", "2GiB", "99999999999999GiB", "1.5MiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_have_a_range() {
        let parse = count(1, 100);
        assert_eq!((parse("1"), parse("100")), (Ok(1), Ok(100)));
        for text in ["", "0", "101", "-1", "1.5", "99999999999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistyped_level_is_no_filter() {
        for text in ["info", "off", "warn,qdrant_router=debug"] {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for text in ["inof", "", "qdrant_router=verbose", "info,,debug"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
    }
}
