//! The project's own commands: `cargo xtask <command>`.
//!
//! One file per command, one line per command in [`COMMANDS`]. A command takes the words after its name and
//! returns a [`Failure`]; words go to stderr, data to stdout, as everywhere in berth.

mod cargo;
mod ci;
mod demo;
mod deny;
mod guided;
mod oracle;
mod setup;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One subcommand.
struct Command {
    name: &'static str,
    summary: &'static str,
    run: fn(root: &Path, words: &[String]) -> Result<(), Failure>,
}

/// Every subcommand, in the order in which the help lists them.
const COMMANDS: &[Command] = &[
    Command {
        name: "setup",
        summary: "fetch the compute engine into .berth/engine (once; needs python3 with pip)",
        run: setup::run,
    },
    Command {
        name: "demo",
        summary: "setup, then a real decoder at half of the memory that it needs: plan, proof, run, trace",
        run: demo::run,
    },
    Command {
        name: "test",
        summary: "setup, then every test; further words go to `cargo test`, which then is all that runs",
        run: test::run,
    },
    Command { name: "ci", summary: "format, clippy, documentation, then test: what a change must pass", run: ci::run },
];

/// Why a command did not do its work.
#[derive(Debug)]
enum Failure {
    /// It was called in a way it does not know: exit status 2.
    Usage(String),
    /// It could not do it; what happened, then what to do about it: exit status 1.
    Failed { what: String, help: String },
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => {
            print!("{}", help());
            Ok(())
        }
        Some(name) => match COMMANDS.iter().find(|c| c.name == name) {
            Some(command) => root().and_then(|root| (command.run)(&root, &words[1..])),
            None => Err(Failure::Usage(format!("no command `{name}`\n\n{}", help()))),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(what)) => {
            eprintln!("error: {what}");
            ExitCode::from(2)
        }
        Err(Failure::Failed { what, help }) => {
            eprintln!("error: {what}\n  help: {help}");
            ExitCode::from(1)
        }
    }
}

fn help() -> String {
    let mut text = String::from("cargo xtask <command>\n\n");
    for command in COMMANDS {
        text.push_str(&format!("  {:<8} {}\n", command.name, command.summary));
    }
    text
}

/// The repository's root: cargo names this crate's folder when it runs us; a bare binary searches upwards.
fn root() -> Result<PathBuf, Failure> {
    let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let start = from_cargo.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let found = start.ancestors().find(|folder| folder.join(setup::REQUIREMENTS).is_file());
    found.map(Path::to_path_buf).ok_or_else(|| Failure::Failed {
        what: format!("no folder above {} holds {}", start.display(), setup::REQUIREMENTS),
        help: "run `cargo xtask` inside the repository".into(),
    })
}
