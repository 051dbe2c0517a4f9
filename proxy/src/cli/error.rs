//! How a verb ends when it fails.

use std::{fmt::Display, io};

use qdrant_router::{BuildError, ExplainError, topology::ApiError};

use crate::config::{self, Origins};

/// A verb ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The configuration cannot work.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// The value of a key cannot work.
    #[error("{} {value}: {reason}", config::flag(key))]
    Setting {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what to do.
        reason: String,
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
    /// The doctor found problems.
    #[error("{0} problem(s) found")]
    Unwell(usize),
    /// The cluster could not be asked.
    #[error("{0}")]
    Cluster(String),
    /// The system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

// === impl CliError ===

impl CliError {
    /// `value` of `key` cannot work.
    pub(super) fn setting(key: &'static str, value: &dyn Display, reason: &dyn Display) -> Self {
        Self::Setting { key, value: value.to_string(), reason: reason.to_string() }
    }

    /// The error, with the place that the value at fault came from.
    pub(crate) fn located(&self, origins: &Origins) -> String {
        match (self, &origins.file) {
            (Self::Setting { key, value, reason }, _) => format!("{}: {reason}", origins.name(key, value)),
            (Self::Build(error), Some(file)) => format!("{}: {error}", file.display()),
            _ => self.to_string(),
        }
    }

    /// Whether starting again without a change would end the same way.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Build(_)
            | Self::Setting { .. }
            | Self::Refused(_)
            | Self::Explain(_)
            | Self::Argument { .. } => true,
            Self::Unwell(_) | Self::Cluster(_) | Self::System(_) => false,
        }
    }
}
