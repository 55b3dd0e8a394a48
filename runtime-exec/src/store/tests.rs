//! Any range, matrix and rows are read to any address.

use super::pieces::GAP_MAX;
use super::*;

/// A store of one file of so many bytes, each a function of its place, and what of it is read.
struct Case {
    content: Vec<u8>,
    places: Places,
}

impl Case {
    fn new(name: &str, bytes: usize) -> Case {
        let folder = std::env::temp_dir().join(format!("berth-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let content: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect();
        std::fs::write(folder.join("w"), &content).expect("a file");
        Case { content, places: Places::folder(&folder) }
    }

    fn read(&self, layout: Layout, to: &mut [u8]) -> Result<(), StoreError> {
        let wish = Wanted { what: "test".to_owned(), file: "w".to_owned(), layout, bytes: to.len() as u64 };
        let (mut store, sources) = Store::open(&self.places, &[wish])?;
        store.read_now(sources[0], to, "test")?;
        let first = to.to_vec();
        // The same where a file system cannot read past the page cache.
        to.fill(0);
        rustix::fs::fcntl_setfl(&*store.files[0].file, rustix::fs::OFlags::empty()).expect("flags");
        store.files[0].direct = false;
        store.read_now(sources[0], to, "test")?;
        assert!(first == to, "{layout:?}");
        Ok(())
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.places.folder);
    }
}

#[test]
fn any_range_is_read_to_any_address() {
    let case = Case::new("ranges", 3 * BOUNCE + 777);
    let mut memory = vec![0u8; 3 * BOUNCE + 3 * PAGE];
    for (offset, bytes) in
        [(0, 1), (1, PAGE), (PAGE, PAGE), (511, 2 * BOUNCE), (PAGE, 2 * BOUNCE + 5), (0, 3 * BOUNCE + 777)]
    {
        for shift in [0, 1, 64, offset % PAGE] {
            let skip = memory.as_ptr().align_offset(PAGE) + shift;
            let to = &mut memory[skip..skip + bytes];
            case.read(Layout::packed(offset as u64), to).expect("it reads");
            assert!(*to == case.content[offset..offset + bytes], "{bytes} bytes at {offset}, {shift} behind a page");
        }
    }
    assert!(case.read(Layout::packed(3 * BOUNCE as u64 + 770), &mut memory[..8]).is_err());
}

#[test]
fn a_matrix_is_transposed_on_the_way() {
    let case = Case::new("matrix", 5 << 20);
    // Small, ragged, many rows, rows longer than the buffer, one row, one column, none.
    for (rows, columns, element) in [
        (3, 5, 4),
        (33, 70, 1),
        (333, 77, 2),
        (1000, 1000, 4),
        (2, 300_000, 4),
        (3, 200_001, 8),
        (1, 1000, 4),
        (1000, 1, 4),
        (0, 7, 4),
        (7, 0, 4),
    ] {
        let matrix = Transposed { rows, columns, element };
        let bytes = columns * element;
        // As it is; a part of wider rows, near each other and far apart.
        for gap in [0, 12, 3 * GAP_MAX] {
            let pitch = bytes + gap;
            if gap > 0 && (rows == 0 || bytes == 0 || 129 + rows * pitch > case.content.len() as u64) {
                continue;
            }
            let strip = (gap > 0).then_some(Strip { rows, bytes, pitch });
            let from = Layout { offset: 129, strip, transposed: Some(matrix) };
            let mut to = vec![0u8; matrix.bytes().expect("a size") as usize];
            case.read(from, &mut to).expect("it reads");
            let (rows, columns, element) = (rows as usize, columns as usize, element as usize);
            for r in (0..rows).step_by(rows / 50 + 1) {
                for c in (0..columns).step_by(columns / 50 + 1) {
                    let source = &case.content[129 + r * pitch as usize + c * element..][..element];
                    assert_eq!(&to[(c * rows + r) * element..][..element], source, "{from:?} at {r}, {c}");
                }
            }
        }
    }
}

#[test]
fn rows_that_lie_apart_are_read_packed() {
    let case = Case::new("strip", 5 << 20);
    // Near, far, touching, longer than the buffer, ending with the file, one.
    for (offset, rows, bytes, pitch) in [
        (7, 1000, 60, 700),
        (0, 20, 8192, 200_000),
        (129, 50, 4096, 4096),
        (1, 2, 2 << 20, (2 << 20) + 9),
        ((5 << 20) - 2900, 3, 900, 1000),
        (4096, 1, 100, 1 << 40),
    ] {
        let from = Layout { offset, strip: Some(Strip { rows, bytes, pitch }), transposed: None };
        let mut to = vec![0u8; (rows * bytes) as usize];
        case.read(from, &mut to).expect("it reads");
        for (row, packed) in to.chunks_exact(bytes as usize).enumerate() {
            let start = (offset + row as u64 * pitch) as usize;
            assert!(*packed == case.content[start..start + bytes as usize], "{from:?} at row {row}");
        }
        assert!(from.end(rows * bytes) <= case.content.len() as u64);
    }
}
