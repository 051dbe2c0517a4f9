//! Static API keys: a full one and a read-only one.

use http::HeaderMap;

/// The keys of a node; none means that everything is allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) full: Option<String>,
    pub(crate) read_only: Option<String>,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    Full,
}

impl Keys {
    /// The caller's access, or the text of the refusal.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<Access, &'static str> {
        if self.full.is_none() && self.read_only.is_none() {
            return Ok(Access::Full);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let key =
            text("api-key").or_else(|| text("authorization").and_then(|value| value.strip_prefix("Bearer ")));
        match key {
            None => Err("Must provide an API key or an Authorization bearer token"),
            Some(key) if self.full.as_deref() == Some(key) => Ok(Access::Full),
            Some(key) if self.read_only.as_deref() == Some(key) => Ok(Access::ReadOnly),
            Some(_) => Err("Invalid API key or JWT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_header_carries_either_key() {
        let keys = Keys { full: Some("rw".into()), read_only: Some("ro".into()) };
        let check = |name: &'static str, value: &'static str| {
            keys.check(&HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(check("api-key", "rw"), Ok(Access::Full));
        assert_eq!(check("authorization", "Bearer ro"), Ok(Access::ReadOnly));
        assert_eq!(check("api-key", "no"), Err("Invalid API key or JWT"));
        assert!(keys.check(&HeaderMap::new()).is_err());
        assert_eq!(Keys::default().check(&HeaderMap::new()), Ok(Access::Full));
    }
}
