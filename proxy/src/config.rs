//! The configuration: every key is a flag, a variable `QDRANT_ROUTER_*` and a field of a YAML file.
//!
//! A key is defined once, as an argument of the `serve` verb. [`Setting`] reads from that definition
//! what the file, the reference and the schema need to know; a value from the file goes through the
//! same parser as one from the command line. A flag wins over a variable, a variable over the file,
//! the file over the default.
//!
//! [`Origins`] remembers where each value came from, so that a mistake is named by its place.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Command, error::ContextKind, error::ErrorKind, parser::ValueSource};

mod file;
pub(crate) mod reference;
mod setting;
pub(crate) mod value;
mod variables;
pub(crate) mod watch;

pub(crate) use self::setting::{Kind, Setting};
use self::variables::Strangers;

/// The verb whose arguments define the keys, and the argument that names the file.
const DEFINING_VERB: &str = "serve";
const CONFIG: &str = "config";

/// Where the value of a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    Variable,
    File { path: PathBuf, line: usize },
    Default,
}

/// Where the value of each key came from, and the value as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// Variables that look like keys, and that Kubernetes has set for a Service.
    pub(crate) of_services: Vec<String>,
    values: BTreeMap<String, (Origin, Vec<String>)>,
}

/// The command line, the environment and the file, merged.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The arguments of the verb, as if all had been given on the command line.
    pub(crate) matches: ArgMatches,
    /// Where each came from.
    pub(crate) origins: Origins,
}

/// The configuration cannot be read.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The command line is not understood, or asks for help.
    Usage(Box<clap::Error>),
    /// One line that names the place, the value and what to do.
    Mistake(String),
}

/// The keys, as `command` defines them.
pub(crate) fn settings(command: &Command) -> Vec<Setting> {
    let verb = command.find_subcommand(DEFINING_VERB);
    let arguments = verb.into_iter().flat_map(Command::get_arguments);
    arguments.filter(|argument| argument.get_id() != CONFIG).filter_map(Setting::of).collect()
}

/// Merges `arguments`, the environment and the file that they name.
pub(crate) fn load(command: &Command, arguments: &[OsString]) -> Result<Merged, LoadError> {
    let settings = settings(command);
    let parse = |command: &Command| {
        command
            .clone()
            .try_get_matches_from(arguments)
            .map_err(|error| LoadError::of(error, &settings, arguments))
    };
    let matches = parse(command)?;
    let verb = matches.subcommand();
    // Verbs without keys leave the environment alone.
    let has_keys = verb.is_some_and(|(_, verb)| verb.try_contains_id(CONFIG).is_ok());
    let of_services =
        if has_keys { strangers(command, &settings).map_err(LoadError::Mistake)? } else { Vec::new() };
    let path = verb.and_then(|(_, verb)| verb.try_get_one::<PathBuf>(CONFIG).ok().flatten()).cloned();
    let (Some((name, _)), Some(path)) = (verb, &path) else {
        let origins = Origins { of_services, ..Origins::of(&matches, &settings, None) };
        return Ok(Merged { matches, origins });
    };
    let entries = read(path, &settings).map_err(LoadError::Mistake)?;
    // A default is what clap takes where neither a flag nor a variable is given.
    let configured = command.clone().mut_subcommand(name, |verb| {
        entries.iter().fold(verb, |verb, (setting, entry)| {
            if verb.get_arguments().any(|argument| argument.get_id() == setting.id()) {
                verb.mut_arg(setting.id(), |argument| argument.default_values(entry.values.clone()))
            } else {
                verb
            }
        })
    });
    let matches = parse(&configured)?;
    let lines = entries.iter().map(|(setting, entry)| (setting.key(), entry.line)).collect();
    let origins = Origins { of_services, ..Origins::of(&matches, &settings, Some((path, &lines))) };
    Ok(Merged { matches, origins })
}

/// The entries of the file at `path`, each known and of a valid value.
fn read<'a>(path: &Path, settings: &'a [Setting]) -> Result<Vec<(&'a Setting, file::Entry)>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("--config {shown}: {error}; check that the file exists and that this user may read it")
    })?;
    let entries = file::entries(&text).map_err(|mistake| format!("{shown}:{mistake}"))?;
    let mut known: Vec<(&Setting, file::Entry)> = Vec::new();
    for entry in entries {
        let line = entry.line;
        let Some(setting) = settings.iter().find(|setting| setting.key() == entry.key) else {
            return Err(format!("{shown}:{line}: {}", unknown(&entry.key, settings)));
        };
        if let Some((_, first)) = known.iter().find(|(other, _)| other.key() == setting.key()) {
            return Err(format!(
                "{shown}:{line}: {} is set a second time, first in line {}; keep one",
                entry.key, first.line
            ));
        }
        if entry.is_list && setting.kind() != Kind::List {
            return Err(format!("{shown}:{line}: {} is a list; this key has one value", entry.key));
        }
        for value in &entry.values {
            setting
                .check(value)
                .map_err(|reason| format!("{shown}:{line}: {}: {value}: {reason}", entry.key))?;
        }
        known.push((setting, entry));
    }
    Ok(known)
}

/// Less alike than this, two keys have nothing to do with each other.
const LIKENESS: f64 = 0.75;

fn unknown(key: &str, settings: &[Setting]) -> String {
    match nearest(key, settings.iter().map(Setting::key)) {
        Some(nearest) => format!("unknown key `{key}`; did you mean `{nearest}`?"),
        None => format!("unknown key `{key}`; `qdrant-router docs configuration` lists all keys"),
    }
}

fn nearest<'a>(key: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    keys.map(|known| (strsim::jaro_winkler(key, known), known))
        .filter(|(likeness, _)| *likeness > LIKENESS)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, nearest)| nearest)
}

/// The variables that Kubernetes has set for a Service of the router's name. Fails where another one looks like a
/// key and is none; its value is not shown, as it may be what should be in a file.
fn strangers(command: &Command, settings: &[Setting]) -> Result<Vec<String>, String> {
    let arguments = command.get_subcommands().flat_map(Command::get_arguments);
    let known: Vec<&OsStr> = arguments.filter_map(clap::Arg::get_env).collect();
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let Strangers { of_services, mistyped } =
        Strangers::among(variables, |name| known.contains(&OsStr::new(name)));
    let Some(key) = mistyped else { return Ok(of_services) };
    let unknown = format!("unknown variable {}", variable(&key));
    Err(match nearest(&key, settings.iter().map(Setting::key).chain([CONFIG])) {
        Some(nearest) => format!("{unknown}; did you mean {}?", variable(nearest)),
        None => format!("{unknown}; `qdrant-router docs configuration` lists all keys"),
    })
}

// === impl Origins ===

impl Origins {
    fn of(
        matches: &ArgMatches,
        settings: &[Setting],
        file: Option<(&PathBuf, &BTreeMap<&str, usize>)>,
    ) -> Self {
        let mut values = BTreeMap::new();
        for setting in settings {
            // A verb need not take every key.
            let Some((_, verb)) = matches.subcommand() else { continue };
            let Ok(raw) = verb.try_get_raw(setting.id()) else { continue };
            let raw = raw.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
            let line = file.and_then(|(path, lines)| Some((path, *lines.get(setting.key())?)));
            let origin = match (verb.value_source(setting.id()), line) {
                (Some(ValueSource::CommandLine), _) => Origin::Flag,
                (Some(ValueSource::EnvVariable), _) => Origin::Variable,
                (_, Some((path, line))) => Origin::File { path: path.clone(), line },
                (_, None) => Origin::Default,
            };
            values.insert(setting.key().to_owned(), (origin, raw));
        }
        Self { file: file.map(|(path, _)| path.clone()), values, ..Self::default() }
    }

    /// The keys with their values as written, and where they came from.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[String], &Origin)> {
        self.values.iter().map(|(key, (origin, values))| (&**key, &**values, origin))
    }

    /// `key` with `value`, the way it was given.
    pub(crate) fn name(&self, key: &str, value: &str) -> String {
        match self.values.get(key).map(|(origin, _)| origin) {
            Some(Origin::Variable) => format!("{}={value}", variable(key)),
            Some(Origin::File { path, line }) => format!("{}:{line}: {key}: {value}", path.display()),
            Some(Origin::Flag | Origin::Default) | None => format!("{} {value}", flag(key)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable => f.write_str("environment"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The flag of a key.
pub(crate) fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// The environment variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("QDRANT_ROUTER_{}", key.to_uppercase())
}

// === impl LoadError ===

impl LoadError {
    /// What is wrong in one line; help, and what clap says in several, are left as they are.
    fn of(error: clap::Error, settings: &[Setting], arguments: &[OsString]) -> Self {
        let text = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
        let argument = text(ContextKind::InvalidArg);
        let argument = argument.split([' ', '=']).next().unwrap_or_default();
        let help = "`qdrant-router VERB --help` lists all flags";
        let mistake = match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::InvalidSubcommand => return Self::Usage(Box::new(error)),
            ErrorKind::UnknownArgument => match text(ContextKind::SuggestedArg) {
                none if none.is_empty() => format!("unknown argument {argument}; {help}"),
                nearest => format!("unknown argument {argument}; did you mean {nearest}?"),
            },
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                let value = text(ContextKind::InvalidValue);
                let setting = settings.iter().find(|setting| flag(setting.key()) == argument);
                let name = match setting {
                    Some(setting) if !is_given(argument, arguments) => {
                        format!("{}={value}", variable(setting.key()))
                    }
                    Some(_) | None => format!("{argument} {value}").trim_end().to_owned(),
                };
                format!("{name}: {}", setting::reason(&error))
            }
            _ => {
                let said = error.to_string();
                let line = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
                format!("{line}; {help}")
            }
        };
        Self::Mistake(mistake)
    }
}

/// Whether `flag` is among the arguments; where it is not, its value comes from the environment.
fn is_given(flag: &str, arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let argument = argument.as_encoded_bytes();
        argument == OsStr::new(flag).as_encoded_bytes() || argument.starts_with(format!("{flag}=").as_bytes())
    })
}
