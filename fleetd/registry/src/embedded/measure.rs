//! How fast the store takes writes here, beside how fast the disk syncs: for benchmarks.
//!
//! Called by the project's benchmarks and by `examples/embedded_put.rs`; fleetd never does.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{EmbeddedStore, OpenError};
use crate::store::{Op, Store, StoreError, Txn};

/// About a unit's row of state.
const VALUE_BYTES: usize = 256;

/// Keys of each writer.
const KEYS: u64 = 200;

/// What was measured in one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PutRates {
    /// Appends of one value to a bare file, each with an fsync, per second.
    pub bare: f64,
    /// Answered puts per second, of all writers together.
    pub puts: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error("a file for the bare rate cannot be written")]
    Bare(#[from] io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("a put failed while it was measured")]
    Put(#[from] StoreError),
}

/// Appends and syncs for half of `time`, lets `writers` put for `time`, then appends again: the disk's
/// own pace changes from second to second. `directory` must be empty and is left with the files.
///
/// # Errors
/// When a file cannot be written, or the store refuses.
pub async fn put_rates(directory: &Path, writers: usize, time: Duration) -> Result<PutRates, MeasureError> {
    let before = bare_rate(&directory.join("bare"), time / 2)?;
    let store = EmbeddedStore::open(&directory.join("registry"))?;
    let begin = Instant::now();
    let tasks: Vec<_> =
        (0..writers).map(|writer| tokio::spawn(put(store.clone(), writer, begin + time))).collect();
    let mut puts = 0_u64;
    for task in tasks {
        puts += task.await.map_err(io::Error::other)??;
    }
    let puts = puts as f64 / begin.elapsed().as_secs_f64();
    let after = bare_rate(&directory.join("bare"), time / 2)?;
    Ok(PutRates { bare: f64::midpoint(before, after), puts })
}

async fn put(store: EmbeddedStore, writer: usize, end: Instant) -> Result<u64, StoreError> {
    let mut puts = 0;
    while Instant::now() < end {
        let key = format!("/fleet/states/m{writer}/u{:04}.service", puts % KEYS);
        store.txn(Txn::of(vec![Op::put(key, vec![b'x'; VALUE_BYTES])])).await?;
        puts += 1;
    }
    Ok(puts)
}

fn bare_rate(path: &Path, time: Duration) -> io::Result<f64> {
    let mut file = File::create(path)?;
    let begin = Instant::now();
    let mut appends = 0_u64;
    while begin.elapsed() < time {
        file.write_all(&[b'x'; VALUE_BYTES])?;
        file.sync_data()?;
        appends += 1;
    }
    Ok(appends as f64 / begin.elapsed().as_secs_f64())
}
