//! Changes bytes: at random places, and as what they are the form of (lines, words and numbers; fields of messages; a zip
//! file whose checksums are right again afterwards).

use crate::targets::Form;

/// A small generator of random numbers (splitmix64): the same seed, the same numbers.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Of all 64-bit words.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of so many; zero where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.word().checked_rem(end as u64).unwrap_or(0) as usize
    }

    /// One of these.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Longest result: what is longer takes time and shows nothing new.
const LENGTH_MAX: usize = 1 << 16;
/// How deep messages are looked into.
const DEPTH: usize = 10;

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "63",
    "64",
    "4096",
    "4097",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "1099511627776",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "1.5",
    "1e400",
];

const WORDS: &[&str] = &[
    "None",
    "Some(1)",
    "true",
    "[]",
    "()",
    "\"\"",
    "\"a + b\"",
    "\"x~1\"",
    "Whole",
    "Home",
    "Cut",
    "Degraded(\"0B/s\")",
    "Bytes(0, 1)",
    "Rows(rows: \"n\", bytes: \"4\", from_pitch: \"4\", to_pitch: \"8\")",
    "\"n * n\"",
    "\"0..18446744073709551615\"",
    "Once",
    "Loop",
    "\"1YiB\"",
    "\"\u{85}\"",
    "\"n / 0\"",
    "[(0, 0)]",
    "((((((((",
    "// ",
    "Append(\"kv\")",
    "ReadRows(\"w\")",
];

/// These bytes with one to four changes; `other` is what parts are taken from.
pub fn mutate(form: Form, bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut now = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        now = match form {
            _ if random.below(4) == 0 => raw(&now, other, random),
            Form::Decisions => raw(&now, other, random),
            Form::Text => lines(&now, other, random),
            Form::Messages => messages(&now, other, random, 0),
            Form::Archive => raw(&now, other, random),
        };
        now.truncate(LENGTH_MAX);
    }
    if form == Form::Archive && random.below(8) > 0 {
        mend(&mut now);
    }
    now
}

/// Changes that know nothing.
fn raw(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut now = bytes.to_vec();
    let at = random.below(now.len());
    let length = 1 + random.below(16);
    let end = (at + length).min(now.len());
    match random.below(9) {
        0 => now.truncate(at),
        1 => drop(now.drain(at..end)),
        2 => now.splice(at..at, (0..length).map(|_| random.word() as u8)).for_each(drop),
        3 => {
            let from = random.below(other.len());
            let to = (from + random.below(64)).min(other.len());
            now.splice(at..end, other[from..to].iter().copied()).for_each(drop);
        }
        4 => {
            let copied = now[at..end].to_vec();
            now.splice(at..at, copied).for_each(drop);
        }
        5 if at < now.len() => now[at] ^= 1 << random.below(8),
        6 if at < now.len() => now[at] = now[at].wrapping_add(1).wrapping_sub(2 * (random.word() as u8 & 1)),
        7 if at < now.len() => {
            let value: u64 = *random.of(&[0, 1, u64::MAX, 1 << 31, 1 << 32, i64::MAX as u64, 0x7f7f_7f7f]);
            let width = 1 << random.below(4);
            for (place, byte) in now[at..].iter_mut().zip(value.to_le_bytes()).take(width) {
                *place = byte;
            }
        }
        _ if at < now.len() => now[at] = random.word() as u8,
        _ => now.push(random.word() as u8),
    }
    now
}

/// Changes of a text: its lines, its numbers, its words.
fn lines(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let Ok(source) = str::from_utf8(bytes) else { return raw(bytes, other, random) };
    let mut all: Vec<&str> = source.split('\n').collect();
    let at = random.below(all.len());
    match random.below(8) {
        0 => drop(all.remove(at)),
        1 => all.insert(at, all[random.below(all.len())]),
        2 => {
            let with = random.below(all.len());
            all.swap(at, with);
        }
        3 => {
            let theirs: Vec<&str> = str::from_utf8(other).unwrap_or_default().split('\n').collect();
            all.insert(at, theirs[random.below(theirs.len())]);
        }
        _ => return words(source, random).into_bytes(),
    }
    all.join("\n").into_bytes()
}

/// Another number or word in place of one.
fn words(source: &str, random: &mut Random) -> String {
    let mut all: Vec<(usize, usize)> = Vec::new();
    let mut start = None;
    for (at, sign) in source.char_indices().chain([(source.len(), ' ')]) {
        let inside = sign.is_alphanumeric() || "_.-".contains(sign);
        match (inside, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                all.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    if all.is_empty() {
        return source.to_owned();
    }
    let (from, to) = *random.of(&all);
    let old = &source[from..to];
    let new = match random.below(4) {
        0 => (*random.of(WORDS)).to_owned(),
        1 => {
            let (from, to) = *random.of(&all);
            source[from..to].to_owned()
        }
        _ => match old.parse::<u64>() {
            Ok(value) if random.below(2) == 0 => match random.below(4) {
                0 => value.wrapping_add(1).to_string(),
                1 => value.wrapping_sub(1).to_string(),
                2 => value.wrapping_mul(2).to_string(),
                _ => (value / 2).to_string(),
            },
            Ok(_) => (*random.of(NUMBERS)).to_owned(),
            Err(_) => String::new(),
        },
    };
    format!("{}{new}{}", &source[..from], &source[to..])
}

/// One field of a message: its key, and its bytes without a length.
struct Field {
    number: u64,
    wire: u64,
    payload: Vec<u8>,
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fields of a message; nothing where the bytes are none.
fn fields(bytes: &[u8]) -> Option<Vec<Field>> {
    let (mut at, mut all) = (0, Vec::new());
    while at < bytes.len() {
        let key = varint(bytes, &mut at)?;
        let from = at;
        let length = match key & 7 {
            0 => {
                varint(bytes, &mut at)?;
                0
            }
            1 => 8,
            5 => 4,
            2 => usize::try_from(varint(bytes, &mut at)?).ok()?,
            _ => return None,
        };
        let from = if key & 7 == 0 { from } else { at };
        let to = at.checked_add(length).filter(|to| *to <= bytes.len())?;
        all.push(Field { number: key >> 3, wire: key & 7, payload: bytes[from..to].to_vec() });
        at = to;
    }
    Some(all)
}

fn encode(all: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in all {
        put_varint(&mut out, field.number << 3 | field.wire);
        if field.wire == 2 {
            put_varint(&mut out, field.payload.len() as u64);
        }
        out.extend(&field.payload);
    }
    out
}

/// Changes of a message: its fields, at any depth; lengths follow.
fn messages(bytes: &[u8], other: &[u8], random: &mut Random, depth: usize) -> Vec<u8> {
    let Some(mut all) = fields(bytes).filter(|all| !all.is_empty() && depth < DEPTH) else {
        return raw(bytes, other, random);
    };
    let at = random.below(all.len());
    match random.below(12) {
        0 => drop(all.remove(at)),
        1 => {
            let Field { number, wire, payload } = &all[at];
            let again = Field { number: *number, wire: *wire, payload: payload.clone() };
            all.insert(at, again);
        }
        2 => {
            let with = random.below(all.len());
            all.swap(at, with);
        }
        3 => {
            // A field of another file, of the same depth where it has one.
            let mut theirs = fields(other).unwrap_or_default();
            for _ in 0..depth {
                let Some(inner) = (!theirs.is_empty()).then(|| random.below(theirs.len())) else { break };
                match fields(&theirs[inner].payload).filter(|f| theirs[inner].wire == 2 && !f.is_empty()) {
                    Some(deeper) => theirs = deeper,
                    None => break,
                }
            }
            if !theirs.is_empty() {
                let chosen = random.below(theirs.len());
                all.insert(at, theirs.swap_remove(chosen));
            }
        }
        4 => all[at].number = 1 + random.below(32) as u64,
        _ if all[at].wire == 2 => all[at].payload = messages(&all[at].payload, other, random, depth + 1),
        5..=8 if all[at].wire == 0 => {
            let value = match random.below(3) {
                0 => random.below(32) as u64,
                1 => *random.of(&[0, 1, u64::MAX, 1 << 31, 1 << 40, i64::MAX as u64, 1 << 63]),
                _ => random.word() >> random.below(64),
            };
            all[at].payload.clear();
            put_varint(&mut all[at].payload, value);
        }
        _ => all[at].payload = raw(&all[at].payload, other, random),
    }
    encode(&all)
}

/// Makes the checksums of a zip file's stored entries right.
fn mend(bytes: &mut [u8]) {
    let number = |bytes: &[u8], at: usize, width: usize| {
        bytes.get(at..at + width).map(|b| b.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b)))
    };
    for at in 0..bytes.len().saturating_sub(46) {
        if !bytes[at..].starts_with(b"PK\x01\x02") || number(bytes, at + 10, 2) != Some(0) {
            continue;
        }
        let (Some(size), Some(local)) = (number(bytes, at + 20, 4), number(bytes, at + 42, 4)) else { continue };
        let (Some(name), Some(extra)) = (number(bytes, local + 26, 2), number(bytes, local + 28, 2)) else { continue };
        let from = local + 30 + name + extra;
        let Some(data) = bytes.get(from..from.saturating_add(size)) else { continue };
        let sum = crc(data).to_le_bytes();
        bytes[at + 16..at + 20].copy_from_slice(&sum);
        if let Some(place) = bytes.get_mut(local + 14..local + 18) {
            place.copy_from_slice(&sum);
        }
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_fields() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 2, 3, 4];
        let all = fields(&bytes).unwrap();
        assert_eq!(all.iter().map(|f| (f.number, f.wire)).collect::<Vec<_>>(), [(1, 0), (2, 2), (3, 5)]);
        assert_eq!(encode(&all), bytes);
        assert!(fields(&bytes[..bytes.len() - 1]).is_none(), "a cut field is none");
    }

    #[test]
    fn checksums_are_those_of_zip() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_same_seed_gives_the_same_change() {
        for form in [Form::Decisions, Form::Text, Form::Messages, Form::Archive] {
            let change = |seed| mutate(form, b"(name: \"x\", offset: 64)", b"(other: 1)", &mut Random(seed));
            assert!((0..50).all(|seed| change(seed) == change(seed)));
            assert!((0..50).any(|seed| change(seed) != b"(name: \"x\", offset: 64)"));
        }
    }
}
