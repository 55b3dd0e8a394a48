//! Programs and results in files: read by extension, written beside and renamed.

use crate::beside::Beside;
use crate::cli::Format;
use crate::failure::{Failure, Outcome};
use berth_ir::{Program, binary, text};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// The greatest program file that is read; ten times the largest made so far.
const PROGRAM_BYTES_MAX: u64 = 1 << 30;

/// Reads a program, text or binary by extension.
pub fn read_program(path: &Path) -> Result<Program, Failure> {
    let size = std::fs::metadata(path).map_err(|e| Failure::file("read", path, e))?.len();
    if size > PROGRAM_BYTES_MAX {
        return Err(Failure::bad(format!("`{}` has {size} bytes, which is no program", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|e| Failure::file("read", path, e))?;
    let fault = |e: &dyn std::fmt::Display| {
        Failure::bad(format!(
            "`{}` is no memory program: {e}; make one with `berth compile MODEL -o PLAN`",
            path.display()
        ))
    };
    if is_binary(path) {
        return binary::read(&bytes).map_err(|e| fault(&e));
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| fault(&e))?;
    text::parse(text).map_err(|e| fault(&e))
}

/// Writes a program, text or binary by extension.
pub fn write_program(path: &Path, program: &Program) -> Outcome {
    let bytes = if is_binary(path) { binary::write(program) } else { text::print(program).into_bytes() };
    write(path, &bytes)
}

fn is_binary(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "binpb")
}

/// Whether a file's name says that it is a program.
pub fn is_program(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "binpb" || e == "ron")
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Outcome {
    let fault = |e: std::io::Error| Failure::file("write", path, e);
    let beside = Beside::create(path).map_err(fault)?;
    beside.file().write_all(bytes).map_err(fault)?;
    beside.commit().map_err(fault)
}

/// Says before any work that a file could not be written.
pub fn check_writable(path: Option<&Path>) -> Outcome {
    let Some(path) = path else { return Ok(()) };
    let fault = |e: std::io::Error| Failure::file("write", path, e);
    // Made and dropped: nothing is left of it.
    Beside::create(path).map(drop).map_err(fault)
}

/// Prints a result to standard output.
pub fn print<T: Serialize + std::fmt::Display>(value: &T, format: Format) -> Outcome {
    let text = match format {
        Format::Text => value.to_string(),
        Format::Json => serde_json::to_string_pretty(value).map_err(Failure::bad)?,
        Format::Ron => ron::ser::to_string_pretty(value, ron::ser::PrettyConfig::new()).map_err(Failure::bad)?,
    };
    say(text.trim_end())
}

/// Prints a line to standard output; a reader that has gone away is no error.
pub fn say(text: &str) -> Outcome {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::bad(format!("cannot write: {e}"))),
        _ => Ok(()),
    }
}
