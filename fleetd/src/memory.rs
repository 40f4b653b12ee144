//! Memory that nobody uses is given back to the machine.
//!
//! A batch of hundreds of units, or a relist, leaves the heap with holes that the C library keeps: several times what
//! a machine at rest needs. And a start or a burst runs through most of the program, a machine at rest through little of
//! it. `main` supervises the one task here; it touches nothing else.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Often enough that a burst is forgotten within a minute; a look at a heap without holes takes microseconds.
const BETWEEN_LOOKS: Duration = Duration::from_secs(30);

/// Returns free pages of the heap now and then, and lets go of what the program has in its file, until `shutdown`.
pub async fn give_back(shutdown: CancellationToken) {
    // Cancel-safe: a sleep has no state worth keeping.
    while shutdown.run_until_cancelled(tokio::time::sleep(BETWEEN_LOOKS)).await.is_some() {
        trim();
        if let Err(error) = program::unmap() {
            debug!(%error, "code that is not used any more stays mapped");
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3) is only there as a foreign function")]
fn trim() {
    // SAFETY: it takes a number, may be called from any thread at any time, and changes no live allocation.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// Pages of the program itself: its code and its constants.
mod program {
    use std::io;
    use std::ops::Range;

    /// Takes them out of this process's page table. What is used again comes back from the page cache, a few
    /// microseconds for each 64 KiB (a machine at rest uses some seventy of these). What is not used is page cache like any
    /// other: the kernel may drop it when memory is short, as far as the unit's `MemoryMin=` lets it.
    ///
    /// # Errors
    /// Without `/proc`, or where the kernel refuses; then everything is as before.
    pub(super) fn unmap() -> io::Result<()> {
        let program = std::fs::read_link("/proc/self/exe")?;
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        ranges(&maps, &program.to_string_lossy()).iter().try_for_each(drop_pages)
    }

    /// The mappings of `program` that were never written to, as proc_pid_maps(5) lists them: code, and the constants at
    /// the begin of the file. Others that are read-only now were filled by the dynamic linker, and are not in the file.
    pub(super) fn ranges(maps: &str, program: &str) -> Vec<Range<usize>> {
        let of_line = |line: &str| {
            // address perms offset dev inode path; a path may hold blanks.
            let (rest, path) = line.split_once('/')?;
            let mut fields = rest.split_whitespace();
            let (from, to) = fields.next()?.split_once('-')?;
            let (access, offset) = (fields.next()?, fields.next()?);
            let is_as_in_the_file = access == "r-xp" || (access == "r--p" && offset == "00000000");
            let is_ours = program.strip_prefix('/') == Some(path);
            let address = |text| usize::from_str_radix(text, 16).ok();
            (is_as_in_the_file && is_ours).then_some(address(from)?..address(to)?)
        };
        maps.lines().filter_map(of_line).collect()
    }

    #[expect(unsafe_code, reason = "madvise(2) can take away memory that is in use")]
    fn drop_pages(range: &Range<usize>) -> io::Result<()> {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the range is a mapping of a file that cannot be written through. Its pages are those of the page cache,
        // and any access finds the same ones again.
        let done = unsafe { nix::libc::madvise(start, range.len(), nix::libc::MADV_DONTNEED) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::program::{ranges, unmap};

    const MAPS: &str = "\
55d0aaa00000-55d0aaa80000 r--p 00000000 fe:00 17 /usr/bin/fleetd
55d0aaa80000-55d0aaf00000 r-xp 00080000 fe:00 17 /usr/bin/fleetd
55d0aaf00000-55d0aaf40000 r--p 004ff000 fe:00 17 /usr/bin/fleetd
55d0aaf40000-55d0aaf50000 rw-p 0053f000 fe:00 17 /usr/bin/fleetd
55d0ab000000-55d0ab021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000100000 r-xp 00028000 fe:00 23 /usr/lib/x86_64-linux-gnu/libc.so.6
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
";

    #[test]
    fn only_what_the_program_has_in_its_file_is_let_go() {
        let let_go = [0x55d0_aaa0_0000..0x55d0_aaa8_0000, 0x55d0_aaa8_0000..0x55d0_aaf0_0000];
        assert_eq!(ranges(MAPS, "/usr/bin/fleetd"), let_go);
        assert!(ranges(MAPS, "/usr/bin/fleet").is_empty());
    }

    #[test]
    fn a_program_runs_on_after_its_code_was_let_go() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        assert!(!ranges(&maps, program.to_str().unwrap()).is_empty(), "{maps}");
        unmap().unwrap();
        unmap().unwrap();
    }
}
