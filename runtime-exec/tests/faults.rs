//! Disks that fail: every run ends in the right bytes or in a sentence that says what is wrong, and ends.

mod common;

use berth_ir::expr::Binding;
use berth_runtime_exec::errors::{LoadError, RunError};
use berth_runtime_exec::executor::{Executor, Held, Options, Pace};
use berth_runtime_exec::pack::{Pack, PackError, write};
use berth_runtime_exec::store::queue::{Disk, Plain};
use berth_runtime_exec::store::{Layout, StoreError, Wanted};
use common::null::Null;
use common::{Chain, Folder, Keeper, input};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A disk that does what it is told to at each read: its number, from zero, and the seed decide.
#[derive(Debug)]
struct Moody {
    seed: u64,
    reads: AtomicU64,
    mood: Mood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Gives fewer bytes than asked for, is interrupted, says to come again; never wrong bytes.
    Short,
    /// Fails at this read.
    FailsAt(u64),
    /// Gives nothing from this read on, though the file has it.
    DryAt(u64),
    /// Takes its time.
    Slow,
    /// Turns one bit of this read.
    FlipsAt(u64),
}

impl Moody {
    fn new(seed: u64, mood: Mood) -> Arc<Moody> {
        Arc::new(Moody { seed, reads: AtomicU64::new(0), mood })
    }
}

impl Disk for Moody {
    fn read_at(&self, file: &File, at: u64, to: &mut [u8]) -> io::Result<usize> {
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        let dice = (self.seed ^ read).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        match self.mood {
            Mood::Short => match dice % 8 {
                0 => Err(io::ErrorKind::Interrupted.into()),
                1 => Err(io::ErrorKind::WouldBlock.into()),
                2 => Ok(0),
                3..=5 => {
                    let bytes = (dice as usize * 37) % to.len() + 1;
                    Ok(Plain.read_at(file, at, to)?.min(bytes))
                }
                _ => Plain.read_at(file, at, to),
            },
            Mood::FailsAt(n) if read == n => Err(io::Error::from_raw_os_error(libc::EIO)),
            Mood::DryAt(n) if read >= n => Ok(0),
            Mood::Slow => {
                std::thread::sleep(Duration::from_millis(dice % 5));
                Plain.read_at(file, at, to)
            }
            Mood::FlipsAt(n) => {
                let got = Plain.read_at(file, at, to)?;
                if read == n && got > 0 {
                    to[dice as usize % got] ^= 1 << (dice % 8);
                }
                Ok(got)
            }
            _ => Plain.read_at(file, at, to),
        }
    }
}

/// A chain whose weights come in many reads.
fn chain() -> Chain {
    Chain { bytes: 300_000, offset: 77, transposed: true, ..Chain::default() }
}

fn load(
    folder: &Folder,
    chain: &Chain,
    disk: Option<Arc<dyn Disk>>,
    pack: Option<Pack>,
) -> Result<Executor<Null>, LoadError> {
    let mut options = Options::new(&folder.0);
    options.places.disk = disk;
    options.places.pack = pack.map(Arc::new);
    // Reads that go past the page cache are in whole sectors; small ones make more of them.
    options.links.insert("read".to_owned(), Pace { chunk: 16 << 10, depth: 3, held: None });
    Executor::load(&chain.program(), &chain.ports(), vec![Null::new(true)], &options)
}

/// Runs three steps; every output that comes is right, whether or not the run ends well.
fn run(executor: &mut Executor<Null>, chain: &Chain) -> Result<(), RunError> {
    let mut keeper = Keeper::default();
    let ended = executor.run(3, PATIENCE, &mut keeper).map(drop);
    for (step, output) in keeper.outputs.iter().enumerate() {
        assert!(*output == chain.output(&input(step + 1)), "step {} is wrong", step + 1);
    }
    assert!(ended.is_err() || keeper.outputs.len() == 3);
    ended
}

#[test]
fn short_and_interrupted_reads_are_made_up_for() {
    let chain = chain();
    let folder = Folder::with("short", &chain);
    for seed in 0..20 {
        let mut executor = load(&folder, &chain, Some(Moody::new(seed, Mood::Short)), None).expect("it loads");
        // Sixteen empty reads in a row are a disk that gives no more; they do not come with these seeds.
        run(&mut executor, &chain).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn a_read_that_fails_is_said_and_the_next_run_works() {
    let chain = chain();
    let folder = Folder::with("fails", &chain);
    // Each weight is one read, three steps twelve.
    for n in [0, 1, 5, 11] {
        for mood in [Mood::FailsAt(n), Mood::DryAt(n)] {
            let disk = Moody::new(1, mood);
            let mut executor = load(&folder, &chain, Some(disk.clone()), None).expect("it loads");
            let said = run(&mut executor, &chain).expect_err("the disk fails").to_string();
            assert!(said.contains("load w") && said.contains("w.bin"), "{said}");
            let why = if mood == Mood::FailsAt(n) { "Input/output error" } else { "gives no more bytes" };
            assert!(said.contains(why), "{said}");
            disk.reads.store(1 << 40, Ordering::SeqCst);
            let again = run(&mut executor, &chain);
            assert!(again.is_ok() || matches!(mood, Mood::DryAt(_)), "{again:?}");
        }
    }
}

#[test]
fn a_slow_disk_is_waited_for() {
    let chain = chain();
    let folder = Folder::with("slow", &chain);
    let mut executor = load(&folder, &chain, Some(Moody::new(3, Mood::Slow)), None).expect("it loads");
    run(&mut executor, &chain).expect("it runs");
}

#[test]
fn a_stop_while_a_slow_link_holds_back_what_it_has_read_leaves_an_executor_that_runs() {
    let chain = chain();
    let folder = Folder::with("held", &chain);
    // With the kernel's queue, with threads.
    for disk in [None, Some(Moody::new(0, Mood::FailsAt(u64::MAX)) as Arc<dyn Disk>)] {
        let mut options = Options::new(&folder.0);
        options.places.disk = disk;
        let held = Some(Held { rate: 1 << 30, latency: 200_000_000, group: 0 });
        options.links.insert("read".to_owned(), Pace { chunk: 16 << 10, depth: 3, held });
        let mut executor =
            Executor::load(&chain.program(), &chain.ports(), vec![Null::new(true)], &options).expect("it loads");
        let stop = executor.stop();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stop.stop();
        });
        let ended = executor.run(3, Duration::from_secs(2), &mut Keeper::default());
        stopper.join().expect("it ends");
        assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
        let mut keeper = Keeper::default();
        executor.run(1, PATIENCE, &mut keeper).expect("it runs again");
        assert_eq!(keeper.outputs, [chain.output(&input(1))]);
    }
}

/// A caller who cuts the file off after some steps.
struct Cutter {
    file: File,
    bytes: u64,
    keeper: Keeper,
}

impl berth_runtime_exec::executor::Caller for Cutter {
    fn feed(&mut self, tensor: &str, step: usize, to: &mut [u8], dims: &Binding, kept: bool) -> Result<(), String> {
        if step == 3 {
            self.file.set_len(self.bytes).expect("it is cut");
        }
        self.keeper.feed(tensor, step, to, dims, kept)
    }
    fn fetch(&mut self, t: &str, s: usize, from: &[u8], d: &Binding) -> Result<(), String> {
        self.keeper.fetch(t, s, from, d)
    }
}

#[test]
fn a_file_that_is_cut_off_while_it_runs_is_said() {
    let chain = chain();
    // With the kernel's queue, with threads.
    for disk in [None, Some(Arc::new(Plain) as Arc<dyn Disk>)] {
        for bytes in [0, 4096, 700_001] {
            let folder = Folder::with("cut", &chain);
            let mut executor = load(&folder, &chain, disk.clone(), None).expect("it loads");
            let file = OpenOptions::new().write(true).open(folder.0.join("w.bin")).expect("it opens");
            let mut cutter = Cutter { file, bytes, keeper: Keeper::default() };
            let ended = executor.run(1_000, PATIENCE, &mut cutter);
            let said = ended.expect_err("the file is cut off").to_string();
            assert!(said.contains(&format!("ends at {bytes} bytes")), "{said}");
            for (step, output) in cutter.keeper.outputs.iter().enumerate() {
                assert!(*output == chain.output(&input(step + 1)), "step {} is wrong", step + 1);
            }
        }
    }
    let folder = Folder::with("cut before", &chain);
    std::fs::write(folder.0.join("w.bin"), b"short").expect("it writes");
    assert!(matches!(load(&folder, &chain, None, None), Err(LoadError::Store(StoreError::Short { .. }))));
}

fn pack(
    folder: &Folder,
    chain: &Chain,
    disk: Option<Arc<dyn Disk>>,
) -> Result<berth_runtime_exec::pack::Written, PackError> {
    let mut options = Options::new(&folder.0);
    options.places.disk = disk;
    write(&options.places, &chain.wanted(), &folder.0.join("w.berth"), &mut |_, _| {})
}

#[test]
fn a_pack_reads_as_the_files_do_and_its_damage_is_seen() {
    let chain = Chain { bytes: 2_500_000, offset: 77, transposed: true, ..Chain::default() };
    let folder = Folder::with("pack", &chain);
    let written = pack(&folder, &chain, None).expect("it packs");
    assert_eq!((written.weights, written.bytes, written.found), (4, 10_000_000, 0));
    let path = folder.0.join("w.berth");
    let open = || Pack::open(&path).expect("it opens");
    open().check_all().expect("it is whole");
    open().made_from(&Options::new(&folder.0).places).expect("it is this model's");
    // Nothing is read from the file itself any more.
    std::fs::remove_file(folder.0.join("w.bin")).expect("it goes");
    let mut executor = load(&folder, &chain, None, Some(open())).expect("it loads");
    run(&mut executor, &chain).expect("it runs");
    // A bit that turns on the way.
    for n in [0, 3, 100, 500] {
        let disk = Moody::new(n, Mood::FlipsAt(n));
        let mut executor = load(&folder, &chain, Some(disk), Some(open())).expect("it loads");
        let ended = run(&mut executor, &chain);
        assert!(matches!(&ended, Err(RunError::Store { source: StoreError::Checksum { .. }, .. })), "{n}: {ended:?}");
    }
    // A byte that is another one on the disk: in a weight, in the index, in the header.
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    let end = written.file_bytes;
    for at in [4096, 4096 + 2_499_999, 6_000_000, 8, 40 - 1, end - 1, end - 40] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("it reads");
        file.write_all_at(&[byte[0] ^ 1], at).expect("it writes");
        match Pack::open(&path) {
            Err(PackError::NotAPack { .. }) => {}
            Err(other) => panic!("at {at}: {other}"),
            Ok(damaged) => {
                let said = damaged.check_all().expect_err("it is damaged").to_string();
                assert!(said.contains("checksums differ"), "{said}");
                let mut executor = load(&folder, &chain, None, Some(damaged)).expect("it loads");
                assert!(run(&mut executor, &chain).is_err(), "at {at}");
            }
        }
        file.write_all_at(&byte, at).expect("it writes");
    }
    open().check_all().expect("it is whole again");
    // Cut off anywhere, it is no pack.
    for bytes in [0, 10, 4096, 5_000_000, end - 1] {
        file.set_len(bytes).expect("it is cut");
        assert!(matches!(Pack::open(&path), Err(PackError::NotAPack { .. })), "{bytes} bytes");
    }
}

#[test]
fn parts_and_columns_of_what_is_packed_are_found_in_it() {
    let chain = Chain { bytes: 40_000, tasks: 2, transposed: true, ..Chain::default() };
    let folder = Folder::with("parts", &chain);
    // What the chain holds as two weights, the second transposed, is packed as one and as a wider matrix.
    let rows = 2_500u64;
    let whole = |transposed| Wanted {
        what: "all".into(),
        file: "w.bin".into(),
        layout: Layout { offset: 0, strip: None, transposed },
        bytes: 80_000,
    };
    let matrix = berth_ir::program::Transposed { rows: 8, columns: rows, element: 4 };
    let path = folder.0.join("parts.berth");
    let places = Options::new(&folder.0).places;
    for packed in [vec![whole(None)], vec![whole(None), whole(Some(matrix))]] {
        write(&places, &packed, &path, &mut |_, _| {}).expect("it packs");
        let mut executor = load(&folder, &chain, None, Some(Pack::open(&path).expect("it opens"))).expect("it loads");
        run(&mut executor, &chain).expect("it runs");
    }
    // Only as a transpose: the second weight is its last rows, so columns of what is held; the first is read as it was.
    write(&places, &[whole(Some(matrix))], &path, &mut |_, _| {}).expect("it packs");
    let mut executor = load(&folder, &chain, None, Some(Pack::open(&path).expect("it opens"))).expect("it loads");
    run(&mut executor, &chain).expect("it runs");
    // No copy brings whole blocks of it, so they are checked beforehand.
    let file = OpenOptions::new().write(true).open(&path).expect("it opens");
    file.write_all_at(&[1, 2, 3, 4, 5], 4096 + 70_000).expect("it writes");
    let loaded = load(&folder, &chain, None, Some(Pack::open(&path).expect("it opens")));
    assert!(matches!(loaded, Err(LoadError::Store(StoreError::Checksum { .. }))), "{loaded:?}");
}

#[test]
fn a_pack_of_other_weights_is_refused() {
    let chain = chain();
    let folder = Folder::with("other", &chain);
    pack(&folder, &chain, None).expect("it packs");
    let opened = Pack::open(&folder.0.join("w.berth")).expect("it opens");
    let places = Options::new(&folder.0).places;
    let weights = folder.0.join("w.bin");
    let other: Vec<u8> = chain.file().iter().map(|byte| byte ^ 0x55).collect();
    std::fs::write(&weights, &other).expect("it writes");
    let said = opened.made_from(&places).expect_err("other weights").to_string();
    assert!(said.contains("other weights") && said.contains("berth pack"), "{said}");
    std::fs::write(&weights, &other[..1_000_000]).expect("it writes");
    assert!(matches!(opened.made_from(&places), Err(PackError::Other { .. })));
    // Nor is the pack written over what it is made from.
    std::fs::write(&weights, chain.file()).expect("it writes");
    let over = write(&places, &chain.wanted(), &weights, &mut |_, _| {});
    assert!(over.is_err() && std::fs::read(&weights).expect("it is there") == chain.file());
}

#[test]
fn a_pack_that_failed_goes_on_where_it_stopped() {
    // Large enough that some is made sure of before the end.
    let chain = Chain { tasks: 8, bytes: 40 << 20, ..Chain::default() };
    let folder = Folder::with("resume", &chain);
    let place = folder.0.join("w.berth");
    // A read brings 4 MiB, ten a weight; what is written is made sure of with every second weight.
    let failed = pack(&folder, &chain, Some(Moody::new(0, Mood::FailsAt(75))));
    assert!(matches!(failed, Err(PackError::Store(StoreError::Io { .. }))), "{failed:?}");
    assert!(!place.exists(), "there is no half pack");
    // A log that was cut off in the middle of a line counts up to there.
    let log = folder.0.join("w.berth.part.log");
    let text = std::fs::read(&log).expect("a log");
    std::fs::write(&log, &text[..text.len() - 5]).expect("it writes");
    let disk = Moody::new(0, Mood::Slow);
    let written = pack(&folder, &chain, Some(Moody::new(0, Mood::FailsAt(u64::MAX)))).expect("it packs");
    assert_eq!(written.found, 5, "six were there, and one line is cut off");
    let resumed = std::fs::read(&place).expect("a pack");
    std::fs::remove_file(&place).expect("it goes");
    let fresh = pack(&folder, &chain, None).expect("it packs");
    assert_eq!(fresh.found, 0);
    assert!(std::fs::read(&place).expect("a pack") == resumed, "both ways make the same");
    assert!(std::fs::read_dir(&folder.0).expect("the folder").count() == 2, "nothing is left beside");
    // Weights that changed meanwhile: nothing of the earlier try counts.
    std::fs::remove_file(&place).expect("it goes");
    assert!(pack(&folder, &chain, Some(Moody::new(0, Mood::FailsAt(75)))).is_err());
    let file = OpenOptions::new().write(true).open(folder.0.join("w.bin")).expect("it opens");
    file.write_all_at(&[0xaa; 8192], 0).expect("it writes");
    assert_eq!(pack(&folder, &chain, Some(disk)).expect("it packs").found, 0);
}

#[test]
fn what_leads_out_of_the_folder_is_not_read() {
    let chain = chain();
    let folder = Folder::with("out", &chain);
    let inside = folder.0.join("model");
    std::fs::create_dir(&inside).expect("a folder");
    std::os::unix::fs::symlink("../w.bin", inside.join("w.bin")).expect("a link");
    let load = |named: Option<&str>| {
        let mut options = Options::new(&inside);
        options.places.model = named.map(str::to_owned);
        Executor::load(&chain.program(), &chain.ports(), vec![Null::new(true)], &options).map(drop)
    };
    let said = load(None).expect_err("it is a link").to_string();
    assert!(said.contains("symbolic link"), "{said}");
    // The file that the user named may be a link.
    load(Some("w.bin")).expect("it loads");
    std::fs::remove_file(inside.join("w.bin")).expect("it goes");
    assert!(matches!(load(None), Err(LoadError::Store(StoreError::Absent { .. }))));
}
