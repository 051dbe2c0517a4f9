//! What a key is, read from its definition on the command line.

use clap::{Arg, ArgAction, Command, builder::Resettable, error::ContextKind};

/// How help tells a default that is not a value, and an example.
const DEFAULT: &str = " [default: ";
const EXAMPLE: &str = "Example: ";

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

    /// The environment variable.
    #[cfg(test)]
    pub(super) fn variable(&self) -> String {
        self.argument.get_env().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What it means, in one line without a full stop.
    pub(super) fn meaning(&self) -> String {
        let help = self.argument.get_help().map(ToString::to_string).unwrap_or_default();
        help.split(DEFAULT).next().unwrap_or_default().to_owned()
    }

    /// What else there is to say.
    pub(super) fn details(&self) -> Option<String> {
        let details: Vec<String> =
            self.paragraphs().filter(|paragraph| !paragraph.starts_with(EXAMPLE)).collect();
        (!details.is_empty()).then(|| details.join(" "))
    }

    /// A value that differs from the default.
    pub(super) fn example(&self) -> Option<String> {
        self.paragraphs().find_map(|paragraph| paragraph.strip_prefix(EXAMPLE).map(str::to_owned))
    }

    /// The paragraphs of the help after the first, which is the meaning.
    fn paragraphs(&self) -> impl Iterator<Item = String> {
        let help = self.argument.get_long_help().map(ToString::to_string).unwrap_or_default();
        help.split("\n\n").skip(1).map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    /// The value where none is given.
    pub(super) fn default(&self) -> Option<&str> {
        self.argument.get_default_values().first().and_then(|value| value.to_str())
    }

    /// The default for people: what the help says of it where it is not a value.
    pub(super) fn default_shown(&self) -> String {
        let help = self.argument.get_help().map(ToString::to_string).unwrap_or_default();
        match (self.default(), help.split_once(DEFAULT), self.kind()) {
            (Some(default), ..) => format!("`{default}`"),
            (None, Some((_, default)), _) => default.trim_end_matches(']').to_owned(),
            (None, None, Kind::Switch) => "`false`".to_owned(),
            (None, None, _) => "–".to_owned(),
        }
    }

    /// What the command line calls the value.
    pub(super) fn value_name(&self) -> &str {
        self.argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str())
    }

    /// The values it takes, where they are a closed list.
    pub(super) fn choices(&self) -> Vec<String> {
        match self.kind() {
            Kind::Switch => Vec::new(),
            _ => {
                self.argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
            }
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
    let is_empty = error.get(ContextKind::InvalidValue).is_none_or(|value| value.to_string().is_empty());
    match error.get(ContextKind::ValidValue).map(ToString::to_string) {
        Some(values) if !values.is_empty() => format!("use one of: {values}"),
        _ if is_empty => "there is no value; give it one, or leave it out".to_owned(),
        _ => error.kind().as_str().unwrap_or("not a value of this key").to_owned(),
    }
}
