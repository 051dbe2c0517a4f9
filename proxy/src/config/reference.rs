//! The reference of the configuration and its JSON schema, written from the definitions of the keys.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Kind, Setting, flag, variable};

/// The page `docs/configuration.md`.
pub(crate) fn page(settings: &[Setting]) -> String {
    let mut out = String::from(INTRODUCTION);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "| Key | Meaning | Default |\n|---|---|---|");
    for setting in settings {
        let key = setting.key();
        let _ = writeln!(
            out,
            "| [`{key}`](#{key}) | {} | {} |",
            escaped(&setting.meaning()),
            setting.default_shown()
        );
    }
    for setting in settings {
        section(&mut out, setting);
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `qdrant-router docs configuration` from the definitions in proxy/src/cli. -->

Every key is a flag of `qdrant-router serve`, an environment variable, and a field of the YAML file that
`--config FILE` (or `QDRANT_ROUTER_CONFIG`) names. A flag wins over a variable, a variable over the file, and
the file over the default. The verbs `topology`, `explain`, `check`, `doctor` and `bench` take the same file.

```yaml
# yaml-language-server: $schema=configuration.schema.json
headless: my-headless.my-namespace.svc
fallback: my-service.my-namespace.svc
api_key_file: /etc/qdrant-router/api-key
log: info
```

`qdrant-router check --config FILE` says whether a file can work, and where each value comes from. Unknown keys
are errors, and so are variables that begin with `QDRANT_ROUTER_` and are none of these; those that Kubernetes
sets for a Service whose name begins with `qdrant-router` are left aside. `serve` reads the file again on SIGHUP
and within seconds of a change, also of the key and certificate files that it names; connections stay open. A new
configuration that cannot work is reported, in the log, in the events and in the
[metrics](operations.md#metrics), and the old one stays.

";

fn section(out: &mut String, setting: &Setting) {
    let key = setting.key();
    let _ = writeln!(out, "\n## `{key}`\n\n{}.", setting.meaning());
    if let Some(details) = setting.details() {
        let _ = writeln!(out, "{details}");
    }
    let _ = writeln!(out, "\n| | |\n|---|---|");
    let value = match setting.kind() {
        Kind::Switch => String::new(),
        Kind::List | Kind::Single => format!(" {}", escaped(setting.value_name())),
    };
    let _ = writeln!(out, "| Flag | `{}{value}` |", flag(key));
    let _ = writeln!(out, "| Variable | `{}` |", variable(key));
    let _ = writeln!(out, "| Default | {} |", setting.default_shown());
    if let Some(example) = setting.example() {
        let example = match setting.kind() {
            Kind::List => format!("{key}: [\"{example}\"]"),
            Kind::Switch | Kind::Single => format!("{key}: {example}"),
        };
        let _ = writeln!(out, "| Example | `{example}` |");
    }
}

/// Text in the cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The schema `docs/configuration.schema.json`, for editors and for validation without the program.
pub(crate) fn schema(settings: &[Setting]) -> Value {
    let properties: Map<String, Value> =
        settings.iter().map(|setting| (setting.key().to_owned(), property(setting))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of qdrant-router",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn property(setting: &Setting) -> Value {
    let mut property = match setting.kind() {
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::List => json!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
        }),
        Kind::Single => single(setting),
    };
    let mut meaning = format!("{}.", setting.meaning());
    if let Some(details) = setting.details() {
        meaning = format!("{meaning} {details}");
    }
    property["description"] = meaning.into();
    if let Some(default) = setting.default() {
        property["default"] = typed(setting, default);
    }
    if let Some(example) = setting.example() {
        property["examples"] = json!([typed(setting, &example)]);
    }
    property
}

/// What the value of a key looks like, by the name that the command line gives it.
fn single(setting: &Setting) -> Value {
    let choices = setting.choices();
    if !choices.is_empty() {
        return json!({ "enum": choices });
    }
    match setting.value_name() {
        "off|all|1/N" => json!({ "type": "string", "pattern": "^(off|all|1/[0-9]+)$" }),
        names if names.contains('|') => json!({ "enum": names.split('|').collect::<Vec<_>>() }),
        "SHARE" => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        "PORT" => json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
        "DURATION" => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
        "BYTES" => json!({
            "anyOf": [{ "type": "integer" }, { "type": "string", "pattern": "^[0-9]+([KMG]iB)?$" }]
        }),
        _ => json!({ "type": "string" }),
    }
}

fn typed(setting: &Setting, value: &str) -> Value {
    match (setting.kind(), setting.value_name()) {
        (Kind::Switch, _) => (value == "true").into(),
        (Kind::Single, "SHARE") => value.parse::<f64>().map_or(Value::Null, Value::from),
        (Kind::Single, "PORT") => value.parse::<u16>().map_or(Value::Null, Value::from),
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::{cli::Cli, config::settings};

    #[test]
    fn a_key_has_one_name_a_meaning_and_an_example_that_it_takes() {
        let settings = settings(&Cli::command());
        assert!(settings.len() > 15, "{}", settings.len());
        for setting in &settings {
            let key = setting.key();
            assert_eq!(setting.variable(), variable(key));
            assert!(!setting.meaning().is_empty() && !setting.meaning().ends_with('.'), "{key}");
            let example = setting.example().unwrap_or_else(|| panic!("{key} has no example"));
            assert_eq!(setting.check(&example), Ok(()), "{key}: {example}");
            if let Some(default) = setting.default() {
                assert_eq!(setting.check(default), Ok(()), "{key}: {default}");
                assert_ne!(example, default, "{key}: an example that is not the default says more");
            }
        }
    }
}
