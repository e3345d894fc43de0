//! Memory files in huge pages: sendfile takes a page at a time, so a file with fewer pages costs less to
//! send.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// The size of a huge page. A system with another size refuses.
const HUGE: usize = 2 * 1024 * 1024;

/// Moves the contents of a memory file of `length` bytes into huge pages, except for a last part that fills
/// no page: a file shorter than a huge page is left unchanged. Others may use the file at the same time.
///
/// MADV_COLLAPSE, of Linux 6.1.
///
/// # Errors
///
/// The system's error: it does not know the call, or has no huge pages free. Some of the contents may be in
/// huge pages then.
pub fn collapse(file: &impl AsFd, length: usize) -> io::Result<()> {
    if length < HUGE {
        return Ok(());
    }
    let mapping = Mapping::new(file, length)?;
    // SAFETY: the mapping lasts until the end of the function, and the call changes no contents.
    match unsafe { libc::madvise(mapping.start, length, COLLAPSE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The C libraries do not all name it.
const COLLAPSE: libc::c_int = 25;

/// A file in memory, at an address that huge pages may have.
struct Mapping {
    /// A range of addresses that nothing else uses.
    reserved: *mut libc::c_void,
    reserved_length: usize,
    /// The file begins here.
    start: *mut libc::c_void,
}

impl Mapping {
    fn new(file: &impl AsFd, length: usize) -> io::Result<Mapping> {
        let reserved_length = length.checked_add(HUGE).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let (none, fd) = (ptr::null_mut(), -1);
        // SAFETY: a new range, where the system chooses, overlaps no memory in use.
        let reserved = unsafe { libc::mmap(none, reserved_length, libc::PROT_NONE, flags, fd, 0) };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = reserved.wrapping_byte_add(reserved.align_offset(HUGE));
        // From here on `drop` unmaps the range after a failure.
        let mapping = Mapping { reserved, reserved_length, start };
        let (flags, fd) = (libc::MAP_SHARED | libc::MAP_FIXED, file.as_fd().as_raw_fd());
        // SAFETY: the file's range is within the reserved one, which begins at most HUGE bytes earlier and
        // is HUGE bytes longer; nothing else refers to it. The descriptor is open while `file` is borrowed.
        let at = unsafe { libc::mmap(start, length, libc::PROT_READ, flags, fd, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapping) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own, and nothing refers to its memory any more.
        unsafe { libc::munmap(self.reserved, self.reserved_length) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::FromRawFd;

    use super::*;

    fn memory_file(contents: &[u8]) -> File {
        // SAFETY: the name is a C string, and only this file owns the new descriptor.
        let mut file = unsafe {
            let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            File::from_raw_fd(fd)
        };
        file.write_all(contents).expect("memory");
        file
    }

    /// The KiB of a mapping that are in huge pages, as reported by the system.
    fn huge(mapping: &Mapping) -> usize {
        let maps =
            std::fs::read_to_string("/proc/self/smaps").expect("the mappings of this process");
        // The system writes eight digits at least.
        let own = format!("{:08x}-", mapping.start.addr());
        let rest = maps.lines().skip_while(|line| !line.starts_with(&own));
        let line = rest.clone().find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
        size.expect("a number of KiB").parse().expect("a number")
    }

    #[test]
    fn contents_in_huge_pages_are_the_same() {
        for length in [0, 100_000, HUGE - 1, HUGE, 2 * HUGE + 12_345] {
            let contents: Vec<u8> = (0..length).map(|at| (at * 7 / 4096) as u8).collect();
            let mut file = memory_file(&contents);
            match collapse(&file, length) {
                Err(error) => eprintln!("skipped: no huge pages: {error}"),
                Ok(()) if length < HUGE => {}
                Ok(()) => {
                    let mapping = Mapping::new(&file, length).expect("memory");
                    // SAFETY: the mapping allows reads, and no thread writes to the file.
                    let first = unsafe { mapping.start.cast::<u8>().read_volatile() };
                    assert_eq!(first, contents[0]);
                    assert!(huge(&mapping) >= HUGE / 1024, "{length}");
                }
            }
            let mut read = Vec::new();
            file.rewind().expect("a file");
            file.read_to_end(&mut read).expect("a file");
            assert!(read == contents, "{length}");
        }
    }
}
