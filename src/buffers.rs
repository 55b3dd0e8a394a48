//! Lists of buffers as CSV, in the form of MiniMalloc's benchmarks, and the same with offsets.

use berth_compiler::dsa::Buffer;
use std::collections::HashSet;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// Longest file that is read.
const BYTES_MAX: u64 = 256 << 20;

/// A list of buffers and the lines that it was read from.
#[derive(Debug)]
pub struct List {
    header: String,
    lines: Vec<String>,
    /// What is to be placed.
    pub buffers: Vec<Buffer>,
    /// Their names.
    pub ids: Vec<String>,
}

/// Why a list is not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// The file itself.
    #[error("{0}")]
    File(String),
    /// Its first line.
    #[error("line 1: {0}")]
    Header(String),
    /// A line whose number of fields is another than the header's.
    #[error("line {0}: {1} fields, the header has {2}")]
    Fields(usize, usize, usize),
    /// A field.
    #[error("line {0}, column `{1}`: {2}")]
    Field(usize, &'static str, String),
}

/// Where the columns are that are read.
#[derive(Default)]
struct Columns {
    count: usize,
    id: usize,
    lower: usize,
    upper: usize,
    size: usize,
    alignment: Option<usize>,
    gaps: Option<usize>,
    /// Ends are last times.
    inclusive: bool,
}

/// Reads a list.
pub fn read(path: &Path) -> Result<List, Bad> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| Bad::File(error.to_string()))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Bad::File(format!("longer than {} MiB", BYTES_MAX >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| Bad::File("no UTF-8".to_owned()))?;
    parse(&text)
}

/// Reads a list from its text.
pub fn parse(text: &str) -> Result<List, Bad> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default().trim_end();
    let columns = columns(header)?;
    let mut list = List { header: header.to_owned(), lines: Vec::new(), buffers: Vec::new(), ids: Vec::new() };
    let mut seen = HashSet::new();
    for (number, line) in lines.enumerate().map(|(i, line)| (i + 2, line.trim_end())) {
        if line.is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != columns.count {
            return Err(Bad::Fields(number, fields.len(), columns.count));
        }
        let id = fields[columns.id].trim();
        if !seen.insert(id) {
            return Err(Bad::Field(number, "id", format!("`{}` is there already", brief(id))));
        }
        list.buffers.push(buffer(&columns, number, &fields)?);
        list.ids.push(id.to_owned());
        list.lines.push(line.to_owned());
    }
    Ok(list)
}

fn columns(header: &str) -> Result<Columns, Bad> {
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let mut columns = Columns { count: names.len(), ..Columns::default() };
    let find = |wanted: &[&str]| {
        let mut places = (0..names.len()).filter(|i| wanted.contains(&names[*i]));
        match (places.next(), places.next()) {
            (Some(_), Some(_)) => Err(Bad::Header(format!("two columns for `{}`", wanted[0]))),
            (place, _) => Ok(place),
        }
    };
    let need = |wanted: &[&str]| {
        find(wanted)?.ok_or_else(|| {
            Bad::Header(format!("no column `{}`; a list has `id`, `lower`, `upper` and `size`", wanted.join("` or `")))
        })
    };
    columns.id = need(&["id", "buffer", "buffer_id"])?;
    columns.lower = need(&["lower", "start", "begin"])?;
    columns.upper = need(&["upper", "end"])?;
    columns.inclusive = names[columns.upper] == "end";
    columns.size = need(&["size"])?;
    columns.alignment = find(&["alignment"])?;
    columns.gaps = find(&["gaps"])?;
    if find(&["offset"])?.is_some() {
        return Err(Bad::Header("the buffers have a column `offset` already; fixed offsets are not taken".to_owned()));
    }
    Ok(columns)
}

fn buffer(columns: &Columns, line: usize, fields: &[&str]) -> Result<Buffer, Bad> {
    let (lower, size) = (number(fields[columns.lower], line, "lower")?, number(fields[columns.size], line, "size")?);
    let name = if columns.inclusive { "end" } else { "upper" };
    let upper = after(columns, number(fields[columns.upper], line, name)?)
        .ok_or_else(|| Bad::Field(line, name, "too large".to_owned()))?;
    if upper <= lower {
        return Err(Bad::Field(line, name, format!("the buffer would end at {upper}, not after {lower}")));
    }
    let alignment = columns.alignment.map_or(Ok(1), |place| number(fields[place], line, "alignment"))?;
    if alignment == 0 {
        return Err(Bad::Field(line, "alignment", "must be at least 1".to_owned()));
    }
    let mut gaps = Vec::new();
    let mut end = lower;
    for word in columns.gaps.map_or("", |place| fields[place]).split_whitespace() {
        let gap = gap(columns, line, word)?;
        if gap.0 < end || gap.1 <= gap.0 || gap.1 > upper {
            let wrong = format!("`{}` is empty, out of order or outside the buffer's life", brief(word));
            return Err(Bad::Field(line, "gaps", wrong));
        }
        end = gap.1;
        gaps.push(gap);
    }
    Ok(Buffer { lower, upper, size, alignment, gaps })
}

fn gap(columns: &Columns, line: usize, word: &str) -> Result<(u64, u64), Bad> {
    if word.contains('@') {
        let wrong = format!("`{}` keeps part of the bytes; only whole gaps are taken", brief(word));
        return Err(Bad::Field(line, "gaps", wrong));
    }
    let Some((from, to)) = word.split_once('-') else {
        return Err(Bad::Field(line, "gaps", format!("`{}` is no gap such as `3-5`", brief(word))));
    };
    let to = after(columns, number(to, line, "gaps")?);
    let to = to.ok_or_else(|| Bad::Field(line, "gaps", "too large".to_owned()))?;
    Ok((number(from, line, "gaps")?, to))
}

/// The time after the last one.
fn after(columns: &Columns, end: u64) -> Option<u64> {
    end.checked_add(u64::from(columns.inclusive))
}

fn number(text: &str, line: usize, column: &'static str) -> Result<u64, Bad> {
    let wrong = || Bad::Field(line, column, format!("`{}` is no whole number from 0 to 2^64 - 1", brief(text)));
    text.trim().parse().map_err(|_| wrong())
}

/// The beginning of a field, for a message.
fn brief(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// The list as it was read, with a column of offsets.
pub fn with_offsets(list: &List, at: &[u64]) -> String {
    let mut text = format!("{},offset\n", list.header);
    for (line, at) in list.lines.iter().zip(at) {
        let _ = writeln!(text, "{line},{at}");
    }
    text
}
