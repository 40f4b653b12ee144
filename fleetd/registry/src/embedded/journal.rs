//! The journal: each group of writes as one checksummed record, appended and synced.
//!
//! Owned by the log. Two slots take turns, filled with zeroes beforehand, so that an append changes
//! no metadata of the file system. A record names the one before it by its hash; what follows record
//! by record is the journal, and everything else in the slots is left over. A torn or lost end
//! therefore leaves a prefix, whichever of the writes arrived.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::disk::Disk;

/// Records begin on a sector of their own, so that appending never rewrites what is acknowledged. The
/// first sector of a slot is its label, written once.
const SECTOR: usize = 512;
const LABEL: &[u8] = b"journal slot of a fleet registry\0";
/// Length of the payload, number, hash of the record before, own hash.
const HEAD: usize = 4 + 8 + 16 + 16;
const NUMBER: Range<usize> = 4..12;
const BEFORE: Range<usize> = 12..28;
const HASH: Range<usize> = 28..44;
/// Bytes of a payload that are enough to find the name of a base in it.
const BEGIN: usize = 64;

/// What a slot has room for. Some thousands of changes: what has to be read again at the start, and
/// half of the history that is kept. Tests copy the files thousands of times and want them small.
const SLOT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 2 << 20 };

/// A small store takes its slots for full earlier, since their contents are in memory as history.
const LEAST_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 512 << 10 };

/// A slot that one group needs more of grows by this, at least.
const GROWTH_BYTES: u64 = 64 << 10;

/// Names a record, and with it all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub number: u64,
    pub hash: [u8; 16],
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("reading the journal failed")]
    Io(#[from] io::Error),
    #[error("record {number} of the journal is damaged, and {later} later ones are not")]
    Gap { number: u64, later: usize },
    #[error("its first sector is damaged, or it was cut short")]
    Label { slot: usize },
}

#[derive(Debug)]
pub(super) struct Journal<D> {
    slots: [D; 2],
    slot: usize,
    /// Where the next record goes.
    at: u64,
    /// Where the slot is taken for full.
    full_at: u64,
    last: Link,
    /// Records that were read back and may be in the system's cache alone.
    unsure: Vec<Unsure>,
}

/// A record as it was read back, whole sectors.
#[derive(Debug)]
struct Unsure {
    slot: usize,
    at: u64,
    bytes: Vec<u8>,
}

/// A record whose own checksum is right.
#[derive(Debug)]
pub(super) struct Record {
    pub link: Link,
    /// The first bytes of the payload.
    pub begin: Vec<u8>,
    before: [u8; 16],
    slot: usize,
    sectors: Range<usize>,
    len: usize,
}

/// All records of both slots, by number. Several can have the same one: what is left over of a
/// timeline that was given up.
#[derive(Debug)]
pub(super) struct Records(BTreeMap<u64, Vec<Record>>);

impl Records {
    pub fn read<D: Disk>(slots: &[D; 2]) -> Result<Self, JournalError> {
        let mut all: BTreeMap<u64, Vec<Record>> = BTreeMap::new();
        for (slot, disk) in slots.iter().enumerate() {
            for record in scan(disk, slot)? {
                all.entry(record.link.number).or_default().push(record);
            }
        }
        Ok(Self(all))
    }

    pub fn newest_first(&self) -> impl Iterator<Item = &Record> {
        self.0.values().rev().flatten()
    }

    fn take(&mut self, link: Link) -> Option<Record> {
        let same = self.0.remove(&link.number)?;
        same.into_iter().find(|record| record.link == link)
    }

    fn take_after(&mut self, last: Link) -> Option<Record> {
        let number = last.number + 1;
        let same = self.0.get(&number)?;
        let link = same.iter().find(|record| record.before == last.hash)?.link;
        self.take(link)
    }
}

impl<D: Disk> Journal<D> {
    /// Labels the slots and fills them with zeroes; the first record goes to the begin of the first one.
    pub fn create(slots: [D; 2]) -> io::Result<Self> {
        for (number, slot) in slots.iter().enumerate() {
            slot.set_len(SLOT_BYTES)?;
            slot.write(0, &label(number))?;
            slot.sync_data()?;
        }
        Ok(Self::new(slots))
    }

    fn new(slots: [D; 2]) -> Self {
        Self {
            slots,
            slot: 0,
            at: SECTOR as u64,
            full_at: SLOT_BYTES,
            last: Link::default(),
            unsure: Vec::new(),
        }
    }

    /// The journal from the record `first` on, and its records, oldest first.
    pub fn open(
        slots: [D; 2],
        mut records: Records,
        first: Link,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        let mut journal = Self::new(slots);
        let mut chain = Vec::new();
        let mut next = records.take(first);
        while let Some(record) = next {
            journal.slot = record.slot;
            journal.at = (record.sectors.end * SECTOR) as u64;
            journal.last = record.link;
            next = records.take_after(record.link);
            chain.push(record);
        }
        let number = journal.last.number + 1;
        let later: Vec<&Record> = records.0.range(number..).flat_map(|(_, same)| same).collect();
        // One may be the group that was on its way when the fsync of the group before it was lost;
        // with more, somebody has damaged what was safe.
        if later.len() > 1 {
            return Err(JournalError::Gap { number, later: later.len() });
        }
        for record in later {
            // Else it might be taken for a later one of the records to come.
            journal.slots[record.slot].write((record.sectors.start * SECTOR) as u64, &[0; SECTOR])?;
            journal.slots[record.slot].sync_data()?;
        }
        Ok((journal, chain))
    }

    /// What is in a record.
    pub fn payload(&self, record: &Record) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; record.len];
        self.slots[record.slot].read((record.sectors.start * SECTOR + HEAD) as u64, &mut payload)?;
        Ok(payload)
    }

    /// Has the record written once more with the next one, before the fsync. If its own fsync has failed, the system
    /// takes it for written, gives it back when it is read, and would never write it by itself.
    pub fn write_back(&mut self, record: &Record) -> io::Result<()> {
        let at = (record.sectors.start * SECTOR) as u64;
        let mut bytes = vec![0; record.sectors.len() * SECTOR];
        let disk = &self.slots[record.slot];
        // The last record of a slot may end before a sector does.
        let len = usize::try_from(disk.len()?.saturating_sub(at)).unwrap_or(usize::MAX);
        bytes.truncate(len);
        disk.read(at, &mut bytes)?;
        if read_record(&bytes, record.slot, record.sectors.start)
            .is_none_or(|again| again.link != record.link)
        {
            return Err(io::Error::other(format!(
                "record {} of the journal reads differently the second time",
                record.link.number
            )));
        }
        self.unsure.push(Unsure { slot: record.slot, at, bytes });
        Ok(())
    }

    /// The newest record.
    pub fn last(&self) -> Link {
        self.last
    }

    pub fn is_full(&self) -> bool {
        self.at >= self.full_at
    }

    /// Goes on in a slot that is full, if there is room beyond; `false`: there is none.
    pub fn put_off(&mut self) -> bool {
        if self.at >= SLOT_BYTES {
            return false;
        }
        self.full_at = (self.at + GROWTH_BYTES).min(SLOT_BYTES);
        true
    }

    /// Takes slots for full when they hold about as much as the store, which has to be written then.
    pub fn fit(&mut self, store_bytes: u64) {
        self.full_at = store_bytes.clamp(LEAST_BYTES, SLOT_BYTES);
    }

    /// Bytes of both slots.
    pub fn size(&self) -> u64 {
        self.slots.iter().map(|slot| slot.len().unwrap_or(0)).sum()
    }

    /// Goes on in the other slot, over what is there. Everything in it must be in the base.
    pub fn switch(&mut self) {
        self.slot = 1 - self.slot;
        self.at = SECTOR as u64;
    }

    /// Appends a record and syncs. After an error of a write nothing was appended, and it may be tried
    /// again; after one of the fsync nobody knows.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let (link, bytes) = record(self.last, payload);
        let slot = &self.slots[self.slot];
        let end = self.at + bytes.len() as u64;
        if end > slot.len()? {
            slot.set_len(end.next_multiple_of(GROWTH_BYTES))?;
        }
        for unsure in &self.unsure {
            self.slots[unsure.slot].write(unsure.at, &unsure.bytes)?;
        }
        slot.write(self.at, &bytes)?;
        let other = 1 - self.slot;
        if self.unsure.iter().any(|unsure| unsure.slot == other) {
            self.slots[other].sync_data()?;
        }
        slot.sync_data()?;
        self.unsure.clear();
        self.at = end;
        self.last = link;
        Ok(())
    }
}

/// Whole sectors: a record after `before`.
fn record(before: Link, payload: &[u8]) -> (Link, Vec<u8>) {
    let number = before.number + 1;
    let len = u32::try_from(payload.len()).expect("a group of writes has less than 4 GiB");
    let hash = hash(len, number, before.hash, payload);
    let mut bytes = Vec::with_capacity((HEAD + payload.len()).next_multiple_of(SECTOR));
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&before.hash);
    bytes.extend_from_slice(&hash);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    (Link { number, hash }, bytes)
}

fn hash(len: u32, number: u64, before: [u8; 16], payload: &[u8]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(len.to_le_bytes());
    hasher.update(number.to_le_bytes());
    hasher.update(before);
    hasher.update(payload);
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize()[..16]);
    short
}

fn label(slot: usize) -> [u8; SECTOR] {
    let mut label = [0; SECTOR];
    label[..LABEL.len()].copy_from_slice(LABEL);
    label[LABEL.len()] = u8::try_from(slot).expect("there are two slots");
    label
}

/// Every record of a slot, at whatever sector it begins.
fn scan<D: Disk>(disk: &D, slot: usize) -> Result<Vec<Record>, JournalError> {
    let len = disk.len()?;
    if len < SLOT_BYTES {
        return Err(JournalError::Label { slot });
    }
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    disk.read(0, &mut bytes)?;
    if !bytes.starts_with(&label(slot)) {
        return Err(JournalError::Label { slot });
    }
    let mut records = Vec::new();
    let mut sector = 1;
    while sector * SECTOR + HEAD <= len {
        match read_record(&bytes[sector * SECTOR..], slot, sector) {
            Some(record) => {
                sector = record.sectors.end;
                records.push(record);
            }
            None => sector += 1,
        }
    }
    Ok(records)
}

fn read_record(bytes: &[u8], slot: usize, sector: usize) -> Option<Record> {
    let len = u32::from_le_bytes(bytes.get(..NUMBER.start)?.try_into().ok()?);
    let number = u64::from_le_bytes(bytes.get(NUMBER)?.try_into().ok()?);
    let before: [u8; 16] = bytes.get(BEFORE)?.try_into().ok()?;
    let own: [u8; 16] = bytes.get(HASH)?.try_into().ok()?;
    let end = HEAD.checked_add(usize::try_from(len).ok()?)?;
    // Zeroes are no record: numbers begin at one.
    let payload = bytes.get(HEAD..end).filter(|_| number > 0)?;
    if hash(len, number, before, payload) != own {
        return None;
    }
    Some(Record {
        link: Link { number, hash: own },
        before,
        begin: payload[..payload.len().min(BEGIN)].to_vec(),
        len: payload.len(),
        slot,
        sectors: sector..sector + end.div_ceil(SECTOR),
    })
}
