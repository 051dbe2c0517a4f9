//! Who may do what: a full key, a read-only one, and tokens signed with the full one.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::HeaderMap;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

/// How long a token is taken after its end.
const LEEWAY: Duration = Duration::from_secs(30);

/// The keys of a node; none means that everything is allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) full: Option<String>,
    pub(crate) read_only: Option<String>,
}

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    Full,
    /// Something with these collections, by the names that it has for them, and nothing else.
    Collections(HashMap<String, Mode>),
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Mode {
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "rw", alias = "prw")]
    Write,
    #[serde(rename = "m")]
    Manage,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    /// Any credential at all.
    Credential,
    Global {
        write: bool,
    },
    Collection {
        name: &'a str,
        write: bool,
    },
}

/// What a token says.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: Option<u64>,
    #[serde(default = "everything")]
    access: Granted,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Granted {
    Global(Mode),
    Collections(Vec<OfCollection>),
}

#[derive(Debug, Deserialize)]
struct OfCollection {
    collection: String,
    access: Mode,
}

fn everything() -> Granted {
    Granted::Global(Mode::Manage)
}

// === impl Keys ===

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
            Some(token) => {
                let full = self.full.as_deref();
                full.and_then(|full| granted(full, token)).ok_or("Invalid API key or JWT")
            }
        }
    }
}

// === impl Access ===

impl Access {
    /// Whether this is enough; the text of the refusal where it is not.
    pub(crate) fn check(&self, need: Need<'_>) -> Result<(), String> {
        match (self, need) {
            (Self::Full, _)
            | (_, Need::Credential)
            | (Self::ReadOnly, Need::Global { write: false } | Need::Collection { write: false, .. }) => {
                Ok(())
            }
            (Self::ReadOnly, _) | (Self::Collections(_), Need::Global { write: true }) => {
                Err("Global manage access is required".to_owned())
            }
            (Self::Collections(_), Need::Global { write: false }) => {
                Err("Global access is required".to_owned())
            }
            (Self::Collections(modes), Need::Collection { name, write }) => match modes.get(name) {
                None => Err(format!("Access to collection {name} is required")),
                Some(Mode::Read) if write => Err(format!("Write access to collection {name} is required")),
                Some(_) => Ok(()),
            },
        }
    }

    /// Whether the caller may know of this collection, or alias.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.check(Need::Collection { name, write: false }).is_ok()
    }
}

/// A token with these claims, signed (HS256) with `key`: the full key of a cluster.
#[must_use]
pub fn token(key: &str, claims: &Value) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    format!("{signed}.{}", BASE64.encode(hmac::sign(&key, signed.as_bytes())))
}

/// What `token` allows, where `key` has signed it and its time is not over.
fn granted(key: &str, token: &str) -> Option<Access> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (_, claims) = signed.split_once('.')?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hmac::verify(&key, signed.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
    let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.saturating_sub(LEEWAY);
    if claims.exp.is_some_and(|end| end < now.as_secs()) {
        return None;
    }
    Some(match claims.access {
        Granted::Global(Mode::Manage) => Access::Full,
        Granted::Global(_) => Access::ReadOnly,
        Granted::Collections(rows) => {
            Access::Collections(rows.into_iter().map(|row| (row.collection, row.access)).collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys { full: Some("rw".into()), read_only: Some("ro".into()) }
    }

    fn check(name: &'static str, value: &str) -> Result<Access, &'static str> {
        let value = value.parse().expect("a value");
        keys().check(&HeaderMap::from_iter([(http::HeaderName::from_static(name), value)]))
    }

    #[test]
    fn either_header_carries_either_key() {
        assert_eq!(check("api-key", "rw"), Ok(Access::Full));
        assert_eq!(check("authorization", "Bearer ro"), Ok(Access::ReadOnly));
        assert_eq!(check("api-key", "no"), Err("Invalid API key or JWT"));
        assert!(keys().check(&HeaderMap::new()).is_err());
        assert_eq!(Keys::default().check(&HeaderMap::new()), Ok(Access::Full));
    }

    #[test]
    fn tokens_allow_what_they_say_until_they_end() {
        let of = |claims: Value| check("api-key", &token("rw", &claims));
        assert_eq!(of(json!({})), Ok(Access::Full));
        assert_eq!(of(json!({ "access": "r" })), Ok(Access::ReadOnly));
        assert!(of(json!({ "exp": 1 })).is_err());
        assert!(check("authorization", &format!("Bearer {}", token("ro", &json!({})))).is_err());
        let access = of(json!({ "access": [{ "collection": "a", "access": "r" },
                                           { "collection": "b", "access": "rw" }] }));
        let access = access.expect("access");
        for (need, allowed) in [
            (Need::Credential, true),
            (Need::Global { write: false }, false),
            (Need::Collection { name: "a", write: false }, true),
            (Need::Collection { name: "a", write: true }, false),
            (Need::Collection { name: "b", write: true }, true),
            (Need::Collection { name: "c", write: false }, false),
        ] {
            assert_eq!(access.check(need).is_ok(), allowed, "{need:?}");
        }
    }
}
