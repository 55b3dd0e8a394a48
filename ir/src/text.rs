//! The text form of a program: RON, one line an item, made for diffs. `parse(print(p)) == p`.

use crate::program::{After, Body, Carried, DimRange, Instruction, Program, Transition};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::{self, Write};
use std::str::FromStr;

/// Why a text is not a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct BadText {
    /// One-based.
    pub line: usize,
    /// One-based.
    pub column: usize,
    /// What the reader says.
    pub problem: String,
}

/// Reads a program's text. Says nothing about whether it is safe.
pub fn parse(text: &str) -> Result<Program, BadText> {
    ron::from_str(text).map_err(|e| BadText {
        line: e.span.start.line,
        column: e.span.start.col,
        problem: e.code.to_string(),
    })
}

/// Prints a program: one instruction, berth, tensor or task a line.
pub fn print(program: &Program) -> String {
    let mut out = String::from("(\n");
    out.push_str("    header: ");
    out.push_str(&pretty(&program.header, "    "));
    out.push_str(",\n");
    list(&mut out, 1, "arenas", &program.arenas);
    list(&mut out, 1, "tensors", &program.tensors);
    list(&mut out, 1, "tasks", &program.tasks);
    list(&mut out, 1, "berths", &program.berths);
    list(&mut out, 1, "prologue", &program.prologue);
    parts(&mut out, "bodies", program.bodies.iter().map(body_head));
    parts(&mut out, "transitions", program.transitions.iter().map(transition_head));
    out.push_str("    facts: ");
    out.push_str(&pretty(&program.facts, "    "));
    out.push_str(",\n)\n");
    out
}

fn body_head(body: &Body) -> (String, &[Instruction]) {
    let mut head = format!("name: {}", compact(&body.name));
    if !body.dims.is_empty() {
        write!(head, ", dims: {}", compact(&body.dims)).expect("writing to a string");
    }
    (head, &body.code)
}

fn transition_head(t: &Transition) -> (String, &[Instruction]) {
    (format!("name: {}, from: {}, to: {}", compact(&t.name), compact(&t.from), compact(&t.to)), &t.code)
}

/// Lists of parts that have code: the head on one line, then one instruction a line.
fn parts<'a>(out: &mut String, field: &str, parts: impl Iterator<Item = (String, &'a [Instruction])>) {
    writeln!(out, "    {field}: [").expect("writing to a string");
    for (head, code) in parts {
        writeln!(out, "        ({head},").expect("writing to a string");
        list(out, 3, "code", code);
        out.push_str("        ),\n");
    }
    out.push_str("    ],\n");
}

fn list<T: Serialize>(out: &mut String, depth: usize, field: &str, items: &[T]) {
    let indent = "    ".repeat(depth);
    if items.is_empty() {
        writeln!(out, "{indent}{field}: [],").expect("writing to a string");
        return;
    }
    writeln!(out, "{indent}{field}: [").expect("writing to a string");
    for item in items {
        writeln!(out, "{indent}    {},", compact(item)).expect("writing to a string");
    }
    writeln!(out, "{indent}],").expect("writing to a string");
}

/// One value on one line.
pub fn compact<T: Serialize>(value: &T) -> String {
    let config = ron::ser::PrettyConfig::new().depth_limit(0).new_line("\n".to_owned());
    // Plain data: no map has a key that RON cannot write.
    ron::ser::to_string_pretty(value, config).expect("plain data prints")
}

fn pretty<T: Serialize>(value: &T, indent: &str) -> String {
    let config = ron::ser::PrettyConfig::new().depth_limit(2).new_line("\n".to_owned());
    let text = ron::ser::to_string_pretty(value, config).expect("plain data prints");
    text.replace('\n', &format!("\n{indent}"))
}

/// Gives a type that prints and reads as a string its serde form.
macro_rules! as_string {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_string!(After);
as_string!(DimRange);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.steps {
            0 => f.write_str(&self.name),
            steps => write!(f, "{}~{steps}", self.name),
        }
    }
}

impl FromStr for After {
    type Err = String;
    fn from_str(text: &str) -> Result<After, String> {
        let Some((name, steps)) = text.split_once('~') else { return Ok(After::this(text)) };
        let steps = steps.parse().ok().filter(|s| *s > 0);
        let steps =
            steps.ok_or_else(|| format!("`{text}`: after `~` stands the number of steps back, such as `~1`"))?;
        Ok(After { name: name.to_owned(), steps })
    }
}

/// As `--state` takes it.
impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.input, self.output)
    }
}

impl fmt::Display for DimRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { write!(f, "{}", self.low) } else { write!(f, "{}..{}", self.low, self.high) }
    }
}

impl FromStr for DimRange {
    type Err = String;
    fn from_str(text: &str) -> Result<DimRange, String> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let number = |t: &str| t.trim().parse().ok().filter(|n| *n <= i64::MAX as u64);
        match (number(low), number(high)) {
            (Some(low), Some(high)) if low <= high => Ok(DimRange { low, high }),
            _ => Err(format!(
                "`{text}` is not a dim: write one number, or a range such as `0..4096`, both ends included"
            )),
        }
    }
}
