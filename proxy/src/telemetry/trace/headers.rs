//! Headers as the propagator of trace contexts reads and writes them.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};

/// The headers that came.
pub(super) struct Received<'a>(pub(super) &'a HeaderMap);

/// The headers that go out.
pub(super) struct Sent<'a>(pub(super) &'a mut HeaderMap);

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Injector for Sent<'_> {
    fn set(&mut self, key: &str, value: String) {
        // There need not be a `tracestate`, and an empty one says nothing.
        if !value.is_empty()
            && let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
        {
            self.0.insert(name, value);
        }
    }
}
