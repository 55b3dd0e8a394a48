//! The text form: what prints parses back to the same value. Files hold expressions as their text.

use super::normal::degree;
use super::{Atom, DEPTH_MAX, Expr, Repr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A text that is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no size expression: {what} at byte {at}")]
pub struct ParseExprError {
    /// The text.
    pub text: String,
    /// Byte offset of the trouble.
    pub at: usize,
    /// What was wrong there.
    pub what: &'static str,
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr::Poly(terms) = &self.0 else { return f.write_str("overflow!") };
        if terms.is_empty() {
            return f.write_str("0");
        }
        // The number goes last: `past + 1`.
        let named = terms.iter().filter(|(monomial, _)| !monomial.is_empty());
        let number = terms.iter().filter(|(monomial, _)| monomial.is_empty());
        for (index, (monomial, coefficient)) in named.chain(number).enumerate() {
            match (index, *coefficient < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let size = coefficient.unsigned_abs();
            let alone = size == 1 && *coefficient > 0 && degree(monomial) == 1;
            if size != 1 || monomial.is_empty() {
                write!(f, "{size}")?;
                f.write_str(if monomial.is_empty() { "" } else { "*" })?;
            }
            let factors = monomial.iter().flat_map(|(atom, power)| (0..*power).map(move |_| atom));
            for (at, atom) in factors.enumerate() {
                f.write_str(if at == 0 { "" } else { "*" })?;
                write_atom(f, atom, alone)?;
            }
        }
        Ok(())
    }
}

fn write_atom(f: &mut fmt::Formatter<'_>, atom: &Atom, alone: bool) -> fmt::Result {
    match atom {
        Atom::Dim(name) => write_name(f, name),
        Atom::Floor(pair) => {
            f.write_str(if alone { "" } else { "(" })?;
            write_operand(f, &pair.0)?;
            f.write_str("//")?;
            write_operand(f, &pair.1)?;
            f.write_str(if alone { "" } else { ")" })
        }
        Atom::Ceil(pair) => write!(f, "ceil({}, {})", pair.0, pair.1),
        Atom::Min(all) => write_call(f, "min", all),
        Atom::Max(all) => write_call(f, "max", all),
    }
}

fn write_call(f: &mut fmt::Formatter<'_>, name: &str, parts: &[Expr]) -> fmt::Result {
    write!(f, "{name}(")?;
    for (index, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if index == 0 { "" } else { ", " })?;
    }
    f.write_str(")")
}

fn write_operand(f: &mut fmt::Formatter<'_>, expr: &Expr) -> fmt::Result {
    if expr.as_dim().is_some() || matches!(expr.as_constant(), Some(value) if value >= 0) {
        write!(f, "{expr}")
    } else {
        write!(f, "({expr})")
    }
}

fn plain_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn plain_rest(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | ':')
}

fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let reserved = matches!(name, "min" | "max" | "ceil" | "overflow");
    if !reserved && name.starts_with(plain_start) && name.chars().all(plain_rest) {
        f.write_str(name)
    } else {
        write!(f, "`{}`", name.replace('`', "``"))
    }
}

impl FromStr for Expr {
    type Err = ParseExprError;

    fn from_str(text: &str) -> Result<Expr, ParseExprError> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let expr = parser.sum()?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.error("unexpected text"));
        }
        Ok(expr)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, what: &'static str) -> ParseExprError {
        ParseExprError { text: self.text.to_owned(), at: self.at, what }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str, what: &'static str) -> Result<(), ParseExprError> {
        if self.take(token) { Ok(()) } else { Err(self.error(what)) }
    }

    fn sum(&mut self) -> Result<Expr, ParseExprError> {
        self.depth += 1;
        if self.depth > 2 * DEPTH_MAX {
            return Err(self.error("nested too deep"));
        }
        let mut sum = self.product()?;
        loop {
            if self.take("+") {
                sum = sum + self.product()?;
            } else if self.take("-") {
                sum = sum - self.product()?;
            } else {
                self.depth -= 1;
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Expr, ParseExprError> {
        let mut product = self.factor()?;
        loop {
            if self.take("//") {
                product = product.floor_div(&self.factor()?);
            } else if self.take("*") {
                product = product * self.factor()?;
            } else {
                return Ok(product);
            }
        }
    }

    fn factor(&mut self) -> Result<Expr, ParseExprError> {
        let mut negative = false;
        while self.take("-") {
            negative = !negative;
        }
        let value = self.primary()?;
        Ok(if negative { -value } else { value })
    }

    fn primary(&mut self) -> Result<Expr, ParseExprError> {
        self.space();
        match self.rest().chars().next() {
            Some('(') => {
                self.at += 1;
                let value = self.sum()?;
                self.expect(")", "expected `)`")?;
                Ok(value)
            }
            Some('`') => self.quoted(),
            Some(c) if c.is_ascii_digit() => {
                let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
                let value = self.rest()[..digits].parse::<i128>();
                self.at += digits;
                if self.rest().starts_with(plain_rest) {
                    return Err(self.error("a name cannot start with a digit; quote it with backticks"));
                }
                Ok(value.map_or_else(|_| Expr::overflow(), Expr::constant))
            }
            Some(c) if plain_start(c) => {
                let bytes: usize = self.rest().chars().take_while(|c| plain_rest(*c)).map(char::len_utf8).sum();
                let name = self.rest()[..bytes].to_owned();
                self.at += bytes;
                if name == "overflow" && self.take("!") {
                    return Ok(Expr::overflow());
                }
                if self.take("(") {
                    return self.call(&name);
                }
                Ok(Expr::dim(&name))
            }
            _ => Err(self.error("expected a dim, a number or `(`")),
        }
    }

    fn quoted(&mut self) -> Result<Expr, ParseExprError> {
        let mut name = String::new();
        self.at += 1;
        loop {
            let Some(length) = self.rest().find('`') else { return Err(self.error("a backtick is not closed")) };
            name.push_str(&self.rest()[..length]);
            self.at += length + 1;
            if !self.rest().starts_with('`') {
                return Ok(Expr::dim(&name));
            }
            name.push('`');
            self.at += 1;
        }
    }

    fn call(&mut self, name: &str) -> Result<Expr, ParseExprError> {
        let join: fn(&Expr, &Expr) -> Expr = match name {
            "min" => Expr::min,
            "max" => Expr::max,
            "ceil" => Expr::ceil_div,
            _ => return Err(self.error("no such function (there are min, max and ceil)")),
        };
        let mut value = self.sum()?;
        self.expect(",", "expected `,`")?;
        value = join(&value, &self.sum()?);
        while name != "ceil" && self.take(",") {
            value = join(&value, &self.sum()?);
        }
        self.expect(")", "expected `)`")?;
        Ok(value)
    }
}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
