//! The member file: which cluster this machine belongs to, and what it has seen of its store.
//!
//! `session` writes it when the machine joins, the agent after every pass that applied something. Without it no
//! machine could tell an empty or rolled back store from a fresh one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fleet_core::records::{Extra, READS, SCHEMA, raise};
use fleet_core::store_trust::Member;
use fleet_core::{ClusterId, Epoch, Revision};
use fleet_registry::store::StoreKind;
use tokio::sync::watch;

use crate::durable;

#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("cannot read the member file {}; correct its permissions", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the member file {} is damaged ({error}); restore it from a backup. If this machine is to join its cluster \
         anew, stop fleetd, remove the file and start it",
        path.display()
    )]
    Damaged { path: PathBuf, error: serde_json::Error },
    #[error(
        "the member file {} has schema {found}, this fleetd reads up to {READS}; install the newer fleetd again. The way \
         back is one release at a time",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("cannot write the member file {}; free space in the state directory or mount it writable", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Shared by all tasks of one fleetd.
#[derive(Clone, Debug)]
pub struct MemberFile {
    path: PathBuf,
    member: Arc<Mutex<Option<Member>>>,
    /// Held for the length of a write, one at a time. Never while waiting for anything else.
    writes: Arc<Mutex<()>>,
    /// How often the machine was anchored.
    anchored: Arc<watch::Sender<u64>>,
}

impl MemberFile {
    /// # Errors
    /// `Read`, `Damaged`, `Newer`. A missing file is a machine that never belonged to a cluster.
    pub fn open(state_directory: &Path) -> Result<MemberFile, MemberError> {
        let path = MemberFile::path_in(state_directory);
        let member = match std::fs::read(&path) {
            Ok(bytes) => Some(read(&path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(MemberError::Read { path, source }),
        };
        let anchored = Arc::new(watch::Sender::new(0));
        Ok(MemberFile { path, member: Arc::new(Mutex::new(member)), writes: Arc::default(), anchored })
    }

    /// Where it lies, there or not.
    #[must_use]
    pub fn path_in(state_directory: &Path) -> PathBuf {
        state_directory.join("member.json")
    }

    #[must_use]
    pub fn get(&self) -> Option<Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes whenever this machine joins a cluster or takes a higher epoch: what was judged before is judged anew.
    #[must_use]
    pub fn anchored(&self) -> watch::Receiver<u64> {
        self.anchored.subscribe()
    }

    /// Joins a cluster, or takes its higher epoch: witness and seen revision start anew. Blocks for an fsync; tasks call
    /// [`MemberFile::anchor_apart`].
    ///
    /// # Errors
    /// `Write`; then nothing has changed.
    pub fn anchor(
        &self,
        store: StoreKind,
        cluster: ClusterId,
        epoch: Epoch,
        witness: u64,
        seen: Revision,
    ) -> Result<(), MemberError> {
        let one = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let (v, extra) = self.get().map_or((SCHEMA, Extra::new()), |held| (held.v, held.extra));
        self.store(Member { v, cluster, epoch, store: store.to_string(), witness, seen, extra })?;
        drop(one);
        self.anchored.send_modify(|times| *times += 1);
        Ok(())
    }

    /// [`MemberFile::anchor`] beside the tasks. What was begun is finished, also if the future is dropped.
    ///
    /// # Errors
    /// `Write`; then nothing has changed.
    pub async fn anchor_apart(
        &self,
        store: StoreKind,
        cluster: ClusterId,
        epoch: Epoch,
        witness: u64,
        seen: Revision,
    ) -> Result<(), MemberError> {
        self.apart(move |file| file.anchor(store, cluster, epoch, witness, seen)).await
    }

    /// Copies what the store has acknowledged. Call it only after the store's reply. Never goes back. Blocks for an fsync;
    /// tasks call [`MemberFile::advance_apart`].
    ///
    /// # Errors
    /// `Write`; then nothing has changed.
    pub fn advance(&self, witness: u64, seen: Revision) -> Result<(), MemberError> {
        let _one = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        self.advanced(witness, seen).map_or(Ok(()), |advanced| self.store(advanced))
    }

    /// [`MemberFile::advance`] beside the tasks. What is known already costs nothing; what was begun is finished, also if
    /// the future is dropped.
    ///
    /// # Errors
    /// `Write`; then nothing has changed.
    pub async fn advance_apart(&self, witness: u64, seen: Revision) -> Result<(), MemberError> {
        if self.advanced(witness, seen).is_none() {
            return Ok(());
        }
        self.apart(move |file| file.advance(witness, seen)).await
    }

    /// `None`: it is known already, or there is nothing to know it of.
    fn advanced(&self, witness: u64, seen: Revision) -> Option<Member> {
        let member = self.get()?;
        let advanced =
            Member { witness: member.witness.max(witness), seen: member.seen.max(seen), ..member.clone() };
        (advanced != member).then_some(advanced)
    }

    /// On a thread that may block: an fsync takes what the disk takes, and fleetd has one thread for everything else.
    async fn apart(
        &self,
        act: impl FnOnce(&MemberFile) -> Result<(), MemberError> + Send + 'static,
    ) -> Result<(), MemberError> {
        let file = self.clone();
        tokio::task::spawn_blocking(move || act(&file)).await.unwrap_or_else(|error| {
            Err(MemberError::Write { path: self.path.clone(), source: io::Error::other(error) })
        })
    }

    /// `writes` is held.
    fn store(&self, mut member: Member) -> Result<(), MemberError> {
        raise(&mut member.v, &mut member.extra);
        let bytes = serde_json::to_vec_pretty(&member).expect("a member is plain data");
        durable::replace(&self.path, &bytes)
            .map_err(|source| MemberError::Write { path: self.path.clone(), source })?;
        *self.member.lock().unwrap_or_else(PoisonError::into_inner) = Some(member);
        Ok(())
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Member, MemberError> {
    /// Is read also from what has become another shape.
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        v: u32,
    }
    let damaged = |error| MemberError::Damaged { path: path.to_owned(), error };
    let Head { v: found } = serde_json::from_slice(bytes).map_err(damaged)?;
    if found > READS {
        return Err(MemberError::Newer { path: path.to_owned(), found });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn what_was_seen_survives_and_never_goes_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = MemberFile::open(directory.path()).unwrap();
        assert_eq!(file.get(), None);
        file.anchor(StoreKind::Etcd, ClusterId::parse("c").unwrap(), Epoch(1), 3, Revision(10)).unwrap();
        file.advance(2, Revision(12)).unwrap();
        let again = MemberFile::open(directory.path()).unwrap().get().unwrap();
        assert_eq!((again.witness, again.seen), (3, Revision(12)));
    }

    #[test]
    fn a_file_of_the_next_release_is_read_and_its_fields_survive_but_not_one_of_the_release_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("member.json");
        let write = |v: u32| {
            let text = format!(r#"{{"v":{v},"cluster":"c","epoch":1,"store":"etcd","new":{{"deep":[1]}}}}"#);
            std::fs::write(&path, text).unwrap();
        };
        write(READS);
        let file = MemberFile::open(directory.path()).unwrap();
        file.advance(2, Revision(12)).unwrap();
        file.anchor(StoreKind::Etcd, ClusterId::parse("c").unwrap(), Epoch(2), 3, Revision(10)).unwrap();
        let again = MemberFile::open(directory.path()).unwrap().get().unwrap();
        assert_eq!((again.v, again.witness, again.extra.len()), (READS, 3, 1));
        write(READS + 1);
        let refused = MemberFile::open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("install the newer fleetd again"), "{refused}");
    }

    #[tokio::test]
    async fn a_write_is_made_beside_the_tasks_and_what_is_known_costs_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = MemberFile::open(directory.path()).unwrap();
        let ours = ClusterId::parse("c").unwrap();
        file.anchor_apart(StoreKind::Etcd, ours, Epoch(1), 3, Revision(10)).await.unwrap();
        // While a disk takes its time over a write, the tasks go on, and those that only read are not held up.
        let slow = file.writes.lock().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut advance = Box::pin(file.advance_apart(4, Revision(12)));
        assert!(advance.as_mut().poll(&mut context).is_pending());
        assert_eq!(file.get().unwrap().witness, 3);
        assert!(Box::pin(file.advance_apart(3, Revision(9))).as_mut().poll(&mut context).is_ready());
        drop(slow);
        advance.await.unwrap();
        assert_eq!(MemberFile::open(directory.path()).unwrap().get().unwrap().witness, 4);
    }

    #[test]
    fn a_damaged_file_is_refused_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("member.json"), "{").unwrap();
        let refused = MemberFile::open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("damaged") && refused.contains("restore"), "{refused}");
    }
}
