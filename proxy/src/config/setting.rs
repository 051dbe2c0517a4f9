//! What a key is, read from its definition on the command line.

use clap::{Arg, ArgAction, Command, builder::Resettable, error::ContextKind};

/// One key of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    key: String,
    argument: Arg,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// Any number of values; the flag is repeatable.
    List,
    /// One value.
    Single,
}

// === impl Setting ===

impl Setting {
    /// The setting that `argument` defines; `None` where it can be given on the command line only.
    pub(super) fn of(argument: &Arg) -> Option<Self> {
        argument.get_env()?;
        let key = argument.get_long()?.replace('-', "_");
        Some(Self { key, argument: argument.clone() })
    }

    /// The name in a file.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The name within the command.
    pub(super) fn id(&self) -> &str {
        self.argument.get_id().as_str()
    }

    /// What it takes.
    pub(crate) fn kind(&self) -> Kind {
        match self.argument.get_action() {
            ArgAction::SetTrue => Kind::Switch,
            ArgAction::Append => Kind::List,
            _ => Kind::Single,
        }
    }

    /// Whether `value` is one that this key takes, as the command line judges it.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        if self.kind() == Kind::Switch {
            return match value {
                "true" | "false" => Ok(()),
                _ => Err("neither `true` nor `false`".to_owned()),
            };
        }
        let alone = Command::new("value")
            .no_binary_name(true)
            .disable_help_flag(true)
            .arg(self.argument.clone().env(Resettable::Reset));
        let given = format!("{}={value}", super::flag(&self.key));
        alone.try_get_matches_from([given]).map(drop).map_err(|error| reason(&error))
    }
}

/// Why clap does not take a value.
pub(super) fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(values) => format!("use one of: {values}"),
        None => error.kind().as_str().unwrap_or("not a value of this key").to_owned(),
    }
}
