//! The kernel's queue of reads (io_uring): a depth without threads, files and memory known to it beforehand.

#![allow(unsafe_code, reason = "hands addresses to the kernel")]

use crate::store::queue::{Ended, Nudge, Queue, Read};
use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Memory is registered in parts of at most so many bytes, which is the kernel's limit.
const PART: usize = 1 << 30;
/// Parts that a ring registers at most, which is the kernel's limit too.
const PARTS_MAX: usize = 1 << 14;

/// A ring with reads under way.
pub(crate) struct Ring {
    ring: IoUring,
    /// What its numbers for files mean: kept open as long as the kernel knows them.
    _files: Vec<Arc<File>>,
    /// Parts of memory that the kernel has pinned, by address.
    parts: Vec<(usize, usize)>,
    under_way: usize,
    bell: Arc<Bell>,
    /// Whether the ring watches the bell.
    watched: bool,
}

/// By which a wait is known that a nudge has ended.
const BELL: u64 = u64::MAX;

/// A number that the kernel keeps; the ring sees when it is not zero.
#[derive(Debug)]
struct Bell(OwnedFd);

impl Nudge for Bell {
    fn nudge(&self) {
        // It fails only where the number is at its end, and then the ring sees it anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("parts", &self.parts.len()).field("under_way", &self.under_way).finish()
    }
}

impl Ring {
    /// A ring for so many reads. `memory` (address, bytes) is registered where the kernel lets us; reads elsewhere are
    /// as good, with a little more work each.
    ///
    /// # Safety
    /// The memory is valid as long as the ring lives.
    pub unsafe fn new(files: Vec<Arc<File>>, memory: &[(usize, usize)], depth: usize) -> io::Result<Ring> {
        let ring = IoUring::builder().build((depth + 1).next_power_of_two() as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let known = [opcode::Read::CODE, opcode::ReadFixed::CODE, opcode::PollAdd::CODE]
            .iter()
            .all(|code| probe.is_supported(*code));
        if !known || !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let descriptors: Vec<i32> = files.iter().map(|file| file.as_raw_fd()).collect();
        ring.submitter().register_files(&descriptors)?;
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for (start, bytes) in memory {
            parts.extend((0..*bytes).step_by(PART).map(|skip| (start + skip, PART.min(bytes - skip))));
        }
        parts.sort_unstable();
        let vectors: Vec<libc::iovec> =
            parts.iter().map(|(start, bytes)| libc::iovec { iov_base: *start as *mut _, iov_len: *bytes }).collect();
        // SAFETY: the memory is valid as long as the ring is, as the caller promises. What may not be pinned (a limit on
        // locked memory) is read to without.
        let registered = parts.len() <= PARTS_MAX && unsafe { ring.submitter().register_buffers(&vectors) }.is_ok();
        if !registered {
            parts.clear();
        }
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let bell = Arc::new(Bell(rustix::event::eventfd(0, flags)?));
        Ok(Ring { ring, _files: files, parts, under_way: 0, bell, watched: false })
    }

    /// The registered part that a range lies in.
    fn part(&self, start: usize, bytes: usize) -> Option<u16> {
        let place = self.parts.partition_point(|part| part.0 <= start).checked_sub(1)?;
        let (from, length) = self.parts[place];
        (start + bytes <= from + length).then_some(place as u16)
    }

    fn enter(&mut self, want: usize, most: Duration) -> io::Result<()> {
        let time = Timespec::from(most);
        let args = SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

impl Queue for Ring {
    unsafe fn submit(&mut self, read: Read) -> io::Result<()> {
        let (file, length) = (Fixed(read.file as u32), read.bytes as u32);
        let entry = match self.part(read.to as usize, read.bytes) {
            Some(part) => opcode::ReadFixed::new(file, read.to, length, part).offset(read.at).build(),
            None => opcode::Read::new(file, read.to, length).offset(read.at).build(),
        };
        // SAFETY: the file is registered and kept; the memory stays valid until the read has ended, as the caller
        // promises.
        unsafe { self.ring.submission().push(&entry.user_data(read.token as u64)) }
            .map_err(|_| io::Error::other("the ring is full"))?;
        self.under_way += 1;
        // What the kernel does not take now it takes with the next wait, which also meets an error that lasts.
        let _ = self.ring.submit();
        Ok(())
    }

    fn wait(&mut self, most: Duration) -> io::Result<Option<Ended>> {
        if !self.watched {
            let watch = opcode::PollAdd::new(Fd(self.bell.0.as_raw_fd()), libc::POLLIN as u32).build().user_data(BELL);
            // SAFETY: it names no memory, and the bell is open as long as the ring.
            self.watched = unsafe { self.ring.submission().push(&watch) }.is_ok();
        }
        for again in [true, false] {
            if let Some(entry) = self.ring.completion().next() {
                if entry.user_data() == BELL {
                    self.watched = false;
                    let _ = rustix::io::read(&self.bell.0, &mut [0; 8]);
                    return Ok(None);
                }
                self.under_way -= 1;
                let result = match entry.result() {
                    bytes @ 0.. => Ok(bytes as usize),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
                return Ok(Some((entry.user_data() as usize, result)));
            }
            if again {
                self.enter(1, most)?;
            }
        }
        Ok(None)
    }

    fn nudge(&self) -> Arc<dyn Nudge> {
        self.bell.clone()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel writes to memory that may be gone after this: reads end, a disk's own limits see to that.
        while self.under_way > 0 && self.wait(Duration::from_secs(1)).is_ok() {}
    }
}
