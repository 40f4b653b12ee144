//! Disks in memory that record what is done to them, cut their power at any point, and fail on demand.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::StorageBackend;

use crate::embedded::log::Disks;

const SECTOR: usize = 512;

/// One of the store's files.
const FILES: usize = 4;

/// What the files hold.
pub type Images = [Vec<u8>; FILES];

#[derive(Debug, Clone)]
pub enum Action {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    SetLen(usize),
    Sync,
    /// What was written before and is not safe stays in the cache, counts as written, and is lost with the power.
    FailedSync,
}

/// What was done to which file.
#[derive(Debug, Clone)]
pub struct DiskOp {
    pub file: usize,
    pub action: Action,
}

/// What fails from now on, on every file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failing {
    #[default]
    Nothing,
    /// Growth, for want of space.
    Growth,
    /// Every write and growth, for want of space.
    Writes,
    /// Every fsync, because the device is gone.
    Syncs,
}

#[derive(Debug, Default)]
struct Inner {
    images: Images,
    ops: Vec<DiskOp>,
    failing: Failing,
    /// Operations that still succeed before the failure begins.
    grace: usize,
}

/// The files of one store. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Machine(Arc<Mutex<Inner>>, Arc<Stall>);

/// Whether fsyncs hang, and the end of that.
#[derive(Debug, Default)]
struct Stall(Mutex<bool>, Condvar);

/// One file of a machine.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    machine: Machine,
    file: usize,
}

impl Machine {
    pub fn of(images: Images) -> Self {
        Self(Arc::new(Mutex::new(Inner { images, ..Inner::default() })), Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn disks(&self) -> Disks<MemoryDisk> {
        let disk = |file| MemoryDisk { machine: self.clone(), file };
        Disks { bases: [disk(0), disk(1)], slots: [disk(2), disk(3)] }
    }

    pub fn images(&self) -> Images {
        self.lock().images.clone()
    }

    pub fn ops(&self) -> Vec<DiskOp> {
        self.lock().ops.clone()
    }

    pub fn op_count(&self) -> usize {
        self.lock().ops.len()
    }

    /// Does what another machine's files had done to them.
    pub fn redo(&self, op: &DiskOp) {
        apply(&mut self.lock().images[op.file], &op.action);
    }

    /// Lets every fsync hang, or go on.
    pub fn stall(&self, is_stalled: bool) {
        *self.1.0.lock().unwrap() = is_stalled;
        self.1.1.notify_all();
    }

    /// Fails after `grace` more operations.
    pub fn fail(&self, failing: Failing, grace: usize) {
        let mut inner = self.lock();
        (inner.failing, inner.grace) = (failing, grace);
    }
}

impl MemoryDisk {
    fn run(&self, action: Action) -> io::Result<()> {
        let mut inner = self.machine.lock();
        let is_struck = match (inner.failing, &action) {
            (Failing::Growth, Action::SetLen(len)) => *len > inner.images[self.file].len(),
            (Failing::Writes, Action::SetLen(_) | Action::Write { .. }) => true,
            (Failing::Syncs, Action::Sync) => true,
            _ => false,
        };
        if is_struck && inner.grace == 0 {
            if let Action::Sync = action {
                inner.ops.push(DiskOp { file: self.file, action: Action::FailedSync });
                return Err(io::ErrorKind::Other.into());
            }
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.grace = inner.grace.saturating_sub(usize::from(inner.failing != Failing::Nothing));
        apply(&mut inner.images[self.file], &action);
        inner.ops.push(DiskOp { file: self.file, action });
        Ok(())
    }
}

impl StorageBackend for MemoryDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.machine.lock().images[self.file].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.machine.lock();
        let from = usize::try_from(offset).unwrap();
        let data = inner.images[self.file].get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(Action::SetLen(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let stall = &self.machine.1;
        drop(stall.1.wait_while(stall.0.lock().unwrap(), |is_stalled| *is_stalled).unwrap());
        self.run(Action::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.run(Action::Write { offset: usize::try_from(offset).unwrap(), data: data.to_vec() })
    }
}

fn apply(image: &mut Vec<u8>, action: &Action) {
    match action {
        // What lies behind the end on the disk was never part of the file.
        Action::Write { offset, data } => {
            let end = (offset + data.len()).min(image.len());
            if *offset < end {
                image[*offset..end].copy_from_slice(&data[..end - offset]);
            }
        }
        Action::SetLen(len) => image.resize(*len, 0),
        Action::Sync | Action::FailedSync => {}
    }
}

/// What a power cut leaves of the operations that no fsync has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    All,
    None,
    /// All but the last, of which the first sectors survive.
    TornLast,
    /// All but one.
    AllBut(usize),
    /// One alone.
    Only(usize),
    /// Some sectors of some.
    Random(u64),
}

/// Which of the first `cut` operations are safe: those with a later fsync of the same file. The last
/// `lost_syncs` fsyncs reported success and did nothing.
fn safety(ops: &[DiskOp], cut: usize, lost_syncs: usize) -> Vec<bool> {
    let mut synced = [false; FILES];
    let mut lost = lost_syncs;
    let mut safe = vec![false; cut];
    for index in (0..cut).rev() {
        let file = ops[index].file;
        if let Action::Sync = ops[index].action {
            if lost > 0 {
                lost -= 1;
            } else {
                synced[file] = true;
            }
        }
        if let Action::FailedSync = ops[index].action {
            synced[file] = false;
        }
        safe[index] = synced[file];
    }
    safe
}

/// A power cut after the first `cut` operations of a run.
pub struct PowerCut<'a> {
    /// The disks with what is safe.
    safe: Images,
    /// What may be lost.
    open: Vec<&'a DiskOp>,
}

impl<'a> PowerCut<'a> {
    pub fn new(start: &Images, ops: &'a [DiskOp], cut: usize, lost_syncs: usize) -> Self {
        let mut images = start.clone();
        let mut open = Vec::new();
        for (op, is_safe) in ops.iter().zip(safety(ops, cut, lost_syncs)) {
            match op.action {
                _ if is_safe => apply(&mut images[op.file], &op.action),
                Action::Sync | Action::FailedSync => {}
                _ => open.push(op),
            }
        }
        Self { safe: images, open }
    }

    /// Every kind of loss.
    pub fn losses(&self, seed: u64) -> Vec<Survivors> {
        let open = self.open.len();
        if open == 0 {
            return vec![Survivors::None];
        }
        let mut losses = vec![Survivors::All, Survivors::None, Survivors::TornLast];
        if open > 1 {
            losses.extend((0..open).map(Survivors::AllBut));
            losses.extend((0..open).map(Survivors::Only));
        }
        losses.extend((0..4).map(|more| Survivors::Random(seed * 4 + more)));
        losses
    }

    pub fn images(&self, left: Survivors) -> Images {
        let mut images = self.safe.clone();
        let mut random = StdRng::seed_from_u64(if let Survivors::Random(seed) = left { seed } else { 0 });
        for (index, op) in self.open.iter().enumerate() {
            let image = &mut images[op.file];
            let is_last = index + 1 == self.open.len();
            match left {
                Survivors::All => apply(image, &op.action),
                Survivors::None => {}
                Survivors::TornLast if is_last => {
                    tear(image, &op.action, |sector, sectors| sector * 2 < sectors);
                }
                Survivors::TornLast => apply(image, &op.action),
                Survivors::AllBut(other) if index == other => {}
                Survivors::AllBut(_) => apply(image, &op.action),
                Survivors::Only(own) if index == own => apply(image, &op.action),
                Survivors::Only(_) => {}
                Survivors::Random(_) => match random.random_range(0..3) {
                    0 => {}
                    1 => apply(image, &op.action),
                    _ => tear(image, &op.action, |_, _| random.random_bool(0.5)),
                },
            }
        }
        images
    }
}

fn tear(image: &mut Vec<u8>, action: &Action, mut is_written: impl FnMut(usize, usize) -> bool) {
    let Action::Write { offset, data } = action else { return apply(image, action) };
    let sectors = data.len().div_ceil(SECTOR);
    for (sector, bytes) in data.chunks(SECTOR).enumerate() {
        if is_written(sector, sectors) {
            apply(image, &Action::Write { offset: offset + sector * SECTOR, data: bytes.to_vec() });
        }
    }
}
