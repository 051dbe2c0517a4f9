//! The time, as answers tell it.

use std::time::{SystemTime, UNIX_EPOCH};

/// The date for answers that come without one, written once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

// === impl Date ===

impl Date {
    pub(super) fn now(&mut self) -> &str {
        self.at(SystemTime::now())
    }

    fn at(&mut self, now: SystemTime) -> &str {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != second || self.text.is_empty() {
            *self = Self { second, text: httpdate::fmt_http_date(now) };
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_goes_on_each_second() {
        let mut date = Date::default();
        let mut at = |milliseconds| date.at(UNIX_EPOCH + Duration::from_millis(milliseconds)).to_owned();
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(999), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1_000), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT", "clocks may be set back");
    }
}
