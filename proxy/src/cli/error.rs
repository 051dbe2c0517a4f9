//! How a verb ends when it fails.

use std::{io, net::SocketAddr};

use qdrant_router::{BuildError, ExplainError, topology::ApiError};

/// A verb ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The configuration cannot work.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// A file that the configuration names cannot be read.
    #[error("{flag} {path}: {error}; check that the file exists and that this user may read it")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The key file holds no key.
    #[error("--api-key-file {0}: the file is empty; it should hold the API key and nothing else")]
    EmptyKey(String),
    /// An address cannot be listened on.
    #[error(
        "{flag} {address}: {error}; another process may use the port (see `ss -ltnp`), or the address is not this host's"
    )]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// No node accepts the router's key, and there is no fallback.
    #[error("{0}")]
    Refused(ApiError),
    /// A request cannot be explained.
    #[error("{0}")]
    Explain(#[from] ExplainError),
    /// An argument is not what it should be.
    #[error("{argument}: {reason}")]
    Argument {
        /// The argument.
        argument: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster could not be asked.
    #[error("{0}")]
    Cluster(String),
    /// The system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

// === impl CliError ===

impl CliError {
    /// Whether starting again without a change would end the same way.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Build(_)
            | Self::File { .. }
            | Self::EmptyKey(_)
            | Self::Listen { .. }
            | Self::Refused(_)
            | Self::Explain(_)
            | Self::Argument { .. } => true,
            Self::Cluster(_) | Self::System(_) => false,
        }
    }
}
