//! `qdrant-router docs`: what is written from the definitions of the command line.

use std::io::{self, Write};

use clap::{Args, Command, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::{Cli, CliError};
use crate::{
    admin::TopologyDocument,
    config::{self, reference},
};

/// Print the reference of the configuration, JSON schemas, the man page, or completions.
#[derive(Args, Clone, Debug)]
pub struct Docs {
    #[command(subcommand)]
    page: Page,
}

#[derive(Clone, Debug, Subcommand)]
enum Page {
    /// All keys, as docs/configuration.md has them
    Configuration,
    /// The JSON schema of the configuration file
    Schema,
    /// The JSON schema of the answer to `GET /topology`
    TopologySchema,
    /// The man page, for `man -l -`
    Man,
    /// Completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

// === impl Docs ===

impl Docs {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let mut command = Cli::command();
        let settings = config::settings(&command);
        let mut text = Vec::new();
        match self.page {
            Page::Configuration => text.extend(reference::page(&settings).into_bytes()),
            Page::Schema => writeln!(text, "{:#}", reference::schema(&settings))?,
            Page::TopologySchema => writeln!(text, "{:#}", TopologyDocument::schema().as_value())?,
            Page::Man => man(command, &mut text)?,
            Page::Completions { shell } => {
                let name = command.get_name().to_owned();
                clap_complete::generate(shell, &mut command, name, &mut text);
            }
        }
        match io::stdout().write_all(&text) {
            // Whoever reads may stop early.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

/// One page: the program, then the flags of each verb.
fn man(command: Command, out: &mut Vec<u8>) -> io::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        writeln!(out, ".SH \"{}\"", verb.get_name().to_uppercase())?;
        let mut section = Vec::new();
        let page = clap_mangen::Man::new(verb.clone());
        page.render_description_section(&mut section)?;
        page.render_options_section(&mut section)?;
        // Within the page of the program, what is a section of its own page is a part of the verb's.
        let section = String::from_utf8_lossy(&section).replace("\n.SH ", "\n.SS ");
        out.write_all(
            section.strip_prefix(".SH ").map_or(section.clone(), |rest| format!(".SS {rest}")).as_bytes(),
        )?;
    }
    Ok(())
}
