//! What is written from the definitions of the command line.

use crate::program::run;

#[test]
fn the_files_in_docs_are_current() {
    for (page, file, written) in [
        ("configuration", "configuration.md", include_str!("../../../docs/configuration.md")),
        ("schema", "configuration.schema.json", include_str!("../../../docs/configuration.schema.json")),
        ("topology-schema", "topology.schema.json", include_str!("../../../docs/topology.schema.json")),
    ] {
        let ended = run("docs", &[page], &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended.stdout == written,
            "docs/{file} is not current; run `cargo run --bin qdrant-router -- docs {page} > docs/{file}`"
        );
    }
}

#[test]
fn the_man_page_and_the_completions_know_the_flags() {
    for arguments in
        [&["man"][..], &["completions", "bash"], &["completions", "zsh"], &["completions", "fish"]]
    {
        let ended = run("docs", arguments, &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let said = ended.stdout.replace('\\', "");
        for name in ["topology-interval", "upstream-ca-file", "check"] {
            assert!(said.contains(name), "{arguments:?}: {name}");
        }
    }
}
