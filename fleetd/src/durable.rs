//! Small files that survive a crash whole: written beside, synced, renamed, directory synced.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces `path` by `bytes`, readable by root alone. After the return the new content survives a power cut; after an
/// error the old content is still there.
///
/// # Errors
/// Of the file system, a full one included.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(beside, path)
    })();
    if written.is_err() {
        // Whatever is left is of no use; the error that matters is the first one.
        let _ = fs::remove_file(beside);
    }
    written?;
    File::open(directory)?.sync_all()
}
