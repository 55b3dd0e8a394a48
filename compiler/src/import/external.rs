//! Where external data may lie: inside the model's folder, and nowhere else.

use super::ImportError;
use super::onnx::TensorProto;
use berth_ir::beneath::{self, NotBeneath};
use berth_ir::graph::Stored;
use std::path::{Path, PathBuf};

/// The range of bytes that an initializer's external data names. `bytes` is what its type and shape need.
pub(super) fn resolve(tensor: &TensorProto, bytes: u64, folder: &Path) -> Result<Stored, ImportError> {
    let (mut location, mut offset, mut length) = (None, None, None);
    let fail = |location: Option<&String>, problem: String| ImportError::External {
        name: tensor.name.clone(),
        location: location.map(|l| l.escape_debug().to_string()).unwrap_or_default(),
        problem,
    };
    for entry in &tensor.external_data {
        let slot = match entry.key.as_str() {
            "location" => &mut location,
            "offset" => &mut offset,
            "length" => &mut length,
            // A digest of the bytes; nothing here reads them.
            "checksum" => continue,
            key => return Err(fail(None, format!("unknown key `{}`", key.escape_debug()))),
        };
        if slot.replace(&entry.value).is_some() {
            return Err(fail(Some(&entry.value), format!("the key `{}` stands twice", entry.key)));
        }
    }
    let Some(location) = location else { return Err(fail(None, "no location is given".to_owned())) };
    let fail = |problem: String| fail(Some(location), problem);
    let number = |text: Option<&String>, what: &str| match text {
        None => Ok(None),
        // `parse` alone would take a plus sign.
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => match text.parse::<u64>() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(fail(format!("{what} `{text}` does not fit in 64 bits"))),
        },
        Some(text) => Err(fail(format!("{what} `{}` is no whole number", text.escape_debug()))),
    };
    let offset = number(offset, "offset")?.unwrap_or(0);
    if let Some(length) = number(length, "length")?
        && length != bytes
    {
        return Err(fail(format!("length is {length} bytes, but shape and type need {bytes}")));
    }
    let Some(end) = offset.checked_add(bytes) else {
        return Err(fail(format!("offset {offset} + {bytes} bytes does not fit in 64 bits")));
    };
    let relative = inside(location).map_err(|problem| fail(problem.to_owned()))?;
    let path = folder.join(&relative);
    let present = match present(folder, &relative).map_err(fail)? {
        None => false,
        Some(size) if end <= size => true,
        Some(size) => {
            return Err(fail(format!(
                "bytes {offset} to {end} are asked for, {} past the end of the file ({size} bytes)",
                end - size
            )));
        }
    };
    let file = relative.to_string_lossy().into_owned();
    Ok(Stored { path, file, offset, bytes, present, own: false })
}

/// The location as a relative path that goes down only.
fn inside(location: &str) -> Result<PathBuf, &'static str> {
    if location.is_empty() {
        return Err("the location is empty");
    }
    if location.contains('\0') {
        return Err("the location holds a NUL byte");
    }
    if location.contains('\\') {
        return Err("the location holds a backslash");
    }
    if location.contains(':') {
        return Err("the location is a URL or names a drive");
    }
    if location.starts_with('/') {
        return Err("the location is absolute; it must lie inside the model's folder");
    }
    let mut path = PathBuf::new();
    for part in location.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("the location goes up with `..`; it must lie inside the model's folder"),
            part => path.push(part),
        }
    }
    if path.as_os_str().is_empty() { Err("the location is a folder") } else { Ok(path) }
}

/// The file's size, or `None` where it does not exist.
fn present(folder: &Path, relative: &Path) -> Result<Option<u64>, String> {
    match beneath::open(folder, relative) {
        Ok(file) => file.metadata().map(|m| Some(m.len())).map_err(|e| format!("cannot be opened: {e}")),
        Err(NotBeneath::Absent) => Ok(None),
        Err(why) => Err(why.to_string()),
    }
}
