//! How a command ends when it cannot do what was asked: one paragraph, and the exit code.

use std::path::Path;

/// A paragraph for a person, and what the shell sees.
#[derive(Debug)]
pub struct Failure {
    /// 1: does not fit or is not valid. 2: bad input or use. 130: stopped by Ctrl-C.
    pub code: u8,
    /// What, where, by how much, what next.
    pub paragraph: String,
}

impl Failure {
    /// Bad input or use.
    pub fn bad(paragraph: impl std::fmt::Display) -> Failure {
        Failure { code: 2, paragraph: paragraph.to_string() }
    }

    /// It does not fit, or a program is not valid.
    pub fn unfit(paragraph: impl std::fmt::Display) -> Failure {
        Failure { code: 1, paragraph: paragraph.to_string() }
    }

    /// Stopped, as asked.
    pub fn stopped(paragraph: impl std::fmt::Display) -> Failure {
        Failure { code: 130, paragraph: paragraph.to_string() }
    }

    /// A file that cannot be read or written.
    pub fn file(verb: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
        Failure::bad(format!("cannot {verb} `{}`: {error}", path.display()))
    }
}

/// What commands return.
pub type Outcome = Result<(), Failure>;
