//! The rules of the house, as tests: what a reviewer would otherwise have to remember.
//!
//! A rule that a file must break is broken in a list below, with the reason, and nowhere else.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The files that may hold unsafe code: one for each device and engine, and its tests; how often each says
/// `unsafe`, and why. A new one is counted here, so that it is seen.
const UNSAFE: &[(&str, usize, &str)] = &[
    ("compiler/src/import/map.rs", 1, "maps model files"),
    ("runtime-exec/examples/reader.rs", 1, "reads to memory of its own"),
    ("runtime-exec/src/arena.rs", 12, "hands out parts of an arena that the verifier has proved apart"),
    ("runtime-exec/src/engine/allocator.rs", 12, "gives ONNX Runtime memory"),
    ("runtime-exec/src/engine/mod.rs", 4, "declares what the caller of an engine promises"),
    ("runtime-exec/src/engine/ort.rs", 31, "calls ONNX Runtime's C table"),
    ("runtime-exec/src/executor/copies.rs", 6, "moves bytes between ranges of arenas, and says where reads go"),
    (
        "runtime-exec/src/executor/lanes.rs",
        3,
        "hands ranges of arenas to engines and callers in the order that was proved",
    ),
    ("runtime-exec/src/executor/keep.rs", 2, "gives engines the ranges for what they keep that were proved"),
    ("runtime-exec/src/executor/load.rs", 4, "gives engines the addresses that were proved"),
    ("runtime-exec/src/executor/rehearse.rs", 4, "gives engines addresses of an arena of its own"),
    ("runtime-exec/src/open.rs", 4, "binds tasks of open sizes again, at the addresses of the executor"),
    ("runtime-exec/src/store/gauge.rs", 4, "reads to memory of its own"),
    ("runtime-exec/src/store/mod.rs", 2, "passes on what the reader of a queue promises"),
    ("runtime-exec/src/store/queue.rs", 4, "reads to addresses that the executor keeps valid"),
    ("runtime-exec/src/store/ring.rs", 5, "hands addresses to the kernel"),
    ("runtime-exec/tests/common/fence.rs", 6, "an allocator of the tests, which puts fences around arenas"),
    ("runtime-exec/tests/common/null.rs", 5, "an engine of the tests, which reads and writes where it is bound"),
    ("runtime-exec/tests/engine/main.rs", 3, "binds addresses as an executor would"),
    ("src/main.rs", 2, "says how long the allocator keeps what is freed"),
    ("tests/simulated/disk.rs", 6, "a disk of the tests, which writes where it is told"),
    ("tests/simulated/engine.rs", 12, "an engine of the tests, which reads and writes where it is bound"),
    ("tests/simulated/watch.rs", 1, "poisons arenas in a test of one thread"),
];

/// Most lines of a source file; a longer one is two things.
const LINES_MAX: usize = 900;

/// What lies at the top of the repository, and nothing else.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "bench",
    "compiler",
    "deny.toml",
    "docs",
    "golden",
    "ir",
    "models",
    "runtime-exec",
    "rustfmt.toml",
    "src",
    "targets",
    "tests",
    "xtask",
];

/// The crates of ours that a crate may not depend on, not even for its tests: arrows run downhill.
const DOWNHILL: &[(&str, &[&str])] = &[
    ("ir/Cargo.toml", &["berth", "berth-compiler", "berth-runtime-exec"]),
    ("compiler/Cargo.toml", &["berth", "berth-runtime-exec"]),
    ("runtime-exec/Cargo.toml", &["berth", "berth-compiler"]),
    ("tests/oracle/Cargo.toml", &["berth", "berth-runtime-exec"]),
    ("bench/g10/Cargo.toml", &["berth", "berth-runtime-exec"]),
    ("tests/fuzz/Cargo.toml", &["berth-oracle", "berth-runtime-exec"]),
    ("tests/fuzz/guided/Cargo.toml", &["berth", "berth-ir", "berth-compiler", "berth-runtime-exec"]),
    ("xtask/Cargo.toml", &["berth", "berth-ir", "berth-compiler", "berth-runtime-exec"]),
];

/// One file of the repository.
struct File {
    /// Relative to the root, with `/`.
    path: String,
    bytes: Vec<u8>,
}

impl File {
    /// The text; `None` for models and other binary files.
    fn text(&self) -> Option<&str> {
        str::from_utf8(&self.bytes).ok()
    }
}

/// Every file that git tracks or would add; without git, every file that it would not ignore.
fn files() -> &'static [File] {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let paths = by_git(root).unwrap_or_else(|| by_walk(root));
        // A tracked file that is deleted and not yet committed as such has no bytes.
        let read = |path: String| std::fs::read(root.join(&path)).ok().map(|bytes| File { path, bytes });
        let files: Vec<File> = paths.into_iter().filter_map(read).collect();
        assert!(files.iter().any(|f| f.path == "tests/house.rs"), "the list of files lacks this one");
        files
    })
}

fn by_git(root: &Path) -> Option<BTreeSet<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let output = git.output().ok().filter(|output| output.status.success())?;
    let names = output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Some(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn by_walk(root: &Path) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let top = folder.as_os_str().is_empty();
            let ignored = top && matches!(name.as_str(), ".git" | ".berth" | "target")
                || [".weights.bin", ".snap.new", ".part"].iter().any(|end| name.ends_with(end));
            match entry.file_type().unwrap() {
                _ if ignored => {}
                kind if kind.is_dir() => folders.push(folder.join(name)),
                _ => {
                    paths.insert(folder.join(name).to_str().unwrap().to_owned());
                }
            }
        }
    }
    paths
}

/// The Rust files.
fn sources() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rust = files().iter().filter(|f| f.path.ends_with(".rs"));
    rust.map(|f| (f.path.as_str(), f.text().unwrap_or_else(|| panic!("{} is no UTF-8", f.path))))
}

/// Fails with all that was found, one to a line.
#[track_caller]
fn none(rule: &str, found: impl IntoIterator<Item = String>) {
    let mut all = String::new();
    for line in found {
        let _ = write!(all, "\n  {line}");
    }
    assert!(all.is_empty(), "{rule}:{all}");
}

/// The lines of a file that hold this, without comments if so wanted.
fn lines_with(path: &str, text: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| wanted(line));
    lines.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
}

/// True where `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(letter)
            && !line[at + word.len()..].chars().next().is_some_and(letter)
    })
}

/// One line of a dependency table.
struct Dependency<'a> {
    manifest: &'a str,
    line: usize,
    name: &'a str,
    /// The package's name, where it is another.
    package: &'a str,
    /// Taken from the workspace's table, or one of our own crates.
    excused: bool,
    /// A comment stands directly above.
    reason: bool,
}

fn dependencies() -> Vec<Dependency<'static>> {
    let mut found = Vec::new();
    for file in files().iter().filter(|f| f.path.ends_with("Cargo.toml")) {
        let (mut inside, mut open, mut above) = (false, 0i32, "");
        for (number, line) in file.text().unwrap().lines().enumerate() {
            let code = line.trim();
            if code.starts_with('[') && open == 0 {
                let header = code.trim_matches(['[', ']']);
                inside = header.ends_with("dependencies");
                let own_table = header.contains("dependencies.");
                assert!(!own_table, "{}:{}: write `{header}` as one line", file.path, number + 1);
            } else if inside && open == 0 && code.contains('=') && !code.starts_with('#') {
                let (name, value) = code.split_once('=').unwrap();
                let (name, value) = (name.trim(), value.trim());
                let of_workspace = name.ends_with(".workspace") || value.contains("workspace = true");
                let package = value.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
                let name = name.trim_end_matches(".workspace");
                found.push(Dependency {
                    manifest: &file.path,
                    line: number + 1,
                    name,
                    package: package.unwrap_or(name),
                    excused: of_workspace || value.contains("path = "),
                    reason: above.starts_with("# "),
                });
            }
            if !code.starts_with('#') {
                let count = |signs: [char; 2]| code.matches(signs).count() as i32;
                open += count(['[', '{']) - count([']', '}']);
            }
            above = code;
        }
    }
    assert!(found.len() > 10, "the tables are not found");
    found
}

#[test]
fn each_dependency_has_its_reason_directly_above() {
    let bare = dependencies().into_iter().filter(|d| !d.excused && !d.reason);
    none(
        "a dependency has its reason in a comment above it, here or in the workspace's table",
        bare.map(|d| format!("{}:{}: {}", d.manifest, d.line, d.name)),
    );
}

#[test]
fn arrows_run_downhill() {
    let found = dependencies();
    let upward = found
        .iter()
        .filter(|d| DOWNHILL.iter().any(|(manifest, above)| d.manifest == *manifest && above.contains(&d.package)));
    none("a crate depends only on crates below it", upward.map(|d| format!("{}:{}: {}", d.manifest, d.line, d.name)));
    let manifests = files().iter().filter(|f| f.path.ends_with("/Cargo.toml"));
    none(
        "every crate has its arrows in this test",
        manifests.filter(|f| !DOWNHILL.iter().any(|(m, _)| *m == f.path)).map(|f| f.path.clone()),
    );
}

#[test]
fn what_only_the_oracles_need_stays_with_them() {
    let text = |path: &str| files().iter().find(|f| f.path == path).and_then(File::text).unwrap_or_default();
    let named = |lock: &str, name: &str| text(lock).contains(&format!("\nname = \"{name}\"\n"));
    let outside = ["onnx-protobuf", "protobuf", "onnx-runtime-ir", "onnx-runtime-shape-inference"];
    let unlocked = outside.iter().filter(|name| !named("tests/oracle/Cargo.lock", name));
    none("the oracles' lock file names what they need", unlocked.map(|name| (*name).to_owned()));
    let inside = outside.iter().filter(|name| named("Cargo.lock", name));
    none("the product's lock file names none of it", inside.map(|name| (*name).to_owned()));
    let found = dependencies();
    let on_oracles = found.iter().filter(|d| d.package == "berth-oracle");
    none("nothing depends on the oracles", on_oracles.map(|d| format!("{}:{}", d.manifest, d.line)));
}

/// The lint tables of a workspace's manifest, without comments.
fn lints(manifest: &str) -> Vec<&'static str> {
    let file = files().iter().find(|f| f.path == manifest).and_then(File::text);
    let mut inside = false;
    let mut lines = Vec::new();
    for line in file.unwrap_or_else(|| panic!("{manifest} is missing")).lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.starts_with("[workspace.lints.");
        }
        if inside && !line.is_empty() && !line.starts_with('#') {
            lines.push(line);
        }
    }
    lines
}

#[test]
fn the_verifier_imports_nothing_outside_its_crate() {
    let found = sources().filter(|(path, _)| path.starts_with("ir/src/verify")).flat_map(|(path, text)| {
        lines_with(path, text, |line| {
            let line = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let Some(used) = line.strip_prefix("use ") else { return line.starts_with("extern crate ") };
            let first = used.split([':', ';', ' ']).next().unwrap_or("");
            // A type of the same file begins with a capital letter.
            let here = first.starts_with(|c: char| c.is_uppercase());
            // In `verify/mod.rs` a child is named without `self`.
            let child = files().iter().any(|f| f.path == format!("ir/src/verify/{first}.rs"));
            !(here || child || ["crate", "super", "self", "std", "core", "alloc"].contains(&first))
        })
    });
    none("ir/src/verify uses only ir and std", found);
}

/// How often a text opens unsafe code: blocks, functions, implementations. Comments do not count.
fn openings(text: &str) -> usize {
    let opens = ["{", "fn", "impl", "extern", "trait"];
    let of_line = |line: &str| {
        let block = |at: usize| opens.iter().any(|word| line[at..].trim_start().starts_with(word));
        line.match_indices("unsafe ").filter(|(at, word)| block(at + word.len())).count()
    };
    text.lines().map(str::trim).filter(|line| !line.starts_with("//")).map(of_line).sum()
}

#[test]
fn unsafe_code_lives_where_it_is_listed() {
    let is_unsafe = |line: &str| {
        let line = line.trim();
        let code = openings(line) > 0;
        let lint = line.contains("(unsafe_code") && !line.contains("deny(");
        !line.starts_with("//") && (code || lint)
    };
    let mut holders = BTreeSet::new();
    let (mut elsewhere, mut miscounted) = (Vec::new(), Vec::new());
    for (path, text) in sources().filter(|(path, _)| *path != "tests/house.rs") {
        let found = lines_with(path, text, is_unsafe);
        if let Some((_, counted, _)) = UNSAFE.iter().find(|(listed, ..)| *listed == path) {
            holders.extend(found.first().map(|_| path));
            let count = openings(text);
            if count != *counted {
                miscounted.push(format!("{path}: {count}, and {counted} are listed"));
            }
        } else {
            elsewhere.extend(found);
        }
    }
    none("unsafe code is in the files that UNSAFE lists", elsewhere);
    let empty = UNSAFE.iter().filter(|(path, ..)| !holders.contains(path));
    none("a file in UNSAFE holds some", empty.map(|(path, ..)| (*path).to_owned()));
    none("each use of `unsafe` is counted in UNSAFE", miscounted);
    let manifests = files().iter().filter(|f| f.path.ends_with("Cargo.toml"));
    let lax = manifests.filter(|f| !f.text().unwrap().contains("[lints]\nworkspace = true"));
    none("every crate has the workspace's lints, which deny unsafe code", lax.map(|f| f.path.clone()));
    // A workspace of its own has lints of its own.
    for manifest in ["tests/oracle/Cargo.toml", "tests/fuzz/guided/Cargo.toml"] {
        assert_eq!(lints(manifest), lints("Cargo.toml"), "{manifest} and the workspace have the same lints");
    }
    assert!(lints("Cargo.toml").contains(&"unsafe_code = \"deny\""), "the lints are not found");
}

#[test]
fn no_file_names_a_machine() {
    // In halves, so that this file does not hold them.
    let folders = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let hosts = [
        concat!("artif", "actory"),
        concat!("jfr", "og"),
        concat!("index.cr", "ates.io"),
        concat!("static.cr", "ates.io"),
        concat!("pyp", "i.org"),
        concat!("python", "hosted.org"),
        concat!("index", "-url"),
    ];
    let mut found = Vec::new();
    for file in files() {
        // Models too: exporters like to write down where they ran.
        let text = String::from_utf8_lossy(&file.bytes);
        let held = folders.iter().chain(&hosts).filter(|needle| text.contains(**needle));
        found.extend(held.map(|needle| format!("{} holds {needle}", file.path)));
    }
    none("no file names a folder of one machine or a package registry's host", found);
}

#[test]
fn nothing_is_left_to_do() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let texts = files().iter().filter(|f| !f.path.ends_with("Cargo.lock")).filter_map(|f| Some((&f.path, f.text()?)));
    let found =
        texts.flat_map(|(path, text)| lines_with(path, text, |line| words.iter().any(|word| has_word(line, word))));
    none("what is not done is said in the documentation, not in a mark", found);
}

#[test]
fn each_source_file_opens_with_what_it_is_for() {
    let opens = |text: &str| {
        let doc: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let first: Vec<&str> = doc.iter().copied().take_while(|line| !line.trim().is_empty()).collect();
        first.last().is_some_and(|line| line.trim_end().ends_with(['.', ':']))
    };
    let silent = sources().filter(|(_, text)| !opens(text)).map(|(path, _)| path.to_owned());
    none("a source file opens with a `//!` sentence that ends with a full stop", silent);
}

#[test]
fn no_source_file_is_too_long() {
    let lengths = sources().map(|(path, text)| (path, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > LINES_MAX);
    none("a source file has one subject and at most 900 lines", long.map(|(path, lines)| format!("{path}: {lines}")));
}

#[test]
fn every_test_runs() {
    let mark = concat!("#[ig", "nore");
    let found = sources().flat_map(|(path, text)| lines_with(path, text, |line| line.trim().starts_with(mark)));
    none("a test runs or is deleted", found);
}

#[test]
fn the_top_level_holds_what_was_agreed() {
    let tops: BTreeSet<&str> = files().iter().filter_map(|f| f.path.split('/').next()).collect();
    none("a new entry at the top is agreed in TOP", tops.iter().filter(|t| !TOP.contains(t)).map(|t| (*t).to_owned()));
}

/// The quoted words of a list in `deny.toml`; nothing else stands in it but comments.
fn denied(list: &str) -> Vec<&'static str> {
    let text = files().iter().find(|f| f.path == "deny.toml").and_then(File::text).expect("deny.toml");
    let (_, after) = text.split_once(&format!("\n{list} = [")).unwrap_or_else(|| panic!("deny.toml has no {list}"));
    let (inside, _) = after.split_once(']').expect("a list ends");
    let lines = inside.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).collect()
}

/// Whether a licence expression is satisfied by these: any side of `OR`, all sides of `AND`. An old `/` is an `OR`.
fn allowed(expression: &str, allow: &[&str]) -> bool {
    /// Cuts at a word where no parenthesis is open.
    fn cut<'t>(text: &'t str, at: &str) -> Vec<&'t str> {
        let (mut depth, mut from, mut all) = (0, 0, Vec::new());
        for (place, sign) in text.char_indices() {
            match sign {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 && place >= from && text[place..].starts_with(at) => {
                    all.push(&text[from..place]);
                    from = place + at.len();
                }
                _ => {}
            }
        }
        all.push(&text[from..]);
        all
    }
    let text = expression.trim();
    for (word, any) in [(" OR ", true), ("/", true), (" AND ", false)] {
        let sides = cut(text, word);
        if sides.len() > 1 {
            return if any {
                sides.iter().any(|side| allowed(side, allow))
            } else {
                sides.iter().all(|side| allowed(side, allow))
            };
        }
    }
    match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(inside) => allowed(inside, allow),
        None => allow.contains(&text),
    }
}

#[test]
fn licences_are_those_that_deny_toml_allows() {
    let allow = denied("allow");
    assert!(allow.contains(&"MIT") && allow.len() > 3, "the list is not found: {allow:?}");
    assert!(allowed("(MIT OR GPL-3.0) AND Unicode-3.0", &allow) && allowed("MIT/Apache-2.0", &allow));
    assert!(!allowed("MIT AND GPL-3.0", &allow) && !allowed("LGPL-2.1-or-later", &allow) && !allowed("", &allow));
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says its host");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Of this platform, which is what was fetched to build this test.
    let words = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    let output = Command::new(cargo).args(words).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "only {} packages", packages.len());
    let barred = packages.iter().filter(|p| !allowed(p["license"].as_str().unwrap_or_default(), &allow));
    none("a licence is one that deny.toml allows", barred.map(|p| format!("{}: {}", p["name"], p["license"])));
}

#[test]
fn lock_files_hold_what_deny_toml_allows() {
    let registries = denied("allow-registry");
    let (banned, skipped) = (denied("deny"), denied("skip"));
    assert!(banned.contains(&"protobuf") && registries.len() == 1, "the lists are not found");
    let locks: Vec<&File> = files().iter().filter(|f| f.path.ends_with("Cargo.lock")).collect();
    assert!(locks.len() >= 3, "only {} lock files", locks.len());
    let mut found = Vec::new();
    for lock in locks {
        let mut before: Option<&str> = None;
        for package in lock.text().unwrap_or_default().split("[[package]]").skip(1) {
            let field = |name: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
                line.map(|value| value.trim_matches('"'))
            };
            let name = field("name").unwrap_or_default();
            if let Some(source) = field("source")
                && !registries.iter().any(|r| source == format!("registry+{r}"))
            {
                found.push(format!("{}: {name} comes from {source}", lock.path));
            }
            if field("source").is_some() && field("checksum").is_none() {
                found.push(format!("{}: {name} has no checksum", lock.path));
            }
            // The product's alone: what the others need stays with them.
            if lock.path == "Cargo.lock" {
                if banned.contains(&name) {
                    found.push(format!("{name} is banned"));
                }
                if before == Some(name) && !skipped.contains(&name) {
                    found.push(format!("there are two versions of {name}"));
                }
            }
            before = Some(name);
        }
    }
    none("a package comes from where deny.toml allows, once", found);
    let product = files().iter().find(|f| f.path == "Cargo.lock").and_then(File::text).unwrap_or_default();
    let twice = |name: &&&str| product.matches(&format!("\nname = \"{name}\"\n")).count() > 1;
    let stale = skipped.iter().filter(|name| !twice(name));
    none("a version that is skipped is there twice", stale.map(|name| (*name).to_owned()));
}
