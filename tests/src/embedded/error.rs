//! The one error of the engine, and what it looks like on either protocol.
//!
//! Kinds, prefixes and codes follow Qdrant's own table, so a client cannot tell the difference; only [`Kind::Lacking`]
//! is ours, for what the embedded cluster does not imitate.

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tonic::{Code, metadata::MetadataValue};

/// The result of everything the engine does.
pub(crate) type OpResult<T> = Result<T, OpError>;

/// What went wrong, in Qdrant's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    BadInput,
    BadRequest,
    Invalid,
    NotFound,
    AlreadyExists,
    Forbidden,
    Service,
    Timeout,
    Unavailable,
    RateLimited,
    NoStorage,
    Lacking,
}

/// An error with the text Qdrant would give.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpError {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl OpError {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn bad_input(text: impl Into<String>) -> Self {
        Self::new(Kind::BadInput, text)
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, text)
    }

    pub(crate) fn service(text: impl Into<String>) -> Self {
        Self::new(Kind::Service, text)
    }

    pub(crate) fn no_collection(name: &str) -> Self {
        Self::not_found(format!("Collection `{name}` doesn't exist!"))
    }

    /// A malformed JSON body; `what` is the parser's own sentence.
    pub(crate) fn bad_json(what: impl fmt::Display) -> Self {
        Self::new(Kind::Invalid, format!("Format error in JSON body: {what}"))
    }

    /// Something Qdrant can do and the embedded cluster cannot.
    pub(crate) fn lacking(what: impl fmt::Display) -> Self {
        Self::new(Kind::Lacking, format!("the embedded cluster does not implement {what}"))
    }

    /// Whether another replica may succeed where this one failed.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Service | Kind::Timeout | Kind::Unavailable)
    }

    pub(crate) fn http_status(&self) -> StatusCode {
        match self.kind {
            Kind::BadInput | Kind::BadRequest | Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::AlreadyExists => StatusCode::CONFLICT,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::Service => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
            Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Kind::NoStorage => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Lacking => StatusCode::NOT_IMPLEMENTED,
        }
    }

    pub(crate) fn grpc_code(&self) -> Code {
        match self.kind {
            Kind::BadInput | Kind::BadRequest | Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::Forbidden => Code::PermissionDenied,
            Kind::Service => Code::Internal,
            Kind::Timeout => Code::DeadlineExceeded,
            Kind::RateLimited | Kind::NoStorage => Code::ResourceExhausted,
            Kind::Unavailable => Code::Unavailable,
            Kind::Lacking => Code::Unimplemented,
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.kind {
            Kind::BadInput | Kind::AlreadyExists => "Wrong input: ",
            Kind::BadRequest => "Bad request: ",
            Kind::NotFound => "Not found: ",
            Kind::Forbidden => "Forbidden: ",
            Kind::Service => "Service internal error: ",
            Kind::Timeout => "Timeout: ",
            Kind::RateLimited => "Rate limiting exceeded: ",
            Kind::NoStorage => "Insufficient storage: ",
            Kind::Unavailable => "Shard temporarily unavailable: ",
            Kind::Invalid | Kind::Lacking => "",
        };
        write!(f, "{prefix}{}", self.text)
    }
}

impl std::error::Error for OpError {}

impl From<OpError> for tonic::Status {
    fn from(error: OpError) -> Self {
        let mut status = tonic::Status::new(error.grpc_code(), error.to_string());
        if error.kind == Kind::NoStorage {
            status.metadata_mut().insert("qdrant-insufficient-storage", MetadataValue::from_static("1"));
        }
        status
    }
}
