//! The time, as answers tell it.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: 0, value: None }) };
}

/// A date, which is written once a second.
struct Date {
    second: u64,
    value: Option<HeaderValue>,
}

/// The date for an answer that comes without one.
pub(super) fn now() -> HeaderValue {
    DATE.with_borrow_mut(|date| date.at(SystemTime::now()))
}

// === impl Date ===

impl Date {
    fn at(&mut self, now: SystemTime) -> HeaderValue {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match &self.value {
            Some(value) if self.second == second => value.clone(),
            _ => {
                let text = httpdate::fmt_http_date(now);
                let epoch = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
                let value = HeaderValue::try_from(text).unwrap_or(epoch);
                *self = Self { second, value: Some(value.clone()) };
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_goes_on_each_second() {
        let mut date = Date { second: 0, value: None };
        let mut at = |milliseconds| date.at(UNIX_EPOCH + Duration::from_millis(milliseconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(999), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1_000), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT", "clocks may be set back");
    }
}
